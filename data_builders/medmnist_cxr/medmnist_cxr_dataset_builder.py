"""MedMNIST v2 (Yang et al. 2023): PneumoniaMNIST and ChestMNIST, 28 to 224 pixels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from data_builders.base import builder, folders
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.medmnist_cxr import arrays
from data_builders.nih_chestxray14.nih_chestxray14_dataset_builder import NIH_FINDINGS

PARTS = {"train": "train", "val": "validation", "test": "test"}
SIDES = (28, 64, 128, 224)


class Subset(NamedTuple):
    """One of MedMNIST's sets: labels in its order, whose images, their view, and how many."""

    labels: tuple[str, ...]
    task: str
    parent: str
    view: str
    counts: tuple[int, int, int]  # train, val, test


SUBSETS = {
    "pneumoniamnist": Subset(
        ("Pneumonia",), "binary", "pediatric_pneumonia", "AP", (4708, 524, 624)
    ),
    # Its 14 labels are NIH's, in NIH's order.
    "chestmnist": Subset(
        NIH_FINDINGS, "multilabel", "nih_chestxray14", "FRONTAL", (78468, 11219, 22433)
    ),
}


@dataclasses.dataclass(eq=False, kw_only=True)
class MedMnistConfig(builder.CxrConfig):
    """One of MedMNIST's files.

    Attributes:
      subset: "pneumoniamnist" or "chestmnist".
      side: pixels of an image's sides.
    """

    subset: str
    side: int
    resolution: int | None = None


def configs() -> list[MedMnistConfig]:
    """A config for each file, called as the file is; the first is the default."""
    return [
        MedMnistConfig(
            name=subset if side == 28 else f"{subset}_{side}",
            subset=subset,
            side=side,
            description=f"{subset}, {side} x {side} pixels",
        )
        for subset in SUBSETS
        for side in SIDES
    ]


class Builder(builder.CxrBuilder):
    """One .npz a config; an image's place in the file is all that is known of it."""

    BUILDER_CONFIGS: ClassVar = configs()
    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Put the file that is called as the config (pneumoniamnist.npz, chestmnist.npz, or with "
        "_64, _128 or _224) from https://medmnist.com into manual_dir, and choose it with "
        "--resolution=pneumoniamnist, --resolution=chestmnist_64 and so on."
    )
    HOMEPAGE: ClassVar = "https://medmnist.com"
    LICENCE: ClassVar = "CC BY 4.0"
    SPLIT_RULE: ClassVar = "The owner's."
    # 28 pixels have no room for JPEG's blocks.
    ENCODING: ClassVar = "png"

    @property
    def subset(self) -> Subset:
        return SUBSETS[self.builder_config.subset]

    @property
    def PARENT(self) -> str:
        return self.subset.parent

    @property
    def OWNER_COUNTS(self) -> Mapping[str, int]:
        names = (f"{split} images" for split in PARTS.values())
        return dict(zip(names, self.subset.counts, strict=True))

    def label_names(self) -> tuple[str, ...]:
        return self.subset.labels

    def task(self) -> str:
        return self.subset.task

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        subset, config = self.subset, self.builder_config
        name = f"{config.name}.npz"
        named = (path for path in folders.files_below(manual_dir) if path.name.casefold() == name)
        path = folders.unique(named, lambda path: name).get(name)
        if path is None:
            raise BuildError(f"{manual_dir} holds no {name}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        # Images are read in the order of a hash, and an .npz can only be read from its start.
        scratch = Path(self.data_path) / builder.SCRATCH
        scratch.mkdir(parents=True, exist_ok=True)
        for (part, split), count in zip(PARTS.items(), subset.counts, strict=True):
            wanted = arrays.Wanted(part, count, config.side, len(subset.labels))
            images, labels = arrays.unpack(path, wanted, scratch)
            for index, values in enumerate(labels):
                image_id = f"{part}/{index}"
                yield Record(
                    split=split,
                    image_id=image_id,
                    patient_id=image_id,
                    image=functools.partial(arrays.read_image, images, index),
                    labels=dict(zip(subset.labels, map(float, values), strict=True)),
                    projection=subset.view,
                    row=f"{name}, {part}_labels[{index}]",
                )
