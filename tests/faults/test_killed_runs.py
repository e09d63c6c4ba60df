"""kill -9, SIGTERM and SIGUSR1 at any moment: the same command goes on, and nothing is lost."""

import random
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from cxr_jax.training import checkpoint as checkpoints
from tests.fakes import tiny_config
from tests.faults import runs

_UNFINISHED = "*.orbax-checkpoint-tmp*"


def test_a_run_stopped_again_and_again_ends_as_an_undisturbed_one(
    finished, data_dir, tmp_path, full
):
    """Killed, told to end by each signal, and then left alone."""
    kills, steps = (24, 300) if full else (2, runs.KEPT[-1])
    whole, stopped, log = finished, tmp_path / "stopped", tmp_path / "log"
    arguments = runs.tiny(data_dir, stopped, num_train_steps=steps)
    if full:
        whole = tmp_path / "whole"
        undisturbed = runs.tiny(data_dir, whole, num_train_steps=steps)
        assert runs.Run(undisturbed, log).end() == 0, log.read_text()
    draw, moments = random.Random(7), Counter()
    while moments.total() < kills:
        aim = ("save", "evaluation", "step", "any")[moments.total() % 4]
        run = runs.Run(arguments, log)
        if run.wait_for(_moment(aim, run, stopped, draw)):
            time.sleep(draw.uniform(0, 0.02))
        assert run.kill(), f"ended after {moments.total()} kills: {run.said()}"
        moments[_found(stopped, run)] += 1
    for number in (signal.SIGTERM, signal.SIGUSR1) if full else (signal.SIGTERM,):
        run = runs.Run(arguments, log)
        assert run.wait_for(lambda: "images/s" in run.said()), run.said()  # noqa: B023
        assert run.end(number) == 75, run.said()
        last = runs.logged(stopped)
        assert runs.saved_steps(stopped)[-1] == last < steps
        assert f"saved after step {last}. To go on: the same command" in run.said()
    assert runs.Run(arguments, log).end() == 0, log.read_text()
    print(f"killed {kills} times: {dict(moments)}")
    runs.assert_equal_ends(whole, stopped)
    assert _on_the_board(stopped) == _on_the_board(whole)
    assert not list((stopped / "checkpoints").glob(_UNFINISHED))
    if full:
        assert {"save", "evaluation", "step"} <= moments.keys(), moments


def _moment(aim: str, run: runs.Run, workdir: Path, draw: random.Random):
    """A function that says whether the moment to kill has come."""
    if aim == "save":
        return lambda: any((workdir / "checkpoints").glob(_UNFINISHED))
    first = max(runs.saved_steps(workdir), default=0)
    if aim == "evaluation":  # when the step before its own has been logged
        due = (first // runs.KNN_EVERY + 1) * runs.KNN_EVERY
        return lambda: "images/s" in run.said() and runs.logged(workdir) >= due - 1
    if aim == "step":
        after = draw.randint(1, 30)
        return lambda: "images/s" in run.said() and runs.logged(workdir) >= first + after
    start, after = time.monotonic(), draw.uniform(0, 5)
    return lambda: time.monotonic() > start + after


def _found(workdir: Path, run: runs.Run) -> str:
    """In what the kill came, by what it left behind."""
    if any((workdir / "checkpoints").glob(_UNFINISHED)):
        return "save"
    if "step " not in run.said():
        return "start"
    return "evaluation" if (runs.logged(workdir) + 1) % runs.KNN_EVERY == 0 else "step"


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


def test_hosts_stop_at_the_same_step_whichever_of_them_is_told(data_dir, tmp_path, full):
    if not full:
        pytest.skip("with --full: two processes compile programs of their own")
    workdir = tmp_path / "run"
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        where = [f"--coordinator=localhost:{probe.getsockname()[1]}", "--num_processes=2"]
    where += ["--connect_timeout=600", "--heartbeat_timeout=600"]
    long = runs.tiny(data_dir, workdir, num_train_steps=500, online_knn__dataset="")
    hosts = [
        runs.Run([*long, *where, f"--process_id={index}"], tmp_path / f"log{index}")
        for index in range(2)
    ]
    assert hosts[0].wait_for(lambda: runs.logged(workdir) > 2), hosts[0].said()
    assert hosts[1].end(signal.SIGTERM) == 75, hosts[1].said()
    assert hosts[0].end() == 75, hosts[0].said()
    last = runs.logged(workdir)
    assert runs.saved_steps(workdir)[-1] == last < 500
    assert checkpoints.find_damage(workdir / "checkpoints" / str(last), checkpoints.ITEMS) == ""
    assert f"saved after step {last}" in hosts[0].said()


def test_a_second_run_on_a_workdir_is_refused_and_disturbs_nothing(
    finished, data_dir, tmp_path, full
):
    if not full:
        pytest.skip("with --full; tests/experiments/test_pretrain.py has the refusal alone")
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
    long = dict(num_train_steps=2000, online_knn__dataset="", data__num_workers=2)
    arguments = runs.tiny(data_dir, tmp_path / "run", **long)
    run = runs.Run(arguments, tmp_path / "log")
    assert run.wait_for(lambda: runs.logged(tmp_path / "run") > 9), run.said()
    assert run.end(signal.SIGTERM) == 75, run.said()
    last = runs.logged(tmp_path / "run")
    assert runs.saved_steps(tmp_path / "run")[-1] == last < 2000
    run = runs.Run(arguments, tmp_path / "log")
    assert run.wait_for(lambda: runs.logged(tmp_path / "run") > last + 2), run.said()
    assert run.kill()
    assert run.has_ended_whole()


def test_a_transfer_that_gets_sigterm_says_how_to_go_on(data_dir, tmp_path):
    fields = ["encoder=random", "baselines=", "dataset=phantom/tiny", f"data.dir={data_dir}"]
    fields += ["model.variant=18", "image_size=32", "num_resamples=20", "pictures.draw=False"]
    flags = [f"--config.{field}" for field in fields]
    workdir = tmp_path / "run"
    arguments = ["--config=configs/transfer.py", *flags, f"--workdir={workdir}"]
    run = runs.Run(arguments, tmp_path / "log")
    assert run.wait_for(lambda: "workdir:" in run.said())
    assert run.end(signal.SIGTERM) == 75, run.said()
    assert f"SIGTERM received. To go on: the same command with --workdir={workdir}" in run.said()
    assert not (workdir / "report.md").exists()


@pytest.mark.parametrize("objective", [*tiny_config.OBJECTIVES, "clip"])
def test_a_killed_run_of_each_objective_ends_as_an_undisturbed_one(
    objective, data_dir, studies_dir, tmp_path, full
):
    """Queues, targets, teachers, centres, pairs and reports, bit for bit."""
    if not full:
        pytest.skip("with --full; tests/experiments/test_pretrain.py resumes one")
    if objective in ("convirt", "gloria", "refers", "clip"):
        pytest.importorskip("tokenizers")
    config = tiny_config.make(objective, "cpu" if objective == "medaug" else "demo", data_dir)
    if objective == "medaug":
        config.data.name, config.data.dir, config.batch_size = "image_folder", str(studies_dir), 8
    config.num_train_steps, config.checkpoint_every_steps = 24, 4
    file = tmp_path / "config.py"
    file.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config(preset):\n    return ConfigDict({config.to_dict()!r})\n"
    )
    command, log = [f"--config={file}"], tmp_path / "log"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert runs.Run([*command, f"--workdir={whole}"], log).end() == 0, log.read_text()
    draw, done = random.Random(objective), 0
    for _ in range(3):
        run = runs.Run([*command, f"--workdir={killed}"], log)
        done = draw.randint(done + 1, min(done + 8, 24 - 1))
        assert run.wait_for(lambda: runs.logged(killed) >= done), run.said()  # noqa: B023
        assert run.kill(), run.said()
        done = max(done, runs.logged(killed))
    run = runs.Run([*command, f"--workdir={killed}"], log)
    assert run.end() == 0, run.said()
    assert "Resuming" in run.said()
    runs.assert_equal_ends(whole, killed)
