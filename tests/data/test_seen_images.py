"""The ledger of what an encoder saw: against the pipeline's own order, patients and copies."""

import functools
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cxr_jax.data import loader, seen_images
from cxr_jax.data.source import fingerprint_build, load_source
from data_builders.base import builder as cxr_builder
from data_builders.base.records import Record
from tests.fakes.pictures import draw_image


def draw(seed: int, turned: bool) -> np.ndarray:
    return draw_image(seed, 64, 64)[::-1] if turned else draw_image(seed, 64, 64)


class Images(cxr_builder.CxrBuilder, skip_registration=True):
    """Forty images, two of each patient, numbered from `first`; those from 100 on upside down."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = cxr_builder.resolution_configs()
    ENCODING = "png"
    PARENT = "images"
    first = 0
    patients = "p"

    def records(self, manual_dir):
        for seed in range(self.first, self.first + 40):
            yield Record(
                split="test" if seed % 40 >= 30 else "train",
                image_id=f"{self.patients}{seed}",
                patient_id=f"{self.patients}{seed // 2}",
                image=functools.partial(draw, seed, turned=seed >= 100),
            )


class Copies(Images, skip_registration=True):
    """The images of the same patients from 30 on, and forty others of which nobody is known."""

    name = "copies"
    first = 30


class Strangers(Images, skip_registration=True):
    """The first images under other names: only their looks tell."""

    name = "strangers"
    patients = "q"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for cls in (Images, Copies, Strangers):
        builder = cls(data_dir=folder)
        builder.settings = cxr_builder.BuildSettings(num_workers=0, progress=False)
        builder.download_and_prepare(file_format="array_record")
    return str(folder)


def ids(records):
    return [records[i]["image_id"].decode() for i in range(len(records))]


def open_images(data, split, name="images"):
    return load_source(name, data, split, ("image", "image_id"))


@pytest.mark.parametrize("split", ["train", "test", "train+test", "train[5:20]+test[:50%]"])
def test_ledger_rows_are_the_examples(data, split):
    source = load_source("images", data, split, ("patient_id", "phash"))
    rows = seen_images.list_images(source)
    assert len(rows.row) == len(source)
    for i in range(len(source)):
        example = source.records[i]
        assert f"{rows.phash[i]:016x}" == example["phash"].decode()
        same = rows.patient == rows.patient[i]
        others = [source.records[int(j)]["patient_id"] for j in np.flatnonzero(same)]
        assert set(others) == {example["patient_id"]}


def test_seen_is_what_the_pipeline_gave(data):
    source = open_images(data, "train")
    first = loader.batches(source, 6, 32, seed=3)
    pictures = np.concatenate([next(first)["image"] for _ in range(2)])
    seen = seen_images.seen_in_training(source, 12, seed=3)
    assert len(seen.row) == 12
    stored = next(iter(loader.batches(source, 30, 32, seed=0)))["image"]  # any order: all images
    by_row = {}
    for row in range(len(source)):
        one = source.choose(np.array([row]))
        by_row[row] = next(loader.batches(one, 1, 32, seed=0))["image"][0]
    assert len(stored) == len(by_row)
    given = {row for row, image_ in by_row.items() if (pictures == image_).all((1, 2, 3)).any()}
    assert given == set(seen.row.tolist())
    assert len(seen_images.seen_in_training(source, 31, seed=3).row) == 30


def test_patients_and_looks_are_found(data):
    images = seen_images.list_images(open_images(data, "train+test"))
    copies = seen_images.read(open_images(data, "train", "copies").folder)
    found = seen_images.compare(images, copies)
    # Images 30 to 39 are in both, of patients 15 to 19.
    names = np.array(ids(open_images(data, "train+test").records))
    shared = {f"p{seed}" for seed in range(30, 40)}
    assert set(names[found.patient]) == shared and set(names[found.image]) == shared
    strangers = seen_images.read(open_images(data, "train", "strangers").folder)
    found = seen_images.compare(images, strangers)
    assert not found.patient.any() and found.image.all()
    nobody = strangers._replace(patient=np.full(len(strangers.row), ""))
    assert seen_images.compare(images, nobody).patient is None


def test_excluded_images_are_neither_trained_on_nor_in_the_ledger(data, capsys):
    source = open_images(data, "train+test")
    kept = seen_images.leave_out(source, ["copies"], data)
    assert sorted(ids(kept.records)) == sorted(f"p{seed}" for seed in range(30))
    seen = seen_images.seen_in_training(kept, 1000, seed=0)
    whole = seen_images.list_images(source)
    assert set(seen.phash.tolist()) == set(
        whole.phash[[i for i, n in enumerate(ids(source.records)) if int(n[1:]) < 30]].tolist()
    )
    with pytest.raises(ValueError, match=r"exclude=strangers leaves no image of images"):
        seen_images.leave_out(source, ["strangers"], data)


def test_the_file_is_read_by_its_older_name_too(data, tmp_path):
    folder = open_images(data, "train").folder
    images = seen_images.read(folder)
    older = shutil.copytree(folder, tmp_path / "images/256/1.0.0")
    (older / seen_images.FILE).rename(older / "exposure.parquet")
    for mine, theirs in zip(images, seen_images.read(older), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert fingerprint_build(folder) == fingerprint_build(older)
