"""Images with a diagonal bar under noise, labelled by its direction: for trainings of seconds.

How bright an image is says nothing of its label, so that a small random encoder knows little of it.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from cxr_jax.data.source import Source
from cxr_jax.data.splits import LabelledSplit
from cxr_jax.data.tasks import Task
from cxr_jax.transfer._protocol import Splits
from cxr_jax.weights.encoder import Encoder, random_encoder

MICRO = {"stage_sizes": (1,), "widths": (6,), "stem_kernel": 3, "max_pool": False}


def micro_encoder(seed: int = 0) -> Encoder:
    """A random encoder of 8 features; models.resnet.VARIANTS must hold MICRO as "micro"."""
    model = {"name": "resnet", "variant": "micro", "zero_init_residual": False}
    return random_encoder(model, 32, seed)


def bars(sizes=(96, 64, 96), seed: int = 0) -> Splits:
    """Splits of images of 36 px with labels rising, falling (its opposite) and never (always 0)."""
    rng = np.random.default_rng(seed)
    return Splits(*(_split(rng, name, n) for name, n in zip(Splits._fields, sizes)))


class _Images(list):
    """Records without a file."""

    def encoded(self, rows) -> list[bytes]:
        return [super(_Images, self).__getitem__(row) for row in rows]

    def __getitem__(self, row):
        return {"image": super().__getitem__(row)}


def _split(rng: np.random.Generator, name: str, count: int) -> LabelledSplit:
    rising = np.arange(count) % 2
    return LabelledSplit(
        source=Source("bars", Path(), name, _Images(_image(rng, up) for up in rising), {}, (), ()),
        rows=np.arange(count),
        targets=np.stack([rising, 1 - rising, 0 * rising], axis=1).astype(np.float32),
        uncertain=np.zeros((count, 3), bool),
        image_ids=tuple(f"{name}{i}" for i in range(count)),
        patient_ids=tuple(f"{name}{i // 2}" for i in range(count)),
        label_names=("rising", "falling", "never"),
        task=Task({}),
        other_projections=0,
    )


def _image(rng: np.random.Generator, up: int) -> bytes:
    y, x = np.mgrid[:36, :36] - rng.uniform(13, 23, (2, 1, 1))
    across, along = (x + y, x - y) if up else (x - y, x + y)
    bar = (np.abs(across) < 2) & (np.abs(along) < rng.uniform(12, 20))
    image = 0.4 + 0.3 * bar + rng.normal(0, 0.2, bar.shape)
    file = io.BytesIO()
    Image.fromarray((255 * np.clip(image, 0, 1)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
