"""MedAug: MoCo whose key is a view of another image of the same study (or patient), if any.

Vu et al., "MedAug: Contrastive learning leveraging patient metadata improves representations for
chest X-ray interpretation", arXiv:2102.10663. Fields of config.objective as of moco.py. The batch
holds {"image", "pair", "paired"}: config.data.pairs=study, the paper's best, or patient, where a
study is one image. Metric "true_pairs" is the share of images whose key is of another.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from cxr_jax.config import Section
from cxr_jax.data.order import Fields, find_partners
from cxr_jax.data.source import Source
from cxr_jax.objectives import IMAGE, Field, Objective, moco


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.objective, .views or .data.pairs that do not fit."""
    objective, of = moco.with_keys_of(config, "pair"), config["data"]["pairs"]
    if not of:
        raise ValueError(
            "config.objective.name='medaug' needs batches of pairs; "
            "set config.data.pairs=study (or patient)"
        )

    def embed(params, aux, batch, key):
        outputs, aux = objective.embed(params, aux, batch, key)
        return outputs | {"paired": batch["paired"].astype(jnp.float32)}, aux

    def loss_from_outputs(outputs, aux):
        value, (aux, metrics) = objective.loss_from_outputs(outputs, aux)
        return value, (aux, metrics | {"true_pairs": outputs["paired"].mean()})

    def open_fields(source: Source, workdir: Path) -> tuple[Source, Fields]:
        return source, Fields(find_partners(source, of).draw)

    return objective._replace(
        embed=embed,
        loss_from_outputs=loss_from_outputs,
        metrics=(*objective.metrics, "true_pairs"),
        batch={"image": IMAGE, "pair": IMAGE, "paired": Field((), np.bool_)},
        open_fields=open_fields,
    )
