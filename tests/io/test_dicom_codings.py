"""Pixels are the same in every coding."""

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEGLosslessSV1,
)

from cxr_jax.io.limits import ImageError
from tests.fakes.pictures import deep, stretch
from tests.io.dicom_codings import CODINGS, lossless_jpeg, write_coded
from tests.io.dicom_standard import BELOW, RAW, as_the_standard_shows, shown


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


@pytest.mark.parametrize("coding", CODINGS)
def test_eight_bits_in_sixteen(tmp_path, coding):
    patterns = deep(3, 12, 243)
    syntax, encode = CODINGS[coding]
    for stored in (patterns, patterns.astype(np.uint8)):
        if coding in ("native", "big-endian", "deflated", "RLE") and stored.itemsize == 1:
            continue
        write_coded(tmp_path / "a.dcm", patterns, syntax, encode(stored), BitsStored=8)
        assert np.abs(shown(tmp_path / "a.dcm") - stretch(patterns)).max() <= 1


def test_a_sign_that_only_the_stream_has_is_refused(tmp_path):
    values = deep(12, 10, 4000, 30, 26).astype(np.int16) - 2048
    syntax, encode = CODINGS["JPEG 2000"]
    patterns = values.astype(np.uint16)
    fields = {"BitsStored": 16, "PixelRepresentation": 0}
    write_coded(tmp_path / "a.dcm", patterns, syntax, encode(values), **fields)
    with pytest.raises(ImageError, match="signed values, which its header says are not"):
        shown(tmp_path / "a.dcm")


@pytest.mark.parametrize("predictor", range(1, 8))
def test_differences_of_lossless_jpeg_are_modulo_256(tmp_path, predictor):
    pixels = deep(3, 0, 255, 40, 36).astype(np.uint8)
    pixels[::5, ::3] = 255 - pixels[::5, ::3]  # sharp edges
    write_coded(tmp_path / "a.dcm", pixels, JPEGLosslessSV1, lossless_jpeg(pixels, predictor))
    np.testing.assert_array_equal(shown(tmp_path / "a.dcm"), pixels)


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
