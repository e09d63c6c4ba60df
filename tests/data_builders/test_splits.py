"""Splits that hold for ever."""

import collections

import pytest

from data_builders.base import splits

GOLDEN = 0xCB1AC7AEFBCBD748


def test_places_are_fixed_for_ever():
    # From sha256sum: the first 16 hex digits over 2**64.
    assert splits.patient_fraction("patient-1") == pytest.approx(GOLDEN / 2**64)


def test_shares():
    counts = collections.Counter(splits.by_patient(f"p{n}") for n in range(20_000))
    assert counts["train"] / 20_000 == pytest.approx(0.7, abs=0.01)
    assert counts["validation"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert counts["test"] / 20_000 == pytest.approx(0.2, abs=0.01)


def test_larger_validation_contains_the_smaller():
    patients = [f"p{n}" for n in range(5_000)]
    small = {p for p in patients if splits.carve_validation(p, 0.1) == "validation"}
    large = {p for p in patients if splits.carve_validation(p, 0.2) == "validation"}
    assert small < large
    assert len(small) / 5_000 == pytest.approx(0.1, abs=0.015)
