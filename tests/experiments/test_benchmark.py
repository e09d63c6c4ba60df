"""The grid of transfers: its cells, what a failed one costs, what a second start does."""

import json

import numpy as np
import pytest

from configs import benchmark as config_file
from cxr_jax.evaluate.predictions import read_parquet
from cxr_jax.experiments import benchmark, pretrain


@pytest.fixture
def config(data_dir):
    config = config_file.get_config()
    config.datasets, config.data.dir = "phantom/tiny", str(data_dir)
    config.fractions, config.seeds = (0.5, 1.0), (0, 1)
    config.transfer.num_resamples, config.transfer.image_size = 50, 32
    config.transfer.model.variant = "small"
    return config


def test_the_grid_holds_every_cell_once(config):
    config.encoders, config.protocols = "random,simclr=runs/a", "linear,finetune"
    config.datasets = "phantom/tiny,nih_chestxray14:any_finding"
    cells = benchmark.grid(config)
    assert len({cell.folder for cell in cells}) == len(cells)
    linear = [cell for cell in cells if cell.protocol == "linear"]
    # A probe of all labels does not depend on the seed; a fine-tuning does.
    assert len(linear) == 2 * 2 * 3 and len(cells) - len(linear) == 2 * 2 * 4
    assert {cell.task for cell in cells if cell.dataset == "nih_chestxray14"} == {"any_finding"}
    assert {cell.spec for cell in cells} == {"random", "runs/a"}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("datasets", "", r"config.datasets is empty"),
        ("datasets", "a,a", r"names a twice"),
        ("encoders", "runs/a", r"'runs/a': write NAME=SPEC"),
        ("encoders", "a b=runs/a", r"'a b': a name has letters"),
        ("reference", "imagenet", r"reference='imagenet' is none of the encoders random"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(config, field, value, message):
    config[field] = value
    with pytest.raises(ValueError, match=message):
        benchmark.grid(config)


def test_a_failed_cell_stops_nothing_and_is_tried_again(config, tiny_config, tmp_path, capsys):
    pretrain.train(tiny_config("simclr"), tmp_path / "simclr", stop_after=2)
    config.encoders = f"random,simclr={tmp_path / 'simclr'},late={tmp_path / 'late'}"
    workdir = tmp_path / "grid"
    config.dry_run = True
    benchmark.run(config, workdir)
    assert "9 cells:" in capsys.readouterr().out and not workdir.exists()

    config.dry_run = False
    benchmark.run(config, workdir)
    said = capsys.readouterr().out
    assert said.count("FAILED") == 3 and "6 of 9 cells are done" in said
    cells = json.loads((workdir / "cells.json").read_text())["cells"]
    states = {(c["encoder"], c["fraction"], c["seed"]): c["state"] for c in cells}
    assert {key for key, state in states.items() if state == "failed"} == {
        ("late", 0.5, 0),
        ("late", 0.5, 1),
        ("late", 1.0, 0),
    }
    assert all("late" in c["error"] for c in cells if c["state"] == "failed")
    text = (workdir / "benchmark.md").read_text()
    assert "late" in text and (workdir / "report.html").stat().st_size > 10_000
    done = {
        c["folder"]: (workdir / c["folder"] / "probe.json").stat().st_mtime_ns
        for c in cells
        if c["state"] == "done"
    }

    pretrain.train(tiny_config("simclr"), tmp_path / "late", stop_after=2)
    benchmark.run(config, workdir)
    said = capsys.readouterr().out
    assert "9 of 9 cells are done" in said and said.count("done before") == 6
    for folder, before in done.items():
        assert (workdir / folder / "probe.json").stat().st_mtime_ns == before
    # Equal encoders under two names: equal scores, and the films were read once for all fractions.
    scores = [
        read_parquet(workdir / "cells/phantom-tiny/linear/0.5/1" / name / "predictions.parquet")
        for name in ("simclr", "late")
    ]
    np.testing.assert_array_equal(scores[0].scores, scores[1].scores)
    # Three splits of three encoders: the trained one, and random from either seed.
    assert len(list((workdir / "features").glob("*.npy"))) == 9


def test_all_cells_failing_is_an_error(config, tmp_path):
    config.encoders, config.reference = f"a={tmp_path / 'nowhere'}", "a"
    with pytest.raises(ValueError, match="all 3 cells failed; the first"):
        benchmark.run(config, tmp_path / "grid")
