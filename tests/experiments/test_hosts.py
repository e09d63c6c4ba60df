"""Several processes as one run, over localhost: they train as one does, and fail together."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes.tiny_config import LEFT_OUT
from tests.faults import runs

_ROOT = Path(__file__).parents[2]
_SPEC = "configs/simclr.py:demo"
_SECONDS = 600  # of patience on a busy machine; none of these needs a tenth of it alone


class Fresh(subprocess.Popen):
    """run.py in another clone, with the methods of runs.Run, whose forks are of this one."""

    def __init__(self, root: Path, arguments: list[str], out: Path, err: Path):
        super().__init__(
            [sys.executable, "run.py", *arguments],
            cwd=root,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=out.open("w"),
            stderr=err.open("w"),
        )

    def end(self) -> int:
        return self.wait(_SECONDS)


class Run:
    """Processes started together, ended together; `out[i]` and `err[i]` are what they said."""

    def __init__(self, folder: Path, commands: list[list[str]], roots: list[Path] | None = None):
        folder.mkdir()
        self._folder, self.processes = folder, []
        for i, command in enumerate(commands):
            arguments = [f"--config={_SPEC}", *command]
            out, err = folder / f"out{i}", folder / f"err{i}"
            self.processes.append(
                Fresh(roots[i], arguments, out, err)
                if roots
                else runs.Run(arguments, out, errors=err)
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.end()

    def wait(self) -> list[int]:
        return [process.end() for process in self.processes]

    def said(self, where: str) -> list[str]:
        return [(self._folder / f"{where}{i}").read_text() for i in range(len(self.processes))]


@pytest.fixture(scope="module")
def tiny(data_dir):
    return [
        f"--config.{change}"
        for change in (
            *("num_train_steps=4", "checkpoint_every_steps=2", "log_every_steps=1"),
            *("batch_size=16", "data.image_size=40", "image_size=32", "shard_state=True"),
            *("views.a.size=32", "views.b.size=32", "objective.hidden=(64,)"),
            *(f"views.{view}.{name}=0.0" for view in "ab" for name in LEFT_OUT),
            *("optimizer.name=sgd", "optimizer.learning_rate=0.001", "optimizer.warmup=1"),
            *("data.name=phantom/tiny", f"data.dir={data_dir}", "transfer.dataset="),
        )
    ]


def _place(index: int, port: int, heartbeat: int = _SECONDS) -> list[str]:
    where = [f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={index}"]
    return [*where, f"--connect_timeout={_SECONDS // 2}", f"--heartbeat_timeout={heartbeat}"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _pair(folder, *commands, roots=None, heartbeat=_SECONDS) -> Run:
    port = _free_port()
    placed = [[*command, *_place(i, port, heartbeat)] for i, command in enumerate(commands)]
    return Run(folder, placed, roots)


def _lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one_and_one_goes_on_from_their_checkpoint(tiny, tmp_path):
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    watched = [
        *tiny,
        "--config.online_knn.dataset=phantom/tiny",
        "--config.online_knn.every_steps=4",
    ]
    command = [*watched, f"--workdir={shared}"]
    with _pair(tmp_path / "said", command, command) as run:
        assert run.wait() == [0, 0], run.said("err")
        first, second = run.said("out")
    assert "Pretrained to step 4" in first and second == ""
    assert len(list(shared.glob("events.out.tfevents.*"))) == 1
    _alone(tmp_path / "said alone", [*watched, f"--workdir={alone}"])
    _assert_alike(shared, alone)
    shutil.rmtree(shared / "checkpoints" / "4")
    _alone(tmp_path / "said on", command)  # from the step 2 of both
    _assert_alike(shared, alone)


def _alone(folder: Path, command: list[str]) -> None:
    with Run(folder, [command]) as run:
        assert run.wait() == [0], run.said("err")


def _assert_alike(shared: Path, alone: Path) -> None:
    assert [line["step"] for line in _lines(shared)] == [1, 2, 3, 4]
    for both, one in zip(_lines(shared), _lines(alone), strict=True):
        for name in ("loss", "gradient_norm", "embedding_std"):
            assert both[name] == pytest.approx(one[name], rel=1e-3), (name, both["step"])
    assert _lines(shared)[-1]["knn_auroc"] == pytest.approx(
        _lines(alone)[-1]["knn_auroc"], abs=0.02
    )


def test_a_killed_process_ends_the_other_where_it_waits(tiny, tmp_path):
    workdir = tmp_path / "run"
    command = [*tiny, f"--workdir={workdir}"]
    with _pair(tmp_path / "said", command, command, heartbeat=10) as run:
        end = time.monotonic() + _SECONDS
        while not (workdir / "config.json").exists() and time.monotonic() < end:
            time.sleep(0.05)
        run.processes[1].kill()
        assert run.wait()[0] != 0
        said = run.said("err")[0]
        assert "another task died" in said or "host 0 of 2: error" in said


def test_what_cannot_run_is_said_by_every_process(tiny, tmp_path):
    workdir = tmp_path / "run"
    command = [*tiny, f"--workdir={workdir}", "--config.batch_size=15"]
    with _pair(tmp_path / "said", command, command) as run:
        assert run.wait() == [1, 1]
        for index, said in enumerate(run.said("err")):
            assert f"host {index} of 2: error: " in said
            assert "config.batch_size=15 does not divide by the 2 devices" in said
    assert not workdir.exists()


def test_what_fails_on_one_ends_the_other_with_its_name(tiny, tmp_path, data_dir):
    """The second process stands in another folder, where the dataset is damaged."""
    roots = [tmp_path / "whole", tmp_path / "damaged"]
    for root in roots:
        root.mkdir()
        for name in ("run.py", "cxr_jax", "configs", "data_builders"):
            (root / name).symlink_to(_ROOT / name)
        shutil.copytree(data_dir, root / "data")
    (info,) = (roots[1] / "data").glob("phantom/tiny/*/metadata.json")
    info.unlink()
    command = [*tiny, f"--workdir={tmp_path / 'run'}", "--config.data.dir=data"]
    with _pair(tmp_path / "said", command, command, roots=roots) as run:
        assert run.wait() == [1, 1]
        first, second = run.said("err")
        assert "host 0 of 2: error: host 1 of 2 failed: " in first and "metadata.json" in first
        assert "host 1 of 2: error: " in second and "metadata.json" in second
    assert not (tmp_path / "run").exists()


def test_another_config_and_other_code_are_refused_by_every_process(tiny, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("cxr_jax", "configs", "data_builders"):
        shutil.copytree(_ROOT / name, other / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(_ROOT / "run.py", other)
    with (other / "cxr_jax" / "training" / "optim.py").open("a") as file:
        file.write("\n# A line that the other does not have.\n")
    command = [*tiny, f"--workdir={tmp_path / 'run'}"]
    differing = [*command, "--config.seed=3"]
    with _pair(tmp_path / "said", command, differing, roots=[_ROOT, other]) as run:
        assert run.wait() == [1, 1]
        for said in run.said("err"):
            assert "--config.seed: host 0 has 0, host 1 has 3" in said
            assert "code: host 0 has " in said and "jax:" not in said
    assert not (tmp_path / "run").exists()


def test_a_process_that_waits_in_vain_says_for_whom(tiny, tmp_path):
    port, other_port = _free_port(), _free_port()
    command = [*tiny, f"--workdir={tmp_path / 'run'}"]
    soon = "--connect_timeout=3"
    commands = [
        [*command, *_place(0, port), soon],
        [*command, *_place(1, other_port), soon],
    ]
    with Run(tmp_path / "said", commands) as run:
        assert run.wait() == [1, 1]
        first, second = run.said("err")
    assert "host 0 of 2: error: after 3 s the coordinator at localhost" in first
    assert "answers, but not all 2 processes came" in first
    assert "host 1 of 2: error: after 3 s" in second and "cannot be reached" in second
