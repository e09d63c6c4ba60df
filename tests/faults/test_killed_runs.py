"""kill -9, SIGTERM and SIGUSR1 at any moment: the same command goes on, and nothing is lost."""

import random
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from tests.faults import runs

_KNN_EVERY = 3
_UNFINISHED = "*.orbax-checkpoint-tmp*"


@pytest.fixture(scope="module")
def watched(data_dir):
    """(workdir, steps) -> arguments of a run that evaluates and saves every few steps."""

    def arguments(workdir: Path, steps: int) -> list[str]:
        watch = dict(knn__dataset="phantom/tiny", knn__every_steps=_KNN_EVERY)
        return runs.tiny(data_dir, workdir, num_train_steps=steps, **watch)

    return arguments


def test_a_run_killed_again_and_again_ends_as_an_undisturbed_one(watched, tmp_path, full):
    kills, steps = (24, 60) if full else (2, 6)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert runs.Run(watched(whole, steps), tmp_path / "log").end() == 0
    draw, moments = random.Random(7), Counter()
    while moments.total() < kills:
        run = runs.Run(watched(killed, steps), tmp_path / "log")
        aim = ("save", "evaluation", "step", "any")[moments.total() % 4]
        if run.wait_for(_moment(aim, killed, draw)):
            time.sleep(draw.uniform(0, 0.03))
        assert run.kill(), f"ended after {moments.total()} kills: {run.said()}"
        moments[_found(killed, run)] += 1
    run = runs.Run(watched(killed, steps), tmp_path / "log")
    assert run.end() == 0, run.said()
    print(f"killed {kills} times: {dict(moments)}")
    runs.assert_equal_ends(whole, killed)
    assert [line["step"] for line in runs.lines(killed)] == list(range(1, steps + 1))
    assert _on_the_board(killed) == _on_the_board(whole)
    assert not list((killed / "checkpoints").glob(_UNFINISHED))
    if full:
        assert {"save", "evaluation", "step"} <= moments.keys(), moments


def _moment(aim: str, workdir: Path, draw: random.Random):
    """A function that says whether the moment to kill has come."""
    first = len(runs.lines(workdir))
    if aim == "save":
        return lambda: any((workdir / "checkpoints").glob(_UNFINISHED))
    if aim == "evaluation":  # when the step before its own has been logged
        return lambda: len(lines := runs.lines(workdir)) != first and len(lines) % _KNN_EVERY == 2
    if aim == "step":
        after = draw.randint(1, 4)
        return lambda: not first <= len(runs.lines(workdir)) < first + after
    start, after = time.monotonic(), draw.uniform(0, 5)
    return lambda: time.monotonic() > start + after


def _found(workdir: Path, run: runs.Run) -> str:
    """In what the kill came, by what it left behind."""
    if any((workdir / "checkpoints").glob(_UNFINISHED)):
        return "save"
    lines = runs.lines(workdir)
    if "films of phantom/tiny" not in run.said() or not lines:
        return "start"
    return "evaluation" if (lines[-1]["step"] + 1) % _KNN_EVERY == 0 else "step"


def _on_the_board(workdir: Path) -> list[tuple[int, str, float]]:
    """The scalars that TensorBoard shows: a start takes back what earlier files have after it."""
    shown = []
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        for event in _events(path.read_bytes()):
            if event.session_log.status == SessionLog.START:
                shown = [one for one in shown if one[0] < event.step]
            for value in event.summary.value:
                if value.HasField("simple_value") and not value.tag.startswith("speed"):
                    shown.append((event.step, value.tag, value.simple_value))
    return sorted(shown)


def _events(data: bytes):
    """Of TensorBoard's records: length, its check, data, its check. The last may be cut short."""
    while len(data) >= 12:
        length = int.from_bytes(data[:8], "little")
        if len(data) < 16 + length:
            return
        event = Event()
        event.ParseFromString(data[12 : 12 + length])
        yield event
        data = data[16 + length :]


def test_a_preempted_run_saves_its_last_step_and_exits_to_be_started_again(
    data_dir, tmp_path, full
):
    """Once by each signal; the checkpoint is of a step that no interval asks for."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    long = dict(num_train_steps=200, checkpoint_every_steps=1000)
    assert runs.Run(runs.tiny(data_dir, whole, **long), tmp_path / "log").end() == 0
    for number in (signal.SIGTERM, signal.SIGUSR1) if full else (signal.SIGTERM,):
        before = len(runs.lines(stopped))
        run = runs.Run(runs.tiny(data_dir, stopped, **long), tmp_path / "log")
        assert run.wait_for(lambda: len(runs.lines(stopped)) > before)  # noqa: B023
        assert run.end(number) == 75, run.said()
        last = runs.lines(stopped)[-1]["step"]
        assert runs.saved_steps(stopped)[-1] == last < 200
        assert f"saved after step {last}. To go on: the same command" in run.said()
    assert runs.Run(runs.tiny(data_dir, stopped, **long), tmp_path / "log").end() == 0
    runs.assert_equal_ends(whole, stopped)


def test_hosts_stop_at_the_same_step_whichever_of_them_is_told(data_dir, tmp_path):
    workdir = tmp_path / "run"
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        where = [f"--coordinator=localhost:{probe.getsockname()[1]}", "--num_processes=2"]
    where += ["--connect_timeout=600", "--heartbeat_timeout=600"]
    long = runs.tiny(data_dir, workdir, num_train_steps=500, checkpoint_every_steps=1000)
    hosts = [
        runs.Run([*long, *where, f"--process_id={index}"], tmp_path / f"log{index}")
        for index in range(2)
    ]
    assert hosts[0].wait_for(lambda: len(runs.lines(workdir)) > 2), hosts[0].said()
    assert hosts[1].end(signal.SIGTERM) == 75, hosts[1].said()
    assert hosts[0].end() == 75, hosts[0].said()
    last = runs.lines(workdir)[-1]["step"]
    assert runs.saved_steps(workdir) == [last] and last < 500
    assert f"saved after step {last}" in hosts[0].said()


def test_a_second_run_on_a_workdir_is_refused_and_disturbs_nothing(finished, data_dir, tmp_path):
    shared = tmp_path / "shared"
    first = runs.Run(runs.tiny(data_dir, shared), tmp_path / "first")
    assert first.wait_for(lambda: (shared / "config.json").exists())
    first.send(signal.SIGSTOP)
    second = runs.Run(runs.tiny(data_dir, shared), tmp_path / "second")
    assert second.end() == 1
    assert f"another process is running in {shared}" in second.said()
    first.send(signal.SIGCONT)
    assert first.end() == 0, first.said()
    runs.assert_equal_ends(finished, shared)


def test_workers_do_not_die_of_the_signal_that_the_run_saves_after(data_dir, tmp_path, full):
    """Both get it, as from SLURM. And workers whose run was killed -9 end as well."""
    if not full:
        pytest.skip("with --full: every worker imports all anew")
    long = dict(num_train_steps=2000, checkpoint_every_steps=5000, data__num_workers=2)
    arguments = runs.tiny(data_dir, tmp_path / "run", **long)
    run = runs.Run(arguments, tmp_path / "log")
    assert run.wait_for(lambda: len(runs.lines(tmp_path / "run")) > 9), run.said()
    assert run.end(signal.SIGTERM) == 75, run.said()
    last = runs.lines(tmp_path / "run")[-1]["step"]
    assert runs.saved_steps(tmp_path / "run") == [last]
    run = runs.Run(arguments, tmp_path / "log")
    assert run.wait_for(lambda: len(runs.lines(tmp_path / "run")) > last + 2), run.said()
    assert run.kill()
    assert run.has_ended_whole()
