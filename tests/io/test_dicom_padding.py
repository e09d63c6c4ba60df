"""Padding lies outside the image, whatever its type; float pixels."""

import numpy as np
import pydicom
import pytest

from cxr_jax.io.limits import ImageError
from tests.fakes.dicom_files import write_dicom
from tests.fakes.pictures import deep, stretch
from tests.io.dicom_standard import shown


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


def test_a_range_of_padding_lies_outside_the_image(tmp_path):
    pixels = deep(3, 0, 3000)
    pixels[:8], pixels[8:12] = 4095, 4000
    padding = {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 3900}
    write_dicom(tmp_path / "image.dcm", pixels, bits=12, **padding)
    image = shown(tmp_path / "image.dcm")
    assert np.abs(image[12:] - stretch(pixels[12:])).max() <= 1
    assert (image[:12] == image[12:].min()).all()


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
