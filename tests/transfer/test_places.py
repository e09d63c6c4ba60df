"""Segmentation and localisation: numbers against plain NumPy, what they learn, their pages."""

import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from cxr_jax.data import places
from cxr_jax.data.images import decode_square
from cxr_jax.data.source import load_source
from cxr_jax.data.splits import load_split
from cxr_jax.experiments import _transfer_inputs, transfer
from cxr_jax.io import image_io
from cxr_jax.report.benchmark import page as benchmark
from cxr_jax.stats.clusters import cluster_counts, cluster_index
from cxr_jax.stats.label_mean import resampled_mean
from cxr_jax.transfer import _heads, localisation, segmentation
from cxr_jax.transfer._protocol import Maps, Splits, Tools, build
from cxr_jax.transfer.metrics import compare, metric_rows
from cxr_jax.transfer.predictions import Predictions, read_parquet, write_parquet
from cxr_jax.weights.encoder import Encoder
from tests.fakes import benchmark as fake
from tests.fakes.bars import bars


def config(protocol, **changes):
    made = common.transfer()
    made.protocol = protocol
    made.dense.update(dict(min_steps=60, max_steps=60, evaluations=3) | changes)
    return made


def test_dice_and_iou_are_those_of_counted_pixels():
    rng = np.random.default_rng(0)
    found, truth = rng.random((2, 12, 9, 9, 1)) < 0.4
    truth[3] = False
    ours = segmentation.dice(found, truth)[:, 0]
    dices, ious = [], []
    for a, b in zip(found[..., 0], truth[..., 0]):
        both = sum(p and q for p, q in zip(a.ravel(), b.ravel()))
        either = sum(p or q for p, q in zip(a.ravel(), b.ravel()))
        dices.append(2 * both / (both + either))
        ious.append(both / either)
    np.testing.assert_allclose(ours, dices)
    counts = truth.any((1, 2, 3))
    targets = np.where(counts, 1, np.nan)[:, None]
    people = np.array([f"p{i // 2}" for i in range(12)])
    held = Predictions(np.arange(12), people, ("Mass",), targets, ours[:, None], "dice")
    row, macro = metric_rows(held, 50)
    assert (row["n_pos"], row["n_neg"], row["measure"]) == (11, 0, "Dice") and "auroc" not in row
    assert row["mean"] == pytest.approx(np.mean(np.array(dices)[counts])) == macro["mean"]
    assert row["iou"] == pytest.approx(np.mean(np.array(ious)[counts]))
    assert row["iou_low"] < row["iou"] < row["iou_high"] and row["low"] < row["mean"] < row["high"]
    few = held._replace(targets=np.where(np.arange(12)[:, None] < 8, 1, np.nan))
    assert metric_rows(few, 50)[0]["note"].startswith("not estimable: images that count of 4 pat")


def test_resampled_means_are_of_images_repeated_as_often_as_their_patient_is_drawn():
    rng = np.random.default_rng(1)
    targets = rng.choice([1, 0, np.nan], (30, 2))
    scores, people = rng.random((30, 2)), rng.integers(0, 9, 30)
    ours = resampled_mean(targets, scores, people, num_resamples=20, seed=3)
    index, count = cluster_index(people, 30)
    drawn = np.random.default_rng(3)
    for row in ours[:16]:  # drawn sixteen at a time
        counts = cluster_counts(count, 1, drawn)[:, 0].astype(int)
        rows = np.repeat(np.arange(30), counts[index])
        for k in range(2):
            own = rows[targets[rows, k] == 1]
            assert row[k] == pytest.approx(scores[own, k].mean())


def test_differences_are_paired_and_judged():
    rng = np.random.default_rng(2)
    images, scores = np.arange(60), rng.uniform(0.2, 0.6, (60, 1))
    targets = np.ones((60, 1))
    a, b = (
        Predictions(images, images, ("Lungs",), targets, one, "dice")
        for one in (scores + 0.1, scores + rng.normal(scale=0.01, size=(60, 1)))
    )
    found = compare(a, b, ("ours", "theirs"), 200)
    assert found["verdict"] == "win" and found["measure"] == "Dice"
    assert found["mean_a"] - found["mean_b"] == pytest.approx(found["difference"])
    assert found["high"] - found["low"] < 0.01 and found["delong_p"] is None
    with pytest.raises(ValueError, match="of different kinds"):
        compare(a, b._replace(score_kind="pointing"))


@pytest.mark.parametrize("head", ["linear", "convolutional"])
def test_a_head_learns_to_mark_what_maps_show(head):
    """One channel, amid noise, says how much of a place is within a disc."""
    rng = np.random.default_rng(3)
    centres, (y, x) = rng.uniform(8, 24, (90, 2, 1, 1)), np.mgrid[:32, :32]
    truth = (y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2 < 49
    maps = rng.normal(scale=0.3, size=(90, 8, 8, 6))
    maps[..., 2] += 5 * truth.reshape(90, 8, 4, 8, 4).mean((2, 4))
    parts = [slice(0, 60), slice(60, 75), slice(75, 90)]
    held = [Maps(maps[part].astype(np.float16), np.arange(len(maps[part]))) for part in parts]
    masked = [
        places.Masked(
            ("Disc",),
            np.ones((len(truth[part]), 1), bool),
            255 * truth[part][..., None].astype(np.uint8),
            np.full((len(truth[part]), 2), 32),
        )
        for part in parts
    ]
    made = config("segmentation", head=head, hidden=8, batch_size=16)
    made.dense.update(learning_rates=(0.03, 0.1), weight_decays=(0.01,))
    tools = Tools(None, lambda line: None, lambda step, values: None)
    measured = _heads.standard(held[0])
    best, _ = segmentation._fit(
        *(made, lambda p, m: segmentation._logits(p, m, 32), measured),
        *(dict(zip(("train", "validation", "test"), held)), tuple(masked[:2])),
        *(np.array([0]), np.arange(60), tools),
    )
    heads = [{name: jnp.asarray(part) for name, part in best[0].params.items()}]
    marked = segmentation._mark(heads, measured, held[2], masked[2].sizes, "crop", 32)
    assert segmentation.dice(marked, truth[parts[2]][..., None]).mean() > 0.85


def test_a_convolution_is_that_of_nine_products():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, 4, 5, 3)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 2)).astype(np.float32)
    wanted, padded = np.zeros((2, 4, 5, 2)), np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(4):
        for j in range(5):
            wanted[:, i, j] = np.einsum("bhwc,hwcd->bd", padded[:, i : i + 3, j : j + 3], kernel)
    ours = segmentation._convolve(jnp.asarray(x), jnp.asarray(kernel.reshape(27, 2)))
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_encoders_of_every_square_are_compared_on_the_images_centre(fit):
    """A mask, read as the encoder reads images, comes back to where it is on the central square."""
    mask = np.zeros((40, 64), np.uint8)
    mask[8:24, 20:36] = 255
    png = image_io.encode(mask[..., None], "png")
    seen = decode_square(png, 64, fit)[..., 0] / 255.0
    box = places.central(40, 64, fit)
    back = segmentation.enlarged(seen.astype(np.float32), 40, box) >= 0.5
    wanted = decode_square(png, 40, "crop")[..., 0] >= 128
    assert (back != wanted).mean() < 0.03 and wanted.sum() == 256


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_boxes_count_on_the_images_centre_whatever_the_square(fit, monkeypatch):
    """Of a wide image: one box outside the central square, one half in it, one within."""
    boxes = np.array([[0.2, 0, 0.4, 0.2], [0.2, 0.2, 0.4, 0.3], [0.5, 0.5, 0.6, 0.6]])
    monkeypatch.setattr(places, "_stored_boxes", lambda *_: [(boxes, (100, 200))])
    split = bars((4, 4, 4)).test
    split = split._replace(source=split.source.changed(fit=fit))
    ((found, square),) = places.load_central_boxes(split, [(0, 0)])
    np.testing.assert_allclose(found, [[0.2, 0, 0.4, 0.1], [0.5, 0.5, 0.6, 0.7]], atol=1e-9)
    assert square == places.central(100, 200, fit)


def test_boxes_of_maps_by_hand():
    grid = np.zeros((8, 8), np.float32)
    grid[1:3, 4:7], grid[6, 1] = 1.0, 0.9  # the larger part is not where a small one is as high
    found = localisation.map_box(grid, 0.5)
    np.testing.assert_allclose(found, [1 / 8, 4 / 8, 3 / 8, 7 / 8], atol=0.04)
    box = np.array([[0.125, 0.5, 0.375, 0.875], [0.7, 0.1, 0.9, 0.2]])
    assert localisation.best_iou(grid, box, 0.5) > 0.8
    assert localisation.best_iou(-grid, box, 0.5) == 0
    assert localisation.points(grid, box) == 1 and localisation.points(grid, box[1:]) == 0
    a, b = (0.1, 0.2, 0.5, 0.6), (0.3, 0.3, 0.7, 0.7)
    y, x = (np.mgrid[:1000, :1000] + 0.5) / 1000
    inside = [(y > y0) & (y < y1) & (x > x0) & (x < x1) for y0, x0, y1, x1 in (a, b)]
    counted = (inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()
    assert localisation.iou(a, b) == pytest.approx(counted, abs=1e-3)


def small(protocol, data_dir, **changes):
    made = config(protocol, min_steps=6, max_steps=6, evaluations=2, side=48, **changes)
    made.dataset, made.data.dir = "phantom/tiny", str(data_dir)
    made.num_resamples, made.image_size, made.baselines = 40, 32, ""
    made.model.variant = "small"
    return made


def test_a_transfer_of_masks(data_dir, tmp_path):
    transfer.run(small("segmentation", data_dir), tmp_path / "run")
    found = read_parquet(tmp_path / "run/predictions.parquet")
    assert found.score_kind == "dice" and found.label_names[0] == "Lungs"
    assert (found.targets[:, 0] == 1).all() and ((found.targets[:, 1:] == 0).any(axis=0)).all()
    page = (tmp_path / "run/report.md").read_text()
    assert "Macro Dice of random" in page and "IoU (intersection over union)" in page
    assert "something was marked on: " in page and "ROC" not in page and "AUROC" not in page
    assert (tmp_path / "run/pictures/masks.png").stat().st_size > 20_000
    with pytest.raises(ValueError, match=r"config\.folds=5: protocol segmentation"):
        made = config("segmentation")
        made.folds = 5
        build(made)


def test_a_transfer_of_boxes(data_dir, tmp_path):
    transfer.run(small("localisation", data_dir), tmp_path / "run")
    found = read_parquet(tmp_path / "run/predictions.parquet")
    assert found.score_kind == "pointing" and set(np.unique(found.scores)) <= {0, 1}
    page = (tmp_path / "run/report.md").read_text()
    assert "Macro pointing game of random" in page and "Box IoU, not compared here: " in page
    assert (tmp_path / "run/pictures/places.png").stat().st_size > 20_000


def test_masks_are_those_of_the_build_whose_images_were_opened(data_dir, tmp_path):
    built = load_source("phantom/tiny", str(data_dir), "test").folder
    own = shutil.copytree(built, tmp_path / "phantom/tiny" / built.name)
    split = load_split("phantom/tiny", str(tmp_path), "test")
    (own.parent / "9.0.0").mkdir()
    (own.parent / "9.0.0/dataset_info.json").write_text("{}")  # built meanwhile
    assert places.load_masks(split, 16, "crop").known.any()


@pytest.mark.parametrize("protocol", ["segmentation", "localisation"])
def test_other_masks_and_boxes_are_another_result(protocol, data_dir, monkeypatch):
    made, encoder = small(protocol, data_dir), Encoder("random", {}, {}, 32)

    def fingerprints():
        splits = _transfer_inputs.load_splits(made)
        whole = _transfer_inputs.fingerprint_splits(made, splits)
        return _transfer_inputs.fingerprint(made, encoder, splits), whole["phantom/tiny test"]

    def other(split, field):
        """Halves boxes, and swaps the Lungs of two images."""
        found = [record for _, record in records(split, field)]
        if field == "boxes":
            for record in found:
                of = record[field]
                record[field] = of | {c: np.asarray(of[c]) / 2 for c in ("y0", "y1")}
        else:
            first, second = (list(record[field]["mask"]) for record in found[:2])
            first[0], second[0] = second[0], first[0]
            for record, masks in zip(found, (first, second)):
                assert places._words(record[field]["label"])[0] == "Lungs"
                record[field] = record[field] | {"mask": masks}
        return enumerate(found)

    records, before = places._records, fingerprints()
    assert fingerprints() == before
    monkeypatch.setattr(places, "_records", other)
    assert all(now != old for now, old in zip(fingerprints(), before))


def test_a_benchmark_carries_dice(tmp_path):
    cells = fake.grid(
        tmp_path, {"ours": 2.0, "imagenet": 1.0}, ("phantom",), ("segmentation",), (1.0,)
    )
    for cell in cells:
        path = tmp_path / cell["folder"] / "predictions.parquet"
        held = read_parquet(path)
        write_parquet(held._replace(scores=1 / (1 + np.exp(-held.scores)), score_kind="dice"), path)
    fake.write_cells(tmp_path, cells)
    benchmark.write(tmp_path, 100)
    page = (tmp_path / "benchmark.md").read_text()
    assert "Segmentation, 100 % of the training patients: macro Dice, mean over seeds" in page
    assert "Dice is twice the pixels" in page and "ROC curves" not in page
    header, line, *_ = (tmp_path / "tables/scores.csv").read_text().splitlines()
    row = dict(zip(header.split(","), line.split(",")))
    first = [read_parquet(tmp_path / cell["folder"] / "predictions.parquet") for cell in cells]
    mine = [one for one, cell in zip(first, cells) if cell["encoder"] == row["encoder"]]
    means = [[one.scores[one.targets[:, k] == 1, k].mean() for k in range(2)] for one in mine]
    assert row["measure"] == "Dice" and float(row["auroc"]) == pytest.approx(np.mean(means))


def test_masks_of_another_size_or_damaged_are_refused_by_name():
    wrong = image_io.encode(np.zeros((18, 24, 1), np.uint8), "png")
    what = "phantom 'test', image 2: its mask of 'Lungs'"
    with pytest.raises(ValueError, match=f"{what} has 18 x 24 pixels, the image 96 x 96"):
        places.decode_mask(wrong, (96, 96), 16, "crop", what)
    with pytest.raises(ValueError, match=f"{what} is damaged"):
        places.decode_mask(wrong[:-20], (18, 24), 16, "crop", what)


def test_datasets_without_masks_or_boxes_are_named():
    split = bars((4, 4, 4)).test
    split = split._replace(source=split.source.changed(folder=Path("data/bars/36/1.0.0")))
    with pytest.raises(ValueError, match=r"dataset bars has no masks\. .* --data_dir=data;"):
        places.load_masks(split, 16, "crop")
    with pytest.raises(ValueError, match="dataset bars has no boxes"):
        localisation._labels(Splits(split, split, split))
