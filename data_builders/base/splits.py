"""Splits by patient: a fixed hash, so that a patient's split does not depend on other patients."""

from __future__ import annotations

import hashlib


def patient_fraction(patient_id: str) -> float:
    """Maps an id to a number in [0, 1), fixed for ever: its SHA-256 as a binary fraction.

    >>> round(patient_fraction("patient-1"), 6), by_patient("patient-1")
    (0.793377, 'validation')
    """
    digest = hashlib.sha256(patient_id.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def by_patient(patient_id: str) -> str:
    """Returns the split where the owner made none: 70 % train, 10 % validation, 20 % test."""
    fraction = patient_fraction(patient_id)
    if fraction < 0.7:
        return "train"
    return "validation" if fraction < 0.8 else "test"


def carve_validation(patient_id: str, share: float) -> str:
    """Splits the owner's train part, of which `share` goes to validation."""
    return "validation" if patient_fraction(patient_id) >= 1.0 - share else "train"
