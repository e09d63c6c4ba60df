"""Phantom: drawn frontal images with labelled findings, the default dataset. Needs no raw data."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from data_builders.base import builder, parallel
from data_builders.base.records import Record
from data_builders.phantom import drawing, reports
from data_builders.phantom.findings import LABEL_NAMES


@dataclasses.dataclass(eq=False, kw_only=True)
class PhantomConfig(builder.CxrConfig):
    """How many patients each split has, and the seed that decides everything else."""

    resolution: int = 96
    patients: tuple[tuple[str, int], ...]
    images_per_patient: int = 3
    seed: int = 0


class Builder(builder.CxrBuilder):
    """Every image is a function of (seed, patient, image); labels, boxes, report of its parameters.

    1.1.0 has reports; its images are those of 1.0.0.
    """

    VERSION: ClassVar = tfds.core.Version("1.1.0")
    BUILDER_CONFIGS: ClassVar = [
        PhantomConfig(
            name="96",
            description="3,000 train, 501 validation and 999 test images of 96 pixels",
            patients=(("train", 1000), ("validation", 167), ("test", 333)),
        ),
        PhantomConfig(
            name="tiny",
            description="36 train, 24 validation and 24 test images of 96 pixels, for tests",
            patients=(("train", 12), ("validation", 8), ("test", 8)),
        ),
    ]
    LABEL_NAMES: ClassVar = LABEL_NAMES
    TASK: ClassVar = "multilabel"
    LICENCE: ClassVar = "none: the images are drawn by this project's code and show nobody"
    SPLIT_RULE: ClassVar = "The first patients are train, the next validation, the last test."
    HAS_BOXES: ClassVar = True
    HAS_REPORTS: ClassVar = True
    ENCODING: ClassVar = "png"

    def records(self, manual_dir: Path | None) -> Iterator[Record]:
        config = self.builder_config
        record_of = functools.partial(_record, config.seed, config.resolution)
        images = (
            ((split, patient, image), (split, patient, image))
            for split, patient in _patients(config)
            for image in range(config.images_per_patient)
        )
        for _, record in parallel.parallel_map(record_of, images, self.settings.num_workers):
            yield record


def _patients(config: PhantomConfig) -> Iterator[tuple[str, int]]:
    first = 0
    for split, count in config.patients:
        for patient in range(first, first + count):
            yield split, patient
        first += count


def _record(seed: int, size: int, place: tuple[str, int, int]) -> Record:
    split, patient, image = place
    anatomy, taken = drawing.image_parameters(seed, patient, image)
    words = np.random.default_rng([seed, patient, image + 1, 1])  # a stream that nothing else reads
    return Record(
        split=split,
        image_id=f"p{patient:05d}_{image}",
        patient_id=f"p{patient:05d}",
        study_id=f"p{patient:05d}_{image}",
        image=functools.partial(drawing.draw, seed, patient, image, size),
        labels=drawing.labels(anatomy, taken),
        view=taken.view,
        sex=anatomy.sex,
        age=float(anatomy.age),
        boxes=drawing.boxes(anatomy, taken, size),
        report=reports.write(words, anatomy, taken),
    )
