"""Warnings of a report: images that an encoder has seen, unknown persons, absent classes."""

import numpy as np
import pytest

from cxr_jax.data.seen_images import Seen
from cxr_jax.data.source import Source
from cxr_jax.data.splits import load_split
from cxr_jax.experiments import _transfer_report
from cxr_jax.transfer._protocol import Splits

ROWS = np.arange(0, 400, 2)  # 200 images, every other of the split


def seen(images, patients):
    image = np.zeros(400, bool)
    image[: 2 * images] = True  # of which every other is of the task
    patient = None if patients is None else np.zeros(400, bool)
    if patients:
        patient[-2 * patients :] = True
    return Seen(patient, image)


@pytest.mark.parametrize(
    ("images", "patients", "warned"),
    [(0, 0, None), (2, 0, None), (3, 0, "3 of the 200"), (0, 1, "1 of"), (3, 5, "8 of")],
)
def test_a_warning_needs_patients_or_more_images_than_chance(images, patients, warned):
    warnings, lines = _transfer_report.exposure_lines(
        {"runs/a": seen(images, patients)}, ROWS, "nih"
    )
    assert f"Of the 200 test images, {images} look like images that runs/a saw" in lines[0]
    assert f"patients of {patients}." in lines[0]
    assert len(warnings) == bool(warned)
    if warned:
        assert warnings[0].startswith(f"**{warned}")
        assert "python -m data_builders.overlap runs/a nih" in warnings[0]


def test_unknown_patients_and_missing_ledgers_are_said():
    ledgers = {"runs/a": seen(1, None), "imagenet": None, "random": None}
    _, lines = _transfer_report.exposure_lines(ledgers, ROWS, "nih")
    assert len(lines) == 2  # what is random saw nothing
    assert "its patients are unknown" in lines[0]
    assert lines[1] == "imagenet has no list of the images that it saw in pretraining."


def test_a_report_counts_labelled_images_and_says_what_cannot_be_judged(data_dir):
    splits = Splits(*(load_split("phantom/tiny", str(data_dir), name) for name in Splits._fields))
    assert _transfer_report.cautions("phantom", splits) == []
    test, names = splits.test, splits.test.label_names
    targets = test.targets.copy()
    targets[:, 0] = 0
    targets[: len(targets) // 2] = np.nan
    note = "of 24 of the 84 images the person is not known"
    fields = {name: getattr(test.source, name) for name in test.source._fields}
    source = Source(**fields | {"metadata": test.source.metadata | {"patient_note": note}})
    said = _transfer_report.cautions(
        "phantom", splits._replace(test=test._replace(targets=targets, source=source))
    )
    assert said[0] == f"phantom: {note}"
    assert f"test has no positive image of {names[0]}" in said[1] and "What helps" in said[1]
    patients = len(set(test.patient_ids[12:]))
    assert test._replace(targets=targets).size() == f"12 images of {patients} patients"
