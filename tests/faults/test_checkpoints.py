"""Damaged checkpoints and full disks: the newest whole checkpoint counts, and nothing is lost."""

import os
import random
import shutil
from pathlib import Path

import pytest

from cxr_jax import weights
from cxr_jax.training import checkpoint as checkpoints
from tests.faults import runs

_BEFORE, _LAST = runs.KEPT


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def _flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


_FAULTS = {
    "one bit flipped": _flip,
    "cut short": lambda path, draw: os.truncate(path, draw.randrange(path.stat().st_size)),
    "made longer": lambda path, draw: path.write_bytes(path.read_bytes() + b"\0"),
    "emptied": lambda path, draw: path.write_bytes(b""),
    "missing": lambda path, draw: path.unlink(),
}


def test_any_fault_in_any_file_of_any_item_is_found(copied, full):
    checkpoint, draw, tried = copied / "checkpoints" / str(_LAST), random.Random(3), 0
    assert checkpoints.find_damage(checkpoint, checkpoints.ITEMS) == ""
    for item in checkpoints.ITEMS:
        for path in sorted(file for file in (checkpoint / item).rglob("*") if file.is_file()):
            whole = path.read_bytes()
            for name, damage in _FAULTS.items():
                for _ in range(20 if full and whole else 1):
                    if not whole and name not in ("made longer", "missing"):
                        continue
                    damage(path, draw)
                    found = checkpoints.find_damage(checkpoint, checkpoints.ITEMS)
                    assert path.name in found or item in found, (path, name)
                    path.write_bytes(whole)
                    tried += 1
        kept = shutil.copytree(checkpoint / item, copied / item)
        shutil.rmtree(checkpoint / item)
        assert (
            checkpoints.find_damage(checkpoint, checkpoints.ITEMS) == f"{item} is missing or empty"
        )
        (checkpoint / item).mkdir()
        assert (
            checkpoints.find_damage(checkpoint, checkpoints.ITEMS) == f"{item} is missing or empty"
        )
        shutil.rmtree(checkpoint / item)
        Path(kept).rename(checkpoint / item)
    for damage in (_FAULTS["cut short"], _FAULTS["emptied"]):
        path = checkpoint / checkpoints.HASHES
        whole = path.read_bytes()
        damage(path, draw)
        assert checkpoints.HASHES in checkpoints.find_damage(checkpoint, checkpoints.ITEMS)
        path.write_bytes(whole)
    assert checkpoints.find_damage(checkpoint, checkpoints.ITEMS) == ""
    print(f"{tried} faults found")


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(finished, copied, tmp_path):
    arrays = copied / "checkpoints" / str(_LAST) / "encoder"
    data = max((file for file in arrays.rglob("*") if file.is_file()), key=_size)
    _flip(data, random.Random(1))
    encoder = weights.load(str(copied))
    assert encoder.name.endswith(f"step {_BEFORE}")
    arguments = _arguments(finished, copied)
    run = runs.Run(arguments, tmp_path / "log")
    assert run.end() == 0, run.said()
    assert f"WARNING: checkpoint {_LAST} is damaged (encoder/" in run.said()
    assert f"the run goes on from step {_BEFORE}" in run.said()
    assert (copied / "damaged_checkpoints" / str(_LAST) / "encoder").is_dir()
    runs.assert_equal_ends(finished, copied)


def test_without_a_whole_checkpoint_the_run_is_refused_and_nothing_deleted(
    finished, copied, tmp_path
):
    (copied / "checkpoints" / str(_BEFORE) / "data" / "metadata").unlink()
    shutil.rmtree(copied / "checkpoints" / str(_LAST) / "encoder")
    before = {path: path.is_file() and path.read_bytes() for path in copied.rglob("*")}
    run = runs.Run(_arguments(finished, copied), tmp_path / "log")
    assert run.end() == 1
    assert "is whole" in run.said() and f"{_LAST}: encoder is missing or empty" in run.said()
    assert f"{_BEFORE}: data/metadata is missing" in run.said()
    assert "Nothing was deleted" in run.said()
    assert {path: path.is_file() and path.read_bytes() for path in copied.rglob("*")} == before


def test_where_files_cannot_grow_the_run_ends_clearly_and_goes_on_later(
    finished, copied, tmp_path, full
):
    """A limit on the size of files stands for a full disk; with --full there is one, below."""
    shutil.rmtree(copied / "checkpoints" / str(_LAST))
    run = runs.Run(_arguments(finished, copied), tmp_path / "log", {"RLIMIT_FSIZE": 200_000})
    assert run.end() == 1
    assert f"a checkpoint could not be saved; earlier ones stay (steps: {_BEFORE})" in (run.said())
    assert runs.saved_steps(copied) == [_BEFORE]
    assert checkpoints.find_damage(copied / "checkpoints" / str(_BEFORE), checkpoints.ITEMS) == ""
    if full:
        assert runs.Run(_arguments(finished, copied), tmp_path / "log").end() == 0
        runs.assert_equal_ends(finished, copied)


_FREE = (0, 2_000, 20_000, 60_000, 200_000, 600_000, 1_500_000, 3_000_000)  # bytes


@pytest.mark.parametrize("free", _FREE)
def test_a_full_disk_ends_the_run_clearly_and_it_goes_on_when_there_is_room(
    free, finished, tmp_path, full
):
    """So many bytes are left when the run goes on from its first checkpoint."""
    if not full:
        pytest.skip("with --full, as root: it mounts a small disk")
    with runs.small_disk(tmp_path / "disk") as disk:
        copied = Path(shutil.copytree(finished, disk / "copied"))
        shutil.rmtree(copied / "checkpoints" / str(_LAST))
        filler = runs.fill(disk, free)
        run = runs.Run(_arguments(finished, copied), tmp_path / "log")
        assert run.end() == 1, run.said()
        assert "No space left on device" in run.said()
        assert "give the same command" in run.said()
        assert (
            checkpoints.find_damage(copied / "checkpoints" / str(_BEFORE), checkpoints.ITEMS) == ""
        )
        filler.unlink()
        again = runs.Run(_arguments(finished, copied), tmp_path / "log")
        assert again.end() == 0, again.said()
        runs.assert_equal_ends(finished, copied)


def _arguments(finished: Path, workdir: Path) -> list[str]:
    """Those of the finished run, for its copy."""
    return runs.tiny(Path(runs.config(finished)["data"]["dir"]), workdir)


def _size(path: Path) -> int:
    return path.stat().st_size
