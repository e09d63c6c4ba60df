"""Splits that hold for ever."""

import collections
from pathlib import Path

import pytest

from cxr_jax.data.dataset_info import read_metadata
from data_builders import build
from data_builders.base import splits
from data_builders.base.records import BuildError, Record

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


MANUAL = Path("/raw")
LISTED = [
    Record(split="train", image_id=f"i{n}", patient_id=f"p{n // 2}", image=MANUAL / path)
    for n, path in enumerate(("a/1.png", "a/2.png", "b/1.png", "b/3.png"))
]


def by_list(folder, *rows):
    path = folder / "theirs.csv"
    path.write_text("\n".join(("split,image", *rows)))
    kept, skipped = splits.by_list(path, LISTED, MANUAL)
    return {record.image_id: record.split for record in kept}, [
        (one.file, one.reason) for one in skipped
    ]


def test_a_list_of_others_names_images_by_id_path_or_the_end_of_it(tmp_path):
    rows = "Train,i0", "training,x/a/2", "val,b/1.png", "test,gone.png", "test,c/3.png", "test,x/i3"
    found, skipped = by_list(tmp_path, *rows)
    assert found == {"i0": "train", "i1": "train", "i2": "validation"}
    lost = [(f"theirs.csv, row {n}", "the dataset has no image of this name") for n in (5, 6, 7)]
    assert skipped == [*lost, ("b/3.png", "not in theirs.csv")]
    assert by_list(tmp_path, "test,3.png")[0] == {"i3": "test"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("train,i0", "tst,i1"), "theirs.csv, row 3: its split is none of train, validation, test"),
        (("train,i0", "train,a/1.png"), "row 3: its image is in theirs.csv, row 2 too. Keep one"),
        (("train,1.png",), "row 2: 2 images have this name; give their paths below --manual_dir"),
        (
            ("train,i0", "test,i2", "test,i1"),
            "theirs.csv puts images of one patient into two splits, 1 times: for example "
            "theirs.csv, row 2 into train and theirs.csv, row 4 into test",
        ),
    ],
)
def test_a_list_that_cannot_be_followed_is_refused_by_row(tmp_path, rows, message):
    with pytest.raises(BuildError, match=message):
        by_list(tmp_path, *rows)


def test_a_build_says_by_whose_list_its_images_are_split(tmp_path):
    with pytest.raises(BuildError, match=r"--splits_csv: .*no\.csv is not a file"):
        build.build("phantom", tmp_path, config_name="tiny", splits_csv=tmp_path / "no.csv")
    chosen = build.choose("phantom", None, "tiny", {})
    builder = chosen.builder(data_dir=tmp_path, config=chosen.config)
    listed = builder.list_images(None).records
    theirs = {one.image_id: one.split for one in listed if one.split != "validation"}
    swap = {"train": "test", "test": "train"}
    path = tmp_path / "theirs.csv"
    rows = [f"{name},{swap[split]}" for name, split in theirs.items()]
    path.write_text("\n".join(("image,split", *rows)))
    said = build.check("phantom", config_name="tiny", num_workers=0, splits_csv=path)
    assert f"splits: by the list {splits.describe_list(path)}" in said
    folder = build.build(
        "phantom", tmp_path, config_name="tiny", num_workers=0, progress=False, splits_csv=path
    )
    metadata = read_metadata(folder)
    assert metadata["splits_csv"] == splits.describe_list(path) in metadata["split_rule"]
    assert metadata["counts"]["train"]["images"] == sum(v == "test" for v in theirs.values())
    assert set(metadata["counts"]) == {"train", "test"}
    assert metadata["skipped"] == len(listed) - len(theirs)
