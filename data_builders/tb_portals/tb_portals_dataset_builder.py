"""TB Portals (NIAID): images of tuberculosis patients, drug resistant or sensitive."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from cxr_jax.data.tasks import FRONTAL, Task
from cxr_jax.io import dicom
from data_builders.base import builder, csv_table, folders, splits
from data_builders.base.records import BuildError, Record, Skipped

IMAGES, CASES = "tb_portals_cxrs", "tb_portals_patient_cases"
# Tables of the same beginning that list something else.
OTHERS = ("manifest", "annotation", "qure", "index")
URL = "series_instance_content_url"
RADIOGRAPHS = ("CR", "DX", "XC")
OUTLIER = "OUTLIER"
RESISTANCE = "type_of_resistance"
KEYS, FACTS = ("patient_id", "condition_id"), (RESISTANCE, "gender", "age_of_onset")
OPTIONAL = ("imagingstudy_id", "series_modality_cd", "cxr_outlier")
DRUG_RESISTANT, SENSITIVE = "Drug resistant", "Sensitive"
# The owner's classes, from least to most.
CLASSES = ("Mono DR", "Poly DR", "MDR non XDR", "Pre-XDR", "XDR")
LABEL_NAMES = (DRUG_RESISTANT, *CLASSES)
# What is written where it was not tested.
UNKNOWN = frozenset({"", "unknown", "not specified", "not reported", "not available", "nan", "na"})
SEXES = {"male": "M", "female": "F", "m": "M", "f": "F"}


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
    LABEL_NAMES: ClassVar = LABEL_NAMES
    TASKS: ClassVar = {
        # Headers often leave the projection blank; lateral images and the owner's outliers name
        # theirs.
        "default": Task({DRUG_RESISTANT: DRUG_RESISTANT}, projections=(*FRONTAL, ""))
    }
    LICENCE: ClassVar = "NIAID TB Portals data-use agreement"
    SPLIT_RULE: ClassVar = "70 % train, 10 % validation, 20 % test by a fixed hash of the patient."

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        files = list(folders.files_below(manual_dir))
        images = folders.by_key(files, (".dcm",), key_of)
        table = csv_table.Table(self._find(manual_dir, files, IMAGES))
        if URL not in table.columns:
            raise BuildError(
                f"{table.path} has no column {URL!r}, which is how the releases of 2023 to 2026 "
                f"link a row to its image. Looked for: {', '.join((*KEYS, URL, *OPTIONAL))}."
            )
        merged = RESISTANCE in table.columns
        by_condition: Mapping[tuple[str, str], Case] = {}
        if not merged:
            by_condition = read_cases(csv_table.Table(self._find(manual_dir, files, CASES)))
        headers = self.read_tags(images, images)  # no table has the projection
        listed = set()
        for where, fields in table.select((*KEYS, URL), optional=(*OPTIONAL, *FACTS)):
            patient, condition, url, study, modality, outlier, *facts = fields
            key = key_of_url(url, patient, where)
            listed.add(key)
            if modality and modality.upper() not in RADIOGRAPHS:
                yield Skipped(where, "its modality is not a radiograph's", expected=True)
                continue
            if merged:
                case = parse_case(*facts, where)
            else:
                case = by_condition.get((patient, condition), NOTHING_KNOWN)
            apart = outlier.casefold() == "outlier"
            yield Record(
                split=splits.by_patient(patient),
                image_id=key,
                patient_id=patient,
                image=images.get(key, manual_dir / f"{key}.dcm"),
                labels=NOTHING_KNOWN.labels if apart else case.labels,
                study_id=study,
                projection=OUTLIER if apart else headers.get(key, dicom.NO_TAGS).projection,
                sex=case.sex,
                age=case.age,
                row=where,
            )
        # A series is listed once, by one of its files.
        series = {key.rpartition("/")[0] for key in listed}
        others = {key: path for key, path in images.items() if key.rpartition("/")[0] not in series}
        yield from folders.not_listed(others, (), manual_dir, f"no row in {table.path.name}")

    def _find(self, manual_dir: Path, files: list[Path], beginning: str) -> Path:
        """Returns the one table whose name begins so, whatever its spaces, month and year."""
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
            what = f"no {beginning}_<month>_<year>.csv (spaces or underscores, any case)"
            raise self.nothing(manual_dir, what)
        return next(iter(found.values()))


def plain_name(path: Path) -> str:
    """Returns a table's name without .gz, case, and spaces for underscores."""
    return "_".join(path.name.casefold().removesuffix(".gz").replace("_", " ").split())


def key_of(path: Path) -> str:
    """Returns "<patient>/<study>/<series>/<instance>" of an image's path."""
    return "/".join((*path.parts[-4:-1], path.stem))


def key_of_url(url: str, patient: str, where: str) -> str:
    """Returns the same of a row's path, with or without the bucket's name before it."""
    parts = url.replace("\\", "/").split("/")
    if len(parts) < 4 or not url.lower().endswith(".dcm"):
        raise BuildError(f"{where}: {URL} is not like <patient>/<study>/<series>/<instance>.dcm.")
    if parts[-4] != patient:
        raise BuildError(
            f"{where}: {URL} is not an image of patient_id. The rows or columns have been moved "
            "against each other."
        )
    return "/".join(parts[-4:])[: -len(".dcm")]


class Case(NamedTuple):
    """One condition of a patient; the age (years) is that of its onset."""

    labels: dict[str, float]
    sex: str
    age: float


def parse_case(resistance: str, sex: str, age: str, where: str) -> Case:
    """Reads type_of_resistance, gender, age_of_onset; BuildError for an unknown class."""
    said = " ".join(resistance.split()).casefold()
    known = {name.casefold(): name for name in (SENSITIVE, *CLASSES)}
    if said in known:
        labels = {name: float(name == known[said]) for name in CLASSES}
        labels = {DRUG_RESISTANT: float(known[said] != SENSITIVE), **labels}
    elif said in UNKNOWN:
        labels = dict.fromkeys(LABEL_NAMES, math.nan)
    else:
        raise BuildError(
            f"{where}: {RESISTANCE} is none of {', '.join((SENSITIVE, *CLASSES))} nor blank."
        )
    years = csv_table.number(age)
    return Case(labels, SEXES.get(sex.casefold(), ""), math.nan if years is None else years)


NOTHING_KNOWN = Case(dict.fromkeys(LABEL_NAMES, math.nan), "", math.nan)


def read_cases(table: csv_table.Table) -> dict[tuple[str, str], Case]:
    """Returns (patient_id, condition_id) -> case; BuildError if rows contradict."""
    cases: dict[tuple[str, str], Case] = {}
    said: dict[tuple[str, str], tuple[list[str], str]] = {}
    others = set(table.columns) - {*KEYS, *FACTS}  # some 200, also of notes
    rows = table.select((*KEYS, RESISTANCE), tuple(others), FACTS[1:])
    for where, (patient, condition, *facts) in rows:
        key = (patient, condition)
        earlier, first = said.setdefault(key, (facts, where))
        if earlier != facts:
            raise BuildError(
                f"{where}: {first} has the same patient and condition, but says something else of "
                "it. Keep the right one."
            )
        cases[key] = parse_case(*facts, where)
    return cases
