"""MIMIC-CXR-JPG (Johnson et al. 2019): 377,110 images, 14 labels, reports on request."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from cxr_jax.data.tasks import Task, as_stored
from cxr_jax.io import dicom
from data_builders.base import builder, chexmask, csv_table, folders
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.chexpert.chexpert_dataset_builder import (
    CHEXPERT_LABELS,
    COMPETITION,
    FROM_REPORTS,
    parse_labels,
)

# The names keep "2.0.0" in release 2.1.0.
METADATA = "mimic-cxr-2.0.0-metadata.csv"
SPLIT = "mimic-cxr-2.0.0-split.csv"
CHEXPERT = "mimic-cxr-2.0.0-chexpert.csv"
SPLITS = {"train": "train", "validate": "validation", "test": "test"}
REPORTS_FOLDER = "mimic-cxr-reports"
WHERE_TO_GET = (
    "MIMIC-CXR-JPG, from https://physionet.org/content/mimic-cxr-jpg/: the folder with "
    f"{METADATA}, {SPLIT} (or .gz) and files/p10/p1…/s5…/….jpg"
)
NOT_LABELLED: Mapping[str, float] = dict.fromkeys(CHEXPERT_LABELS, float("nan"))


class Builder(builder.CxrBuilder):
    """Release 2.0.0 or 2.1.0 with the owner's splits; a label is a study's, a record an image's."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        f"manual_dir is {WHERE_TO_GET}, and {CHEXPERT}. For reports give --reports_dir."
    )
    HOMEPAGE: ClassVar = "https://physionet.org/content/mimic-cxr-jpg/"
    LABEL_NAMES: ClassVar = CHEXPERT_LABELS
    TASKS: ClassVar = {
        "default": Task(as_stored(CHEXPERT_LABELS), **FROM_REPORTS),
        "competition": Task(as_stored(COMPETITION), **FROM_REPORTS),
    }
    LICENCE: ClassVar = "PhysioNet Credentialed Health Data License 1.5.0"
    CHEXMASK: ClassVar = "dicom_id"
    OPTIONS: ClassVar = chexmask.OPTION
    SPLIT_RULE: ClassVar = "The owner's split file; validate is validation."
    HAS_REPORTS: ClassVar = True
    INPUTS: ClassVar = {
        "reports_dir": (
            f"the unpacked {REPORTS_FOLDER}.zip of MIMIC-CXR (files/p10/p1…/s5….txt); unasked, "
            f"{REPORTS_FOLDER}/ in manual_dir is read if it is there"
        )
    }
    OWNER_COUNTS: ClassVar = {
        **{"images": 377_110, "patients": 65_379, "studies": 227_835},
        "train images": 368_960,
    }

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = find_root(manual_dir)
        splits = read_splits(root)
        studies = read_labels(root)
        reports = self._reports(manual_dir)
        listed, labelled = set(), set()
        for image in read_images(root):
            listed.add(image.dicom_id)
            if image.dicom_id not in splits:
                yield Skipped(image.where, f"not in {SPLIT}")
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
            labels = study.value if study else NOT_LABELLED
            report = reports.read(image) if reports else ""
            yield record_of(root, image, split=split.value, labels=labels, report=report)
        if reports:
            reports.check()
        for dicom_id in sorted(splits.keys() - listed):
            yield Skipped(splits[dicom_id].where, "not in the metadata")
        for study_id in sorted(studies.keys() - labelled):
            yield Skipped(studies[study_id].where, "a study without a listed image")
        for path in folders.files_below(root / "files"):
            if path.suffix.lower() in (".jpg", ".jpeg") and path.stem not in listed:
                yield Skipped(path.relative_to(root).as_posix(), "not in the metadata")

    def _reports(self, manual_dir: Path) -> "Reports | None":
        """Returns the reports, if they were given; BuildError: --reports_dir holds no files/."""
        given = self.input_dir("reports_dir", manual_dir / REPORTS_FOLDER)
        if "reports_dir" not in self.settings.inputs and not given.is_dir():
            return None
        return Reports(folders.find_root(given, ("files",), f"{self.INPUTS['reports_dir']}."))


class Radiograph(NamedTuple):
    """A row of the metadata; `projection` in standard words."""

    dicom_id: str
    subject_id: str
    study_id: str
    projection: str
    where: str


class Listed(NamedTuple):
    """A row of the split file, with our split's name, or of the labels, which are CheXpert's 14."""

    subject_id: str
    value: Any
    where: str


def find_root(mimic_dir: Path) -> Path:
    """Returns the folder with the tables, up to two below; BuildError if there is none."""
    return folders.find_root(mimic_dir, (METADATA,), f"{WHERE_TO_GET}.")


def read_images(root: Path) -> Iterator[Radiograph]:
    """Yields the images that the metadata lists; BuildError for ids that are none."""
    standard = functools.cache(dicom.standard_projection)
    table = csv_table.Table(folders.require(root, METADATA))
    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition")
    for where, (dicom_id, subject_id, study_id, projection) in table.select(columns):
        check_ids(subject_id, study_id, where)
        yield Radiograph(dicom_id, subject_id, study_id, standard(projection), where)


def read_splits(root: Path) -> dict[str, Listed]:
    """Returns dicom_id -> its row of the split file; BuildError for an unknown split or a twin."""
    table = csv_table.Table(folders.require(root, SPLIT))
    splits: dict[str, Listed] = {}
    for where, (dicom_id, subject_id, split) in table.select(("dicom_id", "subject_id", "split")):
        if split not in SPLITS:
            raise BuildError(f"{where}: split is none of {', '.join(SPLITS)}.")
        csv_table.keep_one(splits, dicom_id, "image", Listed(subject_id, SPLITS[split], where))
    return splits


def read_labels(root: Path) -> dict[str, Listed]:
    """Returns study_id -> its row of the labels; BuildError for a twin, or a value that is none."""
    table = csv_table.Table(folders.require(root, CHEXPERT))
    studies: dict[str, Listed] = {}
    for where, fields in table.select(("subject_id", "study_id", *CHEXPERT_LABELS)):
        subject_id, study_id, *cells = fields
        check_ids(subject_id, study_id, where)
        listed = Listed(subject_id, parse_labels(cells, where), where)
        csv_table.keep_one(studies, study_id, "study", listed)
    return studies


def check_ids(subject_id: str, study_id: str, where: str) -> None:
    """Raises BuildError for ids that are not eight digits."""
    for name, value in (("subject_id", subject_id), ("study_id", study_id)):
        if not (len(value) == 8 and value.isascii() and value.isdigit()):
            raise BuildError(f"{where}: {name} has not eight digits. Restore the owner's file.")


@functools.lru_cache
def subject_folder(root: Path, subject_id: str) -> Path:
    """Returns where a patient's images (or reports) are; cached, since making paths is slow."""
    return root / "files" / f"p{subject_id[:2]}" / f"p{subject_id}"


def record_of(root: Path, image: Radiograph, **said: Any) -> Record:
    """Returns the record of an image, whether it is there or not, with what is `said` of it."""
    folder = subject_folder(root, image.subject_id)
    known = {
        "image_id": image.dicom_id,
        "patient_id": image.subject_id,
        "image": folder / f"s{image.study_id}/{image.dicom_id}.jpg",
        "study_id": f"s{image.study_id}",
        "projection": image.projection,
        "row": image.where,
    }
    return Record(**known | said)


class Reports:
    """MIMIC-CXR's reports below `root`, one text file a study, each read once."""

    def __init__(self, root: Path):
        self._root = root
        self._known: dict[str, str] = {}

    def read(self, image: Radiograph) -> str:
        """Returns the report of the image's study, its ___ included; "" if there is none."""
        if image.study_id not in self._known:
            path = subject_folder(self._root, image.subject_id) / f"s{image.study_id}.txt"
            content = folders.read_bytes(path) if path.exists() else b""
            self._known[image.study_id] = content.decode("utf-8", "replace")
        return self._known[image.study_id]

    def check(self) -> None:
        """Raises BuildError if no study had its report; says where the first should have been."""
        if not any(self._known.values()):
            raise BuildError(
                f"{self._root} holds no report of any of the {len(self._known)} studies; expected "
                "files/p10/p1…/s5….txt, as mimic-cxr-reports.zip unpacks."
            )
