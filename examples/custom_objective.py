"""Pretrains with an objective of its own, in a loop that you can read.

python examples/custom_objective.py [--config.FIELD=VALUE: one of configs/simclr.py]

Cost    a minute on two CPU cores: 200 steps of 64 drawn images, nothing to download.
Expect  align, how far apart an image's two views are, falls from 1.8 to about 1, and uniform stays
        near -3.6 (embeddings that are all equal have 0 of both: collapse); then the line that
        scores the encoder it saved.

Change `align_and_spread` first. docs/architecture.md makes an objective a choice of the commands by
one file, which then has checkpoints, several devices and monitors.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax import config as configs
from cxr_jax.objectives import Objective, _networks, l2_normalise
from cxr_jax.training import optim
from cxr_jax.training.step import create_state, make_train_step
from cxr_jax.weights import Encoder, export
from cxr_jax.weights.exporters import safetensors
from data_builders.phantom import drawing


def align_and_spread(outputs, aux):
    """Views of an image agree, and embeddings spread over the sphere (arXiv:2005.10242)."""
    a, b = (l2_normalise(outputs[view]["projector"]) for view in "ab")
    align = jnp.sum((a - b) ** 2, axis=1).mean()
    distances = 2 - 2 * (a @ a.T)
    others = ~jnp.eye(len(a), dtype=bool)
    uniform = jnp.log(jnp.sum(jnp.exp(-2 * distances), where=others) / others.sum())
    metrics = {"align": align, "uniform": uniform}
    return align + uniform, (aux, metrics | _networks.collapse_metrics(a))


def make(config) -> Objective:
    """Returns the objective: one encoder and projector see the two views of config.views."""
    chain = _networks.encoder_and_heads(config, projector={"hidden": (256,), "out": 64})
    views, metrics = _networks.two_views(config), ("align", "uniform")
    return _networks.siamese(chain, views, ("projector",), align_and_spread, metrics)


def main(changes: list[str], folder: Path = Path("runs/custom_objective")) -> None:
    """Trains, and writes the encoder into the folder."""
    start = ["--config.num_train_steps=200", *changes]
    config = configs.load("configs/simclr.py:demo", start)  # its encoder, views and optimizer
    steps, size, side = config.num_train_steps, config.batch_size, config.data.image_size
    # uint8 [n h w 1], white = dense. Of files: cxr_jax.io.image_io.read_image(path).
    images = np.stack([drawing.draw(0, patient, 0, side) for patient in range(4 * size)])[..., None]
    objective = make(config)
    optimizer, schedule = optim.make_optimizer(config.optimizer, steps, size, len(images))
    first = {"image": images[:size]}
    state = jax.jit(partial(create_state, objective, optimizer, first, config.seed))()
    train_step = jax.jit(make_train_step(objective, optimizer, schedule), donate_argnums=0)
    random = np.random.default_rng(config.seed)
    for step in range(1, steps + 1):
        batch = images[random.choice(len(images), size, replace=False)]
        state, metrics = train_step(state, {"image": batch})
        if step % max(1, steps // 10) == 0:
            said = ("loss", "align", "uniform", "embedding_std")
            print(f"step {step}", *(f"{name} {metrics[name]:.3f}" for name in said), sep="  ")
    variables = jax.device_get(objective.exported(state.params, state.aux))
    encoder = Encoder("custom_objective", config.model.to_dict(), variables, config.image_size)
    export.write_folder(folder, safetensors.export(encoder), card="")
    print(
        "Next, see what it learned:\n  python run.py --config=configs/transfer.py "
        f"--config.encoder={folder} --config.dataset=phantom"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
