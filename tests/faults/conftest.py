"""`pytest tests/faults` is the short form of the injected faults.

With --full every fault is injected as often as docs/reliability.md says.
"""

from pathlib import Path

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


@pytest.fixture(scope="session")
def finished(data_dir, made_once) -> Path:
    """The workdir of a `runs.tiny` run that nothing disturbed."""
    from tests.faults import runs

    def fill(folder: Path) -> None:
        run = runs.Run(runs.tiny(data_dir, folder / "run"), folder / "log")
        assert run.end() == 0, run.said()
        assert tuple(runs.saved_steps(folder / "run")) == runs.KEPT

    return made_once("finished", fill) / "run"


@pytest.fixture(scope="module")
def process():
    """A process that may not grow much, for bombs."""
    from tests.faults import limited

    process = limited.LimitedProcess(limited.MODULES, limited.EXTRA_BYTES)
    yield process
    process.close()
