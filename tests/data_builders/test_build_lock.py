"""Builds that are killed, repeated, or started twice at once."""

import contextlib
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data_builders import build
from data_builders.base import build_lock, counts
from data_builders.base.records import AlreadyBuilt
from tests.fakes.dataset import read

ROOT = Path(__file__).parents[2]


def start(data, *more):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "data_builders.build", "phantom", "--resolution=96"),
            *(f"--data_dir={data}", "--num_workers=1", *more),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def tiny(data, **settings):
    return build.build(
        "phantom", data, config_name="tiny", num_workers=0, progress=False, **settings
    )


def children(process):
    """Processes that a build started, whoever their parent is now."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--sid", str(process.pid)], capture_output=True, text=True
    )
    return found.stdout.split()


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_build_however_it_ends(tmp_path, ended_by):
    process = start(tmp_path, "--num_workers=2")
    deadline = time.monotonic() + 600  # on a busy machine
    while not list(tmp_path.glob("phantom/96/incomplete.*/*shard*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    assert len(children(process)) >= 3  # itself, the fork server and its workers
    process.send_signal(ended_by)  # to it alone, as a scheduler does
    assert process.wait(timeout=120) != 0
    while children(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children(process) == []
    parent = tmp_path / "phantom/96"
    if ended_by == signal.SIGTERM:
        assert not parent.exists()
        return
    # It could not clear up: there is no dataset, and the next build does.
    place = parent / "1.2.0"
    assert not place.exists() and list(parent.glob("incomplete.*"))
    with build_lock.locked(place), build_lock.claimed(place, overwrite=False):
        assert list(parent.iterdir()) == []


def test_a_signal_while_a_worker_starts_ends_the_pool():
    """Raised there, it would leave a worker that the pool does not know, and waits for."""
    script = """
import multiprocessing.process, os, signal, time
from data_builders.base import parallel

def interrupt(*_):
    raise KeyboardInterrupt

def start_then_signal(self, start=multiprocessing.process.BaseProcess.start):
    start(self)
    if self.name.endswith("-2"):
        os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGTERM, interrupt)
multiprocessing.process.BaseProcess.start = start_then_signal
try:
    first_worker_is_busy = ((n, 0.3 if n < parallel.CHUNK else 0.0) for n in range(1000))
    list(parallel.parallel_map(time.sleep, first_worker_is_busy, num_workers=3))
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=300
    )
    assert done.stdout == "interrupted\n"


def test_a_killed_overwrite_gives_the_old_dataset_back(tmp_path):
    folder = tiny(tmp_path)
    before = [example["phash"] for example in read(folder)["train"]]
    os.rename(folder, folder.with_name("replaced"))  # where --overwrite puts it; then SIGKILL
    with pytest.raises(AlreadyBuilt):
        tiny(tmp_path)
    assert [example["phash"] for example in read(folder)["train"]] == before


def test_an_unfinished_folder_does_not_cost_the_whole_one_beside_it(tmp_path):
    folder = tiny(tmp_path)
    os.rename(folder, folder.with_name("replaced"))
    folder.mkdir()
    with pytest.raises(AlreadyBuilt):
        tiny(tmp_path)
    assert len(read(folder)["train"]) == 36


@contextlib.contextmanager
def locked_and_claimed(folder):
    with build_lock.locked(folder), build_lock.claimed(folder, overwrite=False):
        yield


def test_a_refused_build_leaves_no_folder_and_one_that_waited_for_it_a_lock(tmp_path):
    folder = tmp_path / "phantom/tiny/1.2.0"

    def wait():
        with locked_and_claimed(folder):
            entered.set()
            leave.wait(60)

    entered, leave = threading.Event(), threading.Event()
    waiting = threading.Thread(target=wait)
    with pytest.raises(ValueError, match="refused"), locked_and_claimed(folder):
        waiting.start()
        assert not entered.wait(0.2)
        raise ValueError("refused")
    assert entered.wait(60)
    (folder.parent / "another").touch()
    descriptor = os.open(folder.parent, os.O_RDONLY)
    with pytest.raises(BlockingIOError):  # of the folder that is there now
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
    leave.set()
    waiting.join()
    with pytest.raises(ValueError, match="refused"), locked_and_claimed(folder):
        raise ValueError("refused")
    assert list(folder.parent.iterdir()) == [folder.parent / "another"]
    (folder.parent / "another").unlink()
    with pytest.raises(ValueError, match="refused"), locked_and_claimed(folder):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []


def test_what_is_made_of_a_build_is_made_while_nothing_can_replace_it(tmp_path):
    seen = []

    def look(folder):
        descriptor = os.open(folder.parent, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        seen.append(counts.describe_dataset(folder))

    folder = tiny(tmp_path, then=look)
    tiny(tmp_path, overwrite=True, then=look)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert len(seen) == 2 and str(folder) in seen[0] and seen[0] == seen[1]


def build_tiny(data, results):
    try:
        tiny(data)
        results.put("built")
    except AlreadyBuilt:
        results.put("there already")


def test_of_two_builds_at_once_one_waits(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=build_tiny, args=(tmp_path, results)) for _ in range(2)]
    for process in processes:
        process.start()
    assert sorted(results.get(timeout=120) for _ in processes) == ["built", "there already"]
    for process in processes:
        process.join()
    assert len(read(tmp_path / "phantom/tiny/1.2.0")["train"]) == 36
