"""BYOL: an online network predicts what a slowly following target network sees in the other view.

Grill et al., "Bootstrap Your Own Latent", arXiv:2006.07733, and DeepMind's code.
Fields of config.objective:

hidden    hidden width of projector and predictor; the paper's 4096
out       what the projector gives; 256
tau_base  the target's decay, which goes to 1 over config.num_train_steps; .996 for 1000 epochs, .99
          for 300 and 100, .97 for 40
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cxr_jax.augment.views import augment_view
from cxr_jax.config import Section, check_fields, check_values
from cxr_jax.objectives import Objective, _networks, l2_normalise


def byol_loss(prediction: Float[Array, "n d"], target: Float[Array, "n d"]) -> Float[Array, ""]:
    """Returns the squared distance of the directions, 2 - 2 cos (eq. 2), mean over the batch.

    BYOL's loss is the sum of this over both ways round. No gradient flows into `target`. Float32.

    >>> byol_loss(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 1.0]])).item()  # orthogonal
    2.0
    """
    difference = l2_normalise(prediction) - l2_normalise(jax.lax.stop_gradient(target))
    return jnp.sum(difference**2, axis=1).mean()


def tau(step: Int[Array, ""] | int, total: int, base: float) -> Float[Array, ""]:
    """Returns the target's decay, 1 - (1 - base) (cos(pi step / total) + 1) / 2: from base to 1."""
    progress = jnp.minimum(step / total, 1.0)
    return 1 - (1 - base) * (jnp.cos(jnp.pi * progress) + 1) / 2


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.objective or config.views that do not fit."""
    fields = config["objective"]
    check_fields(fields, "config.objective", required=("name", "hidden", "out", "tau_base"))
    good = 0 <= fields["tau_base"] <= 1
    check_values(fields, "config.objective", ("tau_base", good, "in [0, 1]"))
    views = _networks.two_views(config)
    online_chain = _networks.encoder_and_heads(config, projector={}, predictor={})
    target_chain = {name: online_chain[name] for name in ("encoder", "projector")}

    def init(key, batch):
        params, batch_stats = _networks.init(key, online_chain, views[0]["size"])
        target = {
            "params": {name: params[name] for name in target_chain},
            "batch_stats": {name: batch_stats[name] for name in target_chain},
        }
        # A copy: a state in which two leaves are one buffer cannot be donated.
        return params, {"batch_stats": batch_stats, "target": jax.tree.map(jnp.copy, target)}

    def embed(params, aux, batch, key):
        # As in the official code: one forward pass per view, so batch norm never mixes the views;
        # the running statistics take view 0, then view 1; the target too is in training mode.
        online_stats, target = aux["batch_stats"], aux["target"]
        target_stats = target["batch_stats"]
        outputs = {}
        for name, view_key, view in zip(("first", "second"), jax.random.split(key), views):
            images = augment_view(view_key, batch["image"], view)
            online, online_stats = _networks.apply(online_chain, params, online_stats, images)
            fixed, target_stats = _networks.apply(
                target_chain, target["params"], target_stats, images
            )
            outputs[name] = {
                "prediction": online["predictor"],
                "projection": online["projector"],
                "target": fixed["projector"],
            }
        target = target | {"batch_stats": target_stats}
        return outputs, aux | {"batch_stats": online_stats, "target": target}

    def loss_from_outputs(outputs, aux):
        first, second = outputs["first"], outputs["second"]
        value = byol_loss(first["prediction"], second["target"])
        value += byol_loss(second["prediction"], first["target"])
        projections = jnp.concatenate([first["projection"], second["projection"]])
        return value, (aux, _networks.collapse_metrics(projections))

    def after_update(params: Any, aux: Any, step: Any) -> Any:
        rate = 1 - tau(step, config["num_train_steps"], fields["tau_base"])
        followed = _networks.ema_update(aux["target"]["params"], params, rate)
        return aux | {"target": aux["target"] | {"params": followed}}

    features = partial(_networks.features, online_chain)
    return Objective(
        *(init, embed, loss_from_outputs, after_update, features, _networks.COLLAPSE_METRICS),
        collapse_advice="lower config.optimizer.learning_rate, or raise config.objective.tau_base",
    )
