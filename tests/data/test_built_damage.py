"""A built dataset whose files are cut, exchanged or a stranger's is refused, with the file."""

import json
import pickle
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxr_jax.data import seen_images
from cxr_jax.data.dataset_info import open_built
from cxr_jax.data.source import load_source
from cxr_jax.io import parquet as parquet_file

SHARD = "phantom-{}.array_record-00000-of-00001"


@pytest.fixture
def images(data_dir, tmp_path):
    """The version folder of a copy of phantom/tiny."""
    (drawn,) = (data_dir / "phantom" / "tiny").iterdir()
    return shutil.copytree(drawn, tmp_path / "images" / "tiny" / drawn.name)


def read(folder, split="test"):
    source = load_source("images", str(folder.parents[2]), split)
    seen_images.list_images(source)
    return [source.records[row] for row in range(len(source))]


def cut(folder):
    path = folder / SHARD.format("test")
    path.write_bytes(path.read_bytes()[:100_000])


def exchange(folder):
    """Both hold 24 images."""
    shutil.copy(folder / SHARD.format("validation"), folder / SHARD.format("test"))


def flip_a_bit(folder):
    path = folder / SHARD.format("test")
    content = bytearray(path.read_bytes())
    content[50_000] ^= 4
    path.write_bytes(content)


def another_build(folder):
    """A ledger of fewer images."""
    held = seen_images.read(folder)
    seen_images.write(folder / seen_images.FILE, held.take(np.arange(len(held.row) - 1)))


def rewrite(name, change):
    def damage(folder):
        tree = json.loads((folder / name).read_text())
        change(tree)
        (folder / name).write_text(json.dumps(tree))

    return damage


def of_another_module(tree):
    tree["featuresDict"]["features"]["sex"]["pythonClassName"] = "antigravity.Text"


def out_of_the_folder(tree):
    tree["splits"][0]["filepathTemplate"] = "../../{DATASET}-{SPLIT}.{FILEFORMAT}"


def other_labels(tree):
    tree["label_names"][0] = "Fracture"


DAMAGE = {
    "cut": (cut, r"test\.array_record-00000-of-00001 holds 0 records, .* says 24: it is damaged"),
    "emptied": (lambda f: (f / SHARD.format("test")).write_bytes(b""), "holds 0 records"),
    "exchanged": (
        exchange,
        r"record 0 is another image than seen_images\.parquet says.*two builds",
    ),
    "one bit": (flip_a_bit, r"00001, record \d+ is damaged \(.*hash mismatch"),
    "ledger": (another_build, r"does not list the test images one by one as dataset_info\.json"),
    "module": (rewrite("features.json", of_another_module), r"features\.json is not what our"),
    "template": (
        rewrite("dataset_info.json", out_of_the_folder),
        "describes split 'train' in a way that our",
    ),
    "labels": (rewrite("metadata.json", other_labels), r"features\.json: labels/\w+ is not as our"),
    "no JSON": (lambda f: (f / "metadata.json").write_text("[" * 100_000), "is not JSON"),
    "long JSON": (
        lambda f: (f / "metadata.json").write_text(f'{{"a": [{"{}," * 1_700_000}{{}}]}}'),
        r"metadata\.json is longer than 5,000,000 bytes",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_with_its_place(images, case):
    damage, message = DAMAGE[case]
    assert len(read(images)) == 24
    damage(images)
    with pytest.raises(ValueError, match=f"(?s){message}.*Restore the dataset's folder, or build"):
        read(images)
    assert "antigravity" not in sys.modules


def test_what_is_missing_is_named(images):
    for name in (SHARD.format("test"), "metadata.json", "features.json"):
        content = (images / name).read_bytes()
        (images / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"{name} is missing: the dataset is not whole"):
            read(images)
        (images / name).write_bytes(content)
    (images / SHARD.format("train")).unlink()
    assert len(read(images, "test")) == 24  # of the other splits nothing is read
    assert open_built(images).name == "phantom"


def test_a_ledgers_flipped_bytes_are_found_or_change_nothing(images):
    path = images / seen_images.FILE
    sound, content = seen_images.read(images), path.read_bytes()
    found = 0
    for place in range(4, len(content), 29):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        try:
            read = seen_images.read(images)
        except ValueError as error:
            found += seen_images.FILE in str(error)
        else:
            for column, expected in zip(read, sound):
                np.testing.assert_array_equal(column, expected)
    assert found > 40


def parquet(tmp_path, **columns):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", compression="zstd")
    return tmp_path / "t.parquet"


def test_small_parquet_files_that_claim_much_are_refused(tmp_path, monkeypatch):
    path = parquet(tmp_path, a=pa.repeat(7, 1_000_000))
    assert path.stat().st_size < 20_000
    with pytest.raises(ValueError, match="claims 1,000,000 rows"):
        parquet_file.read(path, ["a"])
    path = parquet(tmp_path, a=["x" * 10_000] * 900)
    assert len(parquet_file.read(path, ["a"])) == 900
    monkeypatch.setattr(parquet_file, "_LETTERS_OF_ALL", 8_000_000)
    with pytest.raises(ValueError, match="a holds a text of 10,000 letters"):
        parquet_file.read(path, ["a"])
    path = parquet(tmp_path, a=np.arange(9_000), b=["text"] * 9_000)
    assert len(parquet_file.read(path, ["a"], ["b", "c"])) == 9_000
    with pytest.raises(ValueError, match="has no column c "):
        parquet_file.read(path, ["a", "c"])
    monkeypatch.setattr(parquet_file, "MAX_UNPACKED", 9_000)
    with pytest.raises(ValueError, match="unpacks to more than 9,000 bytes"):
        parquet_file.read(path, ["a", "b"])


def test_images_of_a_dataset_that_was_built_again_meanwhile_are_refused(images):
    """Labels, read before, may be those of others; what is open already stays as it was."""
    path = images / SHARD.format("test")
    opened, later = (load_source("images", str(images.parents[2]), "test") for _ in range(2))
    opened.encoded([0])
    shutil.copy(path, images / "new")
    (images / "new").replace(path)
    assert len(opened.encoded([0, 1])) == 2
    for reader in (later, pickle.loads(pickle.dumps(opened))):
        with pytest.raises(ValueError, match=r"test.array_record-.* was replaced while this runs"):
            reader.encoded([1])
    assert len(load_source("images", str(images.parents[2]), "test").encoded([1])) == 1
