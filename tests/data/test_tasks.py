import json
from pathlib import Path

import pytest

from cxr_jax.data.tasks import Task, as_stored, find_task, stored_tasks, to_json
from data_builders.build import builder_class
from data_builders.nih_chestxray14.nih_chestxray14_dataset_builder import NIH_FINDINGS

NIH_STORED = [*NIH_FINDINGS, "No Finding"]


def own(dataset):
    return builder_class(dataset).TASKS


def test_default_is_every_label_unless_the_dataset_says_otherwise():
    assert list(find_task("mine", ["a", "b"], {}).labels) == ["a", "b"]
    nih = own("nih_chestxray14")
    names = [*find_task("nih_chestxray14/512", NIH_STORED, nih).labels]
    assert len(names) == 14 and "No Finding" not in names


def test_a_task_is_named_or_listed_and_its_policies_can_be_changed():
    nih = own("nih_chestxray14")
    assert find_task("nih_chestxray14", NIH_STORED, nih, "any_finding").labels == {
        "Any finding": "not No Finding"
    }
    ones = {"uncertain_as": "ones"}
    task = find_task("nih_chestxray14", NIH_STORED, nih, "Mass, Nodule", ones)
    assert task.labels == {"Mass": "Mass", "Nodule": "Nodule"} and task.uncertain_as == "ones"
    nothing = {"uncertain_as": "", "projections": ()}
    assert find_task("mine", ["a"], {}, changes=nothing).uncertain_as == "zeros"


def test_misspelt_label_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"dataset some has no label 'Edma'.*Edema, No Finding"):
        find_task("some", ["Edema", "No Finding"], {}, "Edma")
    with pytest.raises(ValueError, match="'maybe' is not a policy"):
        find_task("some", ["Edema"], {}, changes={"uncertain_as": "maybe"})


def test_exclusive_is_of_a_task_and_said_anew_of_other_labels():
    stored, dataset = ["Edema severity"], "pulmonary_edema_severity"
    tasks = own(dataset)
    assert find_task(dataset, stored, tasks).exclusive
    assert find_task(dataset, stored, tasks, changes={"exclusive": False}).exclusive
    assert not find_task(dataset, stored, tasks, "any_edema").exclusive
    some = "Edema severity = 1,Edema severity >= 2"
    assert not find_task(dataset, stored, tasks, some).exclusive
    assert find_task(dataset, stored, tasks, some, {"exclusive": True}).exclusive


def test_tasks_are_read_as_they_were_stored():
    named = {
        "default": Task(as_stored(["a", "b"]), missing_as="zeros", projections=("PA", "")),
        "grades": Task({"c": "d >= 2"}, certainty=4.0, exclusive=False),
    }
    metadata = json.loads(json.dumps({"tasks": to_json(named)}))
    assert stored_tasks(Path("data/some/256/1.0.0"), metadata) == named


@pytest.mark.parametrize(
    "tasks, reason",
    [
        (None, "stored the dataset's tasks"),
        ([], "damaged"),
        (
            {"default": {"labels": {"a": "a"}, "projections": [], "colour": "red"}},
            "damaged .*colour",
        ),
        (
            {"default": {"labels": {"a": 1}, "projections": []}},
            "a label or a projection is no text",
        ),
        (
            {"default": {"labels": {"a": "a"}, "projections": "PA"}},
            "projections is of another type",
        ),
        ({"default": {"labels": {"a": "a"}, "projections": [], "readers": "one"}}, "not a policy"),
        ({"default": {"projections": []}}, "damaged .*labels"),
    ],
)
def test_older_or_damaged_tasks_are_refused_with_the_command_that_writes_them(tasks, reason):
    folder = Path("data/some/512/1.0.0")
    metadata = {} if tasks is None else {"tasks": tasks}
    command = "data_builders.build some/512 --data_dir=data --refresh"
    with pytest.raises(ValueError, match=f"(?s){reason}.*{command}"):
        stored_tasks(folder, metadata)
