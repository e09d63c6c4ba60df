"""Predictions: the scores of each test image, and the Parquet file that holds them.

The file is the border between models and statistics: one row per image and label, columns image_id,
patient_id, label, target (null: missing) and score, after a cross-validation also fold. Its
metadata may say of what kind scores are (`score_kind`). It imports no model, so every table can be
made again from the file alone, also from a file that other software wrote.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.special
from jaxtyping import Int, Shaped

from cxr_jax.io import parquet
from cxr_jax.io.text import plain
from cxr_jax.stats.bootstrap import AUROC, MEAN, Measure
from cxr_jax.stats.clusters import cluster_index

# What scores may be; "" is any number that ranks images.
SCORE_KINDS = ("", "log-odds", "log-probability", "probability")
# Scores that are themselves how well an image was done, in [0, 1]; images count whose target is 1.
MEASURES = {"dice": "Dice", "pointing": "pointing game", "box_iou": "box IoU"}
SCORE_KINDS += tuple(MEASURES)

_ROUNDING = 1e-6  # by which a log-probability may lie above 0

_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("image_id", "patient_id", "label")]
    + [("target", pa.float32()), ("score", pa.float64())]
)
_FOLD = pa.field("fold", pa.int32())


class Predictions(NamedTuple):
    """Scores of n test images for k labels.

    `image_id` and `patient_id` are [n] strings, `targets` [n k] holds 0, 1 or NaN (missing) and
    `scores` [n k] any finite number that grows with the chance of the label; `score_kind`, one of
    SCORE_KINDS, says how they become probabilities. `fold` [n], of a cross-validation, numbers the
    model that scored an image, which has not seen its patient.
    """

    image_id: np.ndarray
    patient_id: np.ndarray
    label_names: tuple[str, ...]
    targets: np.ndarray
    scores: np.ndarray
    score_kind: str = ""
    fold: np.ndarray | None = None

    @property
    def measure(self) -> Measure:
        """What is measured of the scores: AUROC, or their mean where they are measures."""
        return MEAN if self.score_kind in MEASURES else AUROC

    @property
    def probabilities(self) -> np.ndarray | None:
        """[n k] in [0, 1]; None where scores only rank."""
        match self.score_kind:
            case "log-odds":
                return scipy.special.expit(self.scores)
            case "log-probability":
                return np.exp(np.minimum(self.scores, 0))
            case "probability":
                return self.scores
        return None


def validate(predictions: Predictions) -> Predictions:
    """Returns the same predictions with plain types, checked.

    Raises ValueError, naming the first image and label at fault, for shapes that do not agree, an
    image_id that appears twice, an empty patient_id, a score that is not finite, a target other
    than 0, 1 or NaN, and a label that appears twice or is called "macro", the name of the mean.
    """
    images = np.asarray(predictions.image_id).astype(str)
    patients = np.asarray(predictions.patient_id).astype(str)
    names = tuple(str(name) for name in predictions.label_names)
    targets = np.asarray(predictions.targets, np.float32)
    scores = np.asarray(predictions.scores, np.float64)
    shape = (len(images), len(names))
    if patients.shape != shape[:1] or targets.shape != shape or scores.shape != shape:
        raise ValueError(
            f"predictions of {shape[0]} images and {shape[1]} labels need {shape[0]} patients and "
            f"targets and scores of shape {shape}; got patients {patients.shape}, targets "
            f"{targets.shape}, scores {scores.shape}"
        )
    if not shape[0] or not shape[1]:
        raise ValueError(f"predictions hold {shape[0]} images and {shape[1]} labels: none to score")
    if "macro" in names:
        raise ValueError('label "macro" is the name of the mean over labels: rename the label')
    refuse_repeats(np.array(names), "label")
    refuse_repeats(images, "image_id")
    if (patients == "").any():
        raise ValueError(
            f"image '{images[patients == ''][0]}' has no patient_id: intervals resample patients. "
            "Where patients are unknown give each image its own id as patient_id"
        )

    def refuse(wrong: Shaped[np.ndarray, "n k"], what: str, values: np.ndarray, rule: str) -> None:
        if wrong.any():
            i, k = np.argwhere(wrong)[0]
            raise ValueError(
                f"image '{images[i]}' (row {i}), label '{names[k]}': {what} is {values[i, k]}; "
                f"{rule}"
            )

    refuse(~np.isfinite(scores), "score", scores, "scores must be finite")
    known = (targets == 0) | (targets == 1) | np.isnan(targets)
    refuse(~known, "target", targets, "targets are 0, 1 or missing")
    kind = predictions.score_kind
    if kind not in SCORE_KINDS:
        raise ValueError(
            f"score_kind is '{kind}'; it may be {', '.join(SCORE_KINDS[1:])}, or absent for scores "
            "that only rank images"
        )
    if kind == "probability" or kind in MEASURES:
        rule = f"{MEASURES[kind]} lies" if kind in MEASURES else "probabilities lie"
        refuse((scores < 0) | (scores > 1), "score", scores, f"{rule} in [0, 1]")
    if kind == "log-probability":
        rule = "no log-probability lies above 0; log-odds may be meant"
        refuse(scores > _ROUNDING, "score", scores, rule)
    fold = predictions.fold
    if fold is not None:
        fold = np.asarray(fold, np.int32)
        if fold.shape != shape[:1]:
            raise ValueError(f"predictions of {shape[0]} images have folds of shape {fold.shape}")
        pairs = np.unique(np.stack([cluster_index(patients, shape[0])[0], fold]), axis=1)
        if len(split := np.flatnonzero(np.diff(pairs[0]) == 0)):
            rows = np.flatnonzero(cluster_index(patients, shape[0])[0] == pairs[0, split[0]])
            raise ValueError(
                f"image '{images[rows[0]]}' (row {rows[0]}): its patient has images in two folds, "
                "so a model scored a patient that it was trained on"
            )
    return Predictions(images, patients, names, targets, scores, kind, fold)


def refuse_repeats(values: Shaped[np.ndarray, " n"], what: str) -> None:
    """Raises ValueError, naming two rows, where a value appears twice."""
    _, first, count = np.unique(values, return_index=True, return_counts=True)
    if (count > 1).any():
        again = values[first[count > 1].min()]
        rows = np.flatnonzero(values == again)[:2]
        raise ValueError(f"{what} '{again}' appears twice (rows {rows[0]} and {rows[1]})")


def refuse_nulls(table: pa.Table, name: str, hint: str = "") -> None:
    """Raises ValueError, naming the row, where the column `name` is empty."""
    if table[name].null_count:
        row = int(np.flatnonzero(table[name].is_null().to_numpy())[0])
        raise ValueError(f"row {row}: {name} is empty{hint}")


def write_parquet(predictions: Predictions, path: str | PathLike[str]) -> Path:
    """Writes n x k rows, image by image, validated; a missing target is null."""
    images, patients, names, targets, scores, kind, fold = validate(predictions)
    table = pa.table(
        {
            "image_id": np.repeat(images, len(names)),
            "patient_id": np.repeat(patients, len(names)),
            "label": np.tile(np.array(names), len(images)),
            # from_pandas makes NaN null.
            "target": pa.array(targets.ravel(), pa.float32(), from_pandas=True),
            "score": scores.ravel(),
        },
        schema=_SCHEMA.with_metadata({"score_kind": kind}),
    )
    if fold is not None:
        table = table.append_column(_FOLD, pa.array(np.repeat(fold, len(names))))
    pq.write_table(table, path, write_page_checksum=True)
    return Path(path)


def read_parquet(path: str | PathLike[str]) -> Predictions:
    """Reads predictions; images and labels in the order in which they first appear.

    Raises ValueError naming the file, and the row where there is one, for a missing column, an
    empty id, an image and label that appear twice or not at all, two patients for one image, and
    what `validate` refuses.
    """
    try:
        return _pivot(parquet.read(Path(path), _SCHEMA.names, (_FOLD.name,)))
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"predictions file {path}: {plain(str(error))}") from error


def _pivot(table: pa.Table) -> Predictions:
    kind = (table.schema.metadata or {}).get(b"score_kind", b"").decode(errors="replace")
    folds = None
    if _FOLD.name in table.column_names:
        refuse_nulls(table, _FOLD.name)
        folds = table[_FOLD.name].cast(_FOLD.type).to_numpy()
    table = table.select(_SCHEMA.names).cast(_SCHEMA)
    for name in ("image_id", "patient_id", "label"):
        refuse_nulls(table, name)
    images, image = _codes(table["image_id"])
    names, label = _codes(table["label"])
    patients, patient = _codes(table["patient_id"])
    cell = image * len(names) + label
    count = np.bincount(cell, minlength=len(images) * len(names))
    if (count != 1).any():
        wrong = int(np.flatnonzero(count != 1)[0])
        where = f"image '{images[wrong // len(names)]}'"
        name = names[wrong % len(names)]
        if count[wrong]:
            rows = np.flatnonzero(cell == wrong)[:2]
            raise ValueError(
                f"{where}, label '{name}' appears twice (rows {rows[0]} and {rows[1]})"
            )
        raise ValueError(
            f"{where} has no row for label '{name}': every image needs a score for every label; "
            "leave the target empty where it is not known"
        )
    owner = np.empty(len(images), np.int64)
    owner[image] = patient
    strays = np.flatnonzero(owner[image] != patient)
    if strays.size:
        raise ValueError(
            f"image '{images[image[strays[0]]]}' belongs to two patients (see row {strays[0]})"
        )
    targets, scores = np.empty((2, len(images), len(names)))
    targets.flat[cell], scores.flat[cell] = (table[c].to_numpy() for c in ("target", "score"))
    if folds is not None:
        of_image = np.empty(len(images), np.int32)
        of_image[image] = folds
        odd = np.flatnonzero(of_image[image] != folds)
        if odd.size:
            where = f"image '{images[image[odd[0]]]}'"
            raise ValueError(f"{where} is in two folds (see row {odd[0]})")
        folds = of_image
    found = Predictions(images, patients[owner], tuple(names), targets, scores, kind, folds)
    return validate(found)


def _codes(column: pa.ChunkedArray) -> tuple[Shaped[np.ndarray, " u"], Int[np.ndarray, " n"]]:
    """Returns distinct values in order of first appearance, and which of them each row holds."""
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_numpy(zero_copy_only=False)
    return values, encoded.indices.to_numpy().astype(np.int64)


def align(reference: Predictions, other: Predictions) -> Predictions:
    """Returns the other model's predictions in the reference's order of images and labels.

    Raises ValueError, naming the first image or label, unless both hold the same images, patients,
    labels and targets: a paired comparison is of two models on the same test set.
    """
    if set(reference.label_names) != set(other.label_names):
        odd = sorted(set(reference.label_names) ^ set(other.label_names))
        raise ValueError(f"label '{odd[0]}' is in one of the two predictions only")
    odd = np.setxor1d(reference.image_id, other.image_id)
    if odd.size:
        where = "first" if odd[0] in set(reference.image_id) else "second"
        raise ValueError(
            f"image '{odd[0]}' is only in the {where} of the two predictions ({odd.size} images "
            "differ): compare models on the same test images"
        )
    order = np.argsort(other.image_id)
    rows = order[np.searchsorted(other.image_id, reference.image_id, sorter=order)]
    aligned = take_images(take_labels(other, reference.label_names), rows)
    for what, mine, theirs in (
        ("patients", reference.patient_id[:, None], aligned.patient_id[:, None]),
        ("targets", reference.targets, aligned.targets),
    ):
        both_missing = (mine != mine) & (theirs != theirs)
        differ = ((mine != theirs) & ~both_missing).any(axis=1)
        if differ.any():
            raise ValueError(
                f"image '{reference.image_id[differ][0]}' has different {what} in the two "
                "predictions: they are not of the same test set"
            )
    return aligned


def take_labels(predictions: Predictions, names: Sequence[str]) -> Predictions:
    """Returns the predictions for these labels alone, in this order."""
    columns = [predictions.label_names.index(name) for name in names]
    return predictions._replace(
        label_names=tuple(names),
        targets=predictions.targets[:, columns],
        scores=predictions.scores[:, columns],
    )


def take_images(predictions: Predictions, rows: Shaped[np.ndarray, " m"]) -> Predictions:
    """Returns the predictions of these images alone; `rows` are numbers or a mask."""
    return predictions._replace(
        image_id=predictions.image_id[rows],
        patient_id=predictions.patient_id[rows],
        targets=predictions.targets[rows],
        scores=predictions.scores[rows],
        fold=None if predictions.fold is None else predictions.fold[rows],
    )
