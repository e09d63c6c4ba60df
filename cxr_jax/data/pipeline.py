"""Endless shuffled batches for training: ArrayRecord through Grain, for pretraining by blocks.

The iterator's state is a small JSON document that counts batches, the same for every block and any
number of them, so that a checkpoint can put the data back exactly where it was.
"""

from typing import Any

import grain
import numpy as np

from cxr_jax.data import images
from cxr_jax.data.labelled import LabelledSplit
from cxr_jax.data.source import Source


class _Decode(grain.transforms.Map):
    """The film decoded; "target" goes with it, other fields stay behind."""

    def __init__(self, image_size: int):
        self._image_size = image_size

    def map(self, example: dict[str, Any]) -> dict[str, np.ndarray]:
        image = images.decode_square(example["image"], self._image_size)
        target = {name: example[name] for name in ("target",) if name in example}
        return {"image": image} | target


class _Labelled:
    """Random access to a split's films, each with its own target."""

    def __init__(self, split: LabelledSplit):
        self._records, self._rows = split.source.records, split.rows
        self._targets = np.asarray(split.targets, np.float32)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self._records[int(self._rows[index])]["image"]
        return {"image": image, "target": self._targets[index]}


def batches(
    source: Source,
    batch_size: int,
    image_size: int,
    seed: int,
    num_workers: int = 0,
    block: int = 0,
    blocks: int = 1,
) -> grain.DatasetIterator:
    """An endless iterator of {"image": uint8 [batch_size / blocks, image_size, image_size, 1]}.

    Each epoch is shuffled anew. Of each batch, this is block number `block` of `blocks` equal ones
    of consecutive rows: row r of batch k is the same film however many hosts share the batch.
    `num_workers` decoding processes are added to Grain's reading threads; 0 is right on a machine
    with few cores.

    Raises:
      ValueError: batch not divisible by the blocks, or larger than the dataset.
    """
    dataset = _shuffled(source, source.records, batch_size, seed, blocks)
    return _read(dataset.map(_Decode(image_size)), batch_size, num_workers, block, blocks)


def row_batches(
    source: Source, batch_size: int, seed: int, block: int = 0, blocks: int = 1
) -> grain.DatasetIterator:
    """As `batches`, of the films' places in the source alone: int32 [batch_size / blocks]."""
    rows = np.arange(len(source), dtype=np.int32)
    return _read(_shuffled(source, rows, batch_size, seed, blocks), batch_size, 0, block, blocks)


def _shuffled(
    source: Source, records: Any, batch_size: int, seed: int, blocks: int
) -> grain.MapDataset:
    if batch_size % blocks:
        raise ValueError(f"config.batch_size={batch_size} does not divide by the {blocks} hosts")
    if batch_size > len(source):
        raise ValueError(
            f"config.batch_size={batch_size} is larger than the {len(source)} films of "
            f"{source.name} {source.split!r}: a batch would hold a film twice. Lower it."
        )
    return grain.MapDataset.source(records).seed(seed).shuffle().repeat()


def labelled_batches(
    split: LabelledSplit, batch_size: int, image_size: int, seed: int, num_workers: int = 0
) -> grain.DatasetIterator:
    """An endless iterator of {"image": uint8 [b image_size image_size 1], "target": float32 [b k]}.

    Each epoch is shuffled anew and batches run on over its end, so that every epoch holds every
    film once; a batch larger than the split holds films of several epochs. Workers as in `batches`.
    """
    dataset = grain.MapDataset.source(_Labelled(split)).seed(seed).shuffle().repeat()
    return _read(dataset.map(_Decode(image_size)), batch_size, num_workers)


def _read(
    dataset: grain.MapDataset, batch_size: int, num_workers: int, block: int = 0, blocks: int = 1
) -> grain.DatasetIterator:
    dataset = dataset.batch(batch_size // blocks, drop_remainder=True)[block::blocks]
    threads = 0 if num_workers else 4
    iterable = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    )
    if num_workers:
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    return iter(iterable)
