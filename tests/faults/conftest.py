"""`pytest tests/faults --full`: every fault as often as docs/reliability.md says."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="inject every fault its full number")


@pytest.fixture(scope="session")
def full(request) -> bool:
    """Whether faults are injected their full number of times, which takes long."""
    return request.config.getoption("--full", default=False)


@pytest.fixture
def raw(tmp_path):
    """An empty folder; tests.fakes.dataset.build_beside builds into the folder data beside it."""
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder
