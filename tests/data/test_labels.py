import numpy as np
import pytest

from cxr_jax.data.labels import Task, find_task, targets

_RAW = {"Edema": np.array([1, 0, -1, np.nan]), "No Finding": np.array([0, 1, 0, np.nan])}


@pytest.mark.parametrize(
    ("uncertain", "third"), [("zeros", 0.0), ("ones", 1.0), ("ignore", np.nan)]
)
def test_uncertain_follows_the_policy_and_unmentioned_stays_missing(uncertain, third):
    task = find_task("some", ["Edema", "No Finding"], "Edema", uncertain)
    np.testing.assert_array_equal(targets(_RAW, task)[:, 0], [1, 0, third, np.nan])


def test_complement_keeps_missing_missing():
    task = Task({"Any finding": "not No Finding"})
    np.testing.assert_array_equal(targets(_RAW, task)[:, 0], [1, 0, 1, np.nan])


def test_a_label_may_itself_begin_with_not():
    raw = {"not diagnostic": np.array([1.0, 0.0])}
    task = find_task("some", ["not diagnostic"], "", "zeros")
    np.testing.assert_array_equal(targets(raw, task)[:, 0], [1, 0])


def test_default_is_every_label_unless_the_dataset_says_otherwise():
    assert list(find_task("mine", ["a", "b"], "", "zeros").labels) == ["a", "b"]
    names = [*find_task("nih_chestxray14", NIH_STORED, "", "zeros").labels]
    assert len(names) == 14 and "No Finding" not in names


NIH_STORED = [
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening"),
    *("Hernia", "No Finding"),
]


def test_misspelt_label_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"no label 'Edma'.*Its labels: Edema, No Finding"):
        find_task("some", ["Edema", "No Finding"], "Edma", "zeros")


def test_unknown_policy_and_values_outside_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="'maybe' is not a policy"):
        find_task("some", ["Edema"], "", "maybe")
    with pytest.raises(ValueError, match=r"'Edema' holds 3\.0"):
        targets({"Edema": np.array([3.0])}, Task({"Edema": "Edema"}))
