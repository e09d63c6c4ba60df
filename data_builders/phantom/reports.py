"""A report for a drawn image: what is on it, and part of what is not, in changing words.

As in real reports, some of what is absent is not mentioned, sentences come in no fixed order, and
the impression says the findings again.
"""

import numpy as np

from data_builders.phantom.anatomy import Anatomy
from data_builders.phantom.exposure import Radiograph
from data_builders.phantom.findings import (
    Consolidation,
    Effusion,
    Finding,
    Nodule,
    Pneumothorax,
    is_cardiomegaly,
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
_OF_NO_CONCERN = (
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


def write(rng: np.random.Generator, anatomy: Anatomy, image: Radiograph) -> str:
    """ "FINDINGS: …" and "IMPRESSION: …" on a line each. Sides are the patient's."""
    large_heart = is_cardiomegaly(anatomy, image.pose.heart_scale)
    present, conclusions = _present(rng, image)
    sentences = [_one(rng, _LARGE_HEART if large_heart else _NORMAL_HEART), *present]
    sentences += _absences(rng, image)
    if rng.random() < 0.5:
        sentences.append(_one(rng, _OF_NO_CONCERN))
    order = rng.permutation(len(sentences))
    if large_heart:
        conclusions.append("enlarged heart")
    impression = _joined(conclusions).capitalize() + "." if conclusions else _one(rng, _NORMAL)
    return f"FINDINGS: {' '.join(sentences[i] for i in order)}\nIMPRESSION: {impression}"


def _present(rng: np.random.Generator, image: Radiograph) -> tuple[list[str], list[str]]:
    """A sentence for each finding, and a name for each kind with its side."""
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


def _absences(rng: np.random.Generator, image: Radiograph) -> list[str]:
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


def _side_of(finding: Finding) -> str:
    across = finding.x if isinstance(finding, Nodule | Consolidation) else finding.side
    return "left" if across > 0 else "right"


def _size(value: float, moderate: float, large: float) -> str:
    return "large" if value >= large else "moderate" if value >= moderate else "small"


def _joined(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
