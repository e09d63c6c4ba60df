"""The examples of docs/architecture.md: each file, added to a copy of the clone, works there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from cxr_jax.weights import random_encoder
from cxr_jax.weights.exporters import torchvision

_ROOT = Path(__file__).parents[1]
_PRODUCT = ("cxr_jax", "data_builders", "configs", "run.py")
_SMALL = (
    *("--config.data.image_size=40", "--config.image_size=32", "--config.views.a.size=32"),
    *("--config.num_train_steps=4", "--config.checkpoint_every_steps=4", "--config.batch_size=16"),
    "--config.log_every_steps=1",
)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the product with the page's files in it, and the page's dataset, built."""
    folder = tmp_path_factory.mktemp("clone")
    for name in _PRODUCT:
        copy = shutil.copytree if (_ROOT / name).is_dir() else shutil.copy
        copy(_ROOT / name, folder / name)
    text = (_ROOT / "docs/architecture.md").read_text()
    blocks = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5
    for name, code in blocks:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    for name in ("README.md", "CITATIONS.bib", "TAGS.txt"):
        shutil.copy(_ROOT / "data_builders/brax" / name, folder / "data_builders/ward" / name)
    (folder / "raw/images").mkdir(parents=True)
    rows = ["file,patient,Effusion,Nodule"]
    for number in range(60):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64), np.uint8)
        pixels[:, :32] //= 1 + number % 2  # what a nodule does to these images
        Image.fromarray(pixels).save(folder / f"raw/images/{number}.png")
        rows.append(f"{number}.png,p{number},{number // 2 % 2},{number % 2}")
    (folder / "raw/table.csv").write_text("\n".join(rows) + "\n")
    build = ("-m", "data_builders.build", "ward", "--manual_dir=raw", "--data_dir=data")
    assert "ward: wrote" in _run(folder, *build)
    return folder


def _run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_files_of_the_page_are_choices(clone, data_dir):
    assert "| ward | Ward: a table" in _run(clone, "-m", "data_builders.build", "--list")
    assert "configs/age.py" in _run(clone, "run.py", "--help")
    age = ("run.py", "--config=configs/age.py:cpu", "--config.data.name=phantom/tiny")
    _run(clone, *age, f"--config.data.dir={data_dir}", "--workdir=runs/age", *_SMALL)
    lines = (clone / "runs/age/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4 and "years_off" in lines[0]


def test_a_source_and_a_protocol_of_the_page_score_the_dataset_of_the_page(clone):
    # ResNet-18 by torchvision's keys, as our own export writes them.
    encoder = random_encoder({"name": "resnet", "variant": "18"}, 32, 0)
    tensors = torchvision.export(encoder).tensors
    named = {f"net.{name}": array for name, array in tensors.items()}
    save_file(named, clone / "lab.safetensors")
    transfer = ("run.py", "--config=configs/transfer.py", "--config.encoder=ourlab:lab.safetensors")
    chosen = ("--config.dataset=ward", "--config.task=nodule", "--config.protocol=centroid")
    few = ("--config.baselines=", "--config.num_resamples=20", "--config.pictures.draw=False")
    said = _run(clone, *transfer, *chosen, *few, "--workdir=runs/transfer")
    assert "Nearest class mean" in said and "Nodule" in said
    assert (clone / "runs/transfer/predictions.parquet").is_file()
