"""What can be chosen of a build: a dataset's configs, and settings that change no example."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import tensorflow_datasets as tfds


@dataclasses.dataclass(eq=False, kw_only=True)
class CxrConfig(tfds.core.BuilderConfig):
    """A TFDS config whose images have `resolution` pixels on the shorter side (None: their own)."""

    resolution: int | None = 256
    dataset: str = ""  # the dataset's name, where it is not the builder's
    chexmask_csv: str = ""  # as base/chexmask.py says; "": no such masks


def resolution_configs() -> list[CxrConfig]:
    """Returns the three sizes of every dataset of real images; the first is the default."""
    return [
        CxrConfig(name="256", resolution=256, description="shorter side 256 pixels"),
        CxrConfig(name="512", resolution=512, description="shorter side 512 pixels"),
        CxrConfig(name="full", resolution=None, description="the images' own size"),
    ]


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """Settings of a build that leave what it builds unchanged."""

    max_skipped: float = 0.01  # largest fraction of the listed images that may be skipped
    num_workers: int | None = None  # processes that read images; 0: this one; None: all cores
    progress: bool = True  # written to stderr
    # The builder's INPUTS that were given: option's name -> folder.
    inputs: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    splits_csv: Path | None = None  # a list of somebody else's that splits the images
    follow_links: bool = False  # read images that links outside of their folder lead to


class OwnInfo(tfds.core.DatasetInfo):
    """The description of a dataset that is built from the user's files alone."""

    def initialize_from_bucket(self) -> None:
        """Does nothing: TFDS would ask a bucket, and leave a folder in TMPDIR."""
