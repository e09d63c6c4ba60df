"""Pixels as pydicom's own functions would show them, by a table and at reduced scales."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)

from cxr_jax.io import dicom, dicom_pixels, image_io
from cxr_jax.io.limits import ImageError
from tests.fakes.dicom_files import write_dicom
from tests.fakes.pictures import deep, draw_image, stretch

CLIPPING = {"WindowCenter": 2048.0, "WindowWidth": 2000.0}


def table(entries: list[int], first: int, bits: int) -> list[pydicom.Dataset]:
    """A sequence of one look-up table."""
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries), first, bits], entries
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return [item]


def shown_by_pydicom(path: Path) -> np.ndarray:
    """uint8 [h w]: pydicom's functions on every pixel, in floats."""
    dataset = pydicom.dcmread(path)
    stored = dataset.pixel_array
    pixels = apply_voi_lut(apply_modality_lut(stored, dataset), dataset)
    eight_bits = pixels.dtype == np.uint8
    pixels = pixels.astype(np.float64)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = 255 - pixels
    if "PixelPaddingValue" in dataset:
        inside = stored != dataset.PixelPaddingValue
        pixels[~inside] = pixels[inside].min()
    return pixels.astype(np.uint8) if eight_bits else stretch(pixels)


CURVE = [round(4095 * (i / 4095) ** 2) for i in range(4096)]
# Brightest at values that no image here has.
SPIKE = [4095 if 100 < i < 600 else i for i in range(4096)]
SHOWN = {
    "as stored": {},
    "window": {"WindowCenter": 1900.0, "WindowWidth": 1000.0},
    "first of two windows": {"WindowCenter": [1500.0, 9.0], "WindowWidth": [900.0, 2.0]},
    "exact": {"WindowCenter": 1900.5, "WindowWidth": 700.5, "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": {"WindowCenter": 1900.0, "WindowWidth": 1000.0, "VOILUTFunction": "SIGMOID"},
    "rescale": {"RescaleSlope": 0.5, "RescaleIntercept": -1024.0},
    "falling rescale": {"RescaleSlope": -2.0, "RescaleIntercept": 4095.0},
    "rescale and window": {
        "RescaleSlope": 2.0,
        "RescaleIntercept": -1000.0,
        "WindowCenter": 3000.0,
        "WindowWidth": 1500.0,
    },
    "modality table": {"ModalityLUTSequence": table(CURVE, 0, 16)},
    "VOI table": {"VOILUTSequence": table(CURVE, 0, 12)},
    "VOI table with a spike": {"VOILUTSequence": table(SPIKE, 0, 12)},
}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize("kind", SHOWN)
def test_table_shows_what_pydicom_shows(tmp_path, kind, padding, photometric):
    stored = deep(3, 700, 3600)
    stored[:, :7] = 0
    tags = SHOWN[kind] | ({} if padding is None else {"PixelPaddingValue": padding})
    write_dicom(tmp_path / "a.dcm", stored, bits=12, photometric=photometric, **tags)
    expected = shown_by_pydicom(tmp_path / "a.dcm")
    read = image_io.read_image(tmp_path / "a.dcm")[..., 0]
    assert np.abs(read.astype(int) - expected).max() <= 1
    assert np.ptp(expected) > 100


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"VOILUTSequence": table([i**2 // 300 for i in range(256)], 0, 8)},
        {"WindowCenter": 100.0, "WindowWidth": 90.0},
        {"PixelPaddingValue": 40},
    ],
)
def test_eight_bits_are_not_stretched_but_by_a_window(tmp_path, photometric, tags):
    stored = (40 + draw_image(1) // 2).astype(np.uint8)
    write_dicom(tmp_path / "a.dcm", stored, photometric=photometric, **tags)
    read = image_io.read_image(tmp_path / "a.dcm")[..., 0].astype(int)
    assert np.abs(read - shown_by_pydicom(tmp_path / "a.dcm")).max() <= 1
    assert (np.ptp(read) == 255) == ("WindowCenter" in tags)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "tags", [{}, {"WindowCenter": -200.0, "WindowWidth": 900.0}, {"PixelPaddingValue": -2000}]
)
def test_signed_pixels(tmp_path, photometric, tags):
    stored = deep(4, 0, 30000).astype(np.int32) - 20000
    stored[:, :3] = -2000
    stored = stored.astype(np.int16)
    write_dicom(tmp_path / "a.dcm", stored.view(np.uint16), photometric=photometric)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.PixelRepresentation = 1
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    if "PixelPaddingValue" in tags:
        dataset["PixelPaddingValue"].VR = "SS"
    dataset.save_as(tmp_path / "a.dcm")
    read = image_io.read_image(tmp_path / "a.dcm")[..., 0].astype(int)
    assert np.abs(read - shown_by_pydicom(tmp_path / "a.dcm")).max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_pixels_of_32_bits(tmp_path, photometric):
    stored = deep(4, 0, 60000).astype(np.uint32) * 50000
    write_dicom(tmp_path / "a.dcm", stored, photometric=photometric)
    read = image_io.read_image(tmp_path / "a.dcm")[..., 0].astype(int)
    assert np.abs(read - shown_by_pydicom(tmp_path / "a.dcm")).max() <= 1


def test_run_length_coding(tmp_path):
    write_dicom(tmp_path / "a.dcm", deep(4, 300, 3000), bits=12, **CLIPPING)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "rle.dcm")
    raw, rle = (image_io.read_image(tmp_path / name) for name in ("a.dcm", "rle.dcm"))
    assert (raw == rle).all()


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_rescale_that_is_not_finite(tmp_path):
    write_dicom(tmp_path / "a.dcm", deep(4, 300, 3000), RescaleSlope="NaN", RescaleIntercept=0)
    with pytest.raises(ImageError, match="not finite"):
        image_io.read_image(tmp_path / "a.dcm")


def grainy(height: int, width: int, low: int, high: int) -> np.ndarray:
    """A uint16 [h w] image of smooth waves and grain."""
    picture = draw_image(2, height, width).astype(float) / 255
    picture += np.random.default_rng(0).normal(0, 0.02, picture.shape)
    return np.round(low + np.clip(picture, 0, 1) * (high - low)).astype(np.uint16)


def reduced(path: Path, shorter_side: int = 64) -> bool:
    """Whether the image was decoded at a reduced scale; that it then looks as the whole does."""
    image = dicom_pixels.read_pixels(path, shorter_side)
    read = image_io.read_image(path, shorter_side).astype(int)
    difference = read - image_io.shrink(image_io.read_image(path), shorter_side)
    assert np.abs(difference).mean() < 1
    return image.pixels.shape < image.size[::-1]


@pytest.mark.parametrize(("height", "width"), [(340, 301), (699, 583)])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_jpeg_is_reduced_unless_a_window_goes_beyond_the_image(
    tmp_path, photometric, height, width
):
    window = {"WindowCenter": 128.0, "WindowWidth": 150.0}
    for low, high, tags, expected in (
        (0, 255, {}, True),
        (60, 180, {}, True),
        (0, 255, window, True),
        (60, 180, window, False),
        (0, 255, {"PixelPaddingValue": 0}, False),
    ):
        pixels = grainy(height, width, low, high).astype(np.uint8)
        write_dicom(tmp_path / "a.dcm", pixels, coding="jpeg", photometric=photometric, **tags)
        assert reduced(tmp_path / "a.dcm") == expected, (low, high, tags)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("high", "tags", "expected"),
    [
        (3900, CLIPPING, True),
        (2500, CLIPPING, False),  # nothing as bright as the window's end
        (3900, {}, False),
        (4095, {"RescaleSlope": 1.0, "RescaleIntercept": -1024.0}, False),
        (3900, CLIPPING | {"VOILUTFunction": "SIGMOID"}, False),
    ],
)
def test_jpeg2000_is_reduced_if_it_spans_the_window(tmp_path, high, tags, expected, photometric):
    pixels = grainy(699, 583, 200, high)
    write_dicom(tmp_path / "raw.dcm", pixels, bits=12, photometric=photometric, **tags)
    dataset = pydicom.dcmread(tmp_path / "raw.dcm")
    dataset.compress(JPEG2000Lossless)
    dataset.save_as(tmp_path / "a.dcm")
    assert reduced(tmp_path / "a.dcm") == expected
    assert (
        image_io.read_image(tmp_path / "a.dcm") == image_io.read_image(tmp_path / "raw.dcm")
    ).all()


def test_jpeg2000_of_too_few_levels_or_bits_is_decoded_whole(tmp_path):
    for pixels, levels, expected in (
        (grainy(340, 301, 0, 65535), 1, False),
        (grainy(340, 301, 0, 65535), 3, True),
        (grainy(340, 301, 0, 255).astype(np.uint8), 3, False),
    ):
        stream = io.BytesIO()
        image = Image.fromarray(pixels)
        image.save(stream, "JPEG2000", num_resolutions=levels, no_jp2=True)
        window = {"WindowCenter": float(np.mean(pixels)), "WindowWidth": float(np.ptp(pixels) / 2)}
        write_dicom(tmp_path / "a.dcm", pixels, coding="jpeg2000", **window)
        dataset = pydicom.dcmread(tmp_path / "a.dcm")
        dataset.PixelData = encapsulate([stream.getvalue()])
        dataset.save_as(tmp_path / "a.dcm")
        assert reduced(tmp_path / "a.dcm") == expected, (pixels.dtype, levels)


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


def shown(path: Path) -> np.ndarray:
    return dicom_pixels.read_pixels(path).pixels


def test_a_range_of_padding_lies_outside_the_image(tmp_path):
    pixels = deep(3, 0, 3000)
    pixels[:8], pixels[8:12] = 4095, 4000
    write_dicom(
        tmp_path / "image.dcm",
        pixels,
        bits=12,
        PixelPaddingValue=4095,
        PixelPaddingRangeLimit=3900,
    )
    image = shown(tmp_path / "image.dcm")
    assert np.abs(image[12:].astype(int) - stretch(pixels[12:])).max() <= 1
    assert (image[:12] == image[12:].min()).all()


def test_bits_that_are_not_where_the_header_says_are_refused(tmp_path):
    write_dicom(tmp_path / "image.dcm", deep(3, 0, 4095) << 4, bits=12)
    dataset = pydicom.dcmread(tmp_path / "image.dcm")
    dataset.HighBit = 15
    dataset.save_as(tmp_path / "image.dcm")
    with pytest.raises(ImageError, match="bits are not where its header says"):
        shown(tmp_path / "image.dcm")


def test_a_window_beside_the_image_or_of_no_width(tmp_path):
    pixels = deep(3, 0, 1000)
    beside = {"WindowCenter": 4000.0, "WindowWidth": 100.0}
    write_dicom(tmp_path / "beside.dcm", pixels, bits=12, **beside)
    with pytest.raises(ImageError, match="its window shows one grey only"):
        shown(tmp_path / "beside.dcm")
    empty = {"WindowCenter": 2048.0, "WindowWidth": 0.0}
    write_dicom(tmp_path / "empty.dcm", pixels, bits=12, **empty)
    assert np.abs(shown(tmp_path / "empty.dcm").astype(int) - stretch(pixels)).max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_fewer_than_eight_bits_are_stretched(tmp_path, photometric):
    pixels = draw_image(3) >> 2
    write_dicom(tmp_path / "image.dcm", pixels, bits=6, photometric=photometric)
    expected = stretch(pixels if photometric == "MONOCHROME2" else 63 - pixels.astype(int))
    assert np.abs(shown(tmp_path / "image.dcm").astype(int) - expected).max() <= 1


def test_a_deflated_file_is_refused_before_it_unfolds(tmp_path):
    path = tmp_path / "image.dcm"
    write_dicom(path, draw_image(3))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    with pytest.raises(ImageError, match="deflated"):
        shown(path)
    assert dicom.read_tags(path) is None


@pytest.mark.parametrize(
    ("syntax", "marker"), [(JPEGExtended12Bit, 0xC1), (JPEGLSLossless, 0xF7), (JPEGLossless, 0xC3)]
)
def test_a_frame_that_claims_another_size_is_refused_before_it_is_decoded(tmp_path, syntax, marker):
    path = tmp_path / "image.dcm"
    write_dicom(path, draw_image(3, 64, 64), coding="jpeg")
    dataset = pydicom.dcmread(path)
    start = b"\xff\xd8\xff" + bytes([marker]) + b"\0\x0b\x08\xff\xdc\xff\xdc\x01\x01\x11\0"
    dataset.PixelData = encapsulate([start + bytes(200)])
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    with pytest.raises(ImageError, match="another size than its header says"):
        shown(path)
