"""Scores without images that were seen, against the same images taken out by hand."""

import csv
import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxr_jax.report.benchmark import largest as at_largest
from cxr_jax.report.benchmark import unseen
from cxr_jax.report.benchmark.grid import read_grid
from cxr_jax.report.benchmark.scores import measure
from cxr_jax.report.benchmark.tables import seen_block
from cxr_jax.report.blocks import Table, Text
from cxr_jax.stats.verdict import compare_auroc, correct_verdicts
from cxr_jax.transfer.predictions import read_parquet
from tests.fakes import benchmark as fake

SIGNALS = {"simclr": 2.0, "imagenet": 1.0, "random": 0.5}
DATASETS = ("jsrt", "phantom")


def read(workdir, cells, num_resamples=100):
    fake.write_cells(workdir, cells)
    grid = read_grid(workdir)
    measured = measure(workdir, grid, num_resamples)
    largest = at_largest.read_largest(workdir, grid, measured)
    found = unseen.measure(largest, grid, num_resamples)
    (workdir / "tables").mkdir()
    blocks = unseen.blocks(workdir, grid, largest, found)
    return measured, found, blocks


def words(blocks):
    return " ".join(
        block.text if isinstance(block, Text) else getattr(block, "caption", "") for block in blocks
    )


def test_scores_and_verdicts_are_those_of_images_taken_out_by_hand(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, DATASETS, fractions=(0.1, 1.0), seeds=(0,))
    fake.write_images(tmp_path, cells, {"simclr": range(0, 20), "imagenet": range(10, 30)})
    _, found, blocks = read(tmp_path, cells)
    assert [one.largest.dataset for one in found] == list(DATASETS)
    left = [f"secret-image-{i}" for i in range(30, 80)]
    by_hand = {name: [] for name in ("simclr", "random")}
    for one in found:
        held = {}
        for cell in cells:
            if cell["dataset"] == one.largest.dataset and cell["fraction"] == 1:
                file = read_parquet(tmp_path / cell["folder"] / "predictions.parquet")
                rows = np.isin(file.image_id, left)
                held[cell["encoder"]] = file.targets[rows], file.scores[rows], file.patient_id[rows]
                pairs = zip(file.targets[rows].T, file.scores[rows].T)
                mean = np.mean([roc_auc_score(*pair) for pair in pairs])
                assert one.scores[cell["encoder"]].mean == pytest.approx(mean)
                pairs = zip(file.targets.T, file.scores.T)
                mean = np.mean([roc_auc_score(*pair) for pair in pairs])
                assert one.everywhere[cell["encoder"]].mean == pytest.approx(mean)
        for name, comparisons in by_hand.items():
            targets, scores, patients = held[name]
            comparisons.append(compare_auroc(targets, scores, held["imagenet"][1], patients, 100))
        assert (one.images, one.patients, one.total) == (50, 25, 80)
        assert one.seen_by == ("simclr", "imagenet") and one.unknown == ()
    for name, comparisons in by_hand.items():
        for one, expected in zip(found, correct_verdicts(comparisons)):
            got = one.comparisons[name]
            assert got.verdict == expected.verdict
            for field in ("difference", "low", "high", "p_adjusted"):
                assert getattr(got, field) == pytest.approx(getattr(expected, field))
    tables = [block for block in blocks if isinstance(block, Table)]
    assert [row[0] for row in tables[0].rows] == ["imagenet", "simclr", "random"]
    assert tables[0].header[1:3] == ["all 80 images", "50 images seen by none"]
    lines = list(csv.DictReader((tmp_path / "tables" / "unseen.csv").open()))
    assert len(lines) == 6 and lines[0]["verdict"] == "" and lines[0]["images_left"] == "50"
    assert float(lines[0]["auroc_left"]) == found[0].scores["imagenet"].mean


def test_what_any_of_several_pretrainings_saw_is_left_out(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, ("jsrt",), fractions=(1.0,), seeds=(0,))
    fake.write_images(tmp_path, cells, {"simclr": range(20), "random": range(10, 30)})
    for number, name in enumerate(("simclr", "random")):
        (cell,) = (cell for cell in cells if cell["encoder"] == name)
        cell.update(encoder="mine", pretraining=number)
        cell["seen"] = cell["seen"] | {"images": 7 + 2 * number}
    _, found, _ = read(tmp_path, cells)
    assert (found[0].images, found[0].seen_by, found[0].unknown) == (50, ("mine",), ("imagenet",))
    assert seen_block(read_grid(tmp_path)).rows[1][1].startswith("9 of 80 images")


def test_encoders_of_which_nothing_is_known_are_named_but_random_is_not(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, ("jsrt",), fractions=(1.0,))
    fake.write_images(tmp_path, cells, {"simclr": range(20)})
    _, found, blocks = read(tmp_path, cells)
    assert found[0].unknown == ("imagenet",) and found[0].scores["simclr"].seeds == (0, 1)
    assert "What imagenet saw is not known: these images may not have been new for it." in words(
        blocks
    )
    lines = list(csv.DictReader((tmp_path / "tables" / "unseen.csv").open()))
    assert [line["seen_known"] for line in lines] == ["False", "True", "True"]


def test_as_many_hashes_as_agree_by_chance_make_no_table(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, ("jsrt",), fractions=(1.0,), seeds=(0,), n=300)
    for cell in cells:
        cell["seen"].update(images=3, patients=0)
    fake.write_images(tmp_path, cells, {"simclr": range(3)}, n=300)
    _, found, blocks = read(tmp_path, cells)
    assert not found and not blocks and not list((tmp_path / "tables").iterdir())
    assert unseen.summary(found) == []


@pytest.mark.parametrize(("kept", "why"), [(0, "none is left"), (1, "no label can be estimated")])
def test_too_few_images_left_are_said_and_not_scored(tmp_path, kept, why):
    cells = fake.grid(tmp_path, SIGNALS, ("jsrt",), fractions=(1.0,), seeds=(0,))
    fake.write_images(tmp_path, cells, {"simclr": range(kept, 80)})
    _, found, blocks = read(tmp_path, cells)
    assert not found[0].scores
    assert f"{kept} of 80 test images had been seen by no encoder" in words(blocks)
    assert why in words(blocks) and not any(isinstance(block, Table) for block in blocks)
    assert "jsrt" in words(unseen.summary(found))


def test_a_label_of_one_class_among_the_images_left_leaves_both_columns(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, ("jsrt",), fractions=(1.0,), seeds=(0,))
    file = read_parquet(tmp_path / cells[0]["folder"] / "predictions.parquet")
    with_mass = np.flatnonzero(file.targets[:, 0] == 1)
    fake.write_images(tmp_path, cells, {"simclr": with_mass.tolist()})
    _, found, blocks = read(tmp_path, cells)
    assert found[0].labels == ("Nodule",)
    expected = roc_auc_score(file.targets[:, 1], file.scores[:, 1])
    assert found[0].everywhere[cells[0]["encoder"]].mean == pytest.approx(expected)
    assert "means over 1 of 2 labels" in words(blocks)


def test_images_that_were_seen_but_not_kept_are_said(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, ("jsrt",), fractions=(1.0,))
    _, found, blocks = read(tmp_path, cells)
    assert not found
    assert len(re.findall("which images simclr had seen is not kept", words(blocks))) == 1


def test_a_table_that_lacks_a_image_becomes_a_note_without_ids(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, ("jsrt",), fractions=(1.0,), seeds=(0,))
    fake.write_images(tmp_path, cells[:1], {"simclr": range(9)}, n=79)
    measured, found, _ = read(tmp_path, cells)
    note = "jsrt, simclr: the table of images is not used: image '…' is not in the table of images."
    assert measured.notes == [note] and not found
