"""Serializes records and their images as stored examples."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from data_builders.base.parallel import EncodedImage
from data_builders.base.records import Record


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
            "projection": record.projection,
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
