"""The example that every dataset stores: its TFDS features, and an image made into one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from data_builders.base.parallel import EncodedImage
from data_builders.base.records import Record


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
        "view": text,
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


class Serializer:
    """Makes examples into bytes; picklable, so that other machines can."""

    def __init__(self, features: tfds.features.FeaturesDict):
        self._features = features

    def __call__(self, record: Record, image: EncodedImage) -> bytes:
        every = {
            "image": image.image,
            "image_id": record.image_id,
            "patient_id": record.patient_id,
            "study_id": record.study_id,
            "view": record.view,
            "sex": record.sex,
            "age": record.age,
            "phash": image.phash,
            "labels": dict(record.labels),
            "readers": list(record.readers),
            "boxes": [dataclasses.asdict(box) for box in record.boxes],
            "report": record.report,
        }
        example = {name: every[name] for name in self._features}
        proto = self._serializer.get_tf_example(self._features.encode_example(example))
        # A map's fields have no order of their own: without this, equal builds differ in bytes.
        return proto.SerializeToString(deterministic=True)

    @functools.cached_property
    def _serializer(self) -> example_serializer.ExampleSerializer:
        return example_serializer.ExampleSerializer(self._features.get_serialized_info())

    def __getstate__(self) -> dict[str, Any]:
        return {"_features": self._features}
