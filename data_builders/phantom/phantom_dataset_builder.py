"""Phantom: drawn frontal images with labelled findings, the default dataset. Needs no raw data."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from data_builders.base import builder, parallel
from data_builders.base.records import Record
from data_builders.phantom import drawing, radiograph
from data_builders.phantom.anatomy import Anatomy
from data_builders.phantom.radiograph import Consolidation, Effusion, Nodule, Pneumothorax


@dataclasses.dataclass(eq=False, kw_only=True)
class PhantomConfig(builder.CxrConfig):
    """The number of patients of each split, and the seed that decides the rest."""

    resolution: int = 96
    patients: tuple[tuple[str, int], ...]
    images_per_patient: int = 3
    seed: int = 0


class Builder(builder.CxrBuilder):
    """Every image is a function of (seed, patient, image); labels, boxes, report of its parameters.

    1.1.0 has reports, 1.2.0 masks; their images are those of 1.0.0.
    """

    VERSION: ClassVar = tfds.core.Version("1.2.0")
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
    LABEL_NAMES: ClassVar = radiograph.LABEL_NAMES
    PATIENT: ClassVar = "drawn person"
    LICENCE: ClassVar = "none: the images are drawn by this project's code and show nobody"
    SPLIT_RULE: ClassVar = "The first patients are train, the next validation, the last test."
    HAS_BOXES: ClassVar = True
    HAS_REPORTS: ClassVar = True
    MASK_NAMES: ClassVar = (drawing.LUNGS, *radiograph.LABEL_NAMES)
    ENCODING: ClassVar = "png"

    def records(self, manual_dir: Path | None) -> Iterator[Record]:
        config = self.builder_config
        record_of = functools.partial(_record, config.seed, config.resolution)
        splits = [split for split, count in config.patients for _ in range(count)]
        images = (
            (None, (split, patient, image))
            for patient, split in enumerate(splits)
            for image in range(config.images_per_patient)
        )
        for _, record in parallel.parallel_map(record_of, images, self.settings.num_workers):
            yield record


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
        projection=taken.projection,
        sex=anatomy.sex,
        age=float(anatomy.age),
        boxes=drawing.boxes(anatomy, taken, size),
        report=write_report(words, anatomy, taken),
        masks=functools.partial(drawing.masks, seed, patient, image, size),
    )


_LARGE_HEART = (
    "The heart is enlarged.",
    "Cardiomegaly is present.",
    "The cardiac silhouette is enlarged.",
    "Enlarged heart with a cardiothoracic ratio above one half.",
)
_NORMAL_HEART = (
    "The heart is normal in size.",
    "The cardiac silhouette is within normal limits.",
    "No cardiomegaly.",
    "Heart size is normal.",
)
_EFFUSION = (
    "There is a {size} {side} pleural effusion.",
    "A {size} pleural effusion is seen on the {side}.",
    "Blunting of the {side} costophrenic angle by a {size} effusion.",
    "Layering {side} pleural fluid, {size} in amount.",
)
_EFFUSIONS = (
    "There are bilateral pleural effusions.",
    "Pleural effusions are seen on both sides.",
    "Both costophrenic angles are blunted by effusions.",
)
_PNEUMOTHORAX = (
    "There is a {size} {side} pneumothorax.",
    "A {side} apical pneumothorax is seen, {size}.",
    "A {side} pleural line without lung markings beyond it indicates a {size} pneumothorax.",
)
_NODULE = (
    "A nodule projects over the {side} {zone} lung.",
    "There is a round nodular opacity in the {side} {zone} zone.",
    "Pulmonary nodule in the {side} {zone} lung field.",
)
_CONSOLIDATION = (
    "There is consolidation in the {side} {zone} lung.",
    "Patchy airspace opacity with air bronchograms in the {side} {zone} zone.",
    "A {side} {zone} lung consolidation is suspicious for pneumonia.",
)
_ABSENT = {
    Effusion: ("pleural effusion", "effusion"),
    Pneumothorax: ("pneumothorax",),
    Nodule: ("nodule", "suspicious nodule", "pulmonary mass or nodule"),
    Consolidation: ("focal consolidation", "consolidation", "airspace disease"),
}
# How often the absence of a finding is mentioned.
_MENTIONED = {Effusion: 0.8, Pneumothorax: 0.8, Nodule: 0.3, Consolidation: 0.7}
_ABSENCE = ("No {}.", "There is no {}.", "No evidence of {}.", "The lungs show no {}.")
_UNREMARKABLE = (
    "The bony thorax is intact.",
    "The mediastinal contours are unremarkable.",
    "The trachea is midline.",
    "No acute bony abnormality.",
)
_NORMAL = (
    "No acute cardiopulmonary abnormality.",
    "Normal chest.",
    "No acute disease.",
    "No evidence of acute cardiopulmonary disease.",
)


def write_report(rng: np.random.Generator, anatomy: Anatomy, image: radiograph.Radiograph) -> str:
    """Writes "FINDINGS: …" and "IMPRESSION: …": what is there, and part of what is not, in varied
    words. Sides are the patient's.

    As in real reports, some of what is absent is not mentioned, sentences come in no fixed order,
    and the impression repeats the findings.
    """
    large_heart = radiograph.is_cardiomegaly(anatomy, image.pose.heart_scale)
    present, conclusions = _present(rng, image)
    sentences = [_one(rng, _LARGE_HEART if large_heart else _NORMAL_HEART), *present]
    sentences += _absences(rng, image)
    if rng.random() < 0.5:
        sentences.append(_one(rng, _UNREMARKABLE))
    order = rng.permutation(len(sentences))
    if large_heart:
        conclusions.append("enlarged heart")
    impression = _joined(conclusions).capitalize() + "." if conclusions else _one(rng, _NORMAL)
    return f"FINDINGS: {' '.join(sentences[i] for i in order)}\nIMPRESSION: {impression}"


def _present(rng: np.random.Generator, image: radiograph.Radiograph) -> tuple[list[str], list[str]]:
    """Returns a sentence for each finding, and a name for each kind with its side."""
    sides: dict[type, set[str]] = {}
    for finding in image.findings:
        sides.setdefault(type(finding), set()).add(_side_of(finding))
    both = len(sides.get(Effusion, ())) == 2
    sentences = [_one(rng, _EFFUSIONS)] if both else []
    for finding in image.findings:
        where = {"side": _side_of(finding)}
        match finding:
            case Effusion(height=height):
                words, where["size"] = _EFFUSION, _size(height, 0.58, 0.85)
            case Pneumothorax(gap=gap):
                words, where["size"] = _PNEUMOTHORAX, _size(gap, 0.35, 0.45)
            case Nodule(y=y) | Consolidation(y=y):
                words = _NODULE if isinstance(finding, Nodule) else _CONSOLIDATION
                where["zone"] = "upper" if y < -0.4 else "mid" if y < 0.1 else "lower"
        if not (both and isinstance(finding, Effusion)):
            sentences.append(_one(rng, words).format(**where))
    named = [
        f"{'bilateral' if len(found) == 2 else next(iter(found))} {_ABSENT[kind][0]}"
        for kind, found in sides.items()
    ]
    return sentences, named


def _absences(rng: np.random.Generator, image: radiograph.Radiograph) -> list[str]:
    present = {type(finding) for finding in image.findings}
    told = [
        _one(rng, names)
        for kind, names in _ABSENT.items()
        if rng.random() < _MENTIONED[kind] and kind not in present
    ]
    if rng.random() < 0.4 and len(told) > 1:
        told = [" or ".join(told[:2]), *told[2:]]
    return [_one(rng, _ABSENCE).format(name) for name in told]


def _one(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _side_of(finding: radiograph.Finding) -> str:
    across = finding.x if isinstance(finding, Nodule | Consolidation) else finding.side
    return "left" if across > 0 else "right"


def _size(value: float, moderate: float, large: float) -> str:
    return "large" if value >= large else "moderate" if value >= moderate else "small"


def _joined(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
