"""SimCLR: an image's two views attract, every other view in the global batch repels.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
arXiv:2002.05709, and its official code. Fields of config.objective:

temperature  by which cosines are divided; .1
hidden       the projector's hidden widths; the paper's ResNet-50: (2048, 2048)
out          what it gives; 128
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxr_jax.augment.views import augment_view
from cxr_jax.config import Section, check_fields, check_values
from cxr_jax.objectives import Objective, _networks, l2_normalise, no_change

_MASKED = -1e9  # instead of -inf, whose gradient is NaN where an image has no negatives (n = 1)


def nt_xent(
    z_a: Float[Array, "n d"], z_b: Float[Array, "n d"], temperature: float
) -> Float[Array, ""]:
    """Returns the temperature-scaled cross entropy (eq. 1), mean over the 2n anchors, float32.

    Row i of `z_a` and row i of `z_b` are a pair; the 2n - 2 other rows are negatives. (The official
    code adds the two directions' means: twice this.) Sharded inputs give the global batch's loss.

    >>> round(nt_xent(jnp.ones((3, 8)), jnp.ones((3, 8)), 0.1).item(), 3)  # all equal: log(2n - 1)
    1.609
    """
    positive, negatives = similarities(z_a, z_b)
    contrast = jax.nn.logsumexp(negatives / temperature, axis=1) - positive / temperature
    # softplus(log sum of negatives - positive) is the cross entropy without the cancellation that
    # leaves three digits of a small loss in float32.
    return jax.nn.softplus(contrast).mean()


def contrastive_accuracy(z_a: Float[Array, "n d"], z_b: Float[Array, "n d"]) -> Float[Array, ""]:
    """Returns the share of anchors whose other view is nearer than every negative, without ties."""
    positive, negatives = similarities(z_a, z_b)
    return (positive > negatives.max(axis=1)).mean(dtype=jnp.float32)


def similarities(
    z_a: Float[Array, "n d"], z_b: Float[Array, "n d"]
) -> tuple[Float[Array, "m"], Float[Array, "m m"]]:
    """Returns cosines of m = 2n views: each to its pair, and to all, itself and its pair masked."""
    n = z_a.shape[0]
    z_a, z_b = l2_normalise(z_a), l2_normalise(z_b)
    z = jnp.concatenate([z_a, z_b])
    # Full float32: a temperature of 0.1 would magnify tf32's rounding, and the product is small.
    cosines = jnp.matmul(z, z.T, precision=jax.lax.Precision.HIGHEST)
    image = jnp.arange(2 * n) % n
    negatives = jnp.where(image[:, None] == image, _MASKED, cosines)
    return jnp.tile(jnp.sum(z_a * z_b, axis=1), 2), negatives


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.objective or config.views that do not fit."""
    fields = config["objective"]
    check_fields(fields, "config.objective", required=("name", "temperature", "hidden", "out"))
    good = fields["temperature"] > 0
    check_values(fields, "config.objective", ("temperature", good, "above 0"))
    views = _networks.two_views(config)
    if views[0]["size"] != views[1]["size"]:
        sizes = f"{views[0]['size']} and {views[1]['size']}"
        raise ValueError(f"config.views have sizes {sizes}; SimCLR needs views of one size")
    chain = _networks.encoder_and_heads(config, projector={"out_bn": True})

    def embed(params, aux, batch, key):
        # As in the official code batch norm sees all 2n images at once. An image's views lie side
        # by side: otherwise devices that share the batch would have to swap half of it.
        keys = jax.random.split(key)
        both = [augment_view(k, batch["image"], view) for k, view in zip(keys, views)]
        images = jnp.stack(both, axis=1).reshape(-1, *both[0].shape[1:])
        outputs, batch_stats = _networks.apply(chain, params, aux["batch_stats"], images)
        z = outputs["projector"].reshape(-1, 2, fields["out"])
        return {"a": z[:, 0], "b": z[:, 1]}, aux | {"batch_stats": batch_stats}

    def loss_from_outputs(outputs, aux):
        z_a, z_b = outputs["a"], outputs["b"]
        metrics = _networks.collapse_metrics(jnp.concatenate([z_a, z_b])) | {
            "contrastive_accuracy": contrastive_accuracy(z_a, z_b)
        }
        return nt_xent(z_a, z_b, fields["temperature"]), (aux, metrics)

    features = partial(_networks.features, chain)
    metrics = (*_networks.COLLAPSE_METRICS, "contrastive_accuracy")
    init = partial(_networks.first_state, chain, views[0]["size"])
    return Objective(init, embed, loss_from_outputs, no_change, features, metrics)
