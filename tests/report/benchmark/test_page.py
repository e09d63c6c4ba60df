"""The page that is sent to a colleague: whole, alone, without ids; and its command line."""

import csv
import itertools
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from cxr_jax.report.benchmark import page as benchmark
from cxr_jax.report.benchmark.grid import read_grid
from cxr_jax.report.benchmark.scores import measure
from cxr_jax.transfer.predictions import read_parquet, write_parquet
from tests.fakes import benchmark as fake

ROOT = Path(__file__).parents[3]
_NOTE = "of 5 of the 9 images the person is not known"
_VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """Keeps tags and text, and fails where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    signals = {"simclr": 2.0, "imagenet": 1.0, "<b>&": 1.0}
    cells = fake.grid(folder, signals, ("jsrt", "phantom"))
    cells[2].update(state="failed", error=fake.ERROR, num_images=None, seen=None)
    cells[-1].update(state="missing", num_images=None, seen=None)
    for cell in cells:
        cell["patient_note"] = _NOTE if cell["dataset"] == "jsrt" else ""
        if cell["encoder"] == "simclr":
            cell["seen"] = None
        elif cell["encoder"] == "<b>&" and cell["seen"]:
            cell["seen"].update(patients=0, images=0)
    fake.write_cells(folder, cells)
    assert benchmark.write(folder, 100) == folder / "report.html"
    return folder


def test_the_page_says_whose_images_nobody_knows(workdir):
    text = Reader((workdir / "report.html").read_text()).text
    assert text.count(f"jsrt: {_NOTE}") == 1 and text.count(_NOTE) == 1


def test_page_is_whole_and_needs_nothing_else(workdir):
    text = (workdir / "report.html").read_text()
    page = Reader(text)
    charts = [one for one in page.all("svg") if one.get("role") == "img"]
    # A curve per dataset and a ROC per dataset and label, and the differences.
    assert len(charts) == 2 + 2 * 2 + 1 and len(list((workdir / "figures").iterdir())) == 5
    assert all(chart["aria-label"] for chart in charts)
    assert not {"link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?://|@import|url\(|fetch|import\(|src=", text)
    places = {attributes.get("id") for _, attributes in page.tags}
    assert all(link["href"].removeprefix("#") in places for link in page.all("a"))
    assert len(page.all("a")) == len(page.all("h2")) >= 6


def test_page_says_what_it_must(workdir):
    text = Reader((workdir / "report.html").read_text()).text
    for words in (
        "better than imagenet on jsrt (+",
        "2 of 24 cells have no result",
        "ValueError: image '…' has no row for label 'Mass'",
        "was not run",
        "2 of 80 images (2.5 %)",
        "none of 80 images",
        "not known",
        "same tuning budget",
        "Holm-corrected over the datasets",
        "With simclr 101 labels do what",
        "80 images of 40 patients",
        "REFERS, study",
        "<b>&",
    ):
        assert words in text, words


def test_markdown_has_the_same_parts_and_its_pictures(workdir):
    text = (workdir / "benchmark.md").read_text()
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    page = (workdir / "report.html").read_text()
    assert heads[-1] == "What to do next"
    assert heads == [re.sub("<.*?>", "", head) for head in re.findall(r"<h2.*?>(.*?)</h2>", page)]
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(pictures) == 5 and all((workdir / name).is_file() for name in pictures)
    assert "| simclr | 100 % | win +." in text


def test_no_id_is_in_any_file(workdir):
    written = [workdir / "report.html", workdir / "benchmark.md"]
    written += (workdir / "tables").iterdir()
    assert len(written) == 2 + 6
    assert not any("secret" in path.read_text() for path in written)


def test_verdicts_file_has_every_comparison(workdir):
    lines = list(csv.DictReader((workdir / "tables" / "verdicts.csv").open()))
    assert len(lines) == 2 * 2 * 2  # encoders, datasets, fractions
    assert {line["encoder"] for line in lines} == {"simclr", "<b>&"}
    assert all(float(line["p_adjusted"]) >= float(line["p_value"]) for line in lines)


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """A grid whose scores are log-odds but for one encoder's, and whose images are known."""
    folder = tmp_path_factory.mktemp("facts")
    signals = {"simclr": 2.0, "imagenet": 1.0, "knn": 1.0}
    cells = fake.grid(folder, signals, ("jsrt", "phantom"), score_kind="log-odds", fractions=(1.0,))
    for cell in cells:
        cell["seen"].update(patients=None, images=0)
        if cell["encoder"] == "knn":
            path = folder / cell["folder"] / "predictions.parquet"
            write_parquet(read_parquet(path)._replace(score_kind=""), path)
    fake.write_images(
        folder, [cell for cell in cells if cell["dataset"] == "jsrt"], {"simclr": [3]}
    )
    fake.write_cells(folder, cells)
    benchmark.write(folder, 100)
    return folder


def test_calibration_and_subgroups_are_on_the_page(facts):
    text = Reader((facts / "report.html").read_text()).text
    for words in (
        "Calibration",
        "Left out: knn, whose scores rank images but are not known to be probabilities.",
        "Chance alone keeps it above 0",
        "Subgroups: sex, age and projection",
        "do not show that groups are alike",
        "sex F",
        "age unknown: not estimable",
        "Sex, age and projection are not known on phantom.",
        "Scores without the images that were seen",
        "What imagenet, knn saw is not known: these images may not have been new for them.",
    ):
        assert words in text, words
    assert "Calibration is not judged" not in text
    written = {path.name for path in (facts / "tables").iterdir()}
    assert {"calibration.csv", "subgroups.csv", "unseen.csv"} < written
    names = {path.name for path in (facts / "figures").iterdir()}
    assert {"calibration-linear-0-jsrt.png", "calibration-linear-1-phantom.png"} < names


def test_calibration_file_has_every_label_of_the_first_seed(facts):
    lines = list(csv.DictReader((facts / "tables" / "calibration.csv").open()))
    keys = [(line["dataset"], line["encoder"], line["label"]) for line in lines]
    labels = ("Mass", "Nodule", "macro")
    places = itertools.product(("jsrt", "phantom"), ("imagenet", "simclr"), labels)
    assert keys == list(places)
    folder = facts / "cells/jsrt/linear/1/0/imagenet"
    given = read_parquet(folder / "predictions.parquet")
    probabilities = 1 / (1 + np.exp(-given.scores))
    errors = [brier_score_loss(*pair) for pair in zip(given.targets.T, probabilities.T)]
    assert [float(line["brier"]) for line in lines[:3]] == pytest.approx([*errors, np.mean(errors)])


def test_no_id_is_in_what_is_said_of_images(facts):
    written = [facts / "report.html", facts / "benchmark.md", *(facts / "tables").iterdir()]
    assert not any("secret" in path.read_text() for path in written)


def test_grids_of_old_have_neither_file_nor_diagram(workdir):
    text = Reader((workdir / "report.html").read_text()).text
    assert "Left out: imagenet, simclr, <b>&, whose scores rank images" in text
    assert "Sex, age and projection are not known on jsrt, phantom." in text
    written = {path.name for path in (workdir / "tables").iterdir()}
    assert not {"calibration.csv", "subgroups.csv", "unseen.csv"} & written


def test_a_grid_with_nothing_done_is_still_a_page(tmp_path):
    cells = fake.grid(tmp_path, {"imagenet": 1.0, "simclr": 1.0}, ("phantom",), seeds=(0,), n=8)
    for cell in cells:
        cell.update(state="missing", num_images=None, seen=None)
    fake.write_cells(tmp_path, cells)
    text = Reader(benchmark.write(tmp_path, 20).read_text()).text
    assert "There is nothing to compare." in text and "4 of 4 cells have no result" in text
    assert not list((tmp_path / "figures").iterdir())


def test_reference_alone_and_other_protocols(tmp_path):
    cells = fake.grid(tmp_path, {"imagenet": 1.0}, ("a/b c",), ("knn",), seeds=(0,))
    for cell in cells:
        cell["num_images"] = 0  # as of zero-shot, which has no curve of labels
    fake.write_cells(tmp_path, cells)
    text = Reader(benchmark.write(tmp_path, 20).read_text()).text
    assert "Nearest neighbours, 100 % of the training patients" in text
    assert "Verdicts" not in text and "How many labels" not in text


def test_protocols_that_count_other_images_say_so(tmp_path):
    protocols = ("linear", "segmentation")
    cells = fake.grid(tmp_path, {"imagenet": 1.0}, ("jsrt", "phantom"), protocols, (1.0,), (0,))
    (cell,) = (c for c in cells if (c["dataset"], c["protocol"]) == ("jsrt", "linear"))
    path = tmp_path / cell["folder"] / "predictions.parquet"
    held = read_parquet(path)
    held.targets[:20] = np.nan
    write_parquet(held, path)
    fake.write_cells(tmp_path, cells)
    grid = read_grid(tmp_path)
    bullets = benchmark._test_sets(grid, measure(tmp_path, grid, 20))[1]
    assert list(bullets.items) == [
        "jsrt, linear probe: 60 images of 30 patients.",
        "jsrt, segmentation: 80 images of 40 patients.",
        "phantom: 80 images of 40 patients.",
    ]


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "MPLCONFIGDIR": str(cwd)},
    )


def test_command_makes_the_page_again_without_jax(workdir, tmp_path):
    before = (workdir / "report.html").read_bytes()
    (workdir / "report.html").unlink()
    code = (
        "import sys; from cxr_jax.report.__main__ import main; "
        f"main([{str(workdir)!r}, '--num_resamples=100']); "
        "print(sorted({'jax', 'flax', 'tensorflow'} & set(sys.modules)))"
    )
    done = run("-c", code, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stderr
    assert (workdir / "report.html").read_bytes() == before


def test_command_compares_files(tmp_path):
    ours = fake.predictions(2.0, 1, "phantom")
    theirs = fake.predictions(0.5, 2, "phantom", ("Mass",))
    theirs = theirs._replace(targets=ours.targets[:, :1])
    for name, given in (("ours", ours), ("theirs", theirs)):
        write_parquet(given, tmp_path / f"{name}.parquet")
    done = run(
        *("-m", "cxr_jax.report", "ours.parquet", "theirs.parquet"),
        *("--out=page", "--num_resamples=100"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Read the report: page/report.html"
    text = (tmp_path / "page" / "report.md").read_text()
    assert "ours is better than theirs:** AUROC for Mass" in text
    assert "- Nodule is left out: not in theirs." in text and "secret" not in text
    moved = theirs._replace(image_id=np.char.add(theirs.image_id, "x"))
    write_parquet(moved, tmp_path / "theirs.parquet")
    refused = run("-m", "cxr_jax.report", "ours.parquet", "theirs.parquet", cwd=tmp_path)
    assert refused.returncode == 1 and "is only in the" in refused.stderr
    assert "Traceback" not in refused.stderr
