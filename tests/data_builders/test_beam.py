"""Builds through Apache Beam's local runner; skipped where Beam is not installed."""

import json

import pytest

from data_builders import build
from data_builders.base.records import BuildError
from tests.fakes import nih_chestxray14
from tests.fakes.dataset import build_and_read


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if "dataset_info" not in p.name}


def test_beam_writes_what_one_machine_writes(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    # Eight images a shard, so that there are shards to share out.
    monkeypatch.setattr("data_builders.base.write.SHARD_BYTES", 8 * 0.5 * 256**2)
    raw = tmp_path / "raw"
    raw.mkdir()
    nih_chestxray14.write(raw)
    here, splits = build_and_read("nih_chestxray14", tmp_path / "here", manual_dir=raw)
    there, _ = build_and_read(
        "nih_chestxray14",
        tmp_path / "there",
        manual_dir=raw,
        beam_runner="DirectRunner",
        beam_options="--direct_num_workers=2 --direct_running_mode=multi_processing",
    )
    assert files(there) == files(here)
    assert len([name for name in files(here) if "train.array_record" in name]) > 3
    assert json.loads((there / "metadata.json").read_text())["skipped"] == 3
    assert sum(map(len, splits.values())) == 58


def test_a_runner_that_beam_does_not_know(tmp_path):
    pytest.importorskip("apache_beam")
    with pytest.raises(BuildError, match="--beam_runner=NoRunner"):
        build.build("phantom", tmp_path, config_name="tiny", beam_runner="NoRunner")


def test_without_beam_the_error_names_the_extra(tmp_path):
    try:
        import apache_beam  # noqa: F401
    except ImportError:
        with pytest.raises(BuildError, match=r"needs Apache Beam: pip install -e '.\[beam\]'"):
            build.build("phantom", tmp_path, config_name="tiny", beam_runner="DirectRunner")
    else:
        pytest.skip("Apache Beam is installed")
