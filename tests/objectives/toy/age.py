"""A toy objective with a batch field of its own: it tells the patient's age from an image."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from cxr_jax.augment.views import augment_view
from cxr_jax.data.dataset_info import open_built
from cxr_jax.data.order import Fields, rows
from cxr_jax.data.reader import read_columns
from cxr_jax.objectives import IMAGE, Field, Objective, _networks, no_change


def make(config):
    fields, view = config["objective"], config["views"]["a"]
    chain = _networks.encoder_and_heads(config, head={"hidden": (8,), "out": 1})

    def init(key, batch):
        params, batch_stats = _networks.init(key, chain, view["size"])
        return params, {"batch_stats": batch_stats}

    def embed(params, aux, batch, key):
        images = augment_view(key, batch["image"], view)
        outputs, batch_stats = _networks.apply(chain, params, aux["batch_stats"], images)
        told = {"told": outputs["head"][:, 0], "age": batch[fields["reads"]]}
        return told, aux | {"batch_stats": batch_stats}

    def loss_from_outputs(outputs, aux):
        error = outputs["told"] - outputs["age"] / 100
        return jnp.mean(error**2), (aux, {"mean_age": outputs["age"].mean()})

    def open_fields(source, workdir):
        ages = read_columns(open_built(source.folder), source.split, (fields["stored"],))
        ages = np.array(ages[fields["stored"]], np.float32)[source.rows]
        return source, Fields(partial(draw, ages))

    return Objective(
        init=init,
        embed=embed,
        loss_from_outputs=loss_from_outputs,
        after_update=no_change,
        features=partial(_networks.features, chain),
        metrics=fields["metrics"],
        batch={"image": IMAGE, "age": Field((), np.float32)},
        open_fields=open_fields,
        collapse_advice="",
    )


def draw(ages, seed, start, stop):
    return {"age": ages[rows(len(ages), seed, start, stop)]}
