"""SimSiam: one network predicts its own view of the other view, and a stopped gradient suffices.

Chen and He, "Exploring Simple Siamese Representation Learning", arXiv:2011.10566, and its official
code. Fields of config.objective:

hidden            the projector's hidden widths; (2048, 2048)
out               what it gives; 2048
predictor_hidden  hidden width of the predictor; 512
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cxr_jax.config import Section, check_fields
from cxr_jax.objectives import Objective, _networks, l2_normalise


def negative_cosine(
    prediction: Float[Array, "n d"], projection: Float[Array, "n d"]
) -> Float[Array, ""]:
    """Returns -cos (eq. 1), mean over the batch, float32; no gradient flows into `projection`.

    SimSiam's loss is the mean of this over both ways round.

    >>> negative_cosine(jnp.array([[2.0, 0.0]]), jnp.array([[-1.0, 0.0]])).item()  # opposite
    1.0
    """
    projection = jax.lax.stop_gradient(projection)
    return -jnp.sum(l2_normalise(prediction) * l2_normalise(projection), axis=1).mean()


class OutputNorm(nn.Module):
    """The projector's last batch norm, which has neither scale nor shift: [n d] -> [n d]."""

    @nn.compact
    def __call__(self, x: Float[Array, "n d"], train: bool) -> Float[Array, "n d"]:
        return nn.BatchNorm(not train, momentum=0.9, use_scale=False, use_bias=False, name="bn")(x)


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.objective or config.views that do not fit."""
    fields = config["objective"]
    check_fields(fields, "config.objective", ("name", "hidden", "out", "predictor_hidden"))
    last = {"hidden": fields["predictor_hidden"], "out_bias": True}
    heads = _networks.encoder_and_heads(config, projector={}, predictor=last)
    predictor = heads.pop("predictor")
    chain = heads | {"output_norm": OutputNorm(), "predictor": predictor}

    def loss_from_outputs(outputs, aux):
        a, b = outputs["a"], outputs["b"]
        value = negative_cosine(a["predictor"], b["output_norm"]) / 2
        value += negative_cosine(b["predictor"], a["output_norm"]) / 2
        projections = jnp.concatenate([a["output_norm"], b["output_norm"]])
        return value, (aux, _networks.collapse_metrics(projections))

    views, kept = _networks.two_views(config), ("output_norm", "predictor")
    return _networks.siamese(chain, views, kept, loss_from_outputs)
