"""A dataset's configs, the settings of a build, its description for TFDS."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds


@dataclasses.dataclass(eq=False, kw_only=True)
class CxrConfig(tfds.core.BuilderConfig):
    """A TFDS config whose images have `resolution` pixels on the shorter side (None: their own)."""

    resolution: int | None = 256
    dataset: str = ""  # the dataset's name, where it is not the builder's


def resolution_configs() -> list[CxrConfig]:
    """Returns the three sizes of every dataset of real images; the first is the default."""
    return [
        CxrConfig(name="256", resolution=256, description="shorter side 256 pixels"),
        CxrConfig(name="512", resolution=512, description="shorter side 512 pixels"),
        CxrConfig(name="full", resolution=None, description="the images' own size"),
    ]


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """Settings of a build that leave what it builds unchanged.

    Attributes:
      max_skipped: largest fraction of the listed images that may be skipped.
      num_workers: processes that read images; 0 reads in this one; None takes all cores.
      follow_links: whether images may be reached through links that lead out of their folder.
      progress: whether a progress line is written to stderr.
      inputs: the builder's INPUTS that were given: option's name -> folder.
    """

    max_skipped: float = 0.01
    num_workers: int | None = None
    progress: bool = True
    inputs: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    follow_links: bool = False


class OwnInfo(tfds.core.DatasetInfo):
    """The description of a dataset that is built from the user's files alone.

    Before a build TFDS looks into a bucket for what is known of the dataset, and makes a folder in
    TMPDIR for it, which nobody removes.
    """

    def initialize_from_bucket(self) -> None:
        """Does nothing: no bucket has anything about the dataset."""


def make_info(
    builder: Any, features: tfds.features.FeaturesDict, metadata: tfds.core.MetadataDict
) -> OwnInfo:
    """Describes a CxrBuilder's dataset by the README and the citation in its folder."""
    beside = builder.get_metadata()
    return OwnInfo(
        builder=builder,
        description=beside.description or None,
        citation=beside.citation or None,
        homepage=builder.HOMEPAGE,
        features=features,
        metadata=metadata,
    )
