"""kill -9 of transfers and benchmarks at any moment: the same command gives the same results."""

import random
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


@pytest.mark.parametrize("command", [_transfer, _benchmark])
def test_results_are_those_of_an_undisturbed_run(command, finished, data_dir, tmp_path, full):
    if not full:
        pytest.skip("with --full")
    arguments, log = command(finished, data_dir), tmp_path / "log"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    start = time.monotonic()
    assert runs.Run([*arguments, f"--workdir={whole}"], log).end() == 0, log.read_text()
    longest, draw, kills = time.monotonic() - start, random.Random(3), 0
    for _ in range(8):
        run = runs.Run([*arguments, f"--workdir={killed}"], log)
        end = time.monotonic() + draw.uniform(0.03, 0.3) * longest  # it has to compile no more
        run.wait_for(lambda: time.monotonic() > end)  # noqa: B023
        if not run.kill():
            break
        kills += 1
    assert kills >= 3
    assert runs.Run([*arguments, f"--workdir={killed}"], log).end() == 0, log.read_text()
    expected, found = _results(whole), _results(killed)
    assert expected.keys() == found.keys() and len(expected) >= 4
    assert [name for name in expected if expected[name] != found[name]] == []
    print(f"killed {kills} times")


def _results(workdir: Path) -> dict[str, bytes]:
    paths = [path for pattern in _RESULTS for path in workdir.rglob(pattern)]
    return {path.relative_to(workdir).as_posix(): path.read_bytes() for path in paths}
