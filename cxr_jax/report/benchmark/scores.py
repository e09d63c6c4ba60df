"""AUROCs, verdicts and label equivalence of a benchmark, with intervals, from its predictions.

Everything is the macro mean over labels, averaged over seeds. Patients of the test set are
resampled once per dataset, the same draws for every encoder, fraction and seed; in each resample
seeds are drawn too, with replacement and alike for all encoders, and their mean is taken. Intervals
are of that mean, and differences are paired.

An encoder may be several pretrainings of one recipe. Its score is then their mean, and what another
set of pretrainings would have given is part of its uncertainty: to the variance over patients and
seeds of that mean comes var(pretrainings) / number of them, with one degree of freedom less than
there are (Satterthwaite's for the sum). Pretrainings of different encoders are independent; the
same ones stand behind every dataset, protocol and fraction.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cxr_jax.report.benchmark.grid import Cell, Grid, common_labels, percent, read_group
from cxr_jax.stats.bootstrap import auroc_limits, degrees, used_excluded
from cxr_jax.stats.label_equivalence import LabelEquivalence, label_equivalence
from cxr_jax.stats.replication import between_draws, freedom_with
from cxr_jax.stats.verdict import Comparison, correct_verdicts, judge
from cxr_jax.transfer.predictions import MEASURES, Predictions, take_labels

_SEED = 0  # of the draws of patients
MARGIN = 0.02  # of AUROC and other measures, below which a difference does not matter


class Score(NamedTuple):
    """One encoder under one protocol on one dataset at one fraction: s seeds, p pretrainings.

    `by_pretraining` and `replicates`, the mean over pretrainings, are macro means over the same
    labels; a replicate is NaN where a class is absent from the resample. `images` is the mean
    number of training images, `freedom` the degrees of freedom of the mean over labels.
    """

    encoder: str
    seeds: tuple[int, ...]
    images: int
    by_pretraining: Float[np.ndarray, "s p"]
    replicates: Float[np.ndarray, "s r"]
    freedom: float

    @property
    def auroc(self) -> Float[np.ndarray, " s"]:
        """The mean over pretrainings of every seed."""
        return self.by_pretraining.mean(axis=1)

    @property
    def mean(self) -> float:
        return float(self.auroc.mean())

    @property
    def pretrainings(self) -> int:
        return self.by_pretraining.shape[1]

    @property
    def of_pretrainings(self) -> Float[np.ndarray, " p"]:
        """The mean over seeds of every pretraining."""
        return self.by_pretraining.mean(axis=0)

    @property
    def resampled(self) -> Float[np.ndarray, " r"]:
        """The mean in every resample of patients, seeds and pretrainings."""
        within, seed = self.within, zlib.crc32(self.encoder.encode())
        return within + between_draws(self.of_pretrainings, len(within), seed)

    @property
    def within(self) -> Float[np.ndarray, " r"]:
        """The mean over seeds in every resample, of seeds drawn with replacement.

        A seed draws the training images and the training's randomness: one lucky draw must not look
        like a sure win. Scores of equally many seeds draw alike.
        """
        count, total = self.replicates.shape
        if count == 1:
            return self.replicates[0]
        drawn = np.random.default_rng(_SEED).integers(count, size=(count, total))
        return np.take_along_axis(self.replicates, drawn, axis=0).mean(axis=0)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % limits of the mean; NaN where no resample can be used."""
        freedom = freedom_with(self.within, self.freedom, self.of_pretrainings)
        return auroc_limits(self.mean, self.resampled, freedom)

    @property
    def num_excluded(self) -> int:
        """Resamples that are left out because a class is absent."""
        return used_excluded(self.resampled)[1]

    def take(self, seeds: Sequence[int]) -> "Score":
        """Returns the score of these seeds alone."""
        rows = [self.seeds.index(seed) for seed in seeds]
        chosen = self.by_pretraining[rows], self.replicates[rows]
        return Score(self.encoder, tuple(seeds), self.images, *chosen, self.freedom)


class Place(NamedTuple):
    """The scores of all encoders for one protocol, dataset and fraction.

    `labels` are those of the mean; `images` and `patients` count the test set; `num_resamples` were
    drawn. `folds` of a cross-validation, else 0, of the images of the splits `folds_of`. `measure`
    is what is measured, by its name.
    """

    scores: dict[str, Score]
    labels: tuple[str, ...]
    images: int
    patients: int
    num_resamples: int
    folds: int = 0
    measure: str = "AUROC"
    folds_of: str = ""

    @property
    def in_folds(self) -> str:
        """Says in words of which images a cross-validation is; "" where there is none."""
        if not self.folds:
            return ""
        said = f"cross-validated, {self.folds} folds"
        if not self.folds_of or "test" in self.folds_of:
            return said
        return f"{said} of the {self.folds_of.replace('+', ' and ')} images: no test image was read"


class Measured(NamedTuple):
    """All of a benchmark. Keys are (protocol, dataset, fraction), as `Cell.group`.

    `curves` holds the same scores over the labels that can be scored at every fraction, so that one
    curve is of one quantity; `dropped`, by protocol and dataset, the labels that are in no curve.
    `labels` holds, at the largest fraction, the scores of every label alone. `patients`, by
    protocol and dataset, are those of the test set. `failed` are the cells without
    a result, `notes` what to know.
    """

    places: dict[tuple[str, str, float], Place]
    curves: dict[tuple[str, str, float], dict[str, Score]]
    dropped: dict[tuple[str, str], list[str]]
    patients: dict[tuple[str, str], frozenset[str]]
    failed: list[Cell]
    notes: list[str]
    labels: dict[tuple[str, str, float], dict[str, dict[str, Score]]]

    def measure(self, protocol: str) -> str:
        """Returns what a protocol's scores are: "AUROC", or another measure's name."""
        found = (place.measure for key, place in self.places.items() if key[0] == protocol)
        return next(found, "AUROC")


def measure(workdir: Path, grid: Grid, num_resamples: int) -> Measured:
    """Measures AUROC, with replicates, of every cell that is done and usable."""
    failed = [cell for cell in grid.cells if cell.state != "done"]
    measured = Measured({}, {}, {}, {}, failed, [], {})
    for protocol in grid.protocols:
        for dataset in grid.datasets:
            cells = [cell for cell in grid.cells if cell.group[:2] == (protocol, dataset)]
            read, refused = read_group(workdir, cells, grid.reference)
            measured.failed.extend(refused)
            _measure_curve(read, grid, num_resamples, measured)
    return measured


class LabelScore(NamedTuple):
    """One label of one cell: its AUROC, that of every resample, patients of the rarer class."""

    auroc: float
    fewest: int
    replicates: Float[np.ndarray, " r"]


def _measure_curve(
    every: Mapping[Cell, Predictions], grid: Grid, num_resamples: int, measured: Measured
) -> None:
    """Adds the cells of one dataset and protocol, at all fractions, to `measured`."""
    by_group: dict[tuple, dict[Cell, dict[str, LabelScore]]] = {}
    for group in sorted({cell.group for cell in every}):  # the fractions rise
        read = {cell: held for cell, held in every.items() if cell.group == group}
        common, notes = common_labels(read)
        first = take_labels(next(iter(read.values())), common)
        measured.patients[group[:2]] = frozenset(first.patient_id.tolist())
        labels = estimable(first)
        why = zip(common, first.measure.counted(first.targets, first.patient_id)[1])
        notes += [f"no mean holds {name}: {reason}" for name, reason in why if reason]
        if not labels:
            notes.append("no label can be scored for every encoder")
        protocol, dataset, fraction = group
        where = f"{dataset}, {protocol}, {percent(fraction)} of the training patients"
        measured.notes.extend(f"{where}: {note}." for note in notes)
        if labels:
            by_group[group] = found = {
                cell: label_scores(take_labels(held, labels), num_resamples)
                for cell, held in read.items()
            }
            scores = macro_scores(found, labels, grid.encoders)
            for name, score in scores.items():
                if (count := grid.pretrainings(name)) > score.pretrainings:
                    measured.notes.append(
                        f"{where}: of {name}'s {count} pretrainings {score.pretrainings} have a "
                        "result; score and interval know nothing of the others."
                    )
            known = ~np.isnan(first.targets).all(axis=1)
            size = int(known.sum()), len(np.unique(first.patient_id[known]))
            folds = 0 if first.fold is None else len(np.unique(first.fold))
            what = MEASURES.get(first.score_kind, "AUROC"), next(iter(read)).folds_of
            measured.places[group] = Place(scores, labels, *size, num_resamples, folds, *what)
            if group[2] == grid.fractions(protocol)[-1]:
                measured.labels[group] = {
                    label: macro_scores(found, (label,), grid.encoders) for label in labels
                }
    held = [measured.places[group].labels for group in by_group]
    shared = tuple(name for name in held[0] if all(name in names for names in held)) if held else ()
    if dropped := sorted({name for names in held for name in names} - set(shared)):
        measured.dropped[protocol, dataset] = dropped
    for group, found in by_group.items():
        if shared and next(iter(found)).num_images:  # zero-shot learns from none: no curve
            measured.curves[group] = macro_scores(found, shared, grid.encoders)


def estimable(predictions: Predictions) -> tuple[str, ...]:
    """Returns the labels with enough patients of both classes in the test set."""
    _, why = predictions.measure.counted(predictions.targets, predictions.patient_id)
    return tuple(name for name, reason in zip(predictions.label_names, why) if not reason)


def label_scores(predictions: Predictions, num_resamples: int) -> dict[str, LabelScore]:
    """Returns the AUROC of every label by its name; all labels are estimable."""
    _, patients, names, targets, scores, _, fold = predictions
    measure = predictions.measure
    alone = measure.alone(targets, scores, fold)
    values = measure.resampled(targets, scores, patients, num_resamples, _SEED, fold)
    fewest, _ = measure.counted(targets, patients)
    found = zip(alone.tolist(), fewest.tolist(), values.T)
    return {name: LabelScore(*numbers) for name, numbers in zip(names, found)}


def macro_scores(
    found: Mapping[Cell, Mapping[str, LabelScore]], labels: Sequence[str], encoders: Sequence[str]
) -> dict[str, Score]:
    """Returns by encoder the macro mean over `labels`, for the seeds that all pretrainings have.

    A pretraining without any result is left out; an encoder without a common seed has no score.
    """
    scores = {}
    for encoder in encoders:
        cells = {(cell.seed, cell.pretraining): cell for cell in found if cell.encoder == encoder}
        numbers = sorted({number for _, number in cells})
        seeds = sorted({seed for seed, _ in cells})
        seeds = [seed for seed in seeds if all((seed, number) in cells for number in numbers)]
        if not seeds:
            continue
        chosen = [[cells[seed, number] for number in numbers] for seed in seeds]
        held = [[[found[cell][label] for label in labels] for cell in row] for row in chosen]
        scores[encoder] = Score(
            encoder,
            tuple(seeds),
            math.floor(float(np.mean([row[0].num_images for row in chosen])) + 0.5),
            np.array([[np.mean([one.auroc for one in cell]) for cell in row] for row in held]),
            np.array([_mean_replicates(row) for row in held]),
            degrees(np.array([label.fewest for label in held[0][0]])),
        )
    return scores


def _mean_replicates(row: Sequence[Sequence[LabelScore]]) -> Float[np.ndarray, " r"]:
    """Returns the mean over labels, then over pretrainings."""
    return np.mean([np.mean([one.replicates for one in cell], axis=0) for cell in row], axis=0)


def paired(scores: Mapping[str, Score], a: str, b: str) -> tuple[Score, Score] | None:
    """Returns both encoders' scores over the seeds that both have; None where there is none."""
    if a not in scores or b not in scores:
        return None
    seeds = sorted(set(scores[a].seeds) & set(scores[b].seeds))
    return (scores[a].take(seeds), scores[b].take(seeds)) if seeds else None


def compared(scores: Mapping[str, Score], a: str, b: str) -> Comparison | None:
    """Judges encoder a against b over the seeds that both have, not corrected; None without one."""
    if not (both := paired(scores, a, b)):
        return None
    one, other = both
    apart = one.resampled - other.resampled
    several = one.of_pretrainings, other.of_pretrainings
    freedom = freedom_with(one.within - other.within, one.freedom, *several)
    return judge(one.mean, other.mean, apart, MARGIN, freedom=freedom)


def verdicts(
    measured: Measured, grid: Grid, protocol: str, fraction: float
) -> dict[tuple[str, str], Comparison]:
    """Judges (encoder, dataset) against the reference, Holm-corrected over an encoder's datasets.

    Raises ValueError where there were too few resamples for so many datasets.
    """
    found = {}
    for encoder in grid.encoders[1:]:
        judged = {}
        for dataset in grid.datasets:
            place = measured.places.get((protocol, dataset, fraction))
            if place and (one := compared(place.scores, encoder, grid.reference)):
                judged[encoder, dataset] = one
        found |= dict(zip(judged, correct_verdicts(list(judged.values()))))
    return found


def equivalences(
    measured: Measured, grid: Grid, protocol: str, dataset: str, encoder: str
) -> list[LabelEquivalence]:
    """Returns how many images the reference needs for what the encoder does with each number.

    Empty where fewer than two fractions have scores of both.
    """
    images, pairs = [], []
    for fraction in grid.fractions(protocol):
        scores = measured.curves.get((protocol, dataset, fraction), {})
        both = paired(scores, encoder, grid.reference)
        if both and both[1].images > max(images, default=0):
            images.append(both[1].images)
            pairs.append(both)
    if len(images) < 2:
        return []
    means = [np.array([both[which].mean for both in pairs]) for which in (0, 1)]
    replicates = [np.stack([both[which].resampled for both in pairs], axis=1) for which in (0, 1)]
    return [label_equivalence(np.array(images), *means, *replicates, at) for at in images]
