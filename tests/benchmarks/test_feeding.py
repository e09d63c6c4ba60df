"""The benchmarks of input: reading alone, and training with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from benchmarks import _images, _timing, end_to_end, input
from cxr_jax import models
from cxr_jax.data.source import load_source


@pytest.fixture(scope="module")
def source(data_dir):
    return load_source("phantom/tiny", str(data_dir), "train", fields=("image",))


def test_both_pipelines_are_read_in_turns(source):
    pytest.importorskip("torch")
    figures = input.measure(source, 40, 16, num_workers=0, repetitions=2, images_read=256)
    assert figures["ratio"] > 0 and figures["ratio_reduced"] > 0
    assert len(figures["rows"]) == 4
    assert all(row["images/s per core"] > 0 for row in figures["rows"])
    json.dumps(figures)


def test_the_whole_command_without_pytorch_gives_our_own_numbers(data_dir, tmp_path):
    blocked = tmp_path / "torch"
    blocked.mkdir()
    absent = "raise ModuleNotFoundError('no PyTorch here', name='torch')"
    (blocked / "__init__.py").write_text(absent)
    command = ["--dataset=phantom/tiny", f"--data_dir={data_dir}", "--image_size=40"]
    command += ["--batch_size=16", "--workers=0", "--repetitions=1", "--json=figures.json"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.input", *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "PyTorch is not installed" in done.stdout and "\nMachine: 1 x cpu" in done.stdout
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["machine"]["versions"].keys() >= {"jax", "grain", "pillow"}
    assert len(written["phantom/tiny"]["rows"]) == 2 and "ratio" not in written["phantom/tiny"]


def test_the_loader_reads_the_same_squares(data_dir, tmp_path):
    torch_loader = pytest.importorskip("benchmarks._torch_loader", exc_type=ImportError)
    from cxr_jax.data.images import decode_square

    name, folder = _images.drawn(tmp_path, size=80, count=3)
    source = load_source(name, folder, "train", fields=("image",))
    paths = _images.write_files(source, tmp_path / "files", count=10)
    assert [path.read_bytes() for path in paths] == [source.records[i]["image"] for i in range(3)]
    for size in (80, 50):
        theirs = torch_loader.Images(paths, size, reduced=True)[1].numpy()[0]
        ours = decode_square(source.records[1]["image"], size)[..., 0]
        assert theirs.shape == (size, size)
        assert np.abs(theirs.astype(int) - ours).mean() < 3


def test_cpu_time_is_this_familys():
    before = _timing.settle()
    total = sum(i * i for i in range(6_000_000))
    after = _timing.family_seconds()
    assert total and after - before > 0.02


def test_training_with_every_cache_beside_the_model_alone(source, tiny_config, monkeypatch):
    folder = str(Path(__file__).parents[1] / "objectives" / "tiny")
    monkeypatch.setattr(models, "__path__", [*models.__path__, folder])
    config = tiny_config()
    config.model = ConfigDict(dict(name="tiny", width=16))  # compiles in no time
    figures = end_to_end.measure(config, source, repetitions=2, steps=2)
    assert list(figures["seconds"]) == ["cache none", "cache host", "cache device", "model only"]
    assert not figures["refused"]
    shares = [row["share of model only"] for row in figures["rows"]]
    assert shares[-1] == 1 and all(share > 0 for share in shares)
    json.dumps(figures)
