import numpy as np
import pytest

from cxr_jax.data.splits import patient_subset

_PATIENTS = [f"p{i // 3}" for i in range(600)]  # 200 patients of 3 images


@pytest.mark.parametrize("seed", [0, 1])
def test_fractions_nest_and_keep_patients_whole(seed):
    kept = [set(patient_subset(_PATIENTS, f, seed).tolist()) for f in (0.01, 0.1, 0.5, 1.0)]
    assert [len(rows) for rows in kept] == [6, 60, 300, 600]
    assert kept[0] < kept[1] < kept[2] < kept[3]
    for rows in kept:
        inside = {_PATIENTS[i] for i in rows}
        assert rows == {i for i, patient in enumerate(_PATIENTS) if patient in inside}


def test_another_seed_draws_other_patients():
    first, second = (patient_subset(_PATIENTS, 0.1, seed) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_order_of_rows_does_not_change_who_is_drawn():
    rows = patient_subset(_PATIENTS, 0.1, 0)
    backwards = patient_subset(_PATIENTS[::-1], 0.1, 0)
    assert {_PATIENTS[i] for i in rows} == {_PATIENTS[::-1][i] for i in backwards}


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match="label_fraction"):
        patient_subset(_PATIENTS, fraction, 0)
