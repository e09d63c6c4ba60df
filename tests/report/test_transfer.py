"""A transfer's report: the right words for the numbers, everything named, and no patient in it."""

import re

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import brier_score_loss, roc_auc_score

from cxr_jax.report import tables, transfer
from cxr_jax.transfer.image_table import ImageTable
from cxr_jax.transfer.metrics import compare, metric_rows
from cxr_jax.transfer.predictions import Predictions


def predictions(signal, seed, names=("Effusion", "Mass", "Nodule")):
    rng = np.random.default_rng(0)
    targets = (rng.random((200, len(names))) < 0.3).astype(float)
    targets[:, 1:2] = 0  # the second label cannot be estimated
    noise = np.random.default_rng(seed).normal(size=targets.shape)
    return Predictions(
        np.array([f"image-{i}" for i in range(200)]),
        np.array([f"person-{i // 2}" for i in range(200)]),
        names,
        targets,
        signal * targets + noise,
    )


def write(folder, models, names=("Effusion", "Mass", "Nodule"), not_scored=None):
    runs = []
    for seed, (name, signal) in enumerate(models.items()):
        given = predictions(signal, seed, names)
        runs.append(transfer.Run(name, given, metric_rows(given, 200, 0, not_scored)))
    comparisons = [
        compare(runs[0].predictions, run.predictions, (runs[0].name, run.name), 200)
        for run in runs[1:]
    ]
    path = transfer.write_report(
        folder,
        "Linear probe on phantom",
        runs,
        comparisons,
        protocol=["Scored once."],
        notes=["Read with care."],
        provenance={"encoder": "runs/byol", "seed": "7"},
    )
    assert path == folder / "report.html"
    return (folder / "report.md").read_text()


def report(folder, *arguments):
    transfer.write_report(folder, *arguments)
    return (folder / "report.md").read_text()


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
        "Calibration",
        "How it was measured",
        "Notes",
        "Provenance",
        "What to do next",
    ]
    assert "200 images of 100 patients" in text
    assert "- Scored once." in text and "- Read with care." in text and "| seed | 7 |" in text
    assert "Mass (not estimable: no positives in the test set)" in text
    assert re.search(r"\| Mass \| 0 \| \d+ \| not estimable \|", text)
    assert "Hernia (not scored: no positives among the training labels)" in text
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures == ["auroc.png", "roc.png"]
    for picture in pictures:
        image = np.asarray(Image.open(tmp_path / picture).convert("L"))
        assert min(image.shape) > 300 and image.std() > 10
    page = (tmp_path / "report.html").read_text()
    heads = [re.sub("<.*?>", "", head) for head in re.findall(r"<h[12].*?>(.*?)</h[12]>", page)]
    assert heads == headings
    # The table's means of two encoders beside their differences; a panel for each of two labels.
    assert page.count('role="img"') == 2 + 2 and "http" not in page and "base64" not in page
    assert "Label by label" in text and "DeLong's p" in text and "Average precision" in text


def test_verdict_comes_first_and_no_patient_is_named(tmp_path):
    text = write(tmp_path, {"byol": 2.0, "random": 0.5})
    assert text.split("\n\n")[1].startswith("**Pretraining helped (byol):** macro AUROC .")
    assert "person-" not in text and "image-" not in text


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
    run = transfer.Run("byol", empty, metric_rows(empty, 20))
    other = compare(empty, empty, ("byol", "random"), 20)
    text = report(tmp_path, "t", [run, run], [other], [], [], {})
    assert "**Not estimable: byol against random.**" in text
    assert "png" not in text and sorted(p.name for p in tmp_path.iterdir()) == [
        "report.html",
        "report.md",
    ]
    text = report(tmp_path, "t", [run], [], [], [], {})
    assert "cannot be estimated:** not estimable: no label can be estimated." in text


def draw_images(n=200, seen=()):
    number = np.arange(n)
    return ImageTable(
        np.array([f"image-{i}" for i in number[::-1]]),
        np.where(number[::-1] % 2, "F", "M"),
        np.full(n, np.nan, np.float32),
        np.full(n, "PA"),
        np.isin(number[::-1], seen),
        np.zeros(n, bool),
    )


def test_report_with_images_and_probabilities(tmp_path):
    runs = []
    for seed, name in enumerate(("byol", "random")):
        given = predictions(2.0 - seed, seed)._replace(score_kind="log-odds")
        runs.append(
            transfer.Run(name, given, metric_rows(given, 50), draw_images(seen=range(seed, 60)))
        )
    other = compare(runs[0].predictions, runs[1].predictions, ("byol", "random"), 50)
    # As a transfer holds them.
    plain = {field: tuple(getattr(given, field)) for field in ("image_id", "patient_id")}
    runs[1] = runs[1]._replace(images=None, predictions=given._replace(**plain))
    warned = ["**60 images were seen.**"]
    text = report(tmp_path, "t", runs, [other], [], [], {}, warned, 50)
    parts = text.split("\n\n")
    place = parts.index(warned[0])
    left = np.arange(200) >= 60
    means = [
        np.mean(
            [
                roc_auc_score(run.predictions.targets[left, k], run.predictions.scores[left, k])
                for k in (0, 2)
            ]
        )
        for run in runs
    ]
    assert parts[place + 1].startswith(
        "**Without test images that were seen in pretraining:** 140 of the 200 test images, of 70 "
        f"patients, had been seen by none. On these, macro AUROC: byol {tables.number(means[0])} ["
    )
    assert f", random {tables.number(means[1])} [" in parts[place + 1]
    assert "not known" not in parts[place + 1]  # random was not pretrained
    assert parts[place + 2].startswith("- **Pretraining helped (byol):** macro AUROC .")
    assert "![Observed rate against probability.](reliability.png)" in text
    assert (tmp_path / "reliability.png").exists()
    given = runs[0].predictions
    error = brier_score_loss(given.targets[:, 2], 1 / (1 + np.exp(-given.scores[:, 2])))
    assert f"| Nodule | byol | {tables.number(error)} [" in text
    assert "| sex F | 100 | ." in text
    assert "All images: projection PA. Age is not known of any image." in text
    assert "person-" not in text and "image-" not in text


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ((), "0 of the 200 test images are left"),
        ((7,), "Nothing can be scored on them: no label can be"),
    ],
)
def test_too_few_unseen_images_are_said(tmp_path, kept, words):
    given = predictions(2.0, 0)
    seen = sorted(set(range(200)) - set(kept))
    run = transfer.Run("byol", given, metric_rows(given, 20), draw_images(seen=seen))
    text = report(tmp_path, "t", [run], [], [], [], {}, (), 20)
    assert words in text


def test_hashes_that_agree_by_chance_and_unknown_encoders(tmp_path):
    given = predictions(2.0, 0)
    rows = metric_rows(given, 20)
    run = transfer.Run("byol", given, rows, draw_images(seen=range(2)))
    text = report(tmp_path, "t", [run], [], [], [], {}, (), 20)
    assert "Without test images" not in text
    runs = [
        transfer.Run("byol", given, rows, draw_images(seen=range(3))),
        transfer.Run("imagenet", given, rows),
    ]
    text = report(tmp_path, "t", runs, [], [], [], {}, (), 20)
    assert "What imagenet saw is not known: these images may not" in text
    lacking = transfer.Run("byol", given, rows, draw_images(199))
    with pytest.raises(ValueError, match="image 'image-199' is not in the table"):
        transfer.write_report(tmp_path, "t", [lacking], [], [], [], {}, (), 20)


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
            comparison(-0.002, 0.14, verdict="inconclusive"),
            "**Inconclusive: byol against imagenet:** macro AUROC .912 against .843 from "
            "imagenet, difference +.069 (95 % interval −.002 to +.140); minimum detectable "
            "difference .100.",
        ),
        (
            comparison(-0.002, 0.14, "random", verdict="inconclusive"),
            "**Inconclusive whether pretraining helped (byol):** macro AUROC .912 against "
            ".843 from random initialisation, difference +.069 (95 % interval −.002 to +.140); "
            "minimum detectable difference .100.",
        ),
        (
            comparison(-0.01, 0.014, verdict="tie"),
            "**byol and imagenet are equal within .020:** macro AUROC .912 against .843 from "
            "imagenet, difference +.069 (95 % interval −.010 to +.014).",
        ),
    ],
)
def test_verdicts_in_words(given, sentence):
    assert transfer.verdict(given) == sentence


def test_verdict_of_a_loss():
    worse = comparison(-0.1, -0.02, verdict="loss")
    assert transfer.verdict(worse).startswith("**byol is worse than imagenet:**")
    worse = comparison(-0.1, -0.02, "random", verdict="loss")
    assert transfer.verdict(worse).startswith("**Pretraining made it worse (byol):**")
    assert transfer.verdict(worse | {"a": "random", "b": "random"}).startswith("**random is worse")
