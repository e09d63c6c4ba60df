"""MIMIC-CXR-JPG in miniature, release 2.0.0 or 2.1.0, with reports on request.

Quirks: gzipped tables that keep "2.0.0" in their names; labels of studies, not images, in another
order than CheXpert's, blank and -1 cells, a study without a row and one with a blank row;
projections blank, LL and odd; times without their leading zeros, an extra column; a study with a
report and one without; an unreadable image, a row without an image, an image without a row, an
image that the split file lacks.
"""

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.fakes.pictures import draw_image

LABELS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum"),
    *("Fracture", "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion"),
    *("Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices"),
)
METADATA_HEADER = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,"
    "StudyDate,StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,"
    "PatientOrientationCodeSequence_CodeMeaning,AcquisitionDeviceProcessingDescription"
)
# subject -> split; each has two studies of two images.
SUBJECTS = {
    **{f"10{number:06}": "train" for number in range(32, 38)},
    **{"11000001": "validate", "11000002": "validate", "12000001": "test", "19000001": "test"},
}
SHAPE = (64, 72)
UNLABELLED_STUDY, BLANK_STUDY, STUDY_WITHOUT_REPORT = "50001000", "50011000", "50021000"
# Subject, study, image.
CORRUPT, ROW_WITHOUT_FILE, NOT_IN_SPLIT = ("10000035", 1, 1), ("10000036", 1, 0), ("10000037", 1, 1)
FILE_WITHOUT_ROW = "files/p19/p19999999/s59999999/00000000-00000000-00000000-00000000-00000000.jpg"
PROJECTIONS = ("AP", "PA", "", "AP", "LL", "PA", "LATERAL", "AP RLD")

LAYOUTS = {
    "2.0.0": {},
    "2.1.0, unpacked, wrapped": {"release": "2.1.0", "gz": False, "folder_name": "mimic/2.1.0"},
    "with reports": {"reports": True},
}


class FakeImage(NamedTuple):
    """What the fake says of one image; labels hold the cells' text, split is ours."""

    picture: np.ndarray
    labels: dict[str, str]
    split: str
    projection: str
    subject: str
    study: str
    report: str


def write(
    folder: Path,
    *,
    release: str = "2.0.0",
    gz: bool = True,
    folder_name: str = "",
    reports: bool = False,
) -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the readable images by dicom_id.

    Args:
      release: 2.1.0 adds the radiologists' labels of test studies.
      gz: the tables are gzipped.
      folder_name: lies in between, as after wget.
      reports: also mimic-cxr-reports/.
    """
    root = folder / folder_name
    metadata, split_rows = [METADATA_HEADER], ["dicom_id,study_id,subject_id,split"]
    chexpert = [f"subject_id,study_id,{','.join(LABELS)}"]
    images: dict[str, FakeImage] = {}
    for place, (subject, split) in enumerate(SUBJECTS.items()):
        for study_number in range(2):
            study = f"5{place:03}{study_number}000"
            labels = _labels(2 * place + study_number, study)
            if study != UNLABELLED_STUDY:
                chexpert.append(f"{subject},{study},{','.join(labels.values())}")
            report = f"FINAL REPORT\n EXAMINATION: ___, of study {place}.\r\n"
            if reports and study != STUDY_WITHOUT_REPORT:
                _write(folder / "mimic-cxr-reports" / f"{_place(subject, study)}.txt", report)
            for number in range(2):
                seed = 4 * place + 2 * study_number + number
                projection = PROJECTIONS[seed % len(PROJECTIONS)]
                dicom_id = dicom_id_of(seed)
                metadata.append(
                    f"{dicom_id},{subject},{study},CHEST (PORTABLE AP),{projection},"
                    f"{SHAPE[0]},{SHAPE[1]},21901015,93412.406,CHEST (PORTABLE AP),"
                    "antero-posterior,Erect,"
                )
                at = (subject, study_number, number)
                if at != NOT_IN_SPLIT:
                    split_rows.append(f"{dicom_id},{study},{subject},{split}")
                picture = draw_image(seed, *SHAPE)
                path = root / f"{_place(subject, study)}/{dicom_id}.jpg"
                if at == ROW_WITHOUT_FILE:
                    continue
                _save(path, picture)
                if at == CORRUPT:
                    path.write_bytes(path.read_bytes()[:200])
                elif at != NOT_IN_SPLIT:
                    images[dicom_id] = FakeImage(
                        picture=picture,
                        labels=labels,
                        split={"validate": "validation"}.get(split, split),
                        projection={"LL": "LATERAL"}.get(projection, projection),
                        subject=subject,
                        study=study,
                        report=report if reports and study != STUDY_WITHOUT_REPORT else "",
                    )
    _save(root / FILE_WITHOUT_ROW, draw_image(0, *SHAPE))
    for name, lines in (("metadata", metadata), ("split", split_rows), ("chexpert", chexpert)):
        _write(root / f"mimic-cxr-2.0.0-{name}.csv", "\n".join(lines) + "\n", gz)
    _write(root / "mimic-cxr-2.0.0-negbio.csv", "\n".join(chexpert[:3]), gz)
    if release == "2.1.0":
        _write(root / "mimic-cxr-2.1.0-test-set-labeled.csv", "study_id,No Findings\n52000001,1\n")
    (root / "IMAGE_FILENAMES").write_text("files/p10/…\n")
    return images


def options_for(folder: Path) -> dict[str, str]:
    """The option of datasets on MIMIC's images that names `folder`/mimic, if it lies there."""
    return {"mimic_dir": str(folder / "mimic")} if (folder / "mimic").exists() else {}


def dicom_id_of(seed: int) -> str:
    """The image of a place, a study's number and an image's number in it: 4, 2 and 1 each."""
    return "-".join(f"{1 + seed + group:08x}" for group in range(5))


def dicom_id(subject: str, study_number: int, number: int) -> str:
    """The image at CORRUPT, ROW_WITHOUT_FILE or NOT_IN_SPLIT."""
    return dicom_id_of(4 * list(SUBJECTS).index(subject) + 2 * study_number + number)


def _labels(seed: int, study: str) -> dict[str, str]:
    cells = dict.fromkeys(LABELS, "")
    if study not in (UNLABELLED_STUDY, BLANK_STUDY):
        cells[LABELS[seed % 14]] = "1.0"
        cells[LABELS[(seed + 3) % 14]] = "-1.0"
        cells[LABELS[(seed + 7) % 14]] = "0.0"
    return cells


def _place(subject: str, study: str) -> str:
    return f"files/p{subject[:2]}/p{subject}/s{study}"


def _save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, "JPEG", quality=95)


def _write(path: Path, text: str, gz: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if gz:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(text.encode()))
    else:
        path.write_bytes(text.encode())
