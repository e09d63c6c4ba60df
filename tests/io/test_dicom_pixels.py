"""Pixels as DICOM's standard shows them, in every coding, and what is refused in words."""

import functools
import io
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxr_jax.io import dicom, image_io
from cxr_jax.io.limits import ImageError
from tests.fakes.dicom_files import NAME, write_dicom
from tests.fakes.pictures import deep, draw_image, stretch


def table(
    entries, first: int, bits: int, vr: str = "US", packed: bool = False
) -> list[pydicom.Dataset]:
    """A sequence of an item without values and one look-up table."""
    item = pydicom.Dataset()
    signed = "SS" if first < 0 else "US"
    item.add_new("LUTDescriptor", signed, [len(entries), first, bits])
    words = np.asarray(entries, np.uint8 if packed else np.uint16)
    item.add_new("LUTData", vr, words.tolist() if vr == "US" else words.tobytes())
    return [pydicom.Dataset(), item]


def as_the_standard_shows(values: np.ndarray, tags: dict, photometric: str) -> np.ndarray:
    """uint8 [h w]: PS3.3 C.11 pixel by pixel, in floats, from whole numbers; no pydicom."""
    greys, kept = values.astype(np.float64), False
    if sequence := tags.get("ModalityLUTSequence"):
        greys = looked_up(greys, sequence[-1])
    else:
        greys = greys * tags.get("RescaleSlope", 1) + tags.get("RescaleIntercept", 0)
    if sequence := tags.get("VOILUTSequence"):
        greys, kept = looked_up(greys, sequence[-1]), sequence[-1].LUTDescriptor[2] == 8
    elif "WindowWidth" in tags:
        centre, width = (np.atleast_1d(tags[f"Window{of}"])[0] for of in ("Center", "Width"))
        function = tags.get("VOILUTFunction", "LINEAR")
        if function == "SIGMOID":
            greys = 1 / (1 + np.exp(-4 * (greys - centre) / width))
        elif function == "LINEAR_EXACT":
            greys = np.clip((greys - centre) / width + 0.5, 0, 1)
        else:
            greys = np.clip((greys - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    if photometric == "MONOCHROME1":
        greys = 255 - greys if kept else -greys
    if "PixelPaddingValue" in tags:
        outside = values == tags["PixelPaddingValue"]
        greys[outside] = greys[~outside].min()
    return greys.astype(np.uint8) if kept else stretch(greys)


def looked_up(values: np.ndarray, item: pydicom.Dataset) -> np.ndarray:
    data = item["LUTData"].value
    count, first, _ = item.LUTDescriptor
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) == count else "<u2")
    # One by one, and clamped by hand.
    place = [min(max(round(value) - first, 0), count - 1) for value in values.ravel().tolist()]
    return np.array([int(data[at]) for at in place], float).reshape(values.shape)


CUT = r"cut off|ends early"


def shown(path: Path) -> np.ndarray:
    return image_io.read_image(path)[..., 0].astype(int)


CURVE = [round(4095 * (i / 4095) ** 2) for i in range(4096)]
EIGHT = [round(12 + 230 * (i / 4095) ** 2) for i in range(4096)]
# Brightest at values that no image here has.
SPIKE = [4095 if 100 < i < 600 else i for i in range(4096)]
WINDOW = {"WindowCenter": 1900.0, "WindowWidth": 1000.0}
FALLING = {"RescaleSlope": -2.0, "RescaleIntercept": 4095.0}
BELOW = {"WindowCenter": -300.0, "WindowWidth": 3000.0}
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


def lossless_jpeg(pixels: np.ndarray, predictor: int) -> bytes:
    """T.81 annex H, 8 bits, differences modulo 256: what some scanners write and few libraries do.

    All 17 kinds of difference have a code of five bits, their number.
    """
    height, width = pixels.shape
    values, bits = pixels.astype(int), []
    for y in range(height):
        for x in range(width):
            left, above = values[y, x - 1], values[y - 1, x]
            corner = values[y - 1, x - 1]
            predicted = {
                **{1: left, 2: above, 3: corner, 4: left + above - corner},
                **{5: left + ((above - corner) >> 1), 6: above + ((left - corner) >> 1)},
                7: (left + above) >> 1,
            }[predictor]
            predicted = (left if x else 128) if y == 0 else (predicted if x else above)
            difference = (values[y, x] - predicted + 128) % 256 - 128
            kind = int(abs(difference)).bit_length()
            bits.append(f"{kind:05b}")
            if kind:
                low = difference if difference > 0 else difference + 2**kind - 1
                bits.append(f"{low:0{kind}b}")
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    data = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0)
    codes = b"\0" + bytes([0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17))
    segments = ((0xC3, frame), (0xC4, codes), (0xDA, bytes([1, 1, 0, predictor, 0, 0])))
    head = b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments
    )
    return b"\xff\xd8" + head + data + b"\xff\xd9"


@pytest.mark.parametrize("kind", ["12 bits", "restarts", "point transform"])
@pytest.mark.parametrize("predictor", [5, 6, 7])
def test_wrapped_differences_that_no_decoder_reads(tmp_path, predictor, kind):
    pixels = deep(3, 0, 255, 40, 36).astype(np.uint8)
    pixels[::5, ::3] = 255 - pixels[::5, ::3]
    stream = lossless_jpeg(pixels, predictor)
    # What is changed in the header leaves differences that leave the pixels' range.
    if kind == "12 bits":
        stream = stream.replace(b"\xff\xc3\0\x0b\x08", b"\xff\xc3\0\x0b\x07")
    elif kind == "restarts":
        stream = stream.replace(b"\xff\xda", b"\xff\xdd\0\4\0\0\xff\xda")
    else:
        stream = stream.replace(bytes([predictor, 0, 0]), bytes([predictor, 0, 1]), 1)
    write_coded(tmp_path / "a.dcm", pixels, JPEGLosslessSV1, stream)
    with pytest.raises(ImageError, match="which no decoder reads"):
        shown(tmp_path / "a.dcm")


def test_a_comment_is_no_scan(tmp_path):
    pixels = deep(3, 0, 255, 40, 36).astype(np.uint8)
    pixels[::5, ::3] = 255 - pixels[::5, ::3]
    stream = lossless_jpeg(pixels, 6)
    stream = stream[:2] + b"\xff\xfe\0\x0c\xff\xda" + bytes(8) + stream[2:]
    write_coded(tmp_path / "a.dcm", pixels, JPEGLosslessSV1, stream)
    np.testing.assert_array_equal(shown(tmp_path / "a.dcm"), pixels)


@pytest.mark.parametrize("predictor", range(1, 8))
def test_differences_of_lossless_jpeg_are_modulo_256(tmp_path, predictor):
    pixels = deep(3, 0, 255, 40, 36).astype(np.uint8)
    pixels[::5, ::3] = 255 - pixels[::5, ::3]  # sharp edges
    write_coded(tmp_path / "a.dcm", pixels, JPEGLosslessSV1, lossless_jpeg(pixels, predictor))
    np.testing.assert_array_equal(shown(tmp_path / "a.dcm"), pixels)


def write_coded(path: Path, patterns: np.ndarray, syntax, frame: bytes | None, **fields) -> None:
    """Writes bit patterns with a frame of them in another coding; `fields` go into the header."""
    write_dicom(path, patterns)
    dataset = pydicom.dcmread(path)
    padding = fields.pop("PixelPaddingValue", None)
    for keyword, value in fields.items():
        setattr(dataset, keyword, value)
    dataset.HighBit = dataset.BitsStored - 1
    if padding is not None:
        dataset.add_new(0x00280120, "SS" if dataset.PixelRepresentation else "US", padding)
    if frame is not None:
        dataset.PixelData = encapsulate([frame])
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = patterns.astype(patterns.dtype.newbyteorder(">")).tobytes()
        dataset.walk(lambda data, element: element.value)  # while the order of bytes is known
        dataset.set_original_encoding(False, False)
    dataset.save_as(path, implicit_vr=False, little_endian=syntax != ExplicitVRBigEndian)


def _rle(patterns: np.ndarray) -> bytes:
    dataset = pydicom.Dataset()
    rows, columns = patterns.shape
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 1
    dataset.BitsAllocated = dataset.BitsStored = 8 * patterns.itemsize
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    options = {"rows": rows, "columns": columns, "samples_per_pixel": 1, "number_of_frames": 1}
    options |= {"bits_allocated": dataset.BitsAllocated, "bits_stored": dataset.BitsStored}
    options |= {"photometric_interpretation": "MONOCHROME2", "pixel_representation": 0}
    return RLELosslessEncoder.encode(patterns, **options)


CODINGS = {
    "native": (ExplicitVRLittleEndian, lambda patterns: None),
    "big-endian": (ExplicitVRBigEndian, lambda patterns: None),
    "deflated": (DeflatedExplicitVRLittleEndian, lambda patterns: None),
    "RLE": (RLELossless, _rle),
    "lossless JPEG": (
        JPEGLosslessSV1,
        lambda patterns: imagecodecs.jpeg8_encode(
            patterns, lossless=True, bitspersample=8 * patterns.itemsize
        ),
    ),
    "JPEG-LS": (JPEGLSLossless, imagecodecs.jpegls_encode),
    "JPEG 2000": (
        JPEG2000Lossless,
        functools.partial(imagecodecs.jpeg2k_encode, codecformat="j2k", reversible=True),
    ),
}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "tags", [{}, BELOW, {"PixelPaddingValue": -1800}], ids=["", "window", "pad"]
)
@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("coding", CODINGS)
def test_every_coding_with_and_without_overlays(tmp_path, coding, signed, bits, tags, photometric):
    """Bits above BitsStored are an overlay's, whatever the coding (PS3.5 8.1.1)."""
    half = 2 ** (bits - 1)
    values = deep(bits, 10, 2 * half - 20, 30, 26).astype(int) - signed * half
    if tags and not signed:
        tags = {key: abs(value) % half for key, value in tags.items()}
    if "PixelPaddingValue" in tags:
        tags = {"PixelPaddingValue": max(tags["PixelPaddingValue"], -half)}
        values[:, :5] = tags["PixelPaddingValue"]
    patterns = (values % 2**bits).astype(np.uint16)
    overlay = np.zeros_like(patterns)
    overlay[5:9, 3:20] = 2**16 - 2**bits
    syntax, encode = CODINGS[coding]
    fields = {"BitsStored": bits, "PixelRepresentation": int(signed), **tags}
    fields["PhotometricInterpretation"] = photometric
    expected = as_the_standard_shows(values, tags, photometric)
    for stored in (patterns, patterns | overlay):
        write_coded(tmp_path / "a.dcm", stored, syntax, encode(stored), **fields)
        assert np.abs(shown(tmp_path / "a.dcm") - expected).max() <= 1


def test_a_sign_that_only_the_stream_has_is_refused(tmp_path):
    values = deep(12, 10, 4000, 30, 26).astype(np.int16) - 2048
    syntax, encode = CODINGS["JPEG 2000"]
    patterns = values.astype(np.uint16)
    fields = {"BitsStored": 16, "PixelRepresentation": 0}
    write_coded(tmp_path / "a.dcm", patterns, syntax, encode(values), **fields)
    with pytest.raises(ImageError, match="signed values, which its header says are not"):
        shown(tmp_path / "a.dcm")


@pytest.mark.parametrize("coding", CODINGS)
def test_eight_bits_in_sixteen(tmp_path, coding):
    patterns = deep(3, 12, 243)
    syntax, encode = CODINGS[coding]
    for stored in (patterns, patterns.astype(np.uint8)):
        if coding in ("native", "big-endian", "deflated", "RLE") and stored.itemsize == 1:
            continue
        write_coded(tmp_path / "a.dcm", patterns, syntax, encode(stored), BitsStored=8)
        assert np.abs(shown(tmp_path / "a.dcm") - stretch(patterns)).max() <= 1


LOSSY = {
    "JPEG": (JPEGBaseline8Bit, np.uint8, functools.partial(imagecodecs.jpeg8_encode, level=95)),
    "JPEG of 12 bits": (
        JPEGExtended12Bit,
        np.uint16,
        functools.partial(imagecodecs.jpeg8_encode, level=98, bitspersample=12),
    ),
}


@pytest.mark.parametrize(
    "coding", [*LOSSY, *[name for name in CODINGS if name not in ("deflated", "big-endian")]]
)
@pytest.mark.parametrize("end", [b"", b"\xff\xd9", b"\0\0\0\0"])
def test_a_stream_that_ends_early_in_a_sound_file_is_refused(tmp_path, coding, end):
    pixels = deep(6, 100, 4000, 90, 80)
    pixels += np.random.default_rng(0).integers(0, 60, pixels.shape).astype(np.uint16)
    if coding in LOSSY:
        syntax, dtype, encode = LOSSY[coding]
        pixels = pixels if dtype == np.uint16 else (pixels >> 4).astype(np.uint8)
    else:
        syntax, encode = CODINGS[coding]
    whole = encode(pixels)
    path = tmp_path / "a.dcm"
    fields = {"BitsStored": 8 if pixels.itemsize == 1 else 16}
    write_coded(path, pixels, syntax, whole, **fields)
    assert np.abs(shown(path) - (pixels if pixels.itemsize == 1 else stretch(pixels))).mean() < 2
    data = pixels.tobytes() if whole is None else whole
    for part in (0.98, 0.9, 0.4, 0.1):
        cut = data[: int(part * len(data)) // 2 * 2]
        if whole is None:
            write_coded(path, pixels, syntax, None, PixelData=cut, **fields)
        else:
            write_coded(path, pixels, syntax, cut + end, **fields)
        with pytest.raises(ImageError, match=CUT):
            image_io.read_image(path)


@pytest.mark.parametrize("coding", ["JPEG", *CODINGS])
def test_a_file_that_is_cut_says_so(tmp_path, coding):
    pixels, path = deep(6, 100, 4000, 90, 80), tmp_path / "a.dcm"
    if coding == "JPEG":
        pixels = (pixels >> 4).astype(np.uint8)
        write_coded(path, pixels, JPEGBaseline8Bit, LOSSY[coding][2](pixels))
    else:
        syntax, encode = CODINGS[coding]
        write_coded(path, pixels, syntax, encode(pixels))
    data = path.read_bytes()
    for part in (0.95, 0.7, 0.5):
        path.write_bytes(data[: int(part * len(data))])
        with pytest.raises(ImageError, match=CUT) as error:
            image_io.read_image(path)
        assert NAME not in str(error.value)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("limit", [None, -1500])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_written_with_the_type_of_the_other_sign(tmp_path, signed, limit, photometric):
    values = deep(4, 2000, 3000).astype(int) - 1000 * signed
    values[:, :9] = values[0, :9] = -2000 if signed else 63536
    if limit:
        values[3:6, 9:12] = -1600 if signed else 63936
    write_dicom(tmp_path / "a.dcm", (values % 2**16).astype(np.uint16), photometric=photometric)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.PixelRepresentation = int(signed)
    for keyword, value in (("PixelPaddingValue", -2000), ("PixelPaddingRangeLimit", limit)):
        if value:
            tag = pydicom.datadict.tag_for_keyword(keyword)
            dataset.add_new(tag, "US" if signed else "SS", value % 2**16 if signed else value)
    dataset.save_as(tmp_path / "a.dcm")
    inside = (values > -1000) & (values < 60000)
    expected = stretch(np.where(inside, values, values[inside].min()))
    if photometric == "MONOCHROME1":
        expected = np.where(inside, 255 - expected, 0)
    assert np.abs(shown(tmp_path / "a.dcm") - expected).max() <= 1


def test_padding_beyond_the_pixels_bits_is_no_pixel(tmp_path):
    values = deep(4, 1000, 4095)
    write_dicom(tmp_path / "a.dcm", values, bits=12, PixelPaddingValue=65535)
    assert np.abs(shown(tmp_path / "a.dcm") - stretch(values)).max() <= 1
    padded = values.copy()
    padded[:, :5] = 65535
    write_dicom(tmp_path / "a.dcm", padded, bits=12, PixelPaddingValue=65535)
    expected = stretch(values) * (padded < 65535)
    assert np.abs(shown(tmp_path / "a.dcm")[:, 5:] - stretch(values[:, 5:])).max() <= 1
    assert (shown(tmp_path / "a.dcm")[:, :5] == 0).all() and expected.any()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("keyword", ["FloatPixelData", "DoubleFloatPixelData"])
def test_float_pixels(tmp_path, keyword, photometric):
    values = deep(4, 0, 60000) / 7000 - 3
    dtype, padding = (np.float32, "") if keyword == "FloatPixelData" else (np.float64, "Double")
    write_dicom(tmp_path / "a.dcm", deep(4, 0, 9), photometric=photometric)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    for field in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del dataset[field]
    dataset.BitsAllocated = 8 * np.dtype(dtype).itemsize
    setattr(dataset, f"{padding}FloatPixelPaddingValue", -99.0)
    padded = np.where(np.arange(60) < 4, -99, values).astype(dtype)
    setattr(dataset, keyword, padded.tobytes())
    dataset.WindowCenter, dataset.WindowWidth = 1.0, 0.5  # below the whole numbers' least
    dataset.save_as(tmp_path / "a.dcm")
    greys = np.clip((values - 1) / 0.5 + 0.5, 0, 1)
    expected = np.round(255 * (1 - greys if photometric == "MONOCHROME1" else greys))
    assert np.abs(shown(tmp_path / "a.dcm")[:, 4:] - expected[:, 4:]).max() <= 1
    assert (shown(tmp_path / "a.dcm")[:, :4] == 0).all()
    padded[9, 9] = np.inf
    setattr(dataset, keyword, padded.tobytes())
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(ImageError, match="not finite"):
        shown(tmp_path / "a.dcm")


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_pixels_of_32_bits(tmp_path, photometric):
    stored = deep(4, 0, 60000).astype(np.uint32) * 50000
    write_dicom(tmp_path / "a.dcm", stored, photometric=photometric)
    expected = as_the_standard_shows(stored, {}, photometric)
    assert np.abs(shown(tmp_path / "a.dcm") - expected).max() <= 1


@pytest.mark.parametrize("shorter_side", [None, 64])
@pytest.mark.parametrize(("coding", "marker"), [("jpeg", b"\xff\xc0"), ("jpeg2000", b"\xff\x51")])
def test_a_frame_of_another_size_than_its_header_says(tmp_path, coding, marker, shorter_side):
    write_dicom(tmp_path / "a.dcm", draw_image(0, 340, 301), coding=coding)
    data = bytearray((tmp_path / "a.dcm").read_bytes())
    # Height after the marker, its length and a byte (JPEG) or two, width (4 bytes) of JPEG 2000.
    place = data.index(marker) + (5 if coding == "jpeg" else 10)
    data[place : place + 2] = b"\xff\xf0" if coding == "jpeg" else b"\x00\x7f"
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(ImageError, match="another size than its header"):
        image_io.read_image(tmp_path / "a.dcm", shorter_side)


def test_a_range_of_padding_lies_outside_the_image(tmp_path):
    pixels = deep(3, 0, 3000)
    pixels[:8], pixels[8:12] = 4095, 4000
    padding = {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 3900}
    write_dicom(tmp_path / "image.dcm", pixels, bits=12, **padding)
    image = shown(tmp_path / "image.dcm")
    assert np.abs(image[12:] - stretch(pixels[12:])).max() <= 1
    assert (image[:12] == image[12:].min()).all()


def test_a_window_beside_the_image_or_of_no_width(tmp_path):
    pixels = deep(3, 0, 1000)
    beside = {"WindowCenter": 4000.0, "WindowWidth": 100.0}
    write_dicom(tmp_path / "beside.dcm", pixels, bits=12, **beside)
    with pytest.raises(ImageError, match="its window shows one grey only"):
        shown(tmp_path / "beside.dcm")
    empty = {"WindowCenter": 2048.0, "WindowWidth": 0.0}
    write_dicom(tmp_path / "empty.dcm", pixels, bits=12, **empty)
    assert np.abs(shown(tmp_path / "empty.dcm") - stretch(pixels)).max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_fewer_than_eight_bits_are_stretched(tmp_path, photometric):
    pixels = draw_image(3) >> 2
    write_dicom(tmp_path / "image.dcm", pixels, bits=6, photometric=photometric)
    expected = stretch(pixels if photometric == "MONOCHROME2" else 63 - pixels.astype(int))
    assert np.abs(shown(tmp_path / "image.dcm") - expected).max() <= 1


@pytest.mark.parametrize(
    ("syntax", "marker"),
    [(JPEGExtended12Bit, 0xC1), (JPEGLSLossless, 0xF7), (JPEGLosslessSV1, 0xC3)],
)
def test_a_frame_that_claims_another_size_is_refused_before_it_is_decoded(tmp_path, syntax, marker):
    start = b"\xff\xd8\xff" + bytes([marker]) + b"\0\x0b\x08\xff\xdc\xff\xdc\x01\x01\x11\0"
    write_coded(tmp_path / "image.dcm", draw_image(3, 64, 64), syntax, start + bytes(200))
    with pytest.raises(ImageError, match="another size than its header says"):
        shown(tmp_path / "image.dcm")


def test_a_window_of_an_enhanced_image_lies_in_its_groups(tmp_path):
    stored = deep(3, 700, 3600)
    outer, inner = pydicom.Dataset(), pydicom.Dataset()
    inner.WindowCenter, inner.WindowWidth = WINDOW.values()
    outer.FrameVOILUTSequence = [inner]
    groups = {"SharedFunctionalGroupsSequence": [outer], "NumberOfFrames": 1}
    write_dicom(tmp_path / "a.dcm", stored, bits=12, **groups)
    expected = as_the_standard_shows(stored, WINDOW, "MONOCHROME2")
    assert np.abs(shown(tmp_path / "a.dcm") - expected).max() <= 1


RAW = deep(3, 700, 3600)
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


TWICE = np.concatenate([RAW, RAW])
LONGER = {
    "blank NumberOfFrames": (TWICE, {"NumberOfFrames": None}),
    "no frames": (TWICE, {"NumberOfFrames": 0}),
    "absent": (TWICE, {}),
    "fewer rows": (RAW, {"Rows": RAW.shape[0] - 1}),
    "fewer bits": (RAW, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}),
    "colour": (np.concatenate([RAW] * 6), {"SamplesPerPixel": 3}),
}


@pytest.mark.parametrize("kind", LONGER)
def test_more_pixels_than_the_header_says(tmp_path, kind):
    stored, fields = LONGER[kind]
    fields = {"Rows": RAW.shape[0]} | fields
    if kind == "colour":
        fields |= {"PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    write_coded(tmp_path / "a.dcm", stored, ExplicitVRLittleEndian, None, **fields)
    with pytest.raises(ImageError, match="bytes of pixels where its header says"):
        shown(tmp_path / "a.dcm")
    # Some writers pad by more than a byte.
    padded = RAW.tobytes() + bytes(130)
    write_coded(tmp_path / "a.dcm", RAW, ExplicitVRLittleEndian, None, PixelData=padded)
    assert np.abs(shown(tmp_path / "a.dcm") - stretch(RAW)).max() <= 1


@pytest.mark.parametrize("coding", ["JPEG-LS", "RLE", "JPEG 2000", "lossless JPEG"])
def test_several_frames_that_the_header_does_not_name(tmp_path, coding):
    syntax, encode = CODINGS[coding]
    write_coded(tmp_path / "a.dcm", RAW, syntax, encode(RAW))
    # An offset table that is wrong does no harm to one image.
    whole = pydicom.dcmread(tmp_path / "a.dcm")
    whole.PixelData = b"\xfe\xff\0\xe0\4\0\0\0\x08\0\0\0" + whole.PixelData[12:]
    whole.save_as(tmp_path / "a.dcm")
    assert np.abs(shown(tmp_path / "a.dcm") - stretch(RAW)).max() <= 1
    whole.PixelData = encapsulate([encode(RAW)], fragments_per_frame=3)
    whole.save_as(tmp_path / "a.dcm")
    assert np.abs(shown(tmp_path / "a.dcm") - stretch(RAW)).max() <= 1
    whole.PixelData = encapsulate([encode(RAW)] * 2)
    whole.save_as(tmp_path / "a.dcm")
    with pytest.raises(ImageError, match="several frames"):
        shown(tmp_path / "a.dcm")


def test_rows_of_run_lengths_that_the_header_does_not_name(tmp_path):
    write_coded(tmp_path / "a.dcm", RAW, RLELossless, _rle(RAW), Rows=RAW.shape[0] - 2)
    with pytest.raises(ImageError, match="contradict each other"):
        shown(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    ("coding", "allocated"), [("JPEG-LS", 8), ("JPEG 2000", 8), ("JPEG 2000", 16)]
)
def test_a_stream_of_more_bits_than_the_header_says(tmp_path, coding, allocated):
    syntax, encode = CODINGS[coding]
    options = {"bitspersample": 12} if coding == "JPEG 2000" else {}
    fields = {"BitsAllocated": allocated, "BitsStored": 8}
    write_coded(tmp_path / "a.dcm", RAW, syntax, encode(RAW, **options), **fields)
    with pytest.raises(ImageError, match="more bits in its stream than"):
        shown(tmp_path / "a.dcm")


def test_tiles_of_jpeg_2000_that_are_missing(tmp_path):
    stored = draw_image(3, 96, 96)
    stream = io.BytesIO()
    Image.fromarray(stored).save(stream, "JPEG2000", no_jp2=True, tile_size=(32, 32))
    whole = stream.getvalue()
    write_coded(tmp_path / "a.dcm", stored, JPEG2000Lossless, whole)
    np.testing.assert_array_equal(shown(tmp_path / "a.dcm"), stored)
    cut = whole[: whole.rfind(b"\xff\x90\0\x0a")] + b"\xff\xd9"
    write_coded(tmp_path / "a.dcm", stored, JPEG2000Lossless, cut)
    with pytest.raises(ImageError, match="tiles are missing"):
        shown(tmp_path / "a.dcm")


def test_a_colour_stream_without_its_last_scans(tmp_path):
    stream = io.BytesIO()
    colours = np.stack([draw_image(n, 80, 72) for n in (1, 2, 3)], -1)
    Image.fromarray(colours).save(stream, "JPEG", progressive=True)
    cut = stream.getvalue()[: stream.getvalue().rfind(b"\xff\xda")] + b"\xff\xd9"
    fields = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422"}
    write_coded(tmp_path / "a.dcm", colours[..., 0], JPEGBaseline8Bit, cut, **fields)
    with pytest.raises(ImageError, match=CUT):
        shown(tmp_path / "a.dcm")


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


@pytest.mark.parametrize(("value", "limit"), [(-9999.5, -9000.0), (float("nan"), None)])
def test_padding_of_float_pixels(tmp_path, value, limit):
    values = (deep(4, 0, 60000) / 7000 - 3).astype(np.float32)
    padded = values.copy()
    padded[:5] = value
    padded[5:9] = limit or value
    write_dicom(tmp_path / "a.dcm", deep(4, 0, 9))
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    for field in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del dataset[field]
    dataset.BitsAllocated, dataset.FloatPixelData = 32, padded.tobytes()
    dataset.FloatPixelPaddingValue = value
    if limit:
        dataset.FloatPixelPaddingRangeLimit = limit
    dataset.save_as(tmp_path / "a.dcm")
    assert np.abs(shown(tmp_path / "a.dcm")[9:] - stretch(values[9:])).max() <= 1
    assert (shown(tmp_path / "a.dcm")[:9] == 0).all()


def test_native_pixels_under_a_compressed_syntax(tmp_path):
    write_dicom(tmp_path / "a.dcm", RAW)
    data = (tmp_path / "a.dcm").read_bytes()
    data = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(ImageError, match="not compressed as its transfer syntax says"):
        shown(tmp_path / "a.dcm")
