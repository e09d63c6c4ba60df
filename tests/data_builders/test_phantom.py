"""The phantom as a dataset: built without raw data, patients apart; reports say what is drawn."""

import io
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_builders import build
from data_builders.phantom import drawing
from data_builders.phantom.phantom_dataset_builder import Builder, write_report
from data_builders.phantom.radiograph import LABEL_NAMES

SPLITS = ("train", "validation", "test")
IMAGES = 300
WORDS = {
    "Cardiomegaly": ("enlarged", "cardiomegaly"),
    "Effusion": ("effusion", "pleural fluid"),
    "Pneumothorax": ("pneumothorax",),
    "Nodule": ("nodul",),
    "Consolidation": ("consolidation", "airspace"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    return build.build("phantom", data_dir, config_name="tiny", num_workers=0, progress=False)


def rows(folder, split):
    undecoded = {"image": tfds.decode.SkipDecoding()}
    return list(tfds.builder_from_directory(folder).as_data_source(split, decoders=undecoded))


def test_built_in_tfds_layout_with_metadata(folder):
    assert folder.parts[-3:] == ("phantom", "tiny", "1.2.0")
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["label_names"] == list(LABEL_NAMES)
    assert metadata["task"] == "multilabel" and metadata["resolution"] == 96
    images = {split: counts["images"] for split, counts in metadata["counts"].items()}
    assert images == {"train": 36, "validation": 24, "test": 24}


def test_stored_images_are_the_drawn_ones(folder):
    for row in rows(folder, "validation")[:5]:
        patient, number = (int(part) for part in row["image_id"].decode()[1:].split("_"))
        anatomy, taken = drawing.image_parameters(0, patient, number)
        image = np.asarray(Image.open(io.BytesIO(row["image"])))
        np.testing.assert_array_equal(image, drawing.render(anatomy, taken, 96))
        assert row["labels"] == drawing.labels(anatomy, taken)
        assert (row["projection"].decode(), row["sex"].decode()) == (taken.projection, anatomy.sex)
        assert row["age"] == anatomy.age
        boxes = drawing.boxes(anatomy, taken, 96)
        assert [label.decode() for label in row["boxes"]["label"]] == [box.label for box in boxes]
        np.testing.assert_allclose(row["boxes"]["x1"], [box.x1 for box in boxes], atol=1e-6)
        masks = drawing.masks(0, patient, number, 96)
        names = [name.decode() for name in row["masks"]["label"]]
        assert names == ["Lungs", *LABEL_NAMES]
        for name, mask in zip(names, row["masks"]["mask"]):
            stored = np.asarray(Image.open(io.BytesIO(mask)))
            np.testing.assert_array_equal(stored, 255 * masks[name].astype(np.uint8))


def test_masks_lie_where_boxes_say_and_lungs_are_dark():
    darker = []
    for number in range(12):
        anatomy, taken = drawing.image_parameters(0, number, 0)
        masks, image = drawing.masks(0, number, 0, 96), drawing.draw(0, number, 0, 96)
        found = drawing.boxes(anatomy, taken, 96)
        for label in LABEL_NAMES:
            own = [box for box in found if box.label == label]
            assert masks[label].any() == bool(own)
            if own:
                rows, columns = (np.flatnonzero(masks[label].any(axis=k)) for k in (1, 0))
                assert min(box.y0 for box in own) == rows[0] / 96
                assert max(box.x1 for box in own) == (columns[-1] + 1) / 96
        assert 0.1 < masks["Lungs"].mean() < 0.6
        darker.append(np.median(image[masks["Lungs"]]) < np.median(image[30:66, 44:52]))
    assert sum(darker) >= 11


def test_patients_stay_in_one_split_and_have_three_images(folder):
    patients = {}
    for split in SPLITS:
        ids = [row["patient_id"] for row in rows(folder, split)]
        patients[split] = set(ids)
        assert all(ids.count(one) == 3 for one in patients[split])
    assert not patients["train"] & patients["validation"]
    assert not patients["test"] & (patients["train"] | patients["validation"])


@pytest.mark.parametrize("config", Builder.BUILDER_CONFIGS, ids=lambda config: config.name)
def test_every_label_has_both_classes_in_every_split(config):
    first = 0
    for split, count in config.patients:
        patients = range(first, first + count)
        labels = [
            list(drawing.labels(*drawing.image_parameters(config.seed, patient, image)).values())
            for patient in patients
            for image in range(config.images_per_patient)
        ]
        positive = np.sum(labels, axis=0)
        assert (positive >= 2).all() and (positive <= len(labels) - 2).all(), split
        first += count


def test_sizes_of_the_default_config():
    assert Builder.BUILDER_CONFIGS[0].name == "96"
    sizes = {split: 3 * count for split, count in Builder.BUILDER_CONFIGS[0].patients}
    assert sizes == {"train": 3000, "validation": 501, "test": 999}


@pytest.fixture(scope="module")
def drawn():
    """(label -> value, parameters, report) of each image."""
    found = []
    for patient in range(IMAGES):
        anatomy, image = drawing.image_parameters(0, patient, 0)
        report = write_report(np.random.default_rng([0, patient, 1, 1]), anatomy, image)
        found.append((drawing.labels(anatomy, image), image, report))
    return found


def sentences(report: str) -> list[str]:
    lines = [line.partition(": ")[2] for line in report.lower().split("\n")]
    return [sentence for line in lines for sentence in line.rstrip(".").split(". ")]


def test_reports_have_both_sections_and_vary(drawn):
    texts = [report for *_, report in drawn]
    assert all(text.startswith("FINDINGS: ") and "\nIMPRESSION: " in text for text in texts)
    assert len(set(texts)) > 0.95 * IMAGES
    assert {len(sentences(text)) for text in texts} >= {3, 4, 5, 6, 7}


def test_what_is_present_is_said_and_what_is_absent_only_denied(drawn):
    denied = dict.fromkeys(WORDS, 0)
    for labels, _, report in drawn:
        for label, words in WORDS.items():
            about = [s for s in sentences(report) if any(word in s for word in words)]
            negated = [s.startswith(("no ", "there is no ")) or " no " in s for s in about]
            if labels[label]:
                assert about and not any(negated), (label, report)
            else:
                assert all(negated), (label, report)
                denied[label] += len(about) > 0
    shares = {label: count / IMAGES for label, count in denied.items()}
    assert shares["Effusion"] > 0.4 > shares["Nodule"] > 0.1  # some absence is left unsaid


def test_sides_are_the_findings(drawn):
    for _, image, report in drawn:
        for finding in image.findings:
            across = finding.x if hasattr(finding, "x") else finding.side
            side = "left" if across > 0 else "right"
            assert side in report.lower() or "bilateral" in report.lower()
        if not image.findings:
            assert "left" not in report.lower() and "right" not in report.lower()
