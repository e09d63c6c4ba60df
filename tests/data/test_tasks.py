import json
from pathlib import Path

import numpy as np
import pytest

from cxr_jax.data.tasks import (
    Task,
    as_stored,
    find_task,
    stored_tasks,
    targets,
    to_exclusive,
    to_json,
    uncertain,
)
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
        (None, "not there, since an older version"),
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


NAN = np.nan
RAW = {"Edema": np.array([1, 0, -1, NAN]), "No Finding": np.array([0, 1, 0, NAN])}


def one(raw, expression, scale="presence", **policies):
    return targets(raw, Task({"reported": expression}, **policies), scale)[:, 0]


@pytest.mark.parametrize(("policy", "value"), [("zeros", 0.0), ("ones", 1.0), ("ignore", NAN)])
def test_uncertain_and_missing_each_follow_their_policy(policy, value):
    np.testing.assert_array_equal(one(RAW, "Edema", uncertain_as=policy), [1, 0, value, NAN])
    np.testing.assert_array_equal(one(RAW, "Edema", missing_as=policy), [1, 0, 0, value])
    marked = uncertain(RAW, Task({"a": "Edema", "b": "No Finding"}, uncertain_as=policy))
    np.testing.assert_array_equal(marked, [[0, 0], [0, 0], [1, 0], [0, 0]])


def test_complement_keeps_missing_missing():
    np.testing.assert_array_equal(one(RAW, "not No Finding"), [1, 0, 1, NAN])


def test_either_of_two_findings_is_known_as_soon_as_one_is_present():
    raw = {"Mass": [1.0, 0.0, NAN, 0.0], "Nodule": [NAN, 1.0, 0.0, 0.0]}
    np.testing.assert_array_equal(one(raw, "Mass | Nodule"), [1, 1, NAN, 0])


def test_a_label_may_be_called_like_an_expression():
    raw = {"not diagnostic": [1.0, 0.0], "a | b": [0.0, 1.0], "c = 1": [1.0, 1.0]}
    for name, values in raw.items():
        np.testing.assert_array_equal(one(raw, name), values)


def test_grades_are_compared():
    raw = {"Edema severity": [0.0, 1.0, 2.0, 3.0, NAN]}
    np.testing.assert_array_equal(one(raw, "Edema severity = 2", "grade"), [0, 0, 1, 0, NAN])
    np.testing.assert_array_equal(one(raw, "Edema severity >= 2", "grade"), [0, 0, 1, 1, NAN])
    with pytest.raises(ValueError, match="holds grades: say which, as in 'Edema severity >= 1'"):
        one(raw, "Edema severity", "grade")


def test_what_is_present_or_absent_is_not_compared():
    # "Edema = 0" would otherwise read as Edema, its opposite.
    for expression in ("Edema = 0", "Edema >= 1"):
        with pytest.raises(ValueError, match="'Edema' is present or absent, not graded"):
            one(RAW, expression)


def test_certainty_has_a_threshold():
    raw = {"Mass": [0.0, 2.0, 3.0, 5.0, NAN]}
    np.testing.assert_array_equal(one(raw, "Mass", "certainty"), [0, 0, 1, 1, NAN])
    np.testing.assert_array_equal(one(raw, "Mass", "certainty", certainty=2.0), [0, 1, 1, 1, NAN])
    with pytest.raises(ValueError, match=r"'Mass' holds 6\.0; expected 0 to 5"):
        one({"Mass": [6.0]}, "Mass", "certainty")


# Readers: three agree, two of three, one of three, none; a tie; one consensus; nobody asked.
READ = [[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0], [1, 0], [1], [NAN, NAN]]
DECIDED = {
    "majority": [1, 1, 0, 0, 0, 1, NAN],
    "any": [1, 1, 1, 0, 1, 1, NAN],
    "all": [1, 0, 0, 0, 0, 1, NAN],
}


@pytest.mark.parametrize("rule", DECIDED)
def test_readers_decide_by_the_rule(rule):
    np.testing.assert_array_equal(one({"Mass": READ}, "Mass", readers=rule), DECIDED[rule])


def test_each_readers_certainty_is_judged_before_they_vote():
    # The mean certainty of the first image is below 3, yet two of three call it present.
    raw = {"Mass": [[3, 3, 0], [5, 2, 2]], "Nodule": [[0, 0, 5], [0, 3, 0]]}
    np.testing.assert_array_equal(one(raw, "Mass", "certainty"), [1, 0])
    np.testing.assert_array_equal(one(raw, "Mass | Nodule", "certainty"), [1, 1])


def test_unknown_policies_and_values_outside_the_vocabulary_are_refused():
    for field in ("uncertain_as", "missing_as", "readers"):
        with pytest.raises(ValueError, match=rf"config.{field}='maybe' is not a policy; choose"):
            one(RAW, "Edema", **{field: "maybe"})
    with pytest.raises(ValueError, match=r"'Edema' holds 3\.0"):
        one({"Edema": np.array([3.0])}, "Edema")
    with pytest.raises(ValueError, match="no label 'Edma'; there are: Edema, No Finding"):
        one(RAW, "Edma | No Finding")


def test_of_exclusive_classes_one_present_settles_the_others():
    known = [[1, 0, 0], [NAN, 1, NAN], [0, 0, NAN], [NAN, NAN, NAN]]
    expected = [[1, 0, 0], [0, 1, 0], [NAN] * 3, [NAN] * 3]
    np.testing.assert_array_equal(to_exclusive(np.float32(known), "abc"), expected)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([1, 1, NAN], "row 2: the image is a and b"),
        ([0, 0, 0], "row 2: the image is none of a, b, c"),
    ],
)
def test_a_image_of_two_exclusive_classes_or_none_is_refused(row, words):
    with pytest.raises(ValueError, match=words):
        to_exclusive(np.float32([[1, 0, 0], [NAN] * 3, row, [1, 1, 1]]), "abc")


def test_one_exclusive_class_alone_is_refused():
    with pytest.raises(ValueError, match=r"config.exclusive needs two labels or more.*has Edema"):
        targets(RAW, Task({"Edema": "Edema"}, exclusive=True))
