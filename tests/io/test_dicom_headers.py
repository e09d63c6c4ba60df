"""Slips in headers that other readers forgive, and what no reader could know."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from cxr_jax.io import dicom, image_io
from cxr_jax.io.limits import ImageError
from tests.fakes.dicom_files import NAME, write_dicom
from tests.fakes.pictures import stretch
from tests.io.dicom_standard import RAW, WINDOW, as_the_standard_shows, shown

SLIPS = {
    "function": (WINDOW | {"VOILUTFunction": ""}, {}),
    "function in small letters": (WINDOW | {"VOILUTFunction": "sigmoid"}, {}),
    "slope": ({"RescaleSlope": None, "RescaleIntercept": -10.0}, {}),
    "both": (WINDOW | {"RescaleSlope": None, "RescaleIntercept": None}, {}),
    "frames empty": ({"NumberOfFrames": None}, {}),
    "frames 0": ({"NumberOfFrames": 0}, {}),
    "no window's width": ({"WindowCenter": 1900.0}, {}),
    "window empty": ({"WindowCenter": None, "WindowWidth": None}, {}),
    "small letters": ({}, {"PhotometricInterpretation": "monochrome1"}),
    "a blank": ({}, {"PhotometricInterpretation": "MONOCHROME 1"}),
    "no BitsStored": ({}, {"BitsStored": None, "HighBit": None}),
    "BitsStored 0": ({}, {"BitsStored": 0, "HighBit": None}),
    **{
        f"no {keyword}": ({}, {keyword: None})
        for keyword in ("PhotometricInterpretation", "SamplesPerPixel", "PixelRepresentation")
    },
    "no HighBit": ({}, {"HighBit": None}),
    "comma": ({}, {"WindowCenter": b"1900,0", "WindowWidth": b"1000,0"}),
    "two with commas": ({}, {"WindowCenter": b"1900,0\\1,5", "WindowWidth": b"1000,0\\2,5 "}),
    "slope with a comma": (
        {"WindowCenter": 950.0, "WindowWidth": 500.0},
        {"RescaleSlope": b"0,50"},
    ),
}


def patched(path: Path, fields: dict) -> None:
    """Sets fields as no library would: to None (left out), to raw bytes, or to a value."""
    dataset = pydicom.dcmread(path)
    for keyword, value in fields.items():
        tag = pydicom.datadict.tag_for_keyword(keyword)
        if value is None:
            del dataset[keyword]
        elif isinstance(value, bytes):
            even = value + b" " * (len(value) % 2)
            tag = pydicom.tag.Tag(tag)
            dataset[tag] = RawDataElement(tag, "DS", len(even), even, 0, False, True)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("slip", SLIPS)
def test_slips_that_other_readers_forgive(tmp_path, slip):
    tags, fields = SLIPS[slip]
    write_dicom(tmp_path / "a.dcm", RAW, bits=12, **tags)
    patched(tmp_path / "a.dcm", fields)
    meant = {key: value for key, value in tags.items() if value not in (None, "")}
    if "VOILUTFunction" in meant:
        meant["VOILUTFunction"] = "SIGMOID"
    if "comma" in slip and "slope" not in slip:
        meant = WINDOW
    if slip == "slope with a comma":
        meant["RescaleSlope"] = 0.5
    photometric = "MONOCHROME1" if slip in ("small letters", "a blank") else "MONOCHROME2"
    expected = as_the_standard_shows(RAW, meant, photometric)
    assert np.abs(shown(tmp_path / "a.dcm") - expected).max() <= 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"WindowCenter": b"1,900,0", "WindowWidth": b"1000"}, "WindowCenter is not a number"),
        ({"WindowCenter": b"1500,2000", "WindowWidth": b"1000"}, "WindowCenter is not a number"),
        ({"WindowCenter": b"1_500", "WindowWidth": b"1000"}, "WindowCenter is not a number"),
        ({"WindowCenter": b"1500", "WindowWidth": b"-1000"}, "WindowWidth is negative"),
        ({"PresentationLUTShape": b"INVERSE"}, "nobody can know"),
        ({"BitsStored": None, "HighBit": 11}, "header has no BitsStored"),
        ({"BitsAllocated": 12}, "values take 12 bits"),
        ({"SamplesPerPixel": 2}, "2 values a pixel"),
        ({"RescaleSlope": b"steep"}, "RescaleSlope is not a number"),
        ({"RescaleSlope": b"nan"}, "RescaleSlope is not finite"),
        ({"RescaleSlope": b"0"}, "RescaleSlope is 0"),
        ({"WindowCenter": 9, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "VOILUTFunction that"),
        ({"Rows": None}, "header has no Rows"),
        ({"BitsAllocated": None, "Columns": None}, "no Columns and no BitsAllocated"),
        ({"BitsStored": 17, "HighBit": 16}, "more bits .BitsStored. than a value"),
        ({"HighBit": 15}, "bits are not where its header says"),
        ({"NumberOfFrames": 4}, "several frames, expected one image; save the frame"),
        ({"PhotometricInterpretation": "HSV"}, "colours that are not shades of grey"),
        ({"PhotometricInterpretation": "MONOCHROME"}, "colours that are not shades of grey"),
        ({"PixelData": None}, "without pixels"),
    ],
)
def test_what_no_reader_could_know_is_said_in_words(tmp_path, fields, message):
    write_dicom(tmp_path / "a.dcm", RAW, bits=12)
    patched(tmp_path / "a.dcm", fields)
    with pytest.raises(ImageError, match=message) as error:
        image_io.read_image(tmp_path / "a.dcm")
    assert "Error" not in str(error.value) and NAME not in str(error.value)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("kind", ["no syntax", "no meta", "no preamble", "meta but no preamble"])
def test_files_without_preamble_or_transfer_syntax(tmp_path, kind, explicit):
    path = tmp_path / "image"
    write_dicom(path, RAW, bits=12, PatientAge="061Y", ViewPosition="PA")
    dataset = pydicom.dcmread(path)
    meta, dataset.file_meta = dataset.file_meta, pydicom.dataset.FileMetaDataset()
    options = {"implicit_vr": not explicit, "little_endian": True, "enforce_file_format": False}
    dataset.preamble = None
    dataset.save_as(path, **options)
    body = path.read_bytes()
    if ("meta" in kind and kind != "no meta") or kind == "no syntax":
        meta.TransferSyntaxUID = ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian
        if kind == "no syntax":
            del meta.TransferSyntaxUID
        stream = pydicom.filebase.DicomBytesIO()
        pydicom.filewriter.write_file_meta_info(stream, meta, enforce_standard=False)
        body = stream.getvalue() + body
    if kind in ("no syntax", "no meta"):
        body = bytes(128) + b"DICM" + body
    path.write_bytes(body)
    assert dicom.is_dicom(path)
    assert np.abs(shown(path) - stretch(RAW)).max() <= 1
    tags = dicom.read_tags(path)
    assert (tags.projection, tags.age) == ("PA", 61)
