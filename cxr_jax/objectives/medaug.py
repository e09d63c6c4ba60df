"""MedAug: MoCo whose key is a view of another image of the same study (or patient), if there is one.

Vu et al., "MedAug: Contrastive learning leveraging patient metadata improves representations for
chest X-ray interpretation", arXiv:2102.10663. Fields of config.objective as of moco.py. The batch
holds {"image", "pair", "paired"}: config.data.pairs=study, the paper's best, or patient, which
serves where a study is one image. Metric "true_pairs" is the share of images whose key is of another.
"""

import jax.numpy as jnp

from cxr_jax.fields import Section
from cxr_jax.objectives import Objective, moco


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.objective or config.views that do not fit."""
    objective = moco.with_keys_of(config, "pair")

    def init(key, batch):
        if "pair" not in batch:
            raise ValueError(
                "config.objective.name='medaug' needs batches of pairs; "
                "set config.data.pairs=study (or patient)"
            )
        return objective.init(key, batch)

    def embed(params, aux, batch, key):
        outputs, aux = objective.embed(params, aux, batch, key)
        return outputs | {"paired": batch["paired"].astype(jnp.float32)}, aux

    def loss_from_outputs(outputs, aux):
        value, (aux, metrics) = objective.loss_from_outputs(outputs, aux)
        return value, (aux, metrics | {"true_pairs": outputs["paired"].mean()})

    return objective._replace(
        init=init,
        embed=embed,
        loss_from_outputs=loss_from_outputs,
        metrics=(*objective.metrics, "true_pairs"),
    )
