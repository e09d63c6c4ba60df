"""Phantom: drawn frontal films with labelled findings, the default dataset. Needs no raw data."""

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
    films_per_patient: int = 3
    seed: int = 0


class Builder(builder.CxrBuilder):
    """Every film is a function of (seed, patient, film); labels, boxes, report of its parameters.

    1.1.0 has reports; its films are those of 1.0.0.
    """

    VERSION: ClassVar = tfds.core.Version("1.1.0")
    BUILDER_CONFIGS: ClassVar = [
        PhantomConfig(
            name="96",
            description="3,000 train, 501 validation and 999 test films of 96 pixels",
            patients=(("train", 1000), ("validation", 167), ("test", 333)),
        ),
        PhantomConfig(
            name="tiny",
            description="36 train, 24 validation and 24 test films of 96 pixels, for tests",
            patients=(("train", 12), ("validation", 8), ("test", 8)),
        ),
    ]
    LABEL_NAMES: ClassVar = LABEL_NAMES
    TASK: ClassVar = "multilabel"
    LICENCE: ClassVar = "none: the films are drawn by this project's code and show nobody"
    SPLIT_RULE: ClassVar = "The first patients are train, the next validation, the last test."
    HAS_BOXES: ClassVar = True
    HAS_REPORTS: ClassVar = True
    ENCODING: ClassVar = "png"

    def records(self, manual_dir: Path | None) -> Iterator[Record]:
        config = self.builder_config
        record_of = functools.partial(_record, config.seed, config.resolution)
        films = (
            ((split, patient, film), (split, patient, film))
            for split, patient in _patients(config)
            for film in range(config.films_per_patient)
        )
        for _, record in parallel.parallel_map(record_of, films, self.settings.num_workers):
            yield record


def _patients(config: PhantomConfig) -> Iterator[tuple[str, int]]:
    first = 0
    for split, count in config.patients:
        for patient in range(first, first + count):
            yield split, patient
        first += count


def _record(seed: int, size: int, place: tuple[str, int, int]) -> Record:
    split, patient, film = place
    anatomy, taken = drawing.film_parameters(seed, patient, film)
    words = np.random.default_rng([seed, patient, film + 1, 1])  # a stream that nothing else reads
    return Record(
        split=split,
        image_id=f"p{patient:05d}_{film}",
        patient_id=f"p{patient:05d}",
        study_id=f"p{patient:05d}_{film}",
        film=functools.partial(drawing.draw, seed, patient, film, size),
        labels=drawing.labels(anatomy, taken),
        view=taken.view,
        sex=anatomy.sex,
        age=float(anatomy.age),
        boxes=drawing.boxes(anatomy, taken, size),
        report=reports.write(words, anatomy, taken),
    )
