"""What a workdir says of where its results come from."""

import json

import ml_collections
import numpy as np
import pytest

from cxr_jax.data.splits import load_split
from cxr_jax.experiments import _workdir
from cxr_jax.report import tables

CONFIG = ml_collections.ConfigDict({"experiment": "pretrain", "seed": 3, "data": {"name": "a"}})
MARKS = {"a train": "0123456789abcdef"}


def test_a_start_under_other_conditions_is_added_and_said(tmp_path, capsys):
    _workdir.write_provenance(tmp_path, CONFIG, MARKS)
    _workdir.write_provenance(tmp_path, CONFIG, MARKS)
    held = _workdir.read_provenance(tmp_path)
    assert capsys.readouterr().out == "" and len(held["starts"]) == 1
    start = held["starts"][0]
    assert held["config"] == CONFIG.to_dict() and start["seed"] == 3
    assert {"jax", "numpy", "python"} <= start["packages"].keys()
    assert len(start["code"]["sources"]) == 16 and start["dataset"] == MARKS
    assert (
        tables.provenance_rows(tmp_path)["fingerprints of the images"] == "a train 0123456789abcdef"
    )
    start["packages"]["jax"], start["code"]["commit"] = "0.1", "f" * 40
    (tmp_path / _workdir.PROVENANCE).write_text(json.dumps(held))
    _workdir.write_provenance(tmp_path, CONFIG, MARKS)
    said = capsys.readouterr().out
    assert "was begun under other conditions" in said and "packages.jax: was 0.1, now " in said
    starts = _workdir.read_provenance(tmp_path)["starts"]
    assert starts[0] == start and len(starts) == 2 and starts[1]["packages"]["jax"] != "0.1"
    assert tables.provenance_rows(tmp_path)["starts"].startswith("2 that differ")


def test_no_host_and_no_user_is_named(tmp_path, monkeypatch):
    import getpass
    import socket

    _workdir.write_provenance(tmp_path, CONFIG, MARKS)
    text = (tmp_path / _workdir.PROVENANCE).read_text()
    for name in (socket.gethostname(), getpass.getuser()):
        assert f'"{name}' not in text and f'{name}"' not in text and f"/{name}/" not in text


def test_images_are_marked_by_what_they_are_and_not_by_ids(data_dir):
    test = load_split("phantom/tiny", str(data_dir), "test")

    def mark(**changes):
        of = test._replace(**changes)
        return _workdir.fingerprint_images(of.source, of.rows, of.targets, of.patient_ids)

    renamed = tuple(f"x{one}" for one in test.patient_ids)
    assert mark() == mark(patient_ids=renamed)
    joined = (test.patient_ids[0], test.patient_ids[0], *test.patient_ids[2:])
    flipped = test.targets.copy()
    flipped[0, 0] = 1 - flipped[0, 0]
    backwards = test.take(np.arange(len(test.rows))[::-1])
    marks = [mark(), mark(patient_ids=joined), mark(targets=flipped), mark(rows=test.rows[::-1])]
    marks.append(_workdir.fingerprint_images(backwards.source, backwards.rows, backwards.targets))
    assert len(set(marks)) == 5 and all(len(one) == 16 for one in marks)


def test_missing_and_damaged_files_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"provenance.json is missing"):
        _workdir.read_provenance(tmp_path)
    (tmp_path / _workdir.PROVENANCE).write_text("{")
    with pytest.raises(ValueError, match=r"provenance.json is damaged"):
        _workdir.read_provenance(tmp_path)
