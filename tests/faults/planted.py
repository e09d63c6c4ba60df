"""A hospital's export with canaries in all that holds text: every DICOM tag, every column."""

import csv
from pathlib import Path

import pydicom
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

from data_builders.base import splits
from tests.fakes.dicom_files import write_dicom
from tests.fakes.image_folder import write_rows
from tests.fakes.pictures import draw_image
from tests.faults.canaries import (
    ACCESSION,
    BIRTH,
    FINDINGS,
    FREE,
    GIVEN,
    NAME,
    NUMBER,
    PATIENTS,
    REPORTED,
    SURNAME,
)

# Value representations that hold text, and what is planted in them.
_TEXT = {
    **dict.fromkeys(("LT", "ST", "UT", "UC", "AE"), f"{FREE} {SURNAME}"),
    **{"PN": NAME, "DA": BIRTH, "DT": f"{BIRTH}120000", "SH": ACCESSION, "CS": SURNAME.upper()},
    **{"LO": f"{GIVEN} {SURNAME} {ACCESSION}", "UR": f"urn:{SURNAME}", "UI": f"1.2.{NUMBER}"},
    **{"DS": NUMBER, "IS": NUMBER, "TM": "120000", "AS": "037Y"},
}
# On these decoding depends: an image of its own for each of them.
DECODING = (
    *("SpecificCharacterSet", "PhotometricInterpretation", "NumberOfFrames", "WindowCenter"),
    *("WindowWidth", "RescaleSlope", "RescaleIntercept", "RescaleType", "VOILUTFunction"),
    *("ModalityLUTSequence", "VOILUTSequence", "TransferSyntaxUID"),
)
NUM_IMAGES = 24
# In so many training reports' findings a name stands: one fewer than a tokenizer's words need.
NUM_REPORTED = 9
NUM_REPORTS = {"train": 16, "validation": 8, "test": 8}
SPLITS = ("train", "validation", "test", "test")


def every_tag() -> Dataset:
    """Returns a data set with a canary in every tag of pydicom's dictionary that can hold one, in
    items of its sequences, in private tags and in bytes; 3,000 tags and more."""
    planted = Dataset()
    for tag, (kind, _, _, _, keyword) in DicomDictionary.items():
        if not keyword or keyword in DECODING or tag >> 16 in (0x0000, 0x0002, 0xFFFE):
            continue
        if kind in _TEXT:
            planted.add_new(tag, kind, _TEXT[kind])
        elif kind == "SQ":
            planted.add_new(tag, kind, [_item()])
    for group in (0x0009, 0x0099):
        block = planted.private_block(group, f"{SURNAME} Corp", create=True)
        block.add_new(0x01, "LO", FREE)
        block.add_new(0x02, "PN", NAME)
        block.add_new(0x03, "UN", f"{NAME} {BIRTH}".encode())
        block.add_new(0x04, "SQ", [_item()])
    for keyword in ("EncapsulatedDocument", "ICCProfile"):
        planted.add_new(keyword, "OB", f"{NAME} {FREE}".encode())
    planted.add_new(0x60000022, "LO", FREE)  # an overlay's description
    return planted


def write_first(path: Path, patient: str) -> None:
    """Returns a DICOM image with `every_tag`, and canaries around its data set."""
    write_dicom(path, draw_image(0, 56, 48), patient=patient)
    dataset = pydicom.dcmread(path)
    kept = {element.tag for element in dataset}
    for element in every_tag():
        if element.tag not in kept or element.keyword == "PatientName":
            dataset[element.tag] = element
    dataset.file_meta.SourceApplicationEntityTitle = SURNAME
    dataset.file_meta.ImplementationVersionName = SURNAME
    dataset.file_meta.PrivateInformationCreatorUID = f"1.2.{NUMBER}"
    dataset.file_meta.PrivateInformation = f"{NAME} {FREE}".encode()
    dataset.preamble = f"{NAME} {BIRTH} {FREE}".encode().ljust(128, b"\0")
    dataset.save_as(path, enforce_file_format=True)


def write_other(path: Path, first: Path, seed: int, patient: str, decoding: str = "") -> None:
    """Returns the image `first` with other pixels; with `decoding` a canary in that tag too."""
    dataset = pydicom.dcmread(first)  # its tags stay bytes: quick
    dataset.PatientID, dataset.PixelData = patient, draw_image(seed, 56, 48).tobytes()
    if decoding and decoding != "TransferSyntaxUID":
        kind = DicomDictionary[pydicom.datadict.tag_for_keyword(decoding)][0]
        value = [_item()] if kind == "SQ" else _TEXT[kind]
        dataset.add_new(decoding, kind, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    if decoding == "TransferSyntaxUID":
        syntax = f"1.2.{NUMBER}".ljust(20, "\0").encode()
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", syntax))


def _item() -> Dataset:
    item = Dataset()
    item.PatientName, item.PatientBirthDate, item.AccessionNumber = NAME, BIRTH, ACCESSION
    item.PatientComments = FREE
    return item


def write_folder(folder: Path, csv_path: Path) -> None:
    """Images of twelve patients, as DICOM, PNG and JPEG, their labels, and damaged images."""
    rows = []
    first = folder / "ward-seven/image-000.dcm"
    write_first(first, PATIENTS[0])
    for number in range(NUM_IMAGES):
        patient = PATIENTS[number // 2]
        suffix = ("dcm", "png", "jpg")[0 if number < 2 else 1 + number % 2]
        name = f"ward-seven/image-{number:03}.{suffix}"
        path = folder / name
        if suffix != "dcm":
            write_picture(path, number)
        elif number:
            write_other(path, first, number, patient)
        rows.append(
            {
                "image": name,
                "patient_id": patient,
                "study_id": f"{ACCESSION}-{patient}",
                "split": SPLITS[number // 2 % 4],
                "view": (NAME, "PA")[number % 2],
                "sex": ("", "F")[number % 2],
                "age": "91",
                "Effusion": str(number % 2),
                "Nodule": str(number // 8 % 2),
            }
        )
    write_other(folder / "ward-seven/in-no-row.dcm", first, 90, PATIENTS[0])
    write_other(folder / "ward-seven/twin.dcm", first, 1, PATIENTS[0])
    rows.append(rows[1] | {"image": "ward-seven/twin.dcm"})
    for number, keyword in enumerate(DECODING):
        name = f"broken/{keyword}.dcm"
        write_other(folder / name, first, 100 + number, PATIENTS[0], decoding=keyword)
        rows.append(rows[0] | {"image": name})
    whole = first.read_bytes()
    first.write_bytes(whole + f"{NAME} {FREE}".encode())  # behind the last tag
    for length in (200, 3000, len(whole) // 2):
        name = f"broken/cut-{length}.dcm" if length < 4000 else "broken/cut.dcm"
        (folder / name).write_bytes(whole[:length])
        rows.append(rows[0] | {"image": name})
    for name, content in {"broken/name.png": NAME.encode() * 9, "broken/empty.jpg": b""}.items():
        (folder / name).write_bytes(content)
        rows.append(rows[0] | {"image": name})
    rows.append(rows[0] | {"image": f"{NAME}.png"})  # no such file
    write_rows(csv_path, rows)


def write_picture(path: Path, seed: int) -> None:
    """Returns a PNG or JPEG with canaries in its text chunks, EXIF and comment."""
    image = Image.fromarray(draw_image(seed, 56, 48))
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x0132] = FREE, NAME, BIRTH  # description, artist, time
    if path.suffix == ".png":
        info = PngInfo()
        info.add_text("Patient", NAME)
        info.add_itxt("Comment", FREE, zip=True)
        image.save(path, pnginfo=info, exif=exif)
    else:
        image.save(path, quality=95, exif=exif, comment=f"{NAME} {BIRTH}".encode())


def write_reports(folder: Path) -> None:
    """Open-i as Kaggle packs it, with canaries in every column that a program could fill, and a
    name in the findings of NUM_REPORTED training reports."""
    folder.mkdir()
    reports, images = [], []
    by_split = {split: [] for split in NUM_REPORTS}
    for uid in range(1, 100):
        by_split[splits.by_patient(str(uid))].append(uid)
    chosen = [uid for split, uids in by_split.items() for uid in uids[: NUM_REPORTS[split]]]
    for number, uid in enumerate(chosen):
        stem = f"{uid}_IM-{uid:04}-1001"
        Image.fromarray(draw_image(uid, 56, 48)).save(folder / f"{stem}.dcm.png")
        images.append(
            {"uid": uid, "filename": f"{stem}.dcm.png", "projection": "Frontal", "reader": NAME}
        )
        named = f" Mr {REPORTED} was told so, {uid}." if number < NUM_REPORTED else ""
        reports.append(
            {
                "uid": uid,
                "MeSH": ("normal", f"Opacity/lung;{SURNAME}/{ACCESSION}")[number % 2],
                "Problems": NAME,
                "image": f"{NAME} {BIRTH}",
                "indication": f"{NAME}, {FREE}",
                "comparison": ACCESSION,
                "findings": f"{FINDINGS} {uid}.{named}",
                "impression": "None.",
                "patient": f"{PATIENTS[0]} {BIRTH}",
            }
        )
    write_table(folder / "indiana_projections.csv", images)
    write_table(folder / "indiana_reports.csv", reports)


def write_table(path: Path, rows: list[dict]) -> None:
    """Writes rows as a CSV in UTF-8."""
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
