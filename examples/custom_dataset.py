"""Pretrains on images in a file of your own making: a dataset is what has a length and items.

python examples/custom_dataset.py [--config.FIELD=VALUE: one of configs/simclr.py]

Cost    a minute on two CPU cores: 256 drawn images go into one file of 12 bits, and SimCLR makes
        200 steps of 64.
Expect  the loss falls from 5 to about 3, and contrastive_accuracy (the share of views that find
        the other one of their image) rises from .03 to .4; then the line that scores the encoder
        it saved.

Change `Scans` first: an archive, a database, a picture server. Grain shuffles, reads in threads and
repeats. For labels, splits by patient and checks of every file build a dataset instead, from
folders and tables (docs/own_images.md) or by a builder of your own (docs/architecture.md).
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import grain
import jax
import numpy as np

from cxr_jax import config as configs
from cxr_jax import objectives
from cxr_jax.io import pixels
from cxr_jax.training import optim
from cxr_jax.training.step import create_state, make_train_step
from cxr_jax.weights import Encoder, export
from cxr_jax.weights.exporters import safetensors
from data_builders.phantom import drawing


class Scans:
    """The images of one .npy file, 12 bits each, as batches hold them."""

    def __init__(self, path: Path, side: int):
        self._scans, self._side = np.load(path, mmap_mode="r"), side

    def __len__(self) -> int:
        return len(self._scans)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns {"image": uint8 [side side 1], white = dense}."""
        grey = pixels.to_uint8(self._scans[index])  # its darkest to its brightest
        return {"image": pixels.square(pixels.unscaled(grey), self._side)[..., None]}


def write_scans(path: Path, count: int) -> None:
    """Draws chest X-rays into the file; put your own there."""
    drawn = np.stack([drawing.draw(0, patient, 0, 112) for patient in range(count)])
    np.save(path, drawn[:, :, 4:-4].astype(np.uint16) * 16)


def batches(scans: Scans, size: int, seed: int) -> grain.DatasetIterator:
    """Iterates endlessly over batches of `size`, every epoch in another order."""
    images = grain.MapDataset.source(scans).seed(seed).shuffle().repeat()
    return iter(images.batch(size).to_iter_dataset())


def main(changes: list[str], folder: Path = Path("runs/custom_dataset")) -> None:
    """Trains, and writes the encoder into the folder."""
    start = ["--config.num_train_steps=200", *changes]
    config = configs.load("configs/simclr.py:demo", start)
    steps, size = config.num_train_steps, config.batch_size
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "scans.npy"
        write_scans(path, count=4 * size)
        scans = Scans(path, config.data.image_size)
        feed = batches(scans, size, config.seed)
        objective = objectives.build(config)
        optimizer, schedule = optim.make_optimizer(config.optimizer, steps, size, len(scans))
        state = jax.jit(partial(create_state, objective, optimizer, next(feed), config.seed))()
        train_step = jax.jit(make_train_step(objective, optimizer, schedule), donate_argnums=0)
        for step in range(1, steps + 1):
            state, metrics = train_step(state, next(feed))
            if step % max(1, steps // 10) == 0:
                said = ("loss", "contrastive_accuracy")
                print(f"step {step}", *(f"{name} {metrics[name]:.3f}" for name in said), sep="  ")
    variables = jax.device_get(objective.exported(state.params, state.aux))
    encoder = Encoder("custom_dataset", config.model.to_dict(), variables, config.image_size)
    export.write_folder(folder, safetensors.export(encoder), card="")
    print(
        "Next, see what it learned:\n  python run.py --config=configs/transfer.py "
        f"--config.encoder={folder} --config.dataset=phantom"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
