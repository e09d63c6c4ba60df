"""Pretrains in a loop that you can read, with a dataset, augmentation and objective of its own.

Change them here first. docs/architecture.md shows a dataset and an objective as files that the
commands find by name, and then have checkpoints, several devices and monitors.

python examples/pretrain.py [STEPS [BATCH]]    200 steps of 64: minutes on two CPU cores
"""

import sys
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax import config as configs
from cxr_jax.objectives import Objective, _networks, l2_normalise
from cxr_jax.training import optim
from cxr_jax.training.step import create_state, make_train_step
from cxr_jax.weights.encoder import Encoder, ImageEncoder
from data_builders.phantom import drawing

SIZE = 96


# The dataset: uint8 [n h w 1], white = dense. Of files: cxr_jax.io.image_io.read_image(path).
def read_images(count: int) -> np.ndarray:
    """Draws chest X-rays; put your own here."""
    return np.stack([drawing.draw(0, patient, 0, SIZE) for patient in range(count)])[..., None]


def batches(images: np.ndarray, size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches for ever, every image once an epoch."""
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(len(images))
        for start in range(0, len(order) - size + 1, size):
            yield {"image": images[order[start : start + size]]}


# The augmentation: a pure function of a key and a batch, before the views of the config.
def cover(key: jax.Array, images: jax.Array) -> jax.Array:
    """Paints a white square, a quarter of the side, over each image at random: a pacemaker."""
    side = images.shape[1]
    corners = jax.random.randint(key, (len(images), 2, 1, 1), 0, side * 3 // 4)
    rows, columns = jnp.arange(side)[:, None], jnp.arange(side)[None, :]
    down, right = rows - corners[:, 0], columns - corners[:, 1]
    inside = (down >= 0) & (down < side // 4) & (right >= 0) & (right < side // 4)
    return jnp.where(inside[..., None], jnp.uint8(255), images)


# The objective: a loss of two views' embeddings (Wang and Isola 2020, arXiv:2005.10242).
def align_and_spread(outputs, aux):
    """Views of an image agree, and embeddings spread over the sphere."""
    a, b = (l2_normalise(outputs[view]["projector"]) for view in "ab")
    align = jnp.sum((a - b) ** 2, axis=1).mean()
    distances = 2 - 2 * (a @ a.T)
    others = ~jnp.eye(len(a), dtype=bool)
    uniform = jnp.log(jnp.sum(jnp.exp(-2 * distances), where=others) / others.sum())
    metrics = {"align": align, "uniform": uniform}
    return align + uniform, (aux, metrics | _networks.collapse_metrics(a))


def make(config) -> Objective:
    """Returns the objective, with `cover` before its views."""
    chain = _networks.encoder_and_heads(config, projector={"hidden": (256,), "out": 64})
    views = _networks.two_views(config)
    own = _networks.siamese(chain, views, ("projector",), align_and_spread, ("align", "uniform"))

    def embed(params, aux, batch, key):
        covering, rest = jax.random.split(key)
        return own.embed(params, aux, {"image": cover(covering, batch["image"])}, rest)

    return own._replace(embed=embed)


def main(steps: int = 200, batch_size: int = 64) -> ImageEncoder:
    """Trains, and returns what turns images into features."""
    config = configs.load("configs/simclr.py:demo", [])  # its encoder, views and optimizer
    images, objective = read_images(8 * batch_size), make(config)
    feed = batches(images, batch_size, seed=0)
    optimizer, schedule = optim.make_optimizer(config.optimizer, steps, batch_size, len(images))
    state = jax.jit(partial(create_state, objective, optimizer, next(feed), 0))()
    train_step = jax.jit(make_train_step(objective, optimizer, schedule), donate_argnums=0)
    for number in range(1, steps + 1):
        state, metrics = train_step(state, next(feed))
        if number % max(1, steps // 10) == 0:
            said = ("loss", "align", "uniform", "embedding_std")
            print(f"step {number}", *(f"{name} {metrics[name]:.3f}" for name in said), sep="  ")
    variables = jax.device_get(objective.exported(state.params, state.aux))
    return ImageEncoder(Encoder("mine", config.model.to_dict(), variables, SIZE))


if __name__ == "__main__":
    encoder = main(*map(int, sys.argv[1:]))
    print(encoder, encoder(read_images(4)).shape)
