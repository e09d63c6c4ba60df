"""What holds for every dataset, whoever its owner is."""

import json
import struct
import zlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from tensorflow_datasets.core import dataset_metadata

from cxr_jax.data import seen_images, tasks
from cxr_jax.data.splits import load_split
from data_builders import build
from data_builders.base import counts
from tests.fakes import every
from tests.fakes.dataset import build_and_read, read

SPLITS = {"train", "validation", "test"}
VIEWS = {"PA", "AP", "FRONTAL", "LATERAL", ""}


@pytest.fixture(scope="module", params=every.names())
def built(request, tmp_path_factory):
    name = request.param
    raw, data = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    images = every.write(name, raw)
    folder, splits = build_and_read(name, data, manual_dir=raw)
    return name, raw, data, folder, splits, images


@pytest.mark.parametrize("name", every.names())
def test_its_description_citation_and_tags_are_as_tfds_wants_them(name):
    beside = build.builder_class(name).get_metadata()
    assert beside.description and beside.citation
    assert beside.tags and set(beside.tags) <= set(dataset_metadata.valid_tags())


def test_no_patient_stands_in_two_splits(built):
    *_, splits, _ = built
    patients = [{example["patient_id"] for example in of} for of in splits.values()]
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_every_image_is_stored_once_or_listed_as_skipped(built):
    *_, folder, splits, images = built
    examples = {example["image_id"] for of in splits.values() for example in of}
    assert len(examples) == sum(map(len, splits.values()))
    assert examples <= images.keys()
    skipped = (folder / "skipped.csv").read_text()
    for lost in images.keys() - examples:
        assert lost in skipped


def test_examples_have_the_shape_all_share(built):
    name, *_, splits, _ = built
    cls = build.builder_class(name)
    for example in (example for of in splits.values() for example in of):
        assert example["image"].dtype == np.uint8 and example["image"].shape[2] == 1
        assert example["sex"] in ("M", "F", "")
        assert np.isnan(example["age"]) or 0 <= example["age"] <= 120
        assert example["projection"] == example["projection"].strip().upper()
        assert ("masks" in example) == bool(cls.MASK_NAMES)
        assert ("boxes" in example, "report" in example, "readers" in example) == (
            cls.HAS_BOXES,
            cls.HAS_REPORTS,
            cls.READERS,
        )
        if cls.HAS_BOXES:
            boxes = example["boxes"]
            for side in ("y", "x"):
                low, high = np.asarray(boxes[f"{side}0"]), np.asarray(boxes[f"{side}1"])
                assert ((low >= 0) & (low <= high) & (high <= 1)).all()
        for value in example.get("labels", {}).values():
            values = np.atleast_1d(value)
            allowed = {"presence": (-1, 0, 1), "certainty": range(6), "grade": range(20)}
            assert (np.isnan(values) | np.isin(values, allowed[cls.LABEL_SCALE])).all()
            if cls.READERS:
                assert len(values) == len(example["readers"])


def test_metadata_counts_are_the_examples(built):
    *_, folder, splits, _ = built
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["counts"].keys() == splits.keys() <= SPLITS
    assert metadata["licence"] != "unknown" and metadata["split_rule"].endswith(".")
    scale = metadata["label_scale"]
    for split, examples in splits.items():
        of = metadata["counts"][split]
        assert of["images"] == len(examples)
        assert of["patients"] == len({example["patient_id"] for example in examples})
        if scale == "grade":
            continue
        for label, positives in of["positives"].items():
            values = [example["labels"][label] for example in examples]
            raw = [tuple(map(float, v)) if np.ndim(v) else float(v) for v in values]
            assert positives == sum(
                counts.is_positive(value, scale) for value in raw if value != ()
            )


def test_the_owners_counts_can_be_compared(built):
    name, _, data, folder, _, _ = built
    compared = json.loads((folder / "metadata.json").read_text())["owner_counts"]
    builder = build.builder_class(name)(data_dir=data)
    assert {key: pair[0] for key, pair in compared.items()} == dict(builder.OWNER_COUNTS)


def test_a_patient_is_a_person_or_the_build_says_that_people_may_recur(built):
    name, *_, folder, _, _ = built
    metadata = json.loads((folder / "metadata.json").read_text())
    unit = metadata["patient"]
    assert unit == build.builder_class(name).PATIENT
    assert bool(metadata["patient_note"]) == (unit == "image" or "else" in unit)
    assert metadata["patient_note"] or "person" in unit


def test_ledger_rows_are_the_examples_in_order(built):
    *_, folder, _, _ = built
    rows = seen_images.read(folder)
    for split, examples in read(folder).items():
        of = rows.take(rows.split == split)
        assert list(of.row) == list(range(len(examples)))
        assert [f"{value:016x}" for value in of.phash] == [e["phash"] for e in examples]
        for example, patient in zip(examples, of.patient):
            assert patient != example["patient_id"] and len(patient) in (0, 16)  # a hash
    assert pq.read_schema(folder / seen_images.FILE).names == [
        *("dataset", "split", "row", "patient", "phash")
    ]


def test_contact_sheet_is_a_picture_of_images(built):
    *_, folder, _, _ = built
    png = (folder / "contact_sheet.png").read_bytes()
    assert png.startswith(b"\x89PNG") and b"IEND" in png
    width, height = struct.unpack(">II", png[16:24])
    assert width > 1000 and height > 200
    data = b"".join(
        png[at + 8 : at + 8 + size] for at, size, kind in _chunks(png) if kind == b"IDAT"
    )
    assert np.frombuffer(zlib.decompress(data), np.uint8).std() > 20


def _chunks(png):
    at = 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        yield at, size, png[at + 4 : at + 8]
        at += size + 12


def test_check_lists_what_the_build_stores(built):
    name, raw, _, folder, splits, _ = built
    text = build.check(name, raw, num_workers=0)
    images = next(line for line in text.splitlines() if line.split()[:1] == ["images"]).split()[1:]
    lost = json.loads((folder / "metadata.json").read_text())["skipped"]
    stored = sum(map(len, splits.values()))
    assert stored <= sum(int(number) for number in images) <= stored + lost
    assert "the same command without --check." in text


def test_the_default_task_can_be_scored(built):
    name, _, data, folder, splits, _ = built
    # The fake of Open-i's own layout says nothing of projections, and the task wants frontal ones.
    lift = {"projections": ("any",)} if name == "indiana_university" else {}
    metadata = json.loads((folder / "metadata.json").read_text())
    named = tasks.stored_tasks(folder, metadata)
    assert named == build.builder_class(name).TASKS
    task = tasks.find_task(name, metadata["label_names"], named, changes=lift)
    split = max(splits, key=lambda split: len(splits[split]))
    loaded = load_split(name, str(data), split, changes=lift, or_masks=True)
    assert loaded.label_names == tuple(task.labels)
    assert np.isin(loaded.targets[~np.isnan(loaded.targets)], (0, 1)).all()
    assert not task.labels or not np.isnan(loaded.targets).all()
    projections = [example["projection"] for example in splits[split]]
    kept = [one for one in projections if not task.projections or one in task.projections]
    assert len(loaded.rows) == len(kept)
