"""Folders with odd names, and datasets too small to learn from: right results or clear errors."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.fakes.dataset import build_beside
from tests.fakes.image_folder import write_rows
from tests.fakes.pictures import draw_image
from tests.faults import runs

_SPLITS = ("train", "train", "validation", "test")


def test_a_workdir_may_have_spaces_quotes_and_letters_of_any_script(data_dir, tmp_path, full):
    """Pretraining, transfer at its end, and a second start that finds all done."""
    if not full:
        pytest.skip("with --full")
    workdir = tmp_path / "Röntgen – 胸部 (1) 'ä' %20 #2"
    arguments = runs.tiny(data_dir, workdir, num_train_steps=2, transfer__dataset="phantom/tiny")
    assert runs.Run([*arguments, "--config.transfer.num_resamples=20"], tmp_path / "log").end() == 0
    assert runs.saved_steps(workdir) == [2]
    transfer = workdir / "transfer"
    assert str(workdir) in json.loads((transfer / "config.json").read_text())["encoder"]
    assert (transfer / "report.md").stat().st_size > 1000
    assert list((transfer / "pictures").glob("*.png"))
    run = runs.Run([*arguments, "--config.transfer.num_resamples=20"], tmp_path / "log")
    assert run.end() == 0
    assert "finished before" in run.said()


def _build(
    folder: Path, count: int, patient: Callable, finding: Callable | None, splits=()
) -> Path:
    """An image_folder of drawn images; returns its data_dir."""
    (folder / "raw").mkdir(parents=True)
    rows = []
    for number in range(count):
        Image.fromarray(draw_image(number)).save(folder / "raw" / f"{number}.png")
        row = {"image": f"{number}.png", "patient_id": patient(number)}
        row |= {"finding": finding(number)} if finding else {}
        rows.append(row | ({"split": splits[number % len(splits)]} if splits else {}))
    write_rows(folder / "labels.csv", rows)
    options = {"labels_csv": str(folder / "labels.csv")}
    build_beside("image_folder", folder / "raw", options=options)
    return folder / "data"


@pytest.mark.parametrize(
    ("count", "batch_size", "words"),
    [
        (1, 16, "config.batch_size=16 is larger than the 1 images"),
        (1, 1, "a batch holds two or more (image_folder 'train' has 1)"),
    ],
)
def test_too_few_images_to_compare_are_refused_before_anything_is_written(
    count, batch_size, words, tmp_path
):
    data = _build(tmp_path / "images", count, lambda number: "p", None)
    changes = dict(data__name="image_folder", online_knn__dataset="", batch_size=batch_size)
    run = runs.Run(runs.tiny(data, tmp_path / "run", **changes), tmp_path / "log")
    assert run.end() == 1
    assert words in run.said()
    assert not (tmp_path / "run").exists()


def test_images_of_one_patient_train_and_cannot_be_scored(tmp_path, full):
    if not full:
        pytest.skip("with --full")
    data = _build(tmp_path / "images", 12, lambda number: "p", lambda number: number % 2)
    changes = dict(data__name="image_folder", online_knn__dataset="", batch_size=8)
    changes["transfer__dataset"] = "image_folder"
    run = runs.Run(runs.tiny(data, tmp_path / "refused", **changes), tmp_path / "log")
    assert run.end() == 1
    assert "has no split 'validation'; it has train" in run.said()
    assert not (tmp_path / "refused").exists()
    changes["transfer__dataset"] = ""
    run = runs.Run(runs.tiny(data, tmp_path / "run", **changes), tmp_path / "log")
    assert run.end() == 0, run.said()
    assert runs.logged(tmp_path / "run") == runs.KEPT[-1]


@pytest.mark.parametrize(("finding", "absent"), [(0, "positives"), (1, "negatives")])
def test_a_label_of_one_class_is_refused_with_its_name(finding, absent, tmp_path, full):
    if not full:
        pytest.skip("with --full")
    data = _build(tmp_path / "images", 16, str, lambda number: finding, _SPLITS)
    run = _transfer(data, tmp_path)
    assert run.end() == 1
    assert f"no label can be scored: finding: no {absent} among the training" in run.said()


def test_a_test_set_of_one_image_gives_a_report_without_a_score(tmp_path, full):
    if not full:
        pytest.skip("with --full")
    splits = ("train", "train", "train", "validation") * 3 + (
        "train",
        "train",
        "validation",
        "test",
    )
    data = _build(tmp_path / "images", 16, str, lambda number: number // 4 % 2, splits)
    run = _transfer(data, tmp_path)
    assert run.end() == 0, run.said()
    (macro,) = [
        row
        for row in json.loads((tmp_path / "run" / "metrics.json").read_text())
        if row["label"] == "macro"
    ]
    assert macro["auroc"] is None and macro["note"].startswith("not estimable")


def _transfer(data: Path, folder: Path) -> runs.Run:
    fields = ["encoder=random", "baselines=", "dataset=image_folder", f"data.dir={data}"]
    fields += ["model.variant=18", "image_size=32", "num_resamples=20", "pictures.draw=False"]
    flags = [f"--config.{field}" for field in fields]
    return runs.Run(
        ["--config=configs/transfer.py", *flags, f"--workdir={folder / 'run'}"], folder / "log"
    )
