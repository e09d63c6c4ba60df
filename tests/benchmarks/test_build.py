"""The benchmark of reading, on images too small to time."""

import json
import sys

from benchmarks import build


def test_every_kind_is_read_both_ways_and_alike(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "HEIGHT", 480)
    monkeypatch.setattr(build, "WIDTH", 400)
    monkeypatch.setattr(build, "RESOLUTION", 64)
    report = tmp_path / "speed.json"
    monkeypatch.setattr(sys, "argv", ["bench", "--count=1", "--repeats=1", f"--json={report}"])
    build.main()
    rows = json.loads(report.read_text())["rows"]
    printed = capsys.readouterr().out
    assert len(rows) == 9 and all(row["kind"] in printed for row in rows)
    for row in rows:
        assert row["difference"] < 1, row
        assert row["plain"] > 0 and row["ours"] > 0 and row["megabytes"] > 0
