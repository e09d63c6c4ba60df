"""Cross-validation: a protocol run once for each fold of the labelled images, parted by patient.

Each fold is scored by a model of the others: the next fold is the validation part, on which choices
are made, and all the rest trains. Models of different folds have scores of different scale (a
stronger regularisation brings them together): they stay as they are, and AUROC counts pairs of
images within folds (cxr_jax/stats/auroc.py).
"""

import functools
import hashlib
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from cxr_jax.config import Section
from cxr_jax.data.splits import LabelledSplit, patient_subset
from cxr_jax.stats.clusters import cluster_index
from cxr_jax.transfer._protocol import Protocol, Result, Splits, Tools, stand_ins
from cxr_jax.weights.encoder import Encoder

_FEWEST = 3  # one to test, one to choose on, one to train on


def check(config: Section) -> None:
    """Raises ValueError for a number of folds that cannot be, or of splits that there are not."""
    folds, parts = config["folds"], config["folds_of"].split("+")
    if folds and folds < _FEWEST:
        raise ValueError(
            f"config.folds={folds}: give {_FEWEST} or more (one fold is tested, one chosen on, the "
            "others train), or 0 for the dataset's own splits"
        )
    if parts != [name for name in Splits._fields if name in parts]:
        raise ValueError(
            f"config.folds_of={config['folds_of']}: join splits by +, in the order "
            f"{'+'.join(Splits._fields)}; train+validation leaves the test images unread"
        )
    if not folds and parts != list(Splits._fields):
        raise ValueError(
            f"config.folds_of={config['folds_of']} says of what folds are made: give config.folds, "
            "such as 5, as well"
        )


def assign(pool: LabelledSplit, folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """Returns the fold of each image, from 0: a patient's images are in one, every label in each.

    Iterative stratification (Sechidis et al. 2011): the class (a label's positives or negatives)
    that fewest of the patients left have is dealt out first, each to the fold that lacks it most.
    Raises ValueError for fewer patients than folds, in all or of a class.
    """
    patient, count = cluster_index(np.array(pool.patient_ids, str), len(pool.rows))
    if count < folds:
        raise ValueError(f"{pool.source.name}: {count} labelled patients for config.folds={folds}")
    classes = np.concatenate([pool.targets == 1, pool.targets == 0], axis=1)
    has = np.zeros((count, classes.shape[1]), bool)
    np.logical_or.at(has, patient, classes)
    _check_classes(pool, has.sum(axis=0), folds)
    ids = np.empty(count, object)
    ids[patient] = pool.patient_ids
    drawn = [hashlib.sha256(f"fold:{seed}:{one}".encode()).digest() for one in ids]
    left = sorted(range(count), key=drawn.__getitem__)
    lacks = np.tile(has.sum(axis=0) / folds, (folds, 1))
    size, images = np.zeros(folds), np.bincount(patient)
    found = np.zeros(count, int)
    while left:
        remaining = has[left].sum(axis=0)
        rarest = np.argmin(np.where(remaining, remaining, count + 1))
        for one in [p for p in left if has[p, rarest]]:
            # The fold that lacks the class most; then the one with fewest images.
            fold = np.lexsort((size, -lacks[:, rarest]))[0]
            found[one] = fold
            lacks[fold] -= has[one]
            size[fold] += images[one]
        left = [p for p in left if not has[p, rarest]]
    return found[patient]


def _check_classes(pool: LabelledSplit, counts: Int[np.ndarray, " c"], folds: int) -> None:
    kinds = zip(("positive", "negative"), np.split(counts, 2))
    few = [
        f"{name} ({held[k]} {kind})"
        for kind, held in kinds
        for k, name in enumerate(pool.label_names)
        if held[k] < folds
    ]
    if few:
        raise ValueError(
            f"{pool.source.name}: labels with fewer patients of a class than config.folds={folds}: "
            f"{', '.join(few)}. Name the other labels in config.task, or take fewer folds"
        )


def part(
    pool: LabelledSplit, fold: Int[np.ndarray, " n"], test: int, fraction: float, seed: int
) -> tuple[Splits, list[Int[np.ndarray, "..."]]]:
    """Returns one fold's splits, and which rows of the pool the three have and `stand_ins`."""
    validation = (test + 1) % (fold.max() + 1)
    train = np.flatnonzero((fold != test) & (fold != validation))
    whole = pool.take(train)
    kept = patient_subset(whole.patient_ids, fraction, seed, whole.labelled)
    rest = whole.rows[np.setdiff1d(np.arange(len(train)), kept)]
    rows = [train[kept], *(np.flatnonzero(fold == one) for one in (validation, test))]
    splits = Splits(*map(pool.take, rows))
    rows.append(np.searchsorted(pool.rows, stand_ins(len(kept), rest)))
    return splits._replace(train=splits.train._replace(rest=rest)), rows


def cross_validated(protocol: Protocol, config: Section) -> Protocol:
    """Returns the protocol as it is, or, with config.folds, that runs it fold by fold.

    All three of its splits are then the labelled images of the dataset; its scores are of models
    that have not seen the image's patient, and `Result.fold` says which.
    """
    folds, fraction, seed = (config[name] for name in ("folds", "label_fraction", "seed"))
    if not folds:
        return protocol

    def run(encoder: Encoder, splits: Splits, tools: Tools) -> Result:
        pool = splits.test
        fold = assign(pool, folds, seed)
        results, sizes = [], []
        scores = np.full((len(fold), len(pool.label_names)), np.nan)
        for number in range(folds):
            own, rows = part(pool, fold, number, fraction, seed)
            given = (encoder, own, _of_fold(tools, rows, number, folds))
            try:
                result = tools.once(number, functools.partial(protocol.run, *given))
            except ValueError as error:
                raise ValueError(f"fold {number + 1} of {folds}: {error}") from error
            scores[rows[2]] = result.scores
            results.append(result)
            sizes.append(len(own.train.rows))
        return _joined(results, scores, fold, sizes)

    settings = {**protocol.settings, "scored in folds": [folds, fraction, seed]}
    title = f"{protocol.title} ({folds}-fold cross-validated by patient)"
    return protocol._replace(title=title, settings=settings, run=run, run_many=None)


def _of_fold(tools: Tools, rows: list[Int[np.ndarray, "..."]], number: int, folds: int) -> Tools:
    """Returns the tools that one fold's run is given: features are read once for all folds."""
    places, name = dict(zip((*Splits._fields, "unlabelled"), rows)), f"fold {number + 1}"
    return Tools(
        lambda split: tools.extract("test")[places[split]],
        lambda line: tools.say(f"{name} of {folds}: {line}"),
        lambda step, values: tools.log(step, {f"{name}/{key}": v for key, v in values.items()}),
        maps=lambda split: tools.maps("test").at(places[split]),
    )


def _joined(
    results: list[Result],
    scores: Shaped[np.ndarray, "n k"],
    fold: Int[np.ndarray, " n"],
    sizes: list[int],
) -> Result:
    """Returns one result of all folds; a label that one of them could not score is not scored."""
    not_scored: dict[int, str] = {}
    notes: dict[int, str] = {}
    remarks = []
    for number, result in enumerate(results, start=1):
        for k, reason in result.not_scored.items():
            not_scored.setdefault(k, f"fold {number}: {reason}")
        for k, note in result.notes.items():
            notes[k] = "; ".join(filter(None, (notes.get(k), f"fold {number}: {note}")))
        remarks += [f"Fold {number}: {remark}" for remark in result.remarks]
    scores[:, list(not_scored)] = np.nan
    facts: dict[str, Any] = {"num_images": round(np.mean(sizes))}
    return Result(
        scores=scores,
        not_scored=not_scored,
        summary="; ".join(f"fold {n}: {r.summary}" for n, r in enumerate(results, start=1)),
        facts=facts | {"folds": [result.facts for result in results]},
        score_kind=results[0].score_kind,
        notes=notes,
        remarks=tuple(remarks),
        fold=fold,
    )
