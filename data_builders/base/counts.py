"""How many images, patients and positives there are, and whether the owner says the same."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from data_builders.base.records import Record

# From this value on a label counts as positive; grades are counted one by one.
POSITIVE_FROM = {"presence": 1.0, "certainty": 3.0}

_SHOWN = 4  # of the owner's counts, in words


def is_positive(value: float | tuple[float, ...], scale: str) -> bool:
    """Whether a raw value counts as positive; of the readers who were asked, more than half."""
    threshold = POSITIVE_FROM[scale]
    if isinstance(value, tuple):
        asked = [vote for vote in value if not np.isnan(vote)]
        return 2 * sum(vote >= threshold for vote in asked) > len(asked)
    return value >= threshold


def of_records(records: Iterable[Record], label_names: Iterable[str], scale: str) -> dict[str, Any]:
    """{"images", "patients", "studies", "positives": {label: n}}, as metadata.json holds it.

    Where labels are grades, "positives" has an entry "<label> = <grade>" for every grade.
    """
    images, patients, studies = 0, set(), set()
    # Builders let rows with equal labels share them, so that most are looked at once.
    shared: dict[int, list[Any]] = {}
    for record in records:
        images += 1
        patients.add(record.patient_id)
        studies.add(record.study_id)
        shared.setdefault(id(record.labels), [record.labels, 0])[1] += 1
    positives: collections.Counter[str] = collections.Counter()
    if scale != "grade":
        positives.update(dict.fromkeys(label_names, 0))
    for labels, number in shared.values():
        for name, value in labels.items():
            if scale == "grade":
                if not np.isnan(value):
                    positives[f"{name} = {value:g}"] += number
            elif is_positive(value, scale):
                positives[name] += number
    ordered = positives if scale != "grade" else dict(sorted(positives.items()))
    return {
        "images": images,
        "patients": len(patients),
        "studies": len(studies - {""}),
        "positives": dict(ordered),
    }


def against_owner(
    owner: Mapping[str, int], count: Callable[[tuple[str, ...]], Mapping[str, Any]]
) -> dict[str, list[int]]:
    """What the owner says and what is listed here: name -> [owner's, ours].

    Args:
      owner: a builder's OWNER_COUNTS: "images", "patients", "studies", each also of a split
        ("train images") or several ("train+validation images"), or a label's positives.
      count: the counts of some splits together; () stands for all of them.
    """
    compared = {}
    for name, number in owner.items():
        splits, _, word = name.rpartition(" ")
        if splits and word in ("images", "patients", "studies"):
            here = count(tuple(splits.split("+")))[word]
        else:
            whole = count(())
            here = whole[name] if name in whole else whole["positives"][name]
        compared[name] = [number, here]
    return compared


def owner_lines(compared: Mapping[str, list[int]]) -> list[str]:
    """The comparison in words, one line each; empty where the owner publishes nothing."""
    differing = {name: pair for name, pair in compared.items() if pair[0] != pair[1]}
    if not compared:
        return []
    if not differing:
        return [f"the tables agree with the owner's {len(compared)} counts: {_words(compared)}"]
    agreeing = len(compared) - len(differing)
    lines = [f"{agreeing} of the owner's {len(compared)} counts agree with the tables"]
    for name, (owner, here) in list(differing.items())[:_SHOWN]:
        lines.append(f"{name}: the owner has {owner:,}, here are {here:,}")
    if len(differing) > _SHOWN:
        lines.append(f"and {len(differing) - _SHOWN} more; this is not the owner's whole dataset")
    return lines


def _words(compared: Mapping[str, list[int]]) -> str:
    shown = [f"{here:,} {name}" for name, (_, here) in list(compared.items())[:_SHOWN]]
    return ", ".join(shown) + (" …" if len(compared) > _SHOWN else "")
