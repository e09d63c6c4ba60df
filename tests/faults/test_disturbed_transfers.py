"""Transfers and benchmarks killed at any moment, or on a full disk: the same command goes on and
gives the same results."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults import runs

_RESULTS = ("predictions.parquet", "metrics.json", "comparisons.json", "*.jsonl", "scores.csv")
_TINY = ("num_resamples=20", "pictures.draw=False")
_FINETUNE = ("finetune.max_steps=12", "finetune.min_steps=12", "finetune.learning_rates=(1e-3,)")


def _transfer(encoder: Path, data: Path) -> list[str]:
    fields = [f"encoder={encoder}", "baselines=random", "dataset=phantom/tiny"]
    fields += [f"data.dir={data}", "protocol=finetune", *_TINY, *_FINETUNE]
    return ["--config=configs/transfer.py", *(f"--config.{field}" for field in fields)]


def _benchmark(encoder: Path, data: Path) -> list[str]:
    fields = [f"encoders=random,mine={encoder}", "datasets=phantom/tiny", f"data.dir={data}"]
    fields += ["reference=random", "protocols=linear,finetune", "fractions=(1.0,)", "seeds=(0, 1)"]
    fields += [f"transfer.{field}" for field in (*_TINY, *_FINETUNE)]
    return ["--config=configs/benchmark.py", *(f"--config.{field}" for field in fields)]


@pytest.fixture(scope="module", params=[_transfer, _benchmark])
def undisturbed(request, finished, data_dir, tmp_path_factory, full):
    """(arguments, workdir, seconds) of a transfer or a benchmark that nothing disturbs."""
    if not full:
        pytest.skip("with --full")
    arguments, folder = request.param(finished, data_dir), tmp_path_factory.mktemp("whole")
    start = time.monotonic()
    run = runs.Run([*arguments, f"--workdir={folder / 'run'}"], folder / "log")
    assert run.end() == 0, run.said()
    return arguments, folder / "run", time.monotonic() - start


def test_a_killed_run_ends_with_the_results_of_an_undisturbed_one(undisturbed, tmp_path):
    arguments, whole, longest = undisturbed
    killed, log, draw, kills = tmp_path / "killed", tmp_path / "log", random.Random(3), 0
    for _ in range(8):
        run = runs.Run([*arguments, f"--workdir={killed}"], log)
        end = time.monotonic() + draw.uniform(0.03, 0.3) * longest  # it has to compile no more
        run.wait_for(lambda: time.monotonic() > end)  # noqa: B023
        if not run.kill():
            break
        kills += 1
    assert kills >= 3
    print(f"killed {kills} times")
    _assert_ends_as(whole, arguments, killed, log)


def test_sigterm_ends_it_at_any_moment(undisturbed, tmp_path):
    """While it loads, compiles, reads and trains."""
    arguments, whole, longest = undisturbed
    told, log, draw = tmp_path / "told", tmp_path / "log", random.Random(4)
    for _ in range(12):
        run = runs.Run([*arguments, f"--workdir={told}"], log)
        assert run.wait_for(lambda: "workdir:" in run.said())  # noqa: B023
        end = time.monotonic() + draw.uniform(0, 0.25) * longest
        run.wait_for(lambda: time.monotonic() > end)  # noqa: B023
        if run.poll() is not None:
            break
        assert run.end(signal.SIGTERM) == 75, run.said()
        assert run.said().endswith(f"To go on: the same command with --workdir={told}\n")
    _assert_ends_as(whole, arguments, told, log)


@pytest.mark.parametrize("free", [0, 3_000, 40_000, 200_000])
def test_a_full_disk_ends_it_clearly_and_it_goes_on_when_there_is_room(undisturbed, free, tmp_path):
    arguments, whole, _ = undisturbed
    log = tmp_path / "log"
    with runs.small_disk(tmp_path / "disk") as disk:
        (disk / "run").mkdir()
        filler = runs.fill(disk, free)
        run = runs.Run([*arguments, f"--workdir={disk / 'run'}"], log)
        assert run.end() == 1, run.said()
        assert "No space left on device" in run.said()
        assert "give the same command" in run.said()
        filler.unlink()
        _assert_ends_as(whole, arguments, disk / "run", log)


def _assert_ends_as(whole: Path, arguments: list[str], workdir: Path, log: Path) -> None:
    assert runs.Run([*arguments, f"--workdir={workdir}"], log).end() == 0, log.read_text()
    expected, found = _results(whole), _results(workdir)
    assert expected.keys() == found.keys() and len(expected) >= 4
    assert [name for name in expected if expected[name] != found[name]] == []


def _results(workdir: Path) -> dict[str, bytes]:
    paths = [path for pattern in _RESULTS for path in workdir.rglob(pattern)]
    return {path.relative_to(workdir).as_posix(): path.read_bytes() for path in paths}
