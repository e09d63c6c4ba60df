"""Pretrains with an augmentation of its own, and shows what it does to images.

python examples/custom_augmentation.py [--config.FIELD=VALUE: one of configs/simclr.py]

Cost    a minute on two CPU cores: SimCLR makes 200 steps of 64 drawn images, nothing to download.
Expect  runs/custom_augmentation/augmentation.png: above some images, below them covered; the loss
        falls from 5 to about 3, and contrastive_accuracy (the share of views that find the other
        one of their image) rises from .03 to .3; then the line that scores the encoder it saved.

Change `cover` first. Every other augmentation is a number of config.views, which the script takes
too: --config.views.a.rotate=20 (cxr_jax/augment/views.py lists them).
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cxr_jax import config as configs
from cxr_jax import objectives
from cxr_jax.objectives import Objective
from cxr_jax.training import optim
from cxr_jax.training.step import create_state, make_train_step
from cxr_jax.weights import Encoder, export
from cxr_jax.weights.exporters import safetensors
from data_builders.phantom import drawing


def cover(key: jax.Array, images: jax.Array) -> jax.Array:
    """Paints a white square, a quarter of the side, on each image at random: a pacemaker.

    images: uint8 [n h w 1], before the views are cut from them. One key, one result: what a run
    draws does not depend on when it was stopped, or on how many devices it has.
    """
    side = images.shape[1]
    corners = jax.random.randint(key, (len(images), 2, 1, 1), 0, side * 3 // 4)
    rows, columns = jnp.arange(side)[:, None], jnp.arange(side)[None, :]
    down, right = rows - corners[:, 0], columns - corners[:, 1]
    inside = (down >= 0) & (down < side // 4) & (right >= 0) & (right < side // 4)
    return jnp.where(inside[..., None], jnp.uint8(255), images)


def augmented(objective: Objective) -> Objective:
    """Returns the objective with `cover` before its views. Any objective of images will do."""

    def embed(params, aux, batch, key):
        covering, rest = jax.random.split(key)
        batch = batch | {"image": cover(covering, batch["image"])}
        return objective.embed(params, aux, batch, rest)

    return objective._replace(embed=embed)


def main(changes: list[str], folder: Path = Path("runs/custom_augmentation")) -> None:
    """Trains, and writes the picture and the encoder into the folder."""
    start = ["--config.num_train_steps=200", *changes]
    config = configs.load("configs/simclr.py:demo", start)
    steps, size, side = config.num_train_steps, config.batch_size, config.data.image_size
    # uint8 [n h w 1], white = dense. Of files: cxr_jax.io.image_io.read_image(path).
    images = np.stack([drawing.draw(0, patient, 0, side) for patient in range(4 * size)])[..., None]
    folder.mkdir(parents=True, exist_ok=True)
    rows = images[:8], cover(jax.random.key(0), images[:8])
    shown = np.concatenate([np.concatenate(row, axis=1) for row in rows])[..., 0]
    Image.fromarray(shown).save(folder / "augmentation.png")
    objective = augmented(objectives.build(config))
    optimizer, schedule = optim.make_optimizer(config.optimizer, steps, size, len(images))
    first = {"image": images[:size]}
    state = jax.jit(partial(create_state, objective, optimizer, first, config.seed))()
    train_step = jax.jit(make_train_step(objective, optimizer, schedule), donate_argnums=0)
    random = np.random.default_rng(config.seed)
    for step in range(1, steps + 1):
        batch = images[random.choice(len(images), size, replace=False)]
        state, metrics = train_step(state, {"image": batch})
        if step % max(1, steps // 10) == 0:
            said = ("loss", "contrastive_accuracy")
            print(f"step {step}", *(f"{name} {metrics[name]:.3f}" for name in said), sep="  ")
    variables = jax.device_get(objective.exported(state.params, state.aux))
    encoder = Encoder("custom_augmentation", config.model.to_dict(), variables, config.image_size)
    export.write_folder(folder, safetensors.export(encoder), card="")
    print(
        f"What it does to images: {folder}/augmentation.png\nNext, see what it learned:\n"
        "  python run.py --config=configs/transfer.py "
        f"--config.encoder={folder} --config.dataset=phantom"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
