"""TB Portals (NIAID): images of tuberculosis patients, drug resistant or sensitive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from cxr_jax.data.tasks import FRONTAL, Task
from cxr_jax.io import dicom
from data_builders.base import builder, csv_table, folders, parallel, splits
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.tb_portals import cases
from data_builders.tb_portals.cases import Case

IMAGES, CASES = "tb_portals_cxrs", "tb_portals_patient_cases"
# Tables of the same beginning that list something else.
OTHERS = ("manifest", "annotation", "qure", "index")
URL = "series_instance_content_url"
NEEDED = ("patient_id", "condition_id", URL)
OPTIONAL = ("imagingstudy_id", "series_modality_cd", "cxr_outlier")
RADIOGRAPHS = ("CR", "DX", "XC")
OUTLIER = "OUTLIER"


class Builder(builder.CxrBuilder):
    """One release's tables and its unpacked DICOM files, at any depth."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "After the data-use agreement (https://tbportals.niaid.nih.gov/download-data) unpack one "
        "release into manual_dir: TB_Portals_CXRs_<Month>_<Year>.csv, "
        "TB_Portals_Patient_Cases_<Month>_<Year>.csv, and the images, "
        "[GlobalBucket/]<patient>/<study>/<series>/<instance>.dcm, from the one zip of 2023 or the "
        "numbered parts of 2025 and 2026."
    )
    HOMEPAGE: ClassVar = "https://tbportals.niaid.nih.gov"
    LABEL_NAMES: ClassVar = cases.LABEL_NAMES
    TASK: ClassVar = "multilabel"
    TASKS: ClassVar = {
        # Headers often leave the projection blank; lateral images and the owner's outliers name
        # theirs.
        "default": Task({"Drug resistant": "Drug resistant"}, projections=(*FRONTAL, ""))
    }
    LICENCE: ClassVar = "NIAID TB Portals data-use agreement"
    SPLIT_RULE: ClassVar = "70 % train, 10 % validation, 20 % test by a fixed hash of the patient."

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        files = list(folders.files_below(manual_dir))
        images = folders.unique((p for p in files if p.suffix.lower() == ".dcm"), key_of)
        table = csv_table.Table(self._find(manual_dir, files, IMAGES))
        if URL not in table.columns:
            raise BuildError(
                f"{table.path} has no column {URL!r}, which is how the releases of 2023 to 2026 "
                f"link a row to its image. Looked for: {', '.join((*NEEDED, *OPTIONAL))}."
            )
        merged = cases.RESISTANCE in table.columns
        by_condition: Mapping[tuple[str, str], Case] = {}
        if not merged:
            by_condition = cases.read_cases(csv_table.Table(self._find(manual_dir, files, CASES)))
        image_views = self._read_views(images)
        of_case = (cases.RESISTANCE, "gender", "age_of_onset")
        read = cases.ColumnReader(table, NEEDED, (*OPTIONAL, *of_case))
        listed = set()
        for row in table.rows(NEEDED):
            patient, condition, url, study, modality, outlier, *facts = read(row.fields)
            key = key_of_url(url, patient, row.where)
            listed.add(key)
            if modality and modality.upper() not in RADIOGRAPHS:
                yield Skipped(row.where, "its modality is no radiograph's", expected=True)
                continue
            if merged:
                case = cases.parse_case(*facts, row.where)
            else:
                case = by_condition.get((patient, condition), cases.nothing_known())
            apart = outlier.casefold() == "outlier"
            yield Record(
                split=splits.by_patient(patient),
                image_id=key,
                patient_id=patient,
                image=images.get(key, manual_dir / f"{key}.dcm"),
                labels=cases.nothing_known().labels if apart else case.labels,
                study_id=study,
                projection=OUTLIER if apart else image_views.get(key, ""),
                sex=case.sex,
                age=case.age,
                row=row.where,
            )
        series = {key.rpartition("/")[0] for key in listed}
        for key in sorted(images.keys() - listed):
            # A series is listed once, by one of its files.
            if key.rpartition("/")[0] not in series:
                file = images[key].relative_to(manual_dir).as_posix()
                yield Skipped(file, f"no row in {table.path.name}")

    def _find(self, manual_dir: Path, files: list[Path], beginning: str) -> Path:
        """The one table whose name begins so, whatever its spaces, month and year."""
        releases = []
        for path in files:
            rest = plain_name(path).removeprefix(beginning)
            begins = rest != plain_name(path)
            if begins and rest.endswith(".csv") and not any(word in rest for word in OTHERS):
                releases.append(path)
        found = folders.unique(releases, plain_name)
        if len(found) > 1:
            names = ", ".join(path.name for path in found.values())
            raise BuildError(f"{manual_dir} holds several releases: {names}. Keep one.")
        if not found:
            raise BuildError(
                f"{manual_dir} holds no {beginning}_<month>_<year>.csv (spaces or underscores, any "
                f"case). {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        return next(iter(found.values()))

    def _read_views(self, images: Mapping[str, Path]) -> dict[str, str]:
        """Key -> view. No table has it, so every image's header is read."""
        tags = parallel.parallel_map(dicom.read_tags, images.items(), self.settings.num_workers)
        return {
            key: dicom.standard_projection(tag.projection) for key, tag in tags if tag is not None
        }


def plain_name(path: Path) -> str:
    """A table's name without .gz, case, and spaces for underscores."""
    return "_".join(path.name.casefold().removesuffix(".gz").replace("_", " ").split())


def key_of(path: Path) -> str:
    """ "<patient>/<study>/<series>/<instance>" of an image's path."""
    return "/".join((*path.parts[-4:-1], path.stem))


def key_of_url(url: str, patient: str, where: str) -> str:
    """The same of a row's path, with or without the bucket's name before it.

    Raises:
      BuildError: another path, or another patient's.
    """
    parts = url.replace("\\", "/").split("/")
    if len(parts) < 4 or not url.lower().endswith(".dcm"):
        raise BuildError(f"{where}: {URL} is not like <patient>/<study>/<series>/<instance>.dcm.")
    if parts[-4] != patient:
        raise BuildError(
            f"{where}: {URL} is not an image of patient_id. The rows or columns have been moved "
            "against each other."
        )
    return "/".join(parts[-4:])[: -len(".dcm")]
