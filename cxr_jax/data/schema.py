"""The example that every dataset stores, as TFDS features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


def make_features(
    label_names: Sequence[str], readers: bool, boxes: bool, reports: bool, encoding: str
) -> tfds.features.FeaturesDict:
    """The features of a dataset.

    Args:
      readers: whether each label holds one value a reader.
      boxes, reports: whether the dataset has them.
      encoding: of the images, "jpeg" or "png".
    """
    text, number = tfds.features.Text(), tfds.features.Scalar(np.float32)
    features: dict[str, Any] = {
        "image": tfds.features.Image(
            shape=(None, None, 1), dtype=np.uint8, encoding_format=encoding
        ),
        "image_id": text,
        "patient_id": text,
        "study_id": text,
        "projection": text,
        "sex": text,
        "age": number,
        "phash": text,
    }
    if label_names:
        value = tfds.features.Sequence(number) if readers else number
        features["labels"] = tfds.features.FeaturesDict(dict.fromkeys(label_names, value))
    if readers:
        features["readers"] = tfds.features.Sequence(text)
    if boxes:
        corners = dict.fromkeys(("y0", "x0", "y1", "x1"), number)
        features["boxes"] = tfds.features.Sequence({"label": text, **corners})
    if reports:
        features["report"] = text
    return tfds.features.FeaturesDict(features)
