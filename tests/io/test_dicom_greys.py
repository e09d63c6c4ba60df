"""Greys are those that DICOM's standard shows: windows, tables, palettes."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
)

from cxr_jax.io.limits import ImageError
from tests.fakes.dicom_files import write_dicom
from tests.fakes.pictures import deep, draw_image, stretch
from tests.io.dicom_codings import write_coded
from tests.io.dicom_standard import (
    BELOW,
    CURVE,
    EIGHT,
    RAW,
    WINDOW,
    as_the_standard_shows,
    shown,
    table,
)

FALLING = {"RescaleSlope": -2.0, "RescaleIntercept": 4095.0}
# Brightest at values that no image here has.
SPIKE = [4095 if 100 < i < 600 else i for i in range(4096)]
SHOWN = {
    "as stored": {},
    "window": WINDOW,
    "first of two windows": {"WindowCenter": [1500.0, 9.0], "WindowWidth": [900.0, 2.0]},
    "exact": {"WindowCenter": 1900.5, "WindowWidth": 700.5, "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": WINDOW | {"VOILUTFunction": "SIGMOID"},
    "rescale": {"RescaleSlope": 0.5, "RescaleIntercept": -1024.0},
    "rescale and window": {"RescaleSlope": 2.0, "RescaleIntercept": -1000.0, **WINDOW},
    "falling": FALLING,
    "falling, window": FALLING | BELOW,
    "falling, exact": FALLING | BELOW | {"VOILUTFunction": "LINEAR_EXACT"},
    "falling, sigmoid": FALLING | BELOW | {"VOILUTFunction": "SIGMOID"},
    "falling, VOI table": FALLING | {"VOILUTSequence": table(CURVE, -3000, 12)},
    "falling, 8-bit VOI table": FALLING | {"VOILUTSequence": table(EIGHT, -3000, 8)},
    "modality table": {"ModalityLUTSequence": table(CURVE, 0, 16)},
    "modality table of 12 bits in words": {"ModalityLUTSequence": table(CURVE, 0, 12, "OW")},
    "short modality table and window": WINDOW
    | {"ModalityLUTSequence": table(CURVE[1000:3000], 1000, 12)},
    "VOI table": {"VOILUTSequence": table(CURVE, 0, 12)},
    "VOI table in words": {"VOILUTSequence": table(CURVE, 0, 16, "OW")},
    "VOI table with a spike": {"VOILUTSequence": table(SPIKE, 0, 12)},
    "VOI table of 8 bits": {"VOILUTSequence": table(EIGHT, 0, 8)},
    "VOI table of 8 bits in words": {"VOILUTSequence": table(EIGHT, 0, 8, "OW")},
    "VOI table of 8 bits, packed": {"VOILUTSequence": table(EIGHT, 0, 8, "OW", packed=True)},
    "VOI table that is shorter": {"VOILUTSequence": table(EIGHT[900:2900], 900, 8)},
    "VOI table from a signed value": {
        "RescaleSlope": 1.0,
        "RescaleIntercept": -2048.0,
        "VOILUTSequence": table(CURVE, -2048, 12),
    },
    "tables without values": WINDOW
    | {"ModalityLUTSequence": [pydicom.Dataset()], "VOILUTSequence": [pydicom.Dataset()]},
}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize("kind", SHOWN)
def test_greys_are_the_standards(tmp_path, kind, padding, photometric):
    stored = deep(3, 700, 3600, 24, 20)
    stored[:, :7] = 0
    tags = SHOWN[kind] | ({} if padding is None else {"PixelPaddingValue": padding})
    write_dicom(tmp_path / "a.dcm", stored, bits=12, photometric=photometric, **tags)
    expected = as_the_standard_shows(stored, without_empty(tags), photometric)
    assert np.abs(shown(tmp_path / "a.dcm") - expected).max() <= 1
    assert np.ptp(expected) > 100


def without_empty(tags: dict) -> dict:
    return {key: tag for key, tag in tags.items() if not key.endswith("Sequence") or len(tag) > 1}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("tags", [{}, WINDOW | {"WindowCenter": 100.0, "WindowWidth": 90.0}])
@pytest.mark.parametrize("padding", [{}, {"PixelPaddingValue": 40}])
def test_eight_bits_are_not_stretched_but_by_a_window(tmp_path, photometric, tags, padding):
    stored = (40 + draw_image(1) // 2).astype(np.uint8)
    write_dicom(tmp_path / "a.dcm", stored, photometric=photometric, **tags, **padding)
    expected = as_the_standard_shows(stored, tags | padding, photometric)
    if not tags:
        expected = stored.astype(int) if photometric == "MONOCHROME2" else 255 - stored.astype(int)
        if padding:
            expected[stored == 40] = expected[stored != 40].min()
    assert np.abs(shown(tmp_path / "a.dcm") - expected).max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_fewer_than_eight_bits_are_stretched(tmp_path, photometric):
    pixels = draw_image(3) >> 2
    write_dicom(tmp_path / "image.dcm", pixels, bits=6, photometric=photometric)
    expected = stretch(pixels if photometric == "MONOCHROME2" else 63 - pixels.astype(int))
    assert np.abs(shown(tmp_path / "image.dcm") - expected).max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_pixels_of_32_bits(tmp_path, photometric):
    stored = deep(4, 0, 60000).astype(np.uint32) * 50000
    write_dicom(tmp_path / "a.dcm", stored, photometric=photometric)
    expected = as_the_standard_shows(stored, {}, photometric)
    assert np.abs(shown(tmp_path / "a.dcm") - expected).max() <= 1


def test_a_window_beside_the_image_or_of_no_width(tmp_path):
    pixels = deep(3, 0, 1000)
    beside = {"WindowCenter": 4000.0, "WindowWidth": 100.0}
    write_dicom(tmp_path / "beside.dcm", pixels, bits=12, **beside)
    with pytest.raises(ImageError, match="its window shows one grey only"):
        shown(tmp_path / "beside.dcm")
    empty = {"WindowCenter": 2048.0, "WindowWidth": 0.0}
    write_dicom(tmp_path / "empty.dcm", pixels, bits=12, **empty)
    assert np.abs(shown(tmp_path / "empty.dcm") - stretch(pixels)).max() <= 1


def test_a_window_of_an_enhanced_image_lies_in_its_groups(tmp_path):
    stored = deep(3, 700, 3600)
    outer, inner = pydicom.Dataset(), pydicom.Dataset()
    inner.WindowCenter, inner.WindowWidth = WINDOW.values()
    outer.FrameVOILUTSequence = [inner]
    groups = {"SharedFunctionalGroupsSequence": [outer], "NumberOfFrames": 1}
    write_dicom(tmp_path / "a.dcm", stored, bits=12, **groups)
    expected = as_the_standard_shows(stored, WINDOW, "MONOCHROME2")
    assert np.abs(shown(tmp_path / "a.dcm") - expected).max() <= 1


@pytest.mark.parametrize(
    ("keyword", "packed"),
    [("VOILUTSequence", False), ("VOILUTSequence", True), ("ModalityLUTSequence", False)],
)
def test_tables_in_big_endian_words(tmp_path, keyword, packed):
    tags = {keyword: table(EIGHT if packed else CURVE, 0, 8 if packed else 12, "OW", packed)}
    expected = as_the_standard_shows(RAW, tags, "MONOCHROME2")
    item = tags[keyword][1]
    item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()
    fields = {"BitsStored": 12, keyword: tags[keyword]}
    write_coded(tmp_path / "a.dcm", RAW, ExplicitVRBigEndian, None, **fields)
    assert np.abs(shown(tmp_path / "a.dcm") - expected).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("signed", [0, 1])
def test_palettes_of_any_byte_order_and_sign(tmp_path, signed, order):
    indices = draw_image(3)
    ramp = np.round(65535 * np.linspace(0, 1, 256) ** 2).astype(np.uint16)
    first = -128 * signed
    fields = {"PhotometricInterpretation": "PALETTE COLOR", "PixelRepresentation": signed}
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        fields[f"{name}Descriptor"] = [256, first % 2**16, 16]
        fields[f"{name}Data"] = ramp.astype(f"{order}u2").tobytes()
    syntax = ExplicitVRBigEndian if order == ">" else ExplicitVRLittleEndian
    write_dicom(tmp_path / "a.dcm", indices)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    for keyword, value in fields.items():
        vr = "US" if keyword.endswith("Descriptor") else pydicom.datadict.dictionary_VR(keyword)
        dataset.add_new(pydicom.datadict.tag_for_keyword(keyword), vr, value)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset["PixelData"].VR = "OB"  # which has no order of bytes
    dataset.walk(lambda data, element: element.value)  # while the order of bytes is known
    dataset.set_original_encoding(False, order == "<")
    dataset.save_as(tmp_path / "a.dcm", implicit_vr=False, little_endian=order == "<")
    places = indices.astype(np.int8 if signed else np.uint8).astype(int) - first
    assert np.abs(shown(tmp_path / "a.dcm") - (ramp >> 8)[places].astype(int)).max() <= 1


@pytest.mark.parametrize("kind", ["bytes of 16 bits", "half", "two numbers"])
def test_tables_that_their_descriptors_belie(tmp_path, kind):
    packed = kind == "bytes of 16 bits"
    sequence = table(EIGHT if packed else CURVE, 0, 12, "OW", packed)
    item = sequence[1]
    if kind == "bytes of 16 bits":
        item.LUTDescriptor = [4096, 0, 16]
    elif kind == "half":
        item.LUTData = item.LUTData[: len(item.LUTData) // 2]
    else:
        item.LUTDescriptor = [4096, 0]
    write_dicom(tmp_path / "a.dcm", RAW, bits=12, VOILUTSequence=sequence)
    if kind == "bytes of 16 bits":
        expected = np.array(EIGHT)[RAW]
        assert np.abs(shown(tmp_path / "a.dcm") - expected).max() <= 1
    else:
        with pytest.raises(ImageError, match=r"fewer entries than it promises|is incomplete"):
            shown(tmp_path / "a.dcm")
