"""Splits by patient: a fixed hash, so that a patient's place never depends on who else is there."""

from __future__ import annotations

import hashlib


def patient_fraction(patient_id: str) -> float:
    """A number in [0, 1) that is fixed for ever by the id: its SHA-256 as a binary fraction."""
    digest = hashlib.sha256(patient_id.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def by_patient(patient_id: str) -> str:
    """The split of a dataset whose owner made none: 70 % train, 10 % validation, 20 % test."""
    fraction = patient_fraction(patient_id)
    if fraction < 0.7:
        return "train"
    return "validation" if fraction < 0.8 else "test"


def carve_validation(patient_id: str, share: float) -> str:
    """The split of a patient of the owner's train part, `share` of which is for validation."""
    return "validation" if patient_fraction(patient_id) >= 1.0 - share else "train"
