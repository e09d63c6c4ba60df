"""Files that are whole or not there."""

import resource

import pytest

from cxr_jax.io.atomic import atomic_write_text
from data_builders.base import records
from data_builders.base.records import Skipped


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "a.json"
    atomic_write_text(path, "ä" * 5000)
    assert path.read_bytes() == "ä".encode() * 5000
    records.write_skipped(tmp_path / "skipped.csv", [Skipped("a.png", "was broken")])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            atomic_write_text(path, "b" * 9000)
        with pytest.raises(OSError, match="File too large"):
            records.write_skipped(tmp_path / "skipped.csv", [Skipped("b.png", "is broken")] * 999)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == "ä".encode() * 5000
    assert (tmp_path / "skipped.csv").read_text().splitlines() == [
        *("file,reason", "a.png,was broken")
    ]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "skipped.csv"]
