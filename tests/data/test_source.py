import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cxr_jax.data import seen_images
from cxr_jax.data.source import find_folder, fingerprint_build, load_source
from cxr_jax.experiments._workdir import fingerprint_images
from data_builders.build import draw_missing


def test_examples_equal_those_that_tfds_reads(data_dir):
    source = load_source("phantom/tiny", str(data_dir), "test")
    expected = tfds.builder_from_directory(source.folder).as_data_source("test")
    assert len(source) == len(expected) == source.metadata["counts"]["test"]["images"]
    for position in (0, len(source) - 1):
        mine, theirs = source.records[position], expected[position]
        assert mine["image_id"] == theirs["image_id"]
        assert mine["labels"] == theirs["labels"]
        assert isinstance(mine["image"], bytes)


def test_a_choice_of_a_choice_has_its_images_and_their_places_in_the_split(data_dir):
    source = load_source("phantom/tiny", str(data_dir), "test", fields=("image", "image_id"))
    chosen = source.choose(np.array([5, 1, 3, 0])).choose(np.array([2, 0]))
    np.testing.assert_array_equal(chosen.rows, [3, 5])
    ids = [chosen.records[row]["image_id"] for row in range(2)]
    assert ids == [source.records[row]["image_id"] for row in (3, 5)]
    assert chosen.encoded([1, 0]) == source.encoded([5, 3])
    np.testing.assert_array_equal(source.rows, np.arange(len(source)))


def test_only_the_fields_asked_for_are_parsed(data_dir):
    source = load_source("phantom/tiny", str(data_dir), "train", fields=("patient_id",))
    assert source.records[0].keys() == {"patient_id"}


def test_drawn_dataset_is_built_where_it_is_missing_and_no_other_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_builders\.build phantom --data_dir"):
        load_source("phantom/tiny", str(tmp_path), "train")
    draw_missing(["phantom/tiny", "jsrt", "no_dataset"], tmp_path)
    assert len(load_source("phantom/tiny", str(tmp_path), "train")) > 0
    assert [folder.name for folder in tmp_path.iterdir()] == ["phantom"]
    draw_missing(["phantom", "phantom/tiny"], tmp_path)  # nothing is left to do
    (path,) = tmp_path.glob("phantom/*/*/metadata.json")
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({name: metadata[name] for name in metadata if name != "tasks"}))
    draw_missing(["phantom"], tmp_path)  # as an older version drew it
    assert json.loads(path.read_text()) == metadata


def test_splits_join_and_slice_as_in_tfds(data_dir):
    lengths = {
        split: len(load_source("phantom/tiny", str(data_dir), split))
        for split in ("train", "test", "train+test", "train[:5]")
    }
    assert lengths["train+test"] == lengths["train"] + lengths["test"]
    assert lengths["train[:5]"] == 5


def test_dataset_that_is_not_built_is_refused_with_the_command(data_dir):
    message = r"(?s)'jsrt' is not built under .*there: phantom.*data_builders\.build jsrt --manual"
    with pytest.raises(FileNotFoundError, match=message):
        load_source("jsrt", str(data_dir), "train")


@pytest.mark.parametrize(
    "name, option",
    [
        ("image_folder/512", "--resolution=512"),
        ("jsrt/full", "--resolution=full"),
    ],
)
def test_the_command_that_builds_it_names_its_form(data_dir, name, option):
    with pytest.raises(FileNotFoundError, match=f" {option}\n"):
        load_source(name, str(data_dir), "train")


def test_a_folder_of_ones_own_that_is_not_built_is_refused_with_its_command(data_dir):
    with pytest.raises(FileNotFoundError, match=r"build image_folder --name=pool --manual_dir"):
        find_folder("pool", str(data_dir))


def test_unknown_split_is_refused(data_dir):
    with pytest.raises(ValueError, match="no split 'val'; it has"):
        load_source("phantom/tiny", str(data_dir), "val")


def test_ambiguous_config_is_refused_and_a_half_built_one_is_not_seen(data_dir, tmp_path):
    built = find_folder("phantom/tiny", str(data_dir))
    shutil.copytree(built, tmp_path / "images" / "256" / "1.0.0")
    shutil.copytree(built, tmp_path / "images" / "512" / "1.0.0.incompleteABC")
    assert find_folder("images", str(tmp_path)).parent.name == "256"
    shutil.copytree(built, tmp_path / "images" / "512" / "1.0.0")
    with pytest.raises(ValueError, match="choose one of: images/256, images/512"):
        find_folder("images", str(tmp_path))
    assert find_folder("images/512", str(tmp_path)).parent.name == "512"


def test_newest_version_is_taken(data_dir, tmp_path):
    built = find_folder("phantom/tiny", str(data_dir))
    for version in ("1.0.0", "1.10.0", "1.9.0"):
        shutil.copytree(built, tmp_path / "images" / "256" / version)
    assert find_folder("images", str(tmp_path)).name == "1.10.0"


def test_label_order_is_the_metadatas(data_dir):
    source = load_source("phantom/tiny", str(data_dir), "train")
    assert set(source.label_names) == set(source.records[0]["labels"])
    assert np.isin(list(source.records[0]["labels"].values()), [0, 1]).all()


def test_a_copy_has_the_same_fingerprint_and_other_images_another(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "copy")
    whole, copy = (
        load_source("phantom/tiny", str(folder), "train")
        for folder in (data_dir, tmp_path / "copy")
    )
    assert fingerprint_images(copy) == fingerprint_images(whole)
    assert fingerprint_build(copy.folder) == fingerprint_build(whole.folder)
    (table,) = copy.folder.glob(seen_images.FILE)
    table.write_bytes(table.read_bytes() + b" ")
    assert fingerprint_build(copy.folder) != fingerprint_build(whole.folder)
    others = [
        whole.choose(np.arange(5)),
        whole.choose(np.arange(5)[::-1]),
        load_source("phantom/tiny", str(data_dir), "validation"),
    ]
    assert len({fingerprint_images(source) for source in (whole, *others)}) == 4
