"""What is installed: the wheel brings configs and command, and no folder hides the package."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The wheel's files in a folder, as pip would put them into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=_ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def _run(folder: Path, *arguments: str, path: Path | None = None) -> str:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(path or "")}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_program_and_no_more(unpacked):
    tops = {path.name.split("-")[0] for path in unpacked.iterdir()}
    assert tops == {"cxr_jax", "data_builders"}  # and cxr_jax-<version>.dist-info
    assert (unpacked / "cxr_jax/report/published.csv").is_file()
    configs = {path.name for path in (unpacked / "cxr_jax/_bundled/configs").glob("*.py")}
    assert configs == {path.name for path in (_ROOT / "configs").glob("*.py")}
    for folder in (_ROOT / "data_builders").glob("*/TAGS.txt"):
        assert (unpacked / folder.relative_to(_ROOT)).is_file()


def test_the_wheel_lists_and_loads_configs_from_any_folder(unpacked, tmp_path):
    assert "configs/byol.py" in _run(tmp_path, "-m", "cxr_jax", "--help", path=unpacked)
    fields = _run(
        tmp_path, "-m", "cxr_jax", "--config=configs/byol.py:demo", "--help", path=unpacked
    )
    assert "--config.num_train_steps=800" in fields
    names = _run(tmp_path, "-m", "data_builders.build", "--list", path=unpacked)
    assert "| phantom |" in names


def test_a_folder_of_the_same_name_does_not_hide_the_package(tmp_path):
    # As when Python starts in the folder above a clone that is called cxr_jax.
    (tmp_path / "cxr_jax").mkdir()
    code = "import cxr_jax; print(cxr_jax.__file__, cxr_jax.load_encoder.__name__)"
    assert "load_encoder" in _run(tmp_path, "-c", code)


def test_the_container_copies_what_the_wheel_is_made_of():
    """Never built: no container engine was at hand. docs/cluster.md has what was tried."""
    lines = (_ROOT / "Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert copied == {"pyproject.toml", "README.md", "cxr_jax", "data_builders", "configs"}
    assert all((_ROOT / name).exists() for name in copied)
    allowed = (_ROOT / ".dockerignore").read_text().split()
    assert {f"!{name}" for name in copied} <= set(allowed)
