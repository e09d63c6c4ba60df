"""The grid of transfers: its cells, what a failed one costs, what a second start does."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest

from configs import benchmark as config_file
from cxr_jax import models
from cxr_jax.experiments import _benchmark_grid, _workdir, benchmark, pretrain, transfer
from cxr_jax.transfer.predictions import read_parquet
from cxr_jax.weights import export
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.exporters import safetensors


@pytest.fixture
def config(data_dir):
    config = config_file.get_config()
    config.datasets, config.data.dir = "phantom/tiny", str(data_dir)
    config.fractions, config.seeds = (0.5, 1.0), (0, 1)
    config.transfer.num_resamples, config.transfer.image_size = 50, 32
    config.transfer.model.variant = "small"
    config.transfer.pictures.draw = False
    return config


def test_the_grid_holds_every_cell_once(config):
    config.encoders, config.protocols = "random,simclr=runs/a", "linear,finetune"
    config.datasets = "phantom/tiny,nih_chestxray14:any_finding"
    cells = _benchmark_grid.grid(config)
    assert len({cell.folder for cell in cells}) == len(cells)
    linear = [cell for cell in cells if cell.protocol == "linear"]
    # A probe of all labels does not depend on the seed; a fine-tuning does.
    assert len(linear) == 2 * 2 * 3 and len(cells) - len(linear) == 2 * 2 * 4
    assert {cell.task for cell in cells if cell.dataset == "nih_chestxray14"} == {"any_finding"}
    assert {cell.spec for cell in cells} == {"random", "runs/a"}


def test_a_dataset_may_have_fields_of_its_own(config):
    config.transfer.task, config.fractions = "Edema", (1.0,)
    config.datasets = "a,a:Mass@folds=5@projections=PA+AP,b@exclusive=True@missing_as=zeros"
    cells = _benchmark_grid.grid(config)
    assert len({cell.folder for cell in cells}) == len(cells) == 3
    fields = ("dataset", "task", "folds", "exclusive", "missing_as")
    own = [_benchmark_grid.transfer_config(config, cell) for cell in cells]
    assert [[one[field] for field in fields] for one in own] == [
        ["a", "Edema", 0, False, ""],
        ["a", "Mass", 5, False, ""],
        ["b", "Edema", 0, True, "zeros"],
    ]
    assert config.transfer.folds == 0 and own[1].projections == "PA,AP"


def test_a_grown_grid_leaves_its_cells_what_no_score_depends_on(config, tmp_path):
    config.encoders, config.fractions, config.seeds = "random,a=torchvision:w.pth", (0.5,), (0,)
    config.transfer.pictures.draw = True
    shape = {"model": {"name": "resnet", "variant": "small"}, "image_size": 32}
    held = {}
    for cell in _benchmark_grid.grid(config):
        held[cell] = benchmark._config_of(config, cell, shape, tmp_path)
        _workdir.open_workdir(tmp_path / cell.folder, held[cell])
    config.encoders, config.fractions = f"{config.encoders},b=runs/b", (0.5, 1.0)
    shape = {"model": {"name": "vit", "variant": "64x1", "patch": 8}, "image_size": 64}
    for cell, before in held.items():
        after = benchmark._config_of(config, cell, shape, tmp_path)
        assert after.pictures == before.pictures
        assert (after == before) == (cell.encoder == "a")  # random weights take the other shape


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("datasets", "", r"config.datasets is empty"),
        ("datasets", "a,a", r"names a twice"),
        ("datasets", "a@seed=1", r"a: @seed=1: a dataset's own fields are folds, folds_of"),
        ("datasets", "a@folds=5@folds=3", r"a: @ names folds twice"),
        ("datasets", "a:b@folds=many", r"a: @folds=many: config.folds is a int"),
        ("datasets", "a,b@folds=2", r"^b: config.folds=2: give 3"),
        ("datasets", "a@projections=PA,AP", r"are written a@projections=PA\+AP"),
        ("encoders", "runs/a", r"'runs/a': write NAME=SPEC"),
        ("encoders", "a b=runs/a", r"'a b': a name has letters"),
        ("encoders", "a=random,a=runs/a", r"names a twice"),
        ("encoders", "..=runs/a", r"'..': a name has letters"),
        ("fractions", (1.0, 1.0), r"config.fractions names 1 twice"),
        ("fractions", (0.5, 2.0), r"config.fractions has 2.0"),
        ("seeds", (0, 0), r"config.seeds names 0 twice"),
        ("protocols", "linar", r"no protocol 'linar'.* did you mean 'linear'"),
        ("transfer.pictures.images", "p1", r"names images of one dataset"),
        ("transfer.export_features", "a.npz", r"is one file, which every cell would write over"),
        ("reference", "imagenet", r"reference='imagenet' is none of the encoders random"),
        ("encoders", "random,mine=a+b", r"config.encoders: mine: 'a' is not the workdir"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(config, field, value, message):
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        _benchmark_grid.grid(config)


def test_a_failed_cell_stops_nothing_and_is_tried_again(
    config, tiny_config, begun, tmp_path, capsys
):
    shutil.copytree(begun, tmp_path / "simclr")
    config.encoders = f"random,simclr={tmp_path / 'simclr'},late={tmp_path / 'late'}"
    workdir = tmp_path / "grid"
    config.dry_run, config.fractions = True, (0.5,)
    benchmark.run(config, workdir)
    said = capsys.readouterr().out
    assert "6 cells (" in said and not workdir.exists()
    assert said.count("WOULD FAIL: late:") == 1 and "fix these" in said

    config.dry_run = False
    benchmark.run(config, workdir)
    said = capsys.readouterr().out
    assert said.count("FAILED") == 2 and "4 of 6 cells are done" in said
    cells = json.loads((workdir / "cells.json").read_text())["cells"]
    states = {(c["encoder"], c["fraction"], c["seed"]): c["state"] for c in cells}
    assert {key for key, state in states.items() if state == "failed"} == {
        ("late", 0.5, 0),
        ("late", 0.5, 1),
    }
    assert all("late" in c["error"] for c in cells if c["state"] == "failed")
    (line,) = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    assert line["step"] == 4 and 0 < line["phantom-tiny/linear/0.5/0/random/macro_auroc"] < 1
    text = (workdir / "benchmark.md").read_text()
    assert "late" in text and (workdir / "report.html").stat().st_size > 10_000
    done = {
        c["folder"]: (workdir / c["folder"] / "probe.json").stat().st_mtime_ns
        for c in cells
        if c["state"] == "done"
    }

    shutil.copytree(begun, tmp_path / "late")
    config.fractions = (0.5, 1.0)  # a grid may grow, and move
    before_it_moved, workdir = workdir, shutil.copytree(workdir, tmp_path / "moved")
    shutil.rmtree(before_it_moved)
    benchmark.run(config, workdir)
    said = capsys.readouterr().out
    assert "9 of 9 cells are done" in said and said.count("done before") == 4
    for folder, before in done.items():
        assert (workdir / folder / "probe.json").stat().st_mtime_ns == before
    # Equal encoders under two names: equal scores, and the images were read once for all fractions.
    scores = [
        read_parquet(workdir / "cells/phantom-tiny/linear/0.5/1" / name / "predictions.parquet")
        for name in ("simclr", "late")
    ]
    np.testing.assert_array_equal(scores[0].scores, scores[1].scores)
    # Three splits of three encoders: the trained one, and random from either seed.
    assert len(list((workdir / "features").glob("*.npy"))) == 9

    # Another encoder in the same place, a cell that was killed before its end, and one whose
    # predictions are damaged: all run anew.
    shutil.rmtree(tmp_path / "late")
    other = tiny_config("simclr")
    other.seed = 5
    pretrain.train(other, tmp_path / "late", stop_after=2)
    (workdir / "cells/phantom-tiny/linear/0.5/1/random/seconds.json").unlink()
    damaged = workdir / "cells/phantom-tiny/linear/0.5/0/random/predictions.parquet"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:500])
    benchmark.run(config, workdir)
    assert capsys.readouterr().out.count("done before") == 4
    assert damaged.read_bytes() == whole
    late = workdir / "cells/phantom-tiny/linear/0.5/1/late/predictions.parquet"
    assert not np.array_equal(read_parquet(late).scores, scores[1].scores)

    # Both as pretrainings of one recipe, in a grid that had one of them: one encoder, by its mean.
    config.encoders = f"mine={tmp_path / 'simclr'}"
    config.reference, config.fractions = "mine", (1.0,)
    both = tmp_path / "both"
    benchmark.run(config, both)
    config.encoders = f"mine={tmp_path / 'late'}+{tmp_path / 'simclr'}"
    benchmark.run(config, both)
    assert f"config.encoder was {tmp_path / 'simclr'}, is" in capsys.readouterr().out
    (aside,) = both.rglob("mine~1/predictions.parquet")
    cells = json.loads((both / "cells.json").read_text())["cells"]
    assert [Path(cell["folder"]).name for cell in cells] == ["mine", "mine+1"]
    again = read_parquet(both / cells[1]["folder"] / "predictions.parquet")
    np.testing.assert_array_equal(read_parquet(aside).scores, again.scores)
    assert [cell["spec"] for cell in cells] == [str(tmp_path / n) for n in ("late", "simclr")]
    held = [json.loads((both / cell["folder"] / "config.json").read_text()) for cell in cells]
    assert [one["encoder"] for one in held] == [cell["spec"] for cell in cells]
    assert "Of mine (2) several pretrainings" in (both / "benchmark.md").read_text()

    # The same place in other words is the same encoder; one that is not there replaces nothing.
    config.encoders = f"mine={tmp_path / 'late'}+{tmp_path / 'simclr' / '..' / 'simclr'}"
    benchmark.run(config, both)
    assert capsys.readouterr().out.count("done before") == 2
    config.encoders = f"mine={tmp_path / 'lost'}"
    with pytest.raises(ValueError, match="all 1 cells failed"):
        benchmark.run(config, both)
    assert (both / cells[0]["folder"] / "predictions.parquet").exists()


def test_a_dry_run_says_what_a_protocol_cannot_measure(config, tmp_path, capsys):
    config.encoders = config.reference = "random"
    config.protocols, config.datasets = "zero_shot,segmentation", "phantom/tiny@folds=3"
    config.dry_run = True
    benchmark.run(config, tmp_path / "grid")
    said = capsys.readouterr().out
    assert "WOULD FAIL: random: config.protocol=zero_shot needs a text tower" in said
    assert "WOULD FAIL: phantom/tiny: config.folds=3: protocol segmentation" in said


def test_all_cells_failing_is_an_error(config, tmp_path, capsys):
    config.encoders, config.reference = f"a={tmp_path / 'nowhere'}", "a"
    config.datasets = f"{config.datasets},pool"
    with pytest.raises(ValueError, match="all 6 cells failed; the first"):
        benchmark.run(config, tmp_path / "grid")
    before, _, _ = capsys.readouterr().out.partition("[1 of 6]")
    assert f"WARNING: no workdir or weights file {tmp_path / 'nowhere'}; its cells" in before
    assert "WARNING: dataset 'pool' is not built" in before and "dataset 'phantom" not in before


def test_cells_that_run_together_are_those_of_single_transfers(config, begun, tmp_path):
    config.encoders, config.reference = f"simclr={begun}", "simclr"
    config.transfer.pictures.draw = False
    benchmark.run(config, tmp_path / "grid")
    for cell in _benchmark_grid.grid(config):
        folder = tmp_path / "grid" / cell.folder
        alone = tmp_path / "alone" / cell.folder
        saved = json.loads((folder / "config.json").read_text())
        transfer.run(ml_collections.ConfigDict(saved), alone, page=False)
        written, expected = (
            {
                path.relative_to(each)
                for path in each.rglob("*")
                if path.is_file() and "tfevents" not in path.name  # named after the time
            }
            for each in (folder, alone)
        )
        assert written == expected | {Path("seconds.json")}
        for name in ("config.json", "comparisons.json", "films.parquet"):
            assert (folder / name).read_bytes() == (alone / name).read_bytes()
        both = [json.loads((each / "probe.json").read_text()) for each in (folder, alone)]
        assert both[0] == both[1]  # the fingerprint too
        one, other = (read_parquet(each / "predictions.parquet") for each in (folder, alone))
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-4)
        assert one.score_kind == other.score_kind and (one.image_id == other.image_id).all()


def test_an_encoder_that_is_trained_on_meanwhile_stays_what_it_was(config, tmp_path):
    folder, held, made_of = tmp_path / "own", benchmark._Held(), set()
    config.encoders, config.reference, config.seeds = f"own={folder}", "own", (0,)
    shape = {"model": {"name": "vit", "variant": "64x1", "patch": 16}, "image_size": 32}
    init = partial(models.build(shape["model"]).init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), np.zeros((1, 32, 32, 1)))
    for number, cell in enumerate(_benchmark_grid.grid(config)):
        trained = jax.tree.map(lambda leaf, n=number: np.full(leaf.shape, n, np.float32), shapes)
        shutil.rmtree(folder, ignore_errors=True)
        encoder = Encoder("own", shape["model"], {"batch_stats": {}} | trained, 32)
        export.write_folder(folder, safetensors.export(encoder), "")
        of_cell = benchmark._config_of(config, cell, shape, tmp_path)
        (tmp_path / cell.folder / "probe.json").mkdir(parents=True)  # in the way: nothing is fitted
        benchmark._run_cell(of_cell, cell, tmp_path, held)
        (start,) = _workdir.read_provenance(tmp_path / cell.folder)["starts"]
        made_of |= set(start["encoders"].items())
    assert len(made_of) == 1


def test_cells_in_folds_read_images_once_and_say_so(config, tmp_path):
    config.transfer.folds, config.transfer.task, config.seeds = 3, "Effusion", (0,)
    config.transfer.folds_of = "train+validation"
    benchmark.run(config, tmp_path)
    # Of two fractions with three folds each: of either split once.
    features = [np.load(path) for path in (tmp_path / "features").glob("*.npy")]
    assert len(features) == 2
    page = (tmp_path / "benchmark.md").read_text()
    said = "3 folds of the train and validation images: no test image was read."
    assert f"Cross-validated, {said}" in page
    assert f"{sum(map(len, features)):,} images of" in page and "1.67 times the variance" in page
    table = (tmp_path / "tables/linear.tex").read_text()
    assert f"Cross-validated, {said}" in table
    half, whole = csv.DictReader((tmp_path / "tables/scores.csv").open())
    assert half["folds"] == whole["folds"] == "3" and half != whole


def test_a_group_that_fails_is_run_cell_by_cell(config, tmp_path, capsys):
    config.fractions, config.seeds = (0.25, 0.5, 1.0), (0,)
    blocked = tmp_path / "cells/phantom-tiny/linear/0.5/0/random"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where the cell's folder should be")
    benchmark.run(config, tmp_path)
    said = capsys.readouterr().out
    assert said.count("not together: ") == 1
    cells = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert [cell["state"] for cell in cells] == ["done", "failed", "done"]
    assert "is a file" in cells[1]["error"]
