"""Label budgets: nested, patient-wise subsets of the training images."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def patient_subset(
    patient_ids: Sequence[str], fraction: float, seed: int
) -> Int[np.ndarray, "kept"]:
    """Rows of the first `fraction` of the patients, in an order that a hash of the seed fixes.

    The same seed nests: the rows at 1 % are among those at 10 %. At least one patient is kept.

    Raises:
      ValueError: fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"config.label_fraction={fraction} must lie in (0, 1]; 0.01 means 1 %")
    patients = sorted(
        set(patient_ids), key=lambda p: hashlib.sha256(f"{seed}:{p}".encode()).digest()
    )
    kept = set(patients[: max(1, round(fraction * len(patients)))])
    return np.flatnonzero([patient in kept for patient in patient_ids])
