"""Reports of drawn images say what is drawn, and deny nothing that is."""

import numpy as np
import pytest

from data_builders.phantom import drawing, reports

IMAGES = 300
WORDS = {
    "Cardiomegaly": ("enlarged", "cardiomegaly"),
    "Effusion": ("effusion", "pleural fluid"),
    "Pneumothorax": ("pneumothorax",),
    "Nodule": ("nodul",),
    "Consolidation": ("consolidation", "airspace"),
}


@pytest.fixture(scope="module")
def drawn():
    """(label -> value, parameters, report) of each image."""
    found = []
    for patient in range(IMAGES):
        anatomy, image = drawing.image_parameters(0, patient, 0)
        report = reports.write(np.random.default_rng([0, patient, 1, 1]), anatomy, image)
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
