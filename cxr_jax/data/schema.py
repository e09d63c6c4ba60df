"""The example that every dataset stores, as TFDS features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cxr_jax.io.text import plain

# What to do about a built dataset that is damaged; ends many messages.
RESTORE = "Restore the dataset's folder, or build it again (--overwrite)."
_OPTIONAL = {"phash"}  # the first datasets that were built have none


def make_features(
    label_names: Sequence[str], readers: bool, boxes: bool, reports: bool, encoding: str
) -> tfds.features.FeaturesDict:
    """Returns the features of a dataset.

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


def projection_field(builder: tfds.core.DatasetBuilder) -> str:
    """Returns the name under which examples store the projection: older datasets have `view`."""
    return "projection" if "projection" in builder.info.features else "view"


def check_features(path: Path, stored: Any, label_names: list[str]) -> None:
    """Refuses stored features other than those that `make_features` gives.

    Raises:
      ValueError: names `path` and the feature.
    """
    if not isinstance(stored, dict):
        raise ValueError(f"{path} is not what our builders write. {RESTORE}")
    has = [name in stored for name in ("readers", "boxes", "report")]
    expected = make_features(label_names, *has, "png").get_tensor_info()
    if "projection" not in stored:  # its name in older datasets
        expected["view"] = expected.pop("projection")
    for name in expected.keys() | stored.keys():
        if name in _OPTIONAL and name not in stored:
            continue
        if name not in stored or name not in expected or not _alike(stored[name], expected[name]):
            raise ValueError(
                f"{path}: {plain(name)} is not as our builders write it, or as metadata.json says. "
                f"{RESTORE}"
            )


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, dict) or isinstance(b, dict):
        return False
    return a.shape == b.shape and np.dtype(a.np_dtype) == np.dtype(b.np_dtype)
