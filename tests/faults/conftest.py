"""`pytest tests/faults` is the short form of the injected faults; with --full, the long one."""

from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="inject many more faults: an hour or so")


@pytest.fixture
def full(request) -> bool:
    return request.config.getoption("--full", default=False)


@pytest.fixture(scope="session")
def finished(data_dir, tmp_path_factory) -> Path:
    """The workdir of a `runs.tiny` run that nothing disturbed."""
    from tests.faults import runs

    folder = tmp_path_factory.mktemp("finished")
    run = runs.Run(runs.tiny(data_dir, folder / "run"), folder / "log")
    assert run.end() == 0, run.said()
    assert tuple(runs.saved_steps(folder / "run")) == runs.KEPT
    return folder / "run"
