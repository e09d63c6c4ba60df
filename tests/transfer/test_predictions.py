"""The predictions file: what goes in comes out, and what cannot be right is refused by name."""

import numpy as np
import pandas as pd
import pytest

from cxr_jax.transfer.predictions import Predictions, align, read_parquet, validate, write_parquet


def some_predictions(n=6, names=("effusion", "nodule")):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (n, len(names))).astype(np.float32)
    targets[1, 0] = np.nan
    return Predictions(
        image_id=np.array([f"image {i}" for i in range(n)][::-1]),
        patient_id=np.array([f"patient {i // 2}" for i in range(n)]),
        label_names=names,
        targets=targets,
        scores=rng.normal(size=targets.shape),
    )


def assert_same(a, b):
    for field in ("image_id", "patient_id", "targets", "scores"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    assert a.label_names == b.label_names


def test_round_trip_keeps_everything(tmp_path):
    predictions = some_predictions()
    assert_same(read_parquet(write_parquet(predictions, tmp_path / "p.parquet")), predictions)


def test_file_is_one_row_per_image_and_label(tmp_path):
    predictions = some_predictions()
    frame = pd.read_parquet(write_parquet(predictions, tmp_path / "p.parquet"))
    assert list(frame.columns) == ["image_id", "patient_id", "label", "target", "score"]
    assert len(frame) == 12 and frame["target"].isna().sum() == 1
    row = frame[(frame["image_id"] == "image 3") & (frame["label"] == "nodule")].iloc[0]
    assert row["score"] == predictions.scores[2, 1] and row["patient_id"] == "patient 1"


def test_rows_of_other_software_may_come_in_any_order(tmp_path):
    """Extra columns, categories, integer targets and ids as numbers are read too."""
    frame = pd.DataFrame(
        {
            "label": pd.Categorical(["b", "a", "a", "b"]),
            "score": np.array([1, 2, 3, 4], np.float32),
            "image_id": [7, 9, 7, 9],
            "model": "theirs",
            "patient_id": [1, 2, 1, 2],
            "target": pd.array([1, 0, None, 1], dtype="Int64"),
        }
    )
    frame.to_parquet(tmp_path / "theirs.parquet", index=False)
    got = read_parquet(tmp_path / "theirs.parquet")
    assert got.label_names == ("b", "a")
    assert got.image_id.tolist() == ["7", "9"] and got.patient_id.tolist() == ["1", "2"]
    np.testing.assert_array_equal(got.scores, [[1, 3], [4, 2]])
    np.testing.assert_array_equal(got.targets, [[1, np.nan], [1, 0]])


def changed(**fields):
    return some_predictions()._replace(**fields)


def with_value(field, place, value):
    array = getattr(some_predictions(), field).copy()
    array[place] = value
    return changed(**{field: array})


@pytest.mark.parametrize(
    ("predictions", "words"),
    [
        (
            with_value("scores", (2, 1), np.nan),
            r"'image 3' \(row 2\), label 'nodule': score is nan",
        ),
        (with_value("scores", (0, 0), -np.inf), "score is -inf"),
        (with_value("targets", (4, 0), -1), r"'image 1' \(row 4\).*target is -1"),
        (
            with_value("image_id", 3, "image 5"),
            r"image_id 'image 5' appears twice \(rows 0 and 3\)",
        ),
        (with_value("patient_id", 2, ""), "'image 3' has no patient_id"),
        (changed(label_names=("nodule", "nodule")), "label 'nodule' appears twice"),
        (changed(label_names=("nodule", "macro")), "rename the label"),
        (changed(label_names=("nodule",)), "6 images and 1 labels need"),
        (changed(patient_id=np.array(["a"])), r"patients \(1,\)"),
    ],
)
def test_wrong_predictions_are_refused_and_not_written(predictions, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        validate(predictions)
    with pytest.raises(ValueError, match=words):
        write_parquet(predictions, tmp_path / "p.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: f.drop(columns="score"), "has no column score"),
        (lambda f: f.drop(index=3), "'image 4' has no row for label 'nodule'"),
        (lambda f: pd.concat([f, f[4:5]]), r"'image 3', label 'effusion' appears twice.*4 and 12"),
        (lambda f: f.assign(patient_id=[f"p{i}" for i in range(12)]), "'image 5' belongs to"),
        (lambda f: f.assign(image_id=[None, *f["image_id"][1:]]), "row 0: image_id is empty"),
        (lambda f: f.assign(score=[*f["score"][:5], np.nan, *f["score"][6:]]), "score is nan"),
        (lambda f: f.assign(score="high"), "theirs.parquet"),
    ],
)
def test_wrong_files_are_refused_by_name(spoil, words, tmp_path):
    good = write_parquet(some_predictions(), tmp_path / "good.parquet")
    spoil(pd.read_parquet(good)).to_parquet(tmp_path / "theirs.parquet", index=False)
    with pytest.raises(ValueError, match=words) as error:
        read_parquet(tmp_path / "theirs.parquet")
    assert "theirs.parquet" in str(error.value)


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    (tmp_path / "notes.parquet").write_text("image_id,score\n")
    with pytest.raises(ValueError, match=r"notes\.parquet"):
        read_parquet(tmp_path / "notes.parquet")


def test_align_puts_rows_and_labels_in_order():
    a = some_predictions()
    order = np.array([3, 1, 5, 0, 2, 4])
    b = Predictions(
        a.image_id[order],
        a.patient_id[order],
        a.label_names[::-1],
        a.targets[order][:, ::-1],
        a.scores[order][:, ::-1],
    )
    assert_same(align(a, b), a)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (with_value("image_id", 0, "image 9"), r"image 'image 5' is only in the first"),
        (with_value("targets", (2, 1), 1), "image 3"),
        (with_value("targets", (1, 0), 1), "image 'image 4' has different targets"),
        (with_value("patient_id", 5, "someone"), "image 'image 0' has different patients"),
        (changed(label_names=("effusion", "mass")), "label 'mass' is in one"),
    ],
)
def test_different_test_sets_are_not_compared(other, words):
    reference = with_value("targets", (2, 1), 0)
    with pytest.raises(ValueError, match=words):
        align(reference, other)


@pytest.mark.parametrize(
    ("kind", "scores", "expected"),
    [
        ("log-odds", [0.0, np.log(3)], [0.5, 0.75]),
        ("log-probability", [np.log(0.5), np.log(0.25)], [0.5, 0.25]),
        ("probability", [0.5, 0.25], [0.5, 0.25]),
        ("", [0.5, 0.25], None),
    ],
)
def test_scores_of_a_known_kind_become_probabilities_also_from_a_file(
    tmp_path, kind, scores, expected
):
    ids, names = np.array(["a", "b"]), ("edema",)
    mine = Predictions(ids, ids, names, np.array([[1], [0]]), np.array(scores)[:, None], kind)
    back = read_parquet(write_parquet(mine, tmp_path / "p.parquet"))
    assert back.score_kind == kind
    if expected is None:
        assert back.probabilities is None
    else:
        np.testing.assert_allclose(back.probabilities[:, 0], expected)


def test_probabilities_outside_their_range_and_unknown_kinds_are_refused():
    ids, targets = np.array(["a", "b"]), np.array([[1], [0]])
    with pytest.raises(ValueError, match=r"image 'b' \(row 1\), label 'edema': score is 1.5"):
        validate(
            Predictions(ids, ids, ("edema",), targets, np.array([[1.0], [1.5]]), "probability")
        )
    with pytest.raises(ValueError, match="score_kind is 'logits'"):
        validate(Predictions(ids, ids, ("edema",), targets, np.array([[1.0], [1.5]]), "logits"))
