"""The study's tables: its own averages again, and files that other programs read."""

import csv
import io
import re

import numpy as np
import pytest

from cxr_jax.report import published
from cxr_jax.report.benchmark import tables as bt
from cxr_jax.report.benchmark.grid import read_grid
from cxr_jax.report.benchmark.scores import measure
from tests.fakes import benchmark as fake
from tests.report.benchmark.measured import rewrite

SIGNALS = {"imagenet": 1.0, "sim_clr & co": 2.0}


@pytest.mark.parametrize("protocol", ["finetune", "linear"])
def test_published_figures_give_the_printed_averages(protocol):
    rows = {key: row for key, row in published.tables().items() if key[0] == protocol}
    assert len(rows) == 8
    for row in rows.values():
        figures = [value for name, value in row.items() if name != "average"]
        assert len(figures) == 13
        assert all(value.low <= value.auroc <= value.high for value in figures)
        mean = np.mean([value.auroc for value in figures])
        assert abs(mean - row["average"].auroc) <= 0.0005 + 1e-9


def test_published_figures_stand_beside_datasets_of_the_study():
    names = ["phantom", "nih_chestxray14/256", "jsrt", "jsrt (malignant)"]
    found, said = published.beside("linear", names)
    assert "made on splits of its own that are not published" in said
    assert set(found["REFERS, study"]) == {"nih_chestxray14/256", "jsrt"}
    assert found["REFERS, study"]["nih_chestxray14/256"].auroc == 0.797
    assert "ImageNet (fine-tuned), study" in found and "ImageNet, study" not in found
    assert "ImageNet, study" in published.beside("finetune", ["jsrt"])[0]
    assert published.beside("linear", ["phantom"]) == ({}, "")
    assert published.beside("knn", ["jsrt"]) == ({}, "")


def test_a_figure_of_the_owners_split_stands_beside_no_other():
    name = "nih_chestxray14/256"
    found, said = published.beside("finetune", [name])
    assert found["EVA-X-B, EVA-X"][name].auroc == 0.835
    assert "Xiao et al., arXiv:2210.12843: on the owner's test list, as here." in said
    found, said = published.beside("finetune", [name, "jsrt"], {name: "benchx.csv 0123"})
    assert all(one.endswith(", study") for one in found)
    assert f"({name}: benchx.csv 0123)" in said
    assert f"owner's test list of {name} are left out: it is split by benchx.csv 0123." in said


def study(tmp_path, datasets=("pediatric_pneumonia", "jsrt"), lose=()):
    cells = fake.grid(tmp_path, SIGNALS, datasets, seeds=(0,))
    for cell in cells:
        if (cell["encoder"], cell["dataset"]) in lose:
            cell.update(state="missing", num_images=None, seen=None)
    fake.write_cells(tmp_path, cells)
    grid = read_grid(tmp_path)
    measured = measure(tmp_path, grid, 50)
    return bt.study_table(measured, grid, "linear"), measured


def test_no_published_figure_stands_beside_a_cross_validation(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, ("nih_chestxray14",), ("finetune",), (1.0,), (0,))
    fake.write_cells(tmp_path, cells)
    grid = read_grid(tmp_path)
    beside = bt.study_table(measure(tmp_path, grid, 50), grid, "finetune")
    assert beside.theirs and "as here" in beside.care
    for cell in cells:
        rewrite(tmp_path, cell, lambda one: one._replace(fold=np.arange(80) // 2 % 4))
    alone = bt.study_table(measure(tmp_path, grid, 50), grid, "finetune")
    assert not alone.theirs and "as here" not in alone.care


def test_rows_end_with_their_mean(tmp_path):
    table, measured = study(tmp_path)
    assert table.fraction == 1.0 and list(table.ours) == list(SIGNALS) and len(table.theirs) == 8
    for name, values in table.ours.items():
        places = [measured.places["linear", dataset, 1.0] for dataset in table.datasets]
        own = [place.scores[name].mean for place in places]
        assert [value.auroc for value in values] == pytest.approx([*own, np.mean(own)])
    refers = [value.auroc for value in table.theirs["REFERS, study"]]
    assert refers == pytest.approx([0.985, 0.551, (0.985 + 0.551) / 2])


def test_mean_is_over_datasets_that_every_encoder_has(tmp_path):
    table, _ = study(tmp_path, ("jsrt", "phantom"), lose=[("imagenet", "phantom")])
    assert table.averaged == ["jsrt"] and "mean is over jsrt" in bt.caption(table)
    rows = {name: [value.auroc for value in values] for name, values in table.rows.items()}
    assert rows["imagenet"][1] is None and rows["imagenet"][2] == rows["imagenet"][0]
    assert rows["sim_clr & co"][2] == rows["sim_clr & co"][0]
    assert rows["REFERS, study"] == [0.551, None, 0.551]


def test_no_mean_where_no_dataset_is_whole(tmp_path):
    table, _ = study(tmp_path, ("phantom",), lose=[("imagenet", "phantom")])
    assert "No mean" in bt.caption(table) and not table.theirs
    assert [row[-1].auroc for row in table.ours.values()] == [None, None]


def test_latex_has_whole_rows_and_no_bare_signs(tmp_path):
    text = bt.study_latex(study(tmp_path)[0])
    assert r"sim\_clr \& co" in text and r"pediatric\_pneumonia" in text and r"100 \%" in text
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + 2 + 8
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {3}
    assert r"\begin{tabular}{lccc}" in text
    uncommented = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%_#]", uncommented)
    for opened in re.findall(r"\\begin\{(\w+)\}", text):
        assert rf"\end{{{opened}}}" in text


def test_tex_escapes_every_special_sign():
    assert bt.tex("a_b & 5 % #1 {x} ~^$\\") == (
        r"a\_b \& 5 \% \#1 \{x\} \textasciitilde{}\textasciicircum{}\$\textbackslash{}"
    )
    assert bt.tex("− ±") == r"$-$ $\pm$"


def test_csv_reads_back(tmp_path):
    table, measured = study(tmp_path)
    lines = list(csv.DictReader(io.StringIO(bt.study_csv(table))))
    assert len(lines) == (2 + 8) * 3
    first = table.ours["imagenet"][0]
    assert float(lines[0]["auroc"]) == first.auroc and float(lines[0]["low"]) == first.low
    assert lines[2] == dict(lines[2], dataset="mean", low="", high="")
    scores = list(csv.DictReader(io.StringIO(bt.scores_csv(measured))))
    assert {(line["fraction"], line["labels"]) for line in scores} == {
        ("0.1", "Mass;Nodule"),
        ("1.0", "Mass;Nodule"),
    }
    assert bt.to_csv(["a", "b"], [dict(a=float("nan"), b=None)]) == "a,b\n,\n"


@pytest.mark.parametrize(
    ("encoder", "seen", "words"),
    [
        ("simclr", None, "not known"),
        ("random", None, "not pretrained"),
        ("simclr", (0, 0), "none of 200 images"),
        ("simclr", (None, 0), "none of 200 images"),
        ("simclr", (None, 2), "2 of 200 images (1.0 %)\nso few agree by chance"),
        ("simclr", (None, 3), "3 of 200 images (1.5 %)\npatients not known"),
        ("simclr", (5, 2), "2 of 200 images (1.0 %)\n5 of patients who were seen"),
    ],
)
def test_seen_images_in_words(tmp_path, encoder, seen, words):
    cells = fake.grid(tmp_path, {encoder: 1.0}, ("jsrt",), fractions=(1.0,), seeds=(0,))
    cells[0]["seen"] = seen and dict(patients=seen[0], images=seen[1], test_images=200)
    fake.write_cells(tmp_path, cells, encoder)
    assert bt.seen_block(read_grid(tmp_path)).rows == [[encoder, words]]
