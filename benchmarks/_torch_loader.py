"""The rival's input: a PyTorch DataLoader that decodes image files with Pillow."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler


class Images(Dataset):
    """uint8 [1 size size]: shorter side to `size`, which costs nothing where it is that, then the
    central crop in whole pixels, as torchvision's Resize and CenterCrop do it.

    `reduced` decodes a JPEG at a fraction of its size where that leaves enough, as ours does; most
    scripts do not.
    """

    def __init__(self, paths: Sequence[Path], size: int, reduced: bool):
        self._paths, self._size, self._reduced = list(map(str, paths)), size, reduced

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self._paths[index]) as image:
            if self._reduced:
                image.draft("L", (self._size, self._size))
            grey = image.convert("L")
        scale = self._size / min(grey.size)
        if scale != 1:
            shape = (round(grey.width * scale), round(grey.height * scale))
            grey = grey.resize(shape, Image.Resampling.BILINEAR)
        left, top = (grey.width - self._size) // 2, (grey.height - self._size) // 2
        square = grey.crop((left, top, left + self._size, top + self._size))
        return torch.from_numpy(np.array(square))[None]


def batches(
    paths: Sequence[Path], batch_size: int, size: int, num_workers: int, reduced: bool
) -> Iterator[torch.Tensor]:
    """Endless shuffled batches [b 1 size size]."""
    images = Images(paths, size, reduced)
    sampler = RandomSampler(images, replacement=True, num_samples=2**40)
    return iter(DataLoader(images, batch_size, sampler=sampler, num_workers=num_workers))
