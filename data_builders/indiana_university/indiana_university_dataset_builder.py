"""Indiana University / Open-i (Demner-Fushman et al. 2016): 7,470 images with their reports."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from cxr_jax.data.tasks import FRONTAL, Task, as_stored
from cxr_jax.io import dicom
from data_builders.base import builder, csv_table, folders, splits
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.indiana_university import reports
from data_builders.indiana_university.reports import Report

TABLES = REPORTS, PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
# Findings with at least six positive images in the hash's test split.
FREQUENT = (
    *("Cardiomegaly", "Pulmonary Atelectasis", "Pleural Effusion", "Opacity", "Nodule"),
    *("Calcified Granuloma", "Emphysema", "Infiltrate", "Pneumonia", "Consolidation"),
    *("Pulmonary Edema", "Pneumothorax", "Hiatal Hernia", "Bone Fractures"),
)


class Builder(builder.CxrBuilder):
    """NLM's XML reports and PNGs, or Kaggle's two tables and PNGs; a patient has one report."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Unpack into manual_dir either NLMCXR_reports.tgz (ecgen-radiology/*.xml) and "
        "NLMCXR_png.tgz from https://openi.nlm.nih.gov/faq, or Kaggle's raddar/"
        f"chest-xrays-indiana-university ({REPORTS}, {PROJECTIONS}, images/). Beside NLM's, "
        f"Kaggle's {PROJECTIONS} or NLMCXR_dcm.tgz gives the projections."
    )
    HOMEPAGE: ClassVar = "https://openi.nlm.nih.gov/faq"
    LABEL_NAMES: ClassVar = tuple(reports.HEADINGS)
    TASKS: ClassVar = {
        "default": Task(as_stored(FREQUENT), projections=FRONTAL),
        "any_finding": Task({"Any finding": "not No Finding"}, projections=FRONTAL),
    }
    PATIENT: ClassVar = "report, one a person"
    LICENCE: ClassVar = "CC BY-NC-ND 4.0"
    SPLIT_RULE: ClassVar = "70 % train, 10 % validation, 20 % test by a fixed hash of the patient."
    HAS_REPORTS: ClassVar = True
    OWNER_COUNTS: ClassVar = {"images": 7470, "patients": 3851, "studies": 3851, "No Finding": 2696}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        files = list(folders.files_below(manual_dir))
        csvs = folders.unique((path for path in files if table_name(path) in TABLES), table_name)
        # What could be one of NLM's reports.
        numbered = (path for path in files if path.stem.isascii() and path.stem.isdigit())
        xmls = folders.by_key(numbered, (".xml",), lambda path: path.stem)
        listing = read_projections(csvs[PROJECTIONS]) if PROJECTIONS in csvs else {}
        if xmls:
            parsed = map(reports.read_xml, xmls.values())
            described = ((image, report) for report in parsed for image in report.images)
        elif REPORTS in csvs and PROJECTIONS in csvs:
            described = read_kaggle(csvs[REPORTS], listing)
        else:
            raise self.nothing(
                manual_dir,
                "neither NLM's reports (ecgen-radiology/*.xml) nor Kaggle's "
                f"{REPORTS} with {PROJECTIONS}",
            )
        images, headers = (folders.by_key(files, (kind,), image_id_of) for kind in (".png", ".dcm"))
        projections = {image: one.projection for image, one in listing.items()}
        if not listing:  # the DICOM copies have them where they were unpacked too
            tags = self.read_tags(headers, headers)
            projections = {image: found.projection for image, found in tags.items()}
        listed = set()
        for image, report in described:
            listed.add(image)
            yield Record(
                split=splits.by_patient(report.uid),
                image_id=image,
                patient_id=report.uid,
                image=images.get(image, manual_dir / f"{image}.png"),
                labels=report.labels,
                study_id=f"CXR{report.uid}",
                projection=projections.get(image, ""),
                report=report.text,
                row=report.where,
            )
        yield from folders.not_listed(images, listed, manual_dir, "in no report")


def table_name(path: Path) -> str:
    """Returns a table's name without its case and .gz."""
    return path.name.casefold().removesuffix(".gz")


def image_id_of(path: Path) -> str:
    """Returns the image id of an image's file, x.png, x.dcm or x.dcm.png."""
    return reports.image_id(re.sub(r"(\.dcm)?(\.png)?$", "", path.name, flags=re.IGNORECASE))


class Listed(NamedTuple):
    """A row of Kaggle's table of images."""

    uid: str
    projection: str
    where: str


def read_projections(path: Path) -> dict[str, Listed]:
    """Returns image id -> its row of Kaggle's table of images; BuildError for a twin."""
    found: dict[str, Listed] = {}
    columns = ("uid", "filename", "projection")
    for where, (uid, name, projection) in csv_table.Table(path).select(columns):
        image = reports.image_id(name.removesuffix(".png").removesuffix(".dcm"))
        if not image.startswith(f"CXR{uid}_"):
            raise BuildError(
                f"{where}: uid does not fit filename, which begins with it. The rows or columns "
                "have been moved against each other."
            )
        projection = dicom.standard_projection(projection)
        if projection not in ("FRONTAL", "LATERAL"):
            raise BuildError(f"{where}: projection is none of Frontal, Lateral.")
        csv_table.keep_one(found, image, "image", Listed(uid, projection, where))
    return found


def read_kaggle(path: Path, listing: Mapping[str, Listed]) -> Iterator[tuple[str, Report]]:
    """Yields each image of Kaggle's tables with its report; BuildError for two reports or none."""
    columns = ("uid", "MeSH", "findings", "impression")
    prose = ("image", "indication", "comparison", "findings", "impression")
    by_uid: dict[str, Report] = {}
    for where, (uid, mesh, findings, impression) in csv_table.Table(path).select(columns, prose):
        labels = reports.parse_headings(mesh.split(";"), where)
        text = reports.report_text(findings, impression)
        csv_table.keep_one(by_uid, uid, "uid", Report(uid, labels, text, images=(), where=where))
    for image, (uid, _, where) in listing.items():
        if uid not in by_uid:
            raise BuildError(
                f"{where}: its uid has no row in {path.name}. Take both tables from the same "
                "download."
            )
        yield image, by_uid[uid]._replace(where=where)
