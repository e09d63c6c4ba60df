"""Pulmonary edema severity in miniature, on the fake of MIMIC-CXR-JPG.

Quirks: grades of studies that cover several images or, of a lateral study, none; a study that both
experts and regular expressions grade; a study of a test patient; a study and an image that MIMIC
does not have; a test image of MIMIC's train part; the cohort's metadata, which nobody reads.
"""

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.fakes import mimic_cxr

TESTED = ("10000032", "12000001")
GRADED_TWICE = "50020000"
UNKNOWN_STUDY, UNKNOWN_IMAGE = "59999999", "ffffffff-00000000-00000000-00000000-00000000"

LAYOUTS = {
    "apart": {},
    "together, gzipped": {"mimic_name": "raw/mimic", "gz": True},
}


class FakeImage(NamedTuple):
    """What the fakes say of one image; `test` where the consensus graded it."""

    image: mimic_cxr.FakeImage
    grade: int
    test: bool

    @property
    def picture(self) -> np.ndarray:
        """MIMIC's."""
        return self.image.picture


def write(
    folder: Path, *, mimic_name: str = "mimic", gz: bool = False
) -> tuple[dict[str, FakeImage], set[str]]:
    """Writes `folder`/raw and MIMIC into `folder`/`mimic_name`.

    Returns:
      The readable images by dicom_id, and the studies and images that must be skipped.
    """
    images = mimic_cxr.write(folder / mimic_name)
    consensus, expert, regex = [], [], []
    graded: dict[str, FakeImage] = {}
    skipped = {f"s{UNKNOWN_STUDY}", UNKNOWN_IMAGE}
    studies = sorted({(image.subject, image.study) for image in images.values()})
    for seed, (subject, study) in enumerate(studies):
        of_study = {name: image for name, image in images.items() if image.study == study}
        grade = seed // 2 % 4
        if subject in TESTED and study.endswith("0000"):
            dicom_id = min(of_study)
            consensus.append((subject, study, dicom_id, grade))
            graded[dicom_id] = FakeImage(images[dicom_id], grade, test=True)
            continue
        by_expert = seed % 3 == 0 or study == GRADED_TWICE
        (expert if by_expert else regex).append((subject, study, grade))
        if study == GRADED_TWICE:
            regex.append((subject, study, (grade + 2) % 4))
        frontal = {
            name: image for name, image in of_study.items() if image.projection in ("AP", "PA")
        }
        if subject in TESTED or not frontal:
            skipped.add(f"s{study}")
        else:
            graded |= {name: FakeImage(image, grade, test=False) for name, image in frontal.items()}
    consensus.append(("19999999", UNKNOWN_STUDY, UNKNOWN_IMAGE, 0))
    regex.append(("19999998", UNKNOWN_STUDY, 1))
    raw = folder / "raw"
    _write(raw / "consensus_image", "subject_id,study_id,dicom_id", consensus, gz)
    _write(raw / "expert_report", "subject_id,study_id", expert, gz)
    _write(raw / "regex_report", "subject_id,study_id", regex, gz)
    (raw / "auxiliary_metadata").mkdir()
    (raw / "auxiliary_metadata" / "mimic_cxr_metadata_available_CHF_view.csv").write_text("a,b\n")
    return graded, skipped


def _write(path: Path, header: str, rows: list[tuple], gz: bool) -> None:
    lines = [f"{header},edema_severity", *(",".join(map(str, row)) for row in rows)]
    text = ("\n".join(lines) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f"{path.name}_edema_severity.csv"
    if gz:
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(text))
    else:
        path.with_name(name).write_bytes(text)
