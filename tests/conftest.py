"""For the whole test run: every jaxtyping annotation is checked, and compiled programs are kept.

Many tests start the same program anew, some in a subprocess; compiling it once halves the run.
"""

import os
import tempfile

_cache = tempfile.TemporaryDirectory(prefix="jax-cache-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402 (JAX reads the variables when imported)

install_import_hook("cxr_jax", "beartype.beartype")
pytest.register_assert_rewrite("tests.fakes.dataset")  # so its asserts show the values too


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data folder that holds the drawn dataset phantom/tiny."""
    from data_builders.build import build

    folder = tmp_path_factory.mktemp("data")
    build("phantom", folder, config_name="tiny", num_workers=0, progress=False)
    return folder


@pytest.fixture(scope="session")
def studies_dir(tmp_path_factory):
    """A data folder that holds the images of tests/fakes/studies.py as image_folder."""
    from tests.fakes import studies

    return studies.build(tmp_path_factory.mktemp("studies"))
