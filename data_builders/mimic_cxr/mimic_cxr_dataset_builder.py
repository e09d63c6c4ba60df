"""MIMIC-CXR-JPG (Johnson et al. 2019): 377,110 images, 14 labels, reports on request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from cxr_jax.data.tasks import Task, as_stored
from data_builders.base import builder, csv_table, folders
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.chexpert import labels
from data_builders.mimic_cxr import release
from data_builders.mimic_cxr.reports import Reports

REPORTS_FOLDER = "mimic-cxr-reports"


class Builder(builder.CxrBuilder):
    """Release 2.0.0 or 2.1.0 with the owner's splits; labels are of a study, records of an image."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = f"manual_dir is {release.WHERE_TO_GET}, and {release.CHEXPERT}. For reports give --reports_dir."
    HOMEPAGE: ClassVar = "https://physionet.org/content/mimic-cxr-jpg/"
    LABEL_NAMES: ClassVar = labels.CHEXPERT_LABELS
    TASK: ClassVar = "multilabel"
    TASKS: ClassVar = {
        "default": Task(as_stored(labels.CHEXPERT_LABELS), **labels.FROM_REPORTS),
        "competition": Task(as_stored(labels.COMPETITION), **labels.FROM_REPORTS),
    }
    LICENCE: ClassVar = "PhysioNet Credentialed Health Data License 1.5.0"
    SPLIT_RULE: ClassVar = "The owner's split file; validate is validation."
    HAS_REPORTS: ClassVar = True
    INPUTS: ClassVar = {
        "reports_dir": (
            f"the unpacked {REPORTS_FOLDER}.zip of MIMIC-CXR (files/p10/p1…/s5….txt); unasked, "
            f"{REPORTS_FOLDER}/ in manual_dir is read if it is there"
        )
    }
    OWNER_COUNTS: ClassVar = {
        "images": 377_110,
        "patients": 65_379,
        "studies": 227_835,
        "train images": 368_960,
    }

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = release.find_root(manual_dir)
        splits = release.read_splits(root)
        studies = read_labels(root)
        reports = self._reports(manual_dir)
        listed, labelled = set(), set()
        for image in release.read_images(root):
            listed.add(image.dicom_id)
            path = release.image_path(root, image)
            if image.dicom_id not in splits:
                yield Skipped(image.where, f"not in {release.SPLIT}")
                continue
            split = splits[image.dicom_id]
            study = studies.get(image.study_id)
            for other in (split, study):
                if other is not None and other.subject_id != image.subject_id:
                    raise BuildError(
                        f"{image.where}: its subject_id is not that of {other.where}. The tables "
                        "are not of one release."
                    )
            labelled.add(image.study_id)
            yield Record(
                split=split.name,
                image_id=image.dicom_id,
                patient_id=image.subject_id,
                image=path,
                labels=study.labels if study else labels.UNMENTIONED,
                study_id=f"s{image.study_id}",
                projection=image.view,
                report=reports.read(image) if reports else "",
                row=image.where,
            )
        if reports:
            reports.check()
        for dicom_id in sorted(splits.keys() - listed):
            yield Skipped(splits[dicom_id].where, "not in the metadata")
        for study_id in sorted(studies.keys() - labelled):
            yield Skipped(studies[study_id].where, "a study without a listed image")
        for path in folders.files_below(root / "files"):
            if path.suffix.lower() in (".jpg", ".jpeg") and path.stem not in listed:
                yield Skipped(path.relative_to(root).as_posix(), "not in the metadata")

    def _reports(self, manual_dir: Path) -> Reports | None:
        """The reports, if they were given.

        Raises:
          BuildError: --reports_dir holds no files/.
        """
        given = self.input_dir("reports_dir", manual_dir / REPORTS_FOLDER)
        if "reports_dir" not in self.settings.inputs and not given.is_dir():
            return None
        root = folders.find_root(given, ("files",), f"{self.INPUTS['reports_dir']}.")
        return Reports(root)


class Study(NamedTuple):
    """A row of the labels, which are the 14 of CheXpert."""

    subject_id: str
    labels: Mapping[str, float]
    where: str


def read_labels(root: Path) -> dict[str, Study]:
    """study_id -> its row.

    Raises:
      BuildError: a study listed twice, an id or a label value that is none.
    """
    table = csv_table.Table(folders.require(root, release.CHEXPERT))
    columns = ("subject_id", "study_id", *labels.CHEXPERT_LABELS)
    at_subject, at_study = table.index("subject_id"), table.index("study_id")
    cells = labels.LabelCells(table)
    studies: dict[str, Study] = {}
    for row in table.rows(columns):
        subject_id, study_id = row.fields[at_subject], row.fields[at_study]
        release.check_ids(subject_id, study_id, row.where)
        if study_id in studies:
            raise BuildError(
                f"{row.where}: its study is listed twice, in {studies[study_id].where} too. Keep one row."
            )
        studies[study_id] = Study(subject_id, cells.read(row), row.where)
    return studies
