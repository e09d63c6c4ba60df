"""`python -m data_builders.build` as a person runs it, where TensorFlow cannot be imported."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tensorflow_datasets.core import dataset_metadata

from cxr_jax.data.dataset_info import find_folder
from cxr_jax.data.source import load_source
from data_builders import build
from data_builders.base import counts
from data_builders.base.records import AlreadyBuilt, BuildError
from tests.fakes import image_folder, nih_chestxray14
from tests.fakes.dataset import read

ROOT = Path(__file__).parents[2]

# TFDS and etils ask whether TensorFlow exists; whoever then imports it fails, and says so.
BLOCK = """
import importlib.machinery, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        sys.stderr.write("TENSORFLOW WAS IMPORTED")
        raise ImportError("no TensorFlow here")
sys.meta_path.insert(0, Block())
"""


@pytest.fixture
def command(tmp_path):
    """Runs the command in a process (and its workers) without TensorFlow or a network."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(BLOCK)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "HOME": str(tmp_path),
    }

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "data_builders.build", *map(str, arguments)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_a_build_from_start_to_end(command, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    images = nih_chestxray14.write(raw)
    arguments = ("nih_chestxray14", f"--manual_dir={raw}", "--data_dir=data", "--num_workers=2")
    failed = command(*arguments)
    assert failed.returncode == 1 and failed.stderr.count("\n") <= 3
    assert "2 of 61 images (3.3%)" in failed.stderr and "Traceback" not in failed.stderr

    done = command(*arguments, "--max_skipped=0.05")
    assert done.returncode == 0, done.stderr
    assert "TENSORFLOW" not in done.stderr + failed.stderr
    assert "images/s" in done.stderr
    folder = tmp_path / "data/nih_chestxray14/256/1.0.0"
    splits = read(folder)
    assert sum(map(len, splits.values())) == len(images)
    metadata = json.loads((folder / "metadata.json").read_text())
    for split, examples in splits.items():
        hernias = sum(example["labels"]["Hernia"] == 1 for example in examples)
        assert metadata["counts"][split]["positives"]["Hernia"] == hernias
    images_row = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["images"])
    assert images_row.split()[1:] == [str(len(splits[split])) for split in metadata["counts"]]
    assert (folder / "contact_sheet.png").stat().st_size > 1000
    assert str(folder) in done.stdout
    assert (
        "python run.py --config=configs/transfer.py --config.dataset=nih_chestxray14 "
        f"--config.data.dir={tmp_path / 'data'} --config.encoder=" in done.stdout
    )
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["nih_chestxray14"]

    again = command(*arguments)
    assert again.returncode == 1 and "is built already" in again.stderr
    assert "--overwrite" in again.stderr


def test_the_command_line_explains_itself(command):
    shown = command("--help")
    assert shown.returncode == 0
    for word in (*build.builder_names(), "--manual_dir", "--max_skipped", "--labels_csv"):
        assert word in shown.stdout
    unknown = command("nih")
    assert unknown.returncode == 1 and "There is no builder for 'nih'" in unknown.stderr
    assert "nih_chestxray14" in unknown.stderr


@pytest.fixture
def export(tmp_path):
    raw = tmp_path / "raw"
    image_folder.write(raw)
    return raw


def run(raw, data, **settings):
    settings = {"num_workers": 0, "progress": False, "max_skipped": 1.0, **settings}
    return build.build("image_folder", data, raw, **settings)


def test_unlabelled_summary_names_the_pretraining_command(export, tmp_path):
    folder = run(export, tmp_path / "data", options={"name": "ward7"})
    text = counts.describe_dataset(folder)
    assert "--config=configs/moco.py:adapt " in text and " --config.data.name=ward7 " in text
    run(export, tmp_path / "data", options={"name": "ward8"})
    assert "--config.data.name=ward7 " in counts.describe_dataset(folder)
    run(export, tmp_path / "data", options={"name": "ward7"}, config_name="full")
    assert "--config.data.name=ward7/256 " in counts.describe_dataset(folder)


def test_a_table_without_a_label_is_noticed(export, tmp_path):
    images = sorted(path.relative_to(export) for path in export.rglob("*.png"))[-3:]
    table = tmp_path / "list.csv"
    table.write_text("image,sex\n" + "".join(f"{image},F\n" for image in images))
    folder = run(export, tmp_path / "data", options={"name": "ward7", "labels_csv": str(table)})
    assert "\n  no column of list.csv is a label\n" in counts.describe_dataset(folder)


def test_a_persons_folders_are_datasets_of_their_own_with_patients_in_common(export, tmp_path):
    data = tmp_path / "data"
    pool = run(export, data, options={"name": "pool"})
    assert find_folder("pool", str(data)) == pool == data / "pool/256/1.0.0"
    other = run(export, data, options={"name": "other"}, config_name="512")
    assert find_folder("pool", str(data)) == pool
    assert find_folder("other/512", str(data)) == find_folder("other", str(data)) == other
    unnamed = run(export, data)
    assert find_folder("image_folder", str(data)) == unnamed
    sources = [load_source(name, str(data), "train") for name in ("pool", "image_folder")]
    ids = [[image["patient_id"].decode() for image in source.records] for source in sources]
    assert sorted(ids[0]) == sorted(ids[1])
    hashed = [source.hashed("patient", of) for source, of in zip(sources, ids)]
    assert set(hashed[0]) == set(hashed[1])


def test_folders_that_an_older_version_put_beside_the_sizes_are_found(export, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(run(export, data, options={"name": "pool"}), data / "image_folder/pool/1.0.0")
    shutil.rmtree(data / "pool")
    old = data / "image_folder/pool/1.0.0"
    assert find_folder("image_folder/pool", str(data)) == old
    assert find_folder("image_folder", str(data)) == old
    with pytest.raises(FileNotFoundError, match="did you mean 'image_folder/pool'"):
        find_folder("pool", str(data))
    new = run(export, data)
    assert find_folder("image_folder", str(data)) == new
    assert find_folder("image_folder/pool", str(data)) == old


def test_overwrite_keeps_the_old_dataset_if_the_new_one_fails(export, tmp_path):
    folder = run(export, tmp_path / "data")
    before = len(read(folder)["train"])
    with pytest.raises(AlreadyBuilt, match="--overwrite"):
        run(export, tmp_path / "data")
    (export / "png/grey.png").write_bytes(b"broken")
    with pytest.raises(BuildError, match="cannot be used"):
        run(export, tmp_path / "data", overwrite=True, max_skipped=0.01)
    assert len(read(folder)["train"]) == before
    run(export, tmp_path / "data", overwrite=True)
    assert len(read(folder)["train"]) == before - 1
    assert [p.name for p in folder.parent.iterdir()] == ["1.0.0"]


def test_a_folder_that_is_no_dataset_is_not_taken_for_one(export, tmp_path):
    folder = tmp_path / "data/image_folder/256/1.0.0"
    folder.mkdir(parents=True)
    with pytest.raises(BuildError, match="not a finished dataset"):
        run(export, tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pediatric_pneumonia", {}, "needs --manual_dir. Unpack Kaggle"),
        ("pediatric_pneumonia", {"manual_dir": "nowhere"}, "nowhere is not a folder. Unpack"),
        ("pediatric_pneumonia", {"config_name": "128"}, "no resolution '128'; it has 256, 512"),
        ("pediatric_pneumonia", {"options": {"labels_csv": "x"}}, "has no option --labels_csv"),
        ("image_folder", {"config_name": "128"}, "No resolution '128'"),
        ("image_folder", {"options": {"name": "a-b"}}, "letters, digits and '_' only"),
        ("image_folder", {"options": {"name": "7b"}}, "begins with a letter"),
        ("image_folder", {"options": {"name": "jsrt"}}, "there is a dataset of that name"),
        ("image_folder", {"options": {"name": "Phantom"}}, "there is a dataset of that name"),
        ("image_folder", {"options": {"image_column": "x"}}, "--image_column names a column of"),
    ],
)
def test_wrong_arguments(tmp_path, name, settings, message):
    with pytest.raises(BuildError, match=message):
        build.build(name, tmp_path, **settings)


def test_a_csv_that_is_not_there(export, tmp_path):
    with pytest.raises(BuildError, match=r"there is no file .*labels.csv"):
        run(export, tmp_path / "data", options={"labels_csv": "labels.csv"})


def test_nothing_stays_in_tmpdir(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert "phantom: what its tables list" in build.check(
        "phantom", config_name="tiny", num_workers=0
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", build.builder_names())
def test_tfds_accepts_name_and_papers(name):
    cls = build.builder_class(name)
    assert cls.name == name
    papers = dataset_metadata.load(cls._get_pkg_dir_path())
    assert papers.description and papers.tags
    assert set(papers.tags) <= set(dataset_metadata.valid_tags())
    assert papers.citation.startswith("@") or name in ("image_folder", "phantom")
