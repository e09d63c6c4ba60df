"""Folders with odd names, and datasets too small to learn from: right results or clear errors."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.fakes.dataset import build_beside
from tests.fakes.image_folder import write_rows
from tests.fakes.pictures import film
from tests.faults import runs

_SPLITS = ("train", "train", "validation", "test")


def test_a_workdir_may_have_spaces_quotes_and_letters_of_any_script(data_dir, tmp_path):
    """Pretraining, transfer at its end, and a second start that finds all done."""
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


def _build(folder: Path, count: int, patient: Callable, finding: Callable, splits=()) -> Path:
    """An image_folder of drawn films; returns its data_dir."""
    (folder / "raw").mkdir(parents=True)
    rows = []
    for number in range(count):
        Image.fromarray(film(number)).save(folder / "raw" / f"{number}.png")
        row = {"image": f"{number}.png", "patient_id": patient(number), "finding": finding(number)}
        rows.append(row | ({"split": splits[number % len(splits)]} if splits else {}))
    write_rows(folder / "labels.csv", rows)
    options = {"labels_csv": str(folder / "labels.csv")}
    build_beside("image_folder", folder / "raw", options=options)
    return folder / "data"
