"""Indiana University / Open-i (Demner-Fushman et al. 2016): 7,470 images with their reports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from cxr_jax.data.tasks import FRONTAL, Task, as_stored
from cxr_jax.io import dicom
from data_builders.base import builder, csv_table, folders, parallel, splits
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.indiana_university import reports
from data_builders.indiana_university.reports import Report

TABLES = REPORTS, PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
VIEWS = ("FRONTAL", "LATERAL")
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
        f"Kaggle's {PROJECTIONS} or NLMCXR_dcm.tgz gives the views."
    )
    HOMEPAGE: ClassVar = "https://openi.nlm.nih.gov/faq"
    LABEL_NAMES: ClassVar = tuple(reports.HEADINGS)
    TASK: ClassVar = "multilabel"
    TASKS: ClassVar = {
        "default": Task(as_stored(FREQUENT), projections=FRONTAL),
        "any_finding": Task({"Any finding": "not No Finding"}, projections=FRONTAL),
    }
    LICENCE: ClassVar = "CC BY-NC-ND 4.0"
    SPLIT_RULE: ClassVar = "70 % train, 10 % validation, 20 % test by a fixed hash of the patient."
    HAS_REPORTS: ClassVar = True
    OWNER_COUNTS: ClassVar = {"images": 7470, "patients": 3851, "studies": 3851, "No Finding": 2696}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        files = list(folders.files_below(manual_dir))
        csvs = folders.unique((path for path in files if table_name(path) in TABLES), table_name)
        numbered = (path for path in files if is_numbered_xml(path))
        xmls = folders.unique(numbered, lambda path: path.stem)
        if xmls:
            described = read_reports(xmls.values())
            projections = read_projections(csvs[PROJECTIONS]) if PROJECTIONS in csvs else {}
        elif REPORTS in csvs and PROJECTIONS in csvs:
            projections = read_projections(csvs[PROJECTIONS])
            described = read_kaggle(csvs[REPORTS], projections)
        else:
            raise BuildError(
                f"{manual_dir} holds neither NLM's reports (ecgen-radiology/*.xml) nor Kaggle's "
                f"{REPORTS} with {PROJECTIONS}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        pngs = (path for path in files if path.suffix.lower() == ".png")
        images = folders.unique(pngs, image_id_of)
        dicoms = (path for path in files if path.suffix.lower() == ".dcm")
        headers = folders.unique(dicoms, image_id_of)
        image_views = {image: view for image, (_, view, _) in projections.items()}
        if not image_views:
            image_views = self._read_views(headers)
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
                projection=image_views.get(image, ""),
                report=report.text,
                row=report.where,
            )
        for image in sorted(images.keys() - listed):
            yield Skipped(images[image].relative_to(manual_dir).as_posix(), "in no report")

    def _read_views(self, headers: Mapping[str, Path]) -> dict[str, str]:
        """Image id -> view, from the DICOM copies where they were unpacked too."""
        tags = parallel.parallel_map(dicom.read_tags, headers.items(), self.settings.num_workers)
        return {
            image: dicom.standard_projection(tag.projection)
            for image, tag in tags
            if tag is not None
        }


def table_name(path: Path) -> str:
    """A table's name without its case and .gz."""
    return path.name.casefold().removesuffix(".gz")


def image_id_of(path: Path) -> str:
    """The image id of an image's file, x.png, x.dcm or x.dcm.png."""
    return reports.image_id(re.sub(r"(\.dcm)?(\.png)?$", "", path.name, flags=re.IGNORECASE))


def is_numbered_xml(path: Path) -> bool:
    """Whether a file could be one of NLM's reports."""
    return path.suffix.lower() == ".xml" and path.stem.isascii() and path.stem.isdigit()


def read_reports(xmls: Iterable[Path]) -> Iterator[tuple[str, Report]]:
    """Each image of NLM's reports with its report; 104 reports have no image."""
    for path in xmls:
        report = reports.read_xml(path)
        for image in report.images:
            yield image, report


def read_projections(path: Path) -> dict[str, tuple[str, str, str]]:
    """Image id -> (uid, view, where) of Kaggle's table of images.

    Raises:
      BuildError: an image listed twice or under another report's number, or an unknown projection.
    """
    table = csv_table.Table(path)
    columns = ("uid", "filename", "projection")
    at = [table.index(column) for column in columns]
    found: dict[str, tuple[str, str, str]] = {}
    for row in table.rows(columns):
        uid, name, projection = (row.fields[i] for i in at)
        image = reports.image_id(name.removesuffix(".png").removesuffix(".dcm"))
        if not image.startswith(f"CXR{uid}_"):
            raise BuildError(
                f"{row.where}: uid does not fit filename, which begins with it. The rows or "
                "columns have been moved against each other."
            )
        view = dicom.standard_projection(projection)
        if view not in VIEWS:
            raise BuildError(f"{row.where}: projection is none of Frontal, Lateral.")
        if image in found:
            raise BuildError(
                f"{row.where}: an image is listed twice; {found[image][2]} has it too."
            )
        found[image] = (uid, view, row.where)
    return found


def read_kaggle(
    path: Path, projections: Mapping[str, tuple[str, str, str]]
) -> Iterator[tuple[str, Report]]:
    """Each image of Kaggle's tables with its report.

    Raises:
      BuildError: two reports of one number, or an image whose report is not there.
    """
    table = csv_table.Table(path)
    columns = ("uid", "MeSH", "findings", "impression")
    prose = ("image", "indication", "comparison", "findings", "impression")
    at = [table.index(column) for column in columns]
    by_uid: dict[str, Report] = {}
    for row in table.rows(columns, prose):
        uid, mesh, findings, impression = (row.fields[i] for i in at)
        if uid in by_uid:
            raise BuildError(f"{row.where}: its uid stands in {by_uid[uid].where} already.")
        by_uid[uid] = Report(
            uid=uid,
            labels=reports.parse_headings(mesh.split(";"), row.where),
            text=reports.report_text(findings, impression),
            images=(),
            where=row.where,
        )
    for image, (uid, _, where) in projections.items():
        if uid not in by_uid:
            raise BuildError(
                f"{where}: its uid has no row in {path.name}. Take both tables from the same download."
            )
        yield image, by_uid[uid]._replace(where=where)
