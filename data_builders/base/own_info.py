"""A dataset's description for TFDS."""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds


class OwnInfo(tfds.core.DatasetInfo):
    """Of a dataset that is built from the user's files alone.

    Before a build TFDS looks into a bucket for what is known of the dataset, and makes a folder in
    TMPDIR for it, which nobody removes.
    """

    def initialize_from_bucket(self) -> None:
        """There is nothing of it in any bucket."""


def make(
    builder: Any, features: tfds.features.FeaturesDict, metadata: tfds.core.MetadataDict
) -> OwnInfo:
    """With the homepage of a CxrBuilder, and the description and citation that stand beside it."""
    beside = builder.get_metadata()
    return OwnInfo(
        builder=builder,
        description=beside.description or None,
        citation=beside.citation or None,
        homepage=builder.HOMEPAGE,
        features=features,
        metadata=metadata,
    )
