"""Streams that are cut, or that contradict their header, are refused in words."""

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxr_jax.io import image_io
from cxr_jax.io.limits import ImageError
from tests.fakes.dicom_files import NAME, write_dicom
from tests.fakes.pictures import deep, draw_image, stretch
from tests.io.dicom_codings import CODINGS, CUT, LOSSY, rle, write_coded
from tests.io.dicom_standard import RAW, shown


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


@pytest.mark.parametrize(
    ("syntax", "marker"),
    [(JPEGExtended12Bit, 0xC1), (JPEGLSLossless, 0xF7), (JPEGLosslessSV1, 0xC3)],
)
def test_a_frame_that_claims_another_size_is_refused_before_it_is_decoded(tmp_path, syntax, marker):
    start = b"\xff\xd8\xff" + bytes([marker]) + b"\0\x0b\x08\xff\xdc\xff\xdc\x01\x01\x11\0"
    write_coded(tmp_path / "image.dcm", draw_image(3, 64, 64), syntax, start + bytes(200))
    with pytest.raises(ImageError, match="another size than its header says"):
        shown(tmp_path / "image.dcm")


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


def test_rows_of_run_lengths_that_the_header_does_not_name(tmp_path):
    write_coded(tmp_path / "a.dcm", RAW, RLELossless, rle(RAW), Rows=RAW.shape[0] - 2)
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


def test_native_pixels_under_a_compressed_syntax(tmp_path):
    write_dicom(tmp_path / "a.dcm", RAW)
    data = (tmp_path / "a.dcm").read_bytes()
    data = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(ImageError, match="not compressed as its transfer syntax says"):
        shown(tmp_path / "a.dcm")
