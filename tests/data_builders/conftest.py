"""Run-time checks of the annotations of the builders too; a folder for an owner's files."""

import pytest
from jaxtyping import install_import_hook

install_import_hook("data_builders", "beartype.beartype")


@pytest.fixture
def raw(tmp_path):
    """An empty folder; tests.fakes.dataset.build_beside builds into the folder data beside it."""
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder
