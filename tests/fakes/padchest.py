"""PadChest in miniature.

Quirks: a leading unnamed column, ids beyond 64 bits, ImageDir as "0" or "0.0", two styles of names,
lists as text with stray spaces, repeats, quotes and unknown strings; a blank list, an empty one,
one that excludes the image, one that only says "unchanged"; commas and line breaks within quotes;
16-bit PNGs that use a part of their range; images that are cut off or absent, an image without a
row, a row without a patient.
"""

import csv
import gzip
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.fakes.pictures import deep, draw_image

LAYOUTS = {
    "numbered folders": {},
    "one folder, compressed table": {"flat": True, "compressed": True},
    "wrapped, ImageDir as a fraction": {"wrapped": True, "fraction": True},
}
TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,"
    "ViewPosition_DICOM,Projection,MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,"
    "PhotometricInterpretation_DICOM,PixelRepresentation_DICOM,PixelAspectRatio_DICOM,"
    "SpatialResolution_DICOM,BitsStored_DICOM,WindowCenter_DICOM,WindowWidth_DICOM,Rows_DICOM,"
    "Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,ExposureInuAs_DICOM,ExposureTime,"
    "RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,"
    "LabelsLocalizationsBySentence,labelCUIS,LocalizationsCUIS"
)
# The Labels cell and the labels it makes positive; None: nothing is said.
CELLS = (
    ("['normal']", frozenset({"normal"})),
    (
        "['pleural effusion', ' pneumonia', 'pneumonia']",
        frozenset({"pleural effusion", "pneumonia"}),
    ),
    ("", None),
    ("['copd signs', 'NSG tube', 'goiter']", frozenset({"COPD signs", "NSG tube"})),
    ("['exclude', 'cardiomegaly']", None),
    ("['unchanged']", None),
    ("['unchanged', 'cardiomegaly', '']", frozenset({"cardiomegaly"})),
    ("[]", None),
    ("['Chilaiditi sign']", frozenset()),
    ("[\"calcified granuloma\", 'suboptimal study']", frozenset({"calcified granuloma"})),
)
PROJECTIONS = {
    "PA": "PA",
    "L": "LATERAL",
    "AP": "AP",
    "AP_horizontal": "AP",
    "COSTAL": "COSTAL",
    "UNK": "",
}
NUM_PATIENTS = 22
CUT_OFF, ABSENT, WITHOUT_PATIENT = 4, 6, 8
WITHOUT_ROW = "20000000000000000000000000000000000099_zzzzzz.png"


class FakeImage(NamedTuple):
    """What the fake says of one image."""

    picture: np.ndarray
    positive: frozenset[str] | None
    patient: str
    study: str
    projection: str
    sex: str
    age: float
    report: str


def patient_id(number: int) -> str:
    return f"8300000000000000000000000000000000{number:04}"


def name_of(index: int) -> str:
    """The image's file name, in one of the owner's two styles."""
    if index % 3:
        return f"200000000000000000000000000000000000{index:02}_ab{index:02}cd.png"
    return f"2168401113669640123733108839420091170840{index:05}_00-163-{index:03}.png"


def write(
    folder: Path,
    *,
    flat: bool = False,
    compressed: bool = False,
    wrapped: bool = False,
    fraction: bool = False,
) -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the readable images by image id.

    Args:
      flat: all PNGs in one folder instead of numbered ones.
      compressed: .csv.gz.
      wrapped: everything in a folder inside.
      fraction: ImageDir as "0.0".
    """
    folder = folder / "BIMCV-PadChest" if wrapped else folder
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, HEADER.split(","), lineterminator="\n")
    writer.writeheader()
    images = {}
    for index in range(NUM_PATIENTS + 6):
        name, patient = name_of(index), patient_id(index % NUM_PATIENTS)
        projection = list(PROJECTIONS)[index % len(PROJECTIONS)]
        cell, positive = CELLS[index % len(CELLS)]
        age, birth = {7: (np.nan, ""), 9: (np.nan, "1790.0")}.get(
            index, (30.0 + index, f"{1984 - index}.0")
        )
        sex = ("M", "F", "O")[index % 3]
        report = f'sin hallazg , signific "{index}" .\n otra lin .'
        archive = (0, 50, 54)[index % 3]
        row = {
            "": index,
            "ImageID": name,
            "ImageDir": f"{archive}.0" if fraction else archive,
            "StudyDate_DICOM": 20140915,
            "StudyID": f"2000000000000000000000000000000000{index:04}",
            "PatientID": "" if index == WITHOUT_PATIENT else patient,
            "PatientBirth": birth,
            "PatientSex_DICOM": sex,
            "ViewPosition_DICOM": "POSTEROANTERIOR",
            "Projection": projection,
            "Pediatric": "No",
            "Modality_DICOM": "CR",
            "PhotometricInterpretation_DICOM": "MONOCHROME2",
            "BitsStored_DICOM": 12,
            "ReportID": 4700000 + index,
            "Report": report,
            "MethodLabel": "Physician",
            "Labels": cell,
            "Localizations": "[]",
            "LabelsLocalizationsBySentence": "[['normal']]",
            "labelCUIS": "[]",
            "LocalizationsCUIS": "[]",
        }
        writer.writerow(row)
        if index == ABSENT:
            continue
        path = folder / ("images" if flat else str(archive)) / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(deep(index, 300, 3800, 64, 60)).save(path)
        if index == CUT_OFF:
            path.write_bytes(path.read_bytes()[:500])
        elif index != WITHOUT_PATIENT:
            images[name.removesuffix(".png")] = FakeImage(
                picture=draw_image(index, 64, 60),
                positive=positive,
                patient=patient,
                study=row["StudyID"],
                projection=PROJECTIONS[projection],
                sex="" if sex == "O" else sex,
                age=age,
                report=report,
            )
    extra = folder / ("images" if flat else "54") / WITHOUT_ROW
    Image.fromarray(deep(0, 300, 3800, 64, 60)).save(extra)
    content = stream.getvalue().encode()
    if compressed:
        (folder / f"{TABLE}.gz").write_bytes(gzip.compress(content))
    else:
        (folder / TABLE).write_bytes(content)
    (folder / "0.zip.unzip-l.txt").write_text("Archive: 0.zip\n")
    return images
