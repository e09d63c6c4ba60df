"""Indiana University / Open-i in miniature, as NLM or Kaggle pack it.

Quirks: report 1's doubled name and an id with a third group, RGB PNGs, qualified headings, headings
with commas and one with a trailing space, a report that was never indexed, two without images,
empty findings, "XXXX"; an image that is cut off, one in no report, one in a report but absent;
MONOCHROME1 copies with a projection, without one and without a header.
"""

from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from tests.fakes.dicom_files import write_dicom
from tests.fakes.pictures import draw_image

LAYOUTS = {
    "nlm": {},
    "nlm in a folder, with Kaggle's projections": {"folder_of_images": True, "projections": True},
    "nlm with DICOM": {"dicom": True},
    "kaggle": {"kaggle": True},
}

CORRUPT = "CXR3_IM-1384-2001"
ABSENT = "CXR4_IM-2050-1001"
IN_NO_REPORT = "CXR99_IM-0099-1001"


class Report(NamedTuple):
    """A report: MeSH majors, the labels they make positive (None: not indexed), text, images."""

    majors: tuple[str, ...]
    positive: frozenset[str] | None
    findings: str
    impression: str
    images: tuple[str, ...]


REPORTS = {
    1: Report(
        ("normal",),
        frozenset({"No Finding"}),
        "Heart < lungs & XXXX.",
        "Normal chest x-XXXX.",
        ("CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"),
    ),
    2: Report(
        ("Cardiomegaly/borderline", "Pulmonary Artery/enlarged"),
        frozenset({"Cardiomegaly"}),
        "Borderline cardiomegaly.",
        "No acute disease.",
        ("CXR2_IM-0652-1001", "CXR2_IM-0652-2001"),
    ),
    3: Report(
        ("Fractures, Bone/ribs/left", "Technical Quality of Image Unsatisfactory "),
        frozenset({"Bone Fractures", "Technical Quality Unsatisfactory"}),
        "",
        "Rib fracture.",
        ("CXR3_IM-1384-1001", "CXR3_IM-1384-2001"),
    ),
    4: Report(("No Indexing",), None, "Clear.", "", ("CXR4_IM-2050-1001", "CXR4_IM-2050-2001")),
    5: Report(("normal",), frozenset({"No Finding"}), "Clear.", "Normal.", ()),
    6: Report(
        ("Lung/bilateral/hyperdistention", "Diaphragm/flattened", "Aorta, Thoracic/tortuous/mild"),
        frozenset({"Lung Hyperdistention", "Flattened Diaphragm", "Tortuous Aorta"}),
        "Flat diaphragm.",
        "Emphysema is not seen.",
        ("CXR6_IM-2192-1001",),
    ),
    7: Report(
        ("Lung/hypoinflation", "Pulmonary Emphysema", "Thoracic Vertebrae/degenerative/mild"),
        frozenset({"Lung Hypoinflation", "Emphysema", "Degenerative Spine"}),
        "Low volumes.",
        "Emphysema.",
        ("CXR7_IM-2263-0001-0002",),
    ),
    8: Report(
        ("Thoracic Vertebrae/scattered/sclerotic",), frozenset(), "Sclerosis.", "As above.", ()
    ),
    **{
        n: Report(
            ("Opacity/lung/base/left", "Opacity/lung/lingula"),
            frozenset({"Opacity"}),
            f"Opacity {n}.",
            "Opacity.",
            (f"CXR{n}_IM-{n:04}-1001",),
        )
        for n in range(10, 26)
    },
}
VIEW_OF_LAST_DIGITS = {"1001": "Frontal", "3001": "Frontal", "0002": "Frontal"}


class FakeImage(NamedTuple):
    """What the fake says of one image; the projection as each layout should give it."""

    picture: np.ndarray
    uid: int
    report: Report
    projection: str


def write(
    folder: Path,
    *,
    kaggle: bool = False,
    folder_of_images: bool = False,
    projections: bool = False,
    dicom: bool = False,
) -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the readable images by image id.

    Args:
      kaggle: Kaggle's tables and names instead of NLM's reports.
      folder_of_images: NLM's PNGs in a folder of their own.
      projections: Kaggle's table of projections beside NLM's reports.
      dicom: the DICOM copies too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    place = folder / ("images/images_normalized" if kaggle else "pngs" if folder_of_images else "")
    place.mkdir(parents=True, exist_ok=True)
    rows = []
    for uid, report in REPORTS.items():
        for number, image_id in enumerate(report.images):
            stem = image_id.removeprefix("CXR")
            projection = VIEW_OF_LAST_DIGITS.get(image_id[-4:], "Lateral")
            rows.append(f"{uid},{stem}.dcm.png,{projection}")
            picture = draw_image(10 * uid + number, 64, 56)
            if dicom:
                _write_dicom(folder / str(uid) / f"{stem}.dcm", picture, projection)
            if image_id == ABSENT:
                continue
            path = place / (f"{stem}.dcm.png" if kaggle else f"{image_id}.png")
            Image.fromarray(picture).convert("RGB").save(path)
            if image_id == CORRUPT:
                path.write_bytes(path.read_bytes()[:300])
                continue
            expected = projection.upper() if kaggle or projections else ""
            if dicom and image_id not in NO_DICOM_PROJECTION:
                expected = {"Frontal": "PA", "Lateral": "LATERAL"}[projection]
            images[image_id] = FakeImage(picture, uid, report, expected)
    extra = IN_NO_REPORT.removeprefix("CXR") + ".dcm.png" if kaggle else f"{IN_NO_REPORT}.png"
    Image.fromarray(draw_image(0, 64, 56)).save(place / extra)
    if kaggle or projections:
        _write_csv(folder / "indiana_projections.csv", "uid,filename,projection", rows)
    if kaggle:
        _write_csv(folder / "indiana_reports.csv", KAGGLE_HEADER, map(_kaggle_row, REPORTS))
    else:
        (folder / "ecgen-radiology").mkdir()
        for uid in REPORTS:
            (folder / f"ecgen-radiology/{uid}.xml").write_text(_xml(uid), encoding="utf-8")
    return images


KAGGLE_HEADER = "uid,MeSH,Problems,image,indication,comparison,findings,impression"
# One copy names no projection, one is no DICOM at all.
NO_DICOM_PROJECTION = ("CXR10_IM-0010-1001", "CXR11_IM-0011-1001")


def _write_dicom(path: Path, picture: np.ndarray, projection: str) -> None:
    blank = f"CXR{path.stem}" in NO_DICOM_PROJECTION
    write_dicom(
        path,
        (255 - picture).astype(np.uint16) * 16,
        photometric="MONOCHROME1",
        bits=12,
        ViewPosition="" if blank else {"Frontal": "PA", "Lateral": "LL"}[projection],
    )
    if f"CXR{path.stem}" == NO_DICOM_PROJECTION[1]:
        path.write_bytes(b"no DICOM at all")


def _write_csv(path: Path, header: str, rows) -> None:
    path.write_bytes(("\r\n".join([header, *rows]) + "\r\n").encode("utf-8-sig"))


def _kaggle_row(uid: int) -> str:
    report = REPORTS[uid]
    mesh = ";".join(report.majors)
    problems = ";".join(major.split("/")[0] for major in report.majors)
    texts = ("Pain, XXXX.", "None.", report.findings, report.impression)
    cells = (mesh, problems, "Xray Chest PA and Lateral", *texts)
    return ",".join([str(uid), *(f'"{cell}"' for cell in cells)])


def _xml(uid: int) -> str:
    report = REPORTS[uid]
    texts = {
        "COMPARISON": "None.",
        "INDICATION": "Chest pain, XXXX.",
        "FINDINGS": report.findings,
        "IMPRESSION": report.impression,
    }
    abstract = "".join(
        f'<AbstractText Label="{label}">{escape(text)}</AbstractText>'
        if text
        else f'<AbstractText Label="{label}"/>'
        for label, text in texts.items()
    )
    majors = "".join(f"<major>{major}</major>" for major in report.majors)
    images = "".join(
        f'<parentImage id="{image}"><figureId>F{i}</figureId>'
        "<caption>Xray Chest PA and Lateral</caption></parentImage>"
        for i, image in enumerate(report.images, start=1)
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<eCitation>\n<meta type="rr"/><uId id="CXR{uid}"/>'
        f"<MedlineCitation><Article><Abstract>{abstract}</Abstract></Article></MedlineCitation>\n"
        f"<MeSH>{majors}<automatic>pneumonia</automatic></MeSH>{images}\n</eCitation>\n"
    )
