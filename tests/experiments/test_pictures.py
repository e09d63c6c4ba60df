"""Which images are drawn, from what, where to, and that nothing names them."""

import csv
import json

import numpy as np
import pytest

from configs import benchmark as benchmark_config
from cxr_jax.data import places
from cxr_jax.experiments import _pictures, _transfer_inputs, benchmark, transfer
from cxr_jax.transfer import _folds
from cxr_jax.transfer._protocol import Result
from cxr_jax.transfer.predictions import read_parquet
from cxr_jax.weights.encoder import Encoder


@pytest.fixture
def config(config):
    config.task, config.pictures.draw = "Effusion,Consolidation", True
    return config


def test_extremes_of_the_first_three_scored_labels_are_chosen():
    targets = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 1, 0], [1, 1, 0, 0, 0], [0, 0, np.nan, 0, 0]])
    scores = np.array([[0.1, 0, 3, 9, 0], [0.3, 0, 2, 9, 0], [0.2, 0, 1, 9, 0], [0.9, 0, 5, 9, 0]])
    scored = np.array([True, False, True, True, True])
    chosen = _pictures.choose(targets, scores, scored)
    places = [(one.label, one.row, one.kind) for one in chosen]
    assert places == [
        (0, 2, "the highest score of all images with it"),
        (0, 0, "the lowest score of all images with it"),
        (0, 3, "the highest score of all images without it"),
        (2, 0, "the highest score of all images with it"),
        (2, 1, "the highest score of all images without it"),
        (3, 0, "the highest score of all images with it"),
        (3, 0, "the lowest score of all images with it"),
        (3, 2, "the highest score of all images without it"),
    ]
    named = _pictures.choose(targets, scores, scored, [3, 1, 2, 0])
    assert [(one.label, one.row) for one in named] == [
        *((0, row) for row in (3, 1, 2, 0)),
        *((2, row) for row in (3, 1, 2, 0)),
    ]


def test_in_folds_ranks_are_of_the_own_fold_and_neighbours_of_others(config):
    config.folds, config.task = 3, "Effusion"
    splits = _transfer_inputs.load_whole_splits(config)
    fold = _folds.assign(splits.test, 3, seed=0)
    scores = np.random.default_rng(0).normal(size=(len(fold), 1)) + 10 * fold[:, None]
    lower = _pictures._shares_below(Result(scores, {}, "", {}, "", fold=fold))
    others = (fold == fold[5]) & (np.arange(len(fold)) != 5)
    assert lower[5, 0] == pytest.approx((scores[others, 0] < scores[5, 0]).mean())
    chosen = _pictures.choose(splits.test.targets, lower, np.array([True]))
    found = _pictures._neighbours(splits, lambda _: np.eye(3)[fold], chosen, fold)
    assert {one.cosine for near in found for one in near} == {0.0}


def test_of_a_protocol_that_does_not_learn_no_training_image_is_read(config, tmp_path):
    splits = _transfer_inputs.load_splits(config)
    rng = np.random.default_rng(0)
    features = {"test": rng.normal(size=(len(splits.test.rows), 4)).astype(np.float32)}
    result = Result(rng.normal(size=splits.test.targets.shape), {}, "", {}, "log-odds")
    encoder, read = Encoder("fake", {}, {}, 1), features.__getitem__  # no features of train
    _pictures.draw(config, encoder, splits, result, read, tmp_path, learns=False)
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        *("embedding.png", "projector", "films.csv")
    }


def test_finetuning_leaves_pictures_without_ids_and_bears_damaged_ones(config, tmp_path, capsys):
    config.protocol = "finetune"
    config.finetune.update(
        learning_rates=(1e-3,), batch_size=16, min_steps=2, max_steps=2, evaluations=1
    )
    config.finetune.update(dtype="float32", num_workers=0)
    config.finetune.view.rotate = 0.0
    transfer.run(config, tmp_path)
    folder, said = tmp_path / "pictures", capsys.readouterr().out
    assert f"Pictures of images: {folder}" in said
    assert said.count("for pictures") == 2 and "features of the train images" in said
    splits = _transfer_inputs.load_splits(config)
    assert {path.name for path in folder.iterdir()} == {
        *("saliency.png", "neighbours.png", "embedding.png", "projector", "films.csv")
    }
    report = (tmp_path / "report.md").read_text()
    assert "This page shows images of the test set" in report
    assert "chosen label by label" in report and "named" not in report
    assert "pictures/films.csv says which images these are." in report
    assert report.count("](pictures/") == 3
    (metadata,) = folder.rglob("metadata.tsv")
    header, *rows = metadata.read_text().splitlines()
    assert header.split("\t") == [*splits.test.label_names, "sex", "age", "projection"]
    assert len(rows) == len(splits.test.rows)
    written = report + "".join(
        path.read_bytes().decode("latin1") for path in folder.rglob("*") if path.is_file()
    )
    assert not [name for name in splits.test.image_ids + splits.train.image_ids if name in written]
    assert [name for name in splits.test.hashed_ids()[0] if name in written]  # of films.csv
    before, other = ((folder / f"{name}.png").read_bytes() for name in ("saliency", "neighbours"))
    (folder / "saliency.png").write_bytes(other)
    transfer.run(config, tmp_path)  # finished before
    assert (folder / "saliency.png").read_bytes() == other != before
    assert "](pictures/saliency.png)" in (tmp_path / "report.md").read_text()
    measured = (tmp_path / "metrics.json").read_bytes()
    for name in ("saliency.png", "neighbours.png"):
        (folder / name).write_bytes(b"no picture at all")
    capsys.readouterr()
    transfer.run(config, tmp_path)
    assert "finished before" in capsys.readouterr().out
    assert (tmp_path / "metrics.json").read_bytes() == measured
    assert "](pictures/embedding.png)" in (tmp_path / "report.md").read_text()


def test_named_images_are_drawn_and_unknown_ones_refused_at_once(config, tmp_path):
    test = _transfer_inputs.load_splits(config).test
    wanted = test.hashed_ids()[0][:2]
    config.pictures.images = f"{wanted[0]}, {test.image_ids[1]}"
    for start in (lambda: transfer.run(config, tmp_path), lambda: transfer.check(config)):
        with pytest.raises(ValueError, match="the id given there as number 2") as error:
            start()
        assert test.image_ids[1] not in str(error.value)
    assert not list(tmp_path.iterdir())
    config.pictures.images = ",".join(wanted)
    config.protocol, config.knn.k = "knn", (3,)
    transfer.run(config, tmp_path)
    # Votes of neighbours are no function of the features, so that nothing says where they look.
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        *("neighbours.png", "embedding.png", "projector", "films.csv")
    }
    report = (tmp_path / "report.md").read_text()
    assert "were named (config.pictures.images)" in report and "label by label" not in report
    with (tmp_path / "pictures" / "films.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == [*wanted, *wanted]  # two labels
    assert [row["number"] for row in rows] == ["1", "2", "1", "2"]
    scored = read_parquet(tmp_path / "predictions.parquet")
    for row in rows:
        image, label = (
            list(scored.image_id).index(row["image_id"]),
            scored.label_names.index(row["label"]),
        )
        assert float(row["score"]) == scored.scores[image, label]
        assert float(row["target"]) == scored.targets[image, label]


def test_boxes_of_a_label_stand_on_its_image(config, data_dir):
    splits = _transfer_inputs.load_splits(config)
    names = splits.test.label_names
    every = [(row, label) for label in range(len(names)) for row in range(len(splits.test.rows))]
    found = places.load_boxes(splits.test, every)
    has_box = np.array([len(boxes) > 0 for boxes in found]).reshape(len(names), -1)
    np.testing.assert_array_equal(has_box, splits.test.targets.T == 1)
    corners = np.concatenate(found)
    assert (corners[:, 2:] > corners[:, :2]).all() and corners.max() < 1.2


def test_a_benchmark_draws_its_largest_fraction_and_first_seed_alone(data_dir, tmp_path):
    config = benchmark_config.get_config()
    config.datasets, config.data.dir = "phantom/tiny:Effusion", str(data_dir)
    config.protocols, config.fractions, config.seeds = "knn", (1.0, 0.5), (3, 0)
    config.transfer.num_resamples, config.transfer.image_size = 50, 32
    config.transfer.model.variant, config.transfer.knn.k = "small", (3,)
    benchmark.run(config, tmp_path)
    cells = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert len(cells) == 3
    drawn = [c for c in cells if (tmp_path / c["folder"] / "pictures").exists()]
    assert [(c["fraction"], c["seed"]) for c in drawn] == [(1.0, 3)]
    page = (tmp_path / "benchmark.md").read_text()
    assert "## Images\n\nThis page shows images of the test set" in page
    assert (tmp_path / drawn[0]["folder"] / "pictures" / "films.csv").is_file()
    assert "films.csv" not in page + (tmp_path / "report.html").read_text()
    assert f"({drawn[0]['folder']}/pictures/neighbours.png)" in page


def test_too_many_images_to_draw_are_thinned_and_the_chosen_ones_stay(monkeypatch):
    monkeypatch.setattr(_pictures, "_MAX_POINTS", 20)
    rows = _pictures._some(1000, [999, 5, 5], 0)
    assert len(rows) == 20 and {5, 999} <= set(rows.tolist())
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, _pictures._some(1000, [999, 5, 5], 0))
    np.testing.assert_array_equal(_pictures._some(7, [2], 0), np.arange(7))
