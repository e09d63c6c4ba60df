"""TB Portals' cases: what is known of a patient's tuberculosis, by patient and condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from data_builders.base import csv_table
from data_builders.base.records import BuildError

DRUG_RESISTANT, SENSITIVE = "Drug resistant", "Sensitive"
# The owner's classes, from least to most.
CLASSES = ("Mono DR", "Poly DR", "MDR non XDR", "Pre-XDR", "XDR")
LABEL_NAMES = (DRUG_RESISTANT, *CLASSES)
RESISTANCE = "type_of_resistance"
# What stands where it was not tested.
UNKNOWN = frozenset({"", "unknown", "not specified", "not reported", "not available", "nan", "na"})
SEXES = {"male": "M", "female": "F", "m": "M", "f": "F"}
OLDEST = 120.0


class Case(NamedTuple):
    """One condition of a patient; the age (years) is that of its onset."""

    labels: dict[str, float]
    sex: str
    age: float


def parse_case(resistance: str, sex: str, age: str, where: str) -> Case:
    """A case from type_of_resistance, gender and age_of_onset.

    Raises:
      BuildError: a class of resistance that the owner is not known to use.
    """
    said = " ".join(resistance.split()).casefold()
    known = {name.casefold(): name for name in (SENSITIVE, *CLASSES)}
    if said in known:
        labels = {name: float(name == known[said]) for name in CLASSES}
        labels = {DRUG_RESISTANT: float(known[said] != SENSITIVE), **labels}
    elif said in UNKNOWN:
        labels = dict.fromkeys(LABEL_NAMES, math.nan)
    else:
        raise BuildError(
            f"{where}: {RESISTANCE} is none of {', '.join((SENSITIVE, *CLASSES))} nor blank."
        )
    return Case(labels, SEXES.get(sex.casefold(), ""), _years(age))


def nothing_known() -> Case:
    """The case of an image that no case belongs to."""
    return Case(dict.fromkeys(LABEL_NAMES, math.nan), "", math.nan)


def _years(text: str) -> float:
    years = csv_table.number(text)
    return years if years is not None and 0 <= years <= OLDEST else math.nan


def read_cases(table: csv_table.Table) -> dict[tuple[str, str], Case]:
    """(patient_id, condition_id) -> case.

    Raises:
      BuildError: two rows of one condition that say different things.
    """
    keys = ("patient_id", "condition_id", RESISTANCE)
    read = ColumnReader(table, keys, ("gender", "age_of_onset"))
    cases: dict[tuple[str, str], Case] = {}
    said: dict[tuple[str, str], tuple[list[str], str]] = {}
    others = set(table.columns) - {*keys, "gender", "age_of_onset"}  # some 200, also of notes
    for row in table.rows(keys, prose=tuple(others)):
        patient, condition, *facts = read(row.fields)
        key = (patient, condition)
        earlier, where = said.setdefault(key, (facts, row.where))
        if earlier != facts:
            raise BuildError(
                f"{row.where}: {where} has the same patient and condition, but says something else "
                "of it. Keep the right one."
            )
        cases[key] = parse_case(*facts, row.where)
    return cases


class ColumnReader:
    """Takes some columns out of a row's fields; an optional one that is absent gives ""."""

    def __init__(self, table: csv_table.Table, needed: Sequence[str], optional: Sequence[str]):
        self._at = [table.index(column) for column in needed]
        self._at += [
            table.columns.index(column) if column in table.columns else -1 for column in optional
        ]

    def __call__(self, fields: Sequence[str]) -> list[str]:
        return [fields[i] if 0 <= i < len(fields) else "" for i in self._at]
