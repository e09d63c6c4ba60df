"""report.md: the right words for the numbers, everything named, and no patient in it."""

import re

import numpy as np
import pytest
from PIL import Image

from cxr_jax.evaluate.metrics import compare, metric_rows
from cxr_jax.evaluate.predictions import Predictions
from cxr_jax.report import page


def predictions(signal, seed, names=("Effusion", "Mass", "Nodule")):
    rng = np.random.default_rng(0)
    targets = (rng.random((200, len(names))) < 0.3).astype(float)
    targets[:, 1:2] = 0  # the second label cannot be estimated
    noise = np.random.default_rng(seed).normal(size=targets.shape)
    return Predictions(
        np.array([f"film-{i}" for i in range(200)]),
        np.array([f"person-{i // 2}" for i in range(200)]),
        names,
        targets,
        signal * targets + noise,
    )


def write(folder, models, names=("Effusion", "Mass", "Nodule"), not_scored=None):
    runs = []
    for seed, (name, signal) in enumerate(models.items()):
        given = predictions(signal, seed, names)
        runs.append(page.Run(name, given, metric_rows(given, 200, 0, not_scored)))
    comparisons = [
        compare(runs[0].predictions, run.predictions, (runs[0].name, run.name), 200)
        for run in runs[1:]
    ]
    path = page.write_report(
        folder,
        "Linear probe on phantom",
        runs,
        comparisons,
        protocol=["Scored once."],
        notes=["Read with care."],
        provenance={"encoder": "runs/byol", "seed": "7"},
    )
    return path.read_text()


def test_report_has_its_parts_and_pictures(tmp_path):
    text = write(
        tmp_path,
        {"byol": 2.0, "random": 0.5, "imagenet": 1.9},
        not_scored={"Hernia": "no positives among the training labels"},
    )
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert headings == [
        "Linear probe on phantom",
        "AUROC",
        "Comparisons",
        "ROC curves",
        "How it was measured",
        "To know",
        "Provenance",
    ]
    assert "200 films of 100 patients" in text
    assert "- Scored once." in text and "- Read with care." in text and "| seed | 7 |" in text
    assert "Mass (not estimable: no positives in the test set)" in text
    assert "Hernia (not scored: no positives among the training labels)" in text
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures == ["auroc.png", "roc.png"]
    for picture in pictures:
        image = np.asarray(Image.open(tmp_path / picture).convert("L"))
        assert min(image.shape) > 300 and image.std() > 10
    assert (tmp_path / "report.md").read_text() == text


def test_verdict_comes_first_and_no_patient_is_named(tmp_path):
    text = write(tmp_path, {"byol": 2.0, "random": 0.5})
    assert text.split("\n\n")[1].startswith("**Pretraining helped (byol):** macro AUROC .")
    assert "person-" not in text and "film-" not in text


def test_one_label_is_named_and_its_mean_left_out(tmp_path):
    text = write(tmp_path, {"byol": 2.0, "imagenet": 1.0}, names=("Effusion",))
    assert "AUROC for Effusion ." in text
    assert "macro" not in text and "Label by label" not in text


def test_report_of_one_run_has_nothing_to_compare(tmp_path):
    text = write(tmp_path, {"byol": 2.0})
    assert text.split("\n\n")[1].startswith("**Macro AUROC of byol: .")
    assert "Comparisons" not in text


def test_report_of_nothing_estimable_says_so(tmp_path):
    empty = predictions(1.0, 0)
    empty = empty._replace(targets=np.zeros_like(empty.targets))
    run = page.Run("byol", empty, metric_rows(empty, 20))
    other = compare(empty, empty, ("byol", "random"), 20)
    text = page.write_report(tmp_path, "t", [run, run], [other], [], [], {}).read_text()
    assert "**Not estimable: byol against random.**" in text
    assert "png" not in text and [p.name for p in tmp_path.iterdir()] == ["report.md"]
    text = page.write_report(tmp_path, "t", [run], [], [], [], {}).read_text()
    assert "cannot be estimated:** not estimable: no label can be estimated." in text


def comparison(low, high, b="imagenet", labels=("Effusion", "Mass"), verdict="win"):
    numbers = dict(auroc_a=0.912, auroc_b=0.843, difference=0.069, low=low, high=high)
    numbers |= dict(verdict=verdict, detectable=0.1, margin=0.02)
    return dict(a="byol", b=b, **numbers, labels=[{"label": label} for label in labels])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            comparison(0.051, 0.088, "random"),
            "**Pretraining helped (byol):** macro AUROC .912 against .843 from random "
            "initialisation, difference +.069 (95 % interval +.051 to +.088).",
        ),
        (
            comparison(0.051, 0.088, labels=["Mass"]),
            "**byol is better than imagenet:** AUROC for Mass .912 against .843 from imagenet, "
            "difference +.069 (95 % interval +.051 to +.088).",
        ),
        (
            comparison(-0.002, 0.14, verdict="underpowered"),
            "**The data cannot tell byol from imagenet:** macro AUROC .912 against .843 from "
            "imagenet, difference +.069 (95 % interval −.002 to +.140); these films could "
            "have shown a difference of .100.",
        ),
        (
            comparison(-0.002, 0.14, "random", verdict="underpowered"),
            "**The data cannot tell whether pretraining helped (byol):** macro AUROC .912 against "
            ".843 from random initialisation, difference +.069 (95 % interval −.002 to +.140); "
            "these films could have shown a difference of .100.",
        ),
        (
            comparison(-0.01, 0.014, verdict="tie"),
            "**byol and imagenet are equal within .020:** macro AUROC .912 against .843 from "
            "imagenet, difference +.069 (95 % interval −.010 to +.014).",
        ),
    ],
)
def test_verdicts_in_words(given, sentence):
    assert page.verdict(given) == sentence


def test_verdict_of_a_loss():
    worse = comparison(-0.1, -0.02, verdict="loss")
    assert page.verdict(worse).startswith("**byol is worse than imagenet:**")
    worse = comparison(-0.1, -0.02, "random", verdict="loss")
    assert page.verdict(worse).startswith("**Pretraining made it worse (byol):**")
    assert page.verdict(worse | {"a": "random", "b": "random"}).startswith("**random is worse")
