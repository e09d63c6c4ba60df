"""Pulmonary edema severity (Horng, Liao et al. 2021): four grades for images of MIMIC-CXR."""

import collections
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from cxr_jax.data.tasks import Task
from data_builders.base import builder, csv_table, folders, splits
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.mimic_cxr import mimic_cxr_dataset_builder as mimic_cxr

LABEL = "Edema severity"
GRADES = {str(grade): float(grade) for grade in range(4)}
CONSENSUS = "consensus_image_edema_severity.csv"
# Grades of studies; where both grade one, the first counts.
OF_STUDIES = ("expert_report_edema_severity.csv", "regex_report_edema_severity.csv")
FRONTAL = ("AP", "PA")
VALIDATION_SHARE = 0.1


class Builder(builder.CxrBuilder):
    """Labels only; the images are MIMIC-CXR-JPG's."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Download from https://physionet.org/content/mimic-cxr-pe-severity/ "
        f"{CONSENSUS}, {' and '.join(OF_STUDIES)} into manual_dir; the images are "
        "MIMIC-CXR-JPG's: give its folder with --mimic_dir, or put both into manual_dir."
    )
    HOMEPAGE: ClassVar = "https://physionet.org/content/mimic-cxr-pe-severity/"
    LABEL_NAMES: ClassVar = (LABEL,)
    LABEL_SCALE: ClassVar = "grade"
    TASKS: ClassVar = {
        "default": Task(
            {
                "No edema": "Edema severity = 0",
                "Vascular congestion": "Edema severity = 1",
                "Interstitial edema": "Edema severity = 2",
                "Alveolar edema": "Edema severity = 3",
            },
            exclusive=True,
        ),
        "any_edema": Task({"Any edema": "Edema severity >= 1"}),
    }
    PARENT: ClassVar = "mimic_cxr"
    PATIENT: ClassVar = "person, by MIMIC-CXR's number"
    LICENCE: ClassVar = "PhysioNet restricted access licence"
    SPLIT_RULE: ClassVar = (
        "The owner's consensus set is test; of the other patients, graded from reports, 10 %, by "
        "a fixed hash of the patient, are validation. MIMIC's own splits play no part."
    )
    INPUTS: ClassVar = {"mimic_dir": mimic_cxr.WHERE_TO_GET}
    OWNER_COUNTS: ClassVar = {"test images": 141}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = self.root(manual_dir, CONSENSUS)
        mimic = mimic_cxr.find_root(self.input_dir("mimic_dir", manual_dir))
        consensus = read_grades(root / CONSENSUS, "dicom_id")
        of_studies: dict[str, Grade] = {}
        for name in reversed(OF_STUDIES):
            of_studies |= read_grades(root / name, "study_id")
        tested = {grade.subject_id for grade in consensus.values()}
        by_id, by_study = read_images(mimic, consensus, of_studies)

        for dicom_id, grade in consensus.items():
            if dicom_id not in by_id:
                yield Skipped(grade.where, "not in MIMIC's metadata")
                continue
            said = {"labels": {LABEL: grade.value}, "row": grade.where}
            yield mimic_cxr.record_of(mimic, by_id[dicom_id], split="test", **said)
        for study_id, grade in of_studies.items():
            images = by_study.get(study_id, [])
            frontal = [image for image in images if image.projection in FRONTAL]
            if grade.subject_id in tested:
                yield Skipped(grade.where, "its patient is in the test set", expected=True)
            elif not images:
                yield Skipped(grade.where, "not in MIMIC's metadata")
            elif not frontal:
                yield Skipped(grade.where, "no image of it is AP or PA", expected=True)
            else:
                split = splits.carve_validation(grade.subject_id, VALIDATION_SHARE)
                said = {"labels": {LABEL: grade.value}, "row": grade.where}
                for image in frontal:
                    yield mimic_cxr.record_of(mimic, image, split=split, **said)


class Grade(NamedTuple):
    """A row: the grade of a study, or of an image."""

    subject_id: str
    study_id: str
    value: float
    where: str


def read_grades(path: Path, key: str) -> dict[str, Grade]:
    """Returns the rows by the column `key`, "dicom_id" or "study_id"; BuildError for a twin."""
    table = csv_table.Table(folders.require(path.parent, path.name))
    columns = ("subject_id", "study_id", "edema_severity", key)
    grades: dict[str, Grade] = {}
    for where, (subject_id, study_id, severity, name) in table.select(columns):
        mimic_cxr.check_ids(subject_id, study_id, where)
        if severity not in GRADES:
            raise BuildError(f"{where}: edema_severity is none of 0, 1, 2 and 3.")
        csv_table.keep_one(grades, name, key, Grade(subject_id, study_id, GRADES[severity], where))
    return grades


def read_images(
    mimic: Path, of_images: Mapping[str, Grade], of_studies: Mapping[str, Grade]
) -> tuple[dict[str, mimic_cxr.Radiograph], dict[str, list[mimic_cxr.Radiograph]]]:
    """Returns MIMIC's graded images by dicom_id and study_id; BuildError for others' ids."""
    by_id, by_study = {}, collections.defaultdict(list)
    for image in mimic_cxr.read_images(mimic):
        theirs = (image.subject_id, image.study_id)
        for grade in (of_images.get(image.dicom_id), of_studies.get(image.study_id)):
            if grade is not None and (grade.subject_id, grade.study_id) != theirs:
                raise BuildError(
                    f"{grade.where}: subject_id and study_id are not those that MIMIC has for it "
                    f"({image.where}). Restore both tables."
                )
        if image.dicom_id in of_images:
            by_id[image.dicom_id] = image
        if image.study_id in of_studies:
            by_study[image.study_id].append(image)
    return by_id, dict(by_study)
