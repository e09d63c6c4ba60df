import pytest

from cxr_jax.data.tasks import find_task

NIH_STORED = [
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening"),
    *("Hernia", "No Finding"),
]


def test_default_is_every_label_unless_the_dataset_says_otherwise():
    assert list(find_task("mine", ["a", "b"]).labels) == ["a", "b"]
    names = [*find_task("nih_chestxray14/512", NIH_STORED).labels]
    assert len(names) == 14 and "No Finding" not in names


def test_a_task_is_named_or_listed_and_its_policies_can_be_changed():
    assert find_task("nih_chestxray14", NIH_STORED, "any_finding").labels == {
        "Any finding": "not No Finding"
    }
    task = find_task("nih_chestxray14", NIH_STORED, "Mass, Nodule", {"uncertain": "ones"})
    assert task.labels == {"Mass": "Mass", "Nodule": "Nodule"} and task.uncertain == "ones"
    assert find_task("mine", ["a"], changes={"uncertain": "", "views": ()}).uncertain == "zeros"


def test_misspelt_label_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"dataset some has no label 'Edma'.*Edema, No Finding"):
        find_task("some", ["Edema", "No Finding"], "Edma")
    with pytest.raises(ValueError, match="'maybe' is not a policy"):
        find_task("some", ["Edema"], changes={"uncertain": "maybe"})


def test_exclusive_is_of_a_task_and_said_anew_of_other_labels():
    stored, dataset = ["Edema severity"], "pulmonary_edema_severity"
    assert find_task(dataset, stored).exclusive
    assert find_task(dataset, stored, changes={"exclusive": False}).exclusive
    assert not find_task(dataset, stored, "any_edema").exclusive
    some = "Edema severity = 1,Edema severity >= 2"
    assert not find_task(dataset, stored, some).exclusive
    assert find_task(dataset, stored, some, {"exclusive": True}).exclusive
