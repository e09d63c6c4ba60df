"""For the whole test run: every jaxtyping annotation is checked, and compiled programs are kept.

Many tests start the same program anew, some in a subprocess; compiling it once halves the run. LLVM
optimizes nothing (XLA does), in subprocesses too: most programs run a few steps and take longer to
compile. Without XLA's fusion emitters a small program, such as one operation of a test, compiles in
half the time. The demo of tests/test_run.py compiles as users do; so does everything with
JAX_DISABLE_MOST_OPTIMIZATIONS=0 and XLA_FLAGS=--xla_cpu_use_fusion_emitters=true.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

_cache = tempfile.TemporaryDirectory(prefix="jax-cache-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
flags = os.environ.get("XLA_FLAGS", "")
if "fusion_emitters" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false"
    starts = [sys.executable, "-c", "import jax; jax.devices()"]
    if subprocess.run(starts, capture_output=True).returncode:  # a later JAX without this flag
        os.environ["XLA_FLAGS"] = flags

import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("cxr_jax", "beartype.beartype")
pytest.register_assert_rewrite("tests.fakes.dataset")  # so its asserts show the values too


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """(name, function that fills a folder) -> the folder, filled once for all of xdist's workers.

    Whoever reads it leaves it as it is.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of one that failed
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def data_dir(made_once):
    """A data folder that holds the drawn dataset phantom/tiny."""
    from data_builders.build import build

    return made_once(
        "data",
        lambda folder: build("phantom", folder, config_name="tiny", num_workers=0, progress=False),
    )


@pytest.fixture(scope="session")
def studies_dir(made_once):
    """A data folder that holds the images of tests/fakes/studies.py as image_folder."""
    from tests.fakes import studies

    return made_once("studies", studies.build) / "data"
