"""Images of a few kilobytes that claim or unfold to gigabytes: refused before any allocation."""

import io
import struct
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from cxr_jax.data import images
from cxr_jax.io import dicom, image_io
from data_builders.jsrt.jsrt_dataset_builder import ImgImage
from tests.fakes.dicom_files import write_dicom
from tests.fakes.pictures import draw_image
from tests.faults import readers, seeds
from tests.faults.containers import png_chunk
from tests.faults.limited import EXTRA_BYTES, assert_refused, pixels, png, zeros

SMALL = zlib.compress(bytes(17 * 16))
PNGS = {
    "60,000 x 60,000": (
        png(60_000, 60_000, pixels(SMALL)),
        "an absurd size (Image size (3600000000",
    ),
    "a side of 4 billion": (
        png(2**32 - 1, 16, pixels(SMALL)),
        "an absurd size (Image size (68719476720",
    ),
    "more than its bytes unfold to": (
        png(10_000, 10_000, pixels(SMALL)),
        "10000 x 10000 pixels in 70 bytes",
    ),
    "colours": (png(9_000, 9_000, pixels(SMALL), colour=6), "9000 x 9000 pixels in 70 bytes"),
    "deep colours": (
        png(9_000, 9_000, pixels(SMALL), depth=16, colour=6),
        "9000 x 9000 pixels in 70 bytes",
    ),
    "text that unfolds to 70 MB": (
        png(16, 16, png_chunk(b"zTXt", b"Comment\0\0" + zeros(70)), pixels(SMALL)),
        "too large",
    ),
    "international text": (
        png(16, 16, png_chunk(b"iTXt", b"k\0\1\0\0\0" + zeros(70)), pixels(SMALL)),
        "too large",
    ),
}


@pytest.mark.parametrize("case", PNGS)
def test_png(process, tmp_path, case):
    data, message = PNGS[case]
    assert len(data) < 300_000
    (tmp_path / "bomb.png").write_bytes(data)
    assert_refused(process, message, image_io.read_image, tmp_path / "bomb.png")


def test_a_colour_profile_that_unfolds_to_gigabytes_is_left_alone(process, tmp_path):
    profile = png_chunk(b"iCCP", b"profile\0\0" + zeros(70))
    (tmp_path / "bomb.png").write_bytes(png(16, 16, profile, pixels(SMALL)))
    answer = process.ask(image_io.read_image, tmp_path / "bomb.png")
    assert answer.memory < 64 << 20
    assert answer.error == "" or "ImageError" in answer.error


def jpeg(width, height):
    """A JPEG of 40 x 32 pixels whose frame claims another size."""
    data = bytearray(seeds.jpeg()[0])
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


JPEGS = {
    "65,535 x 65,535": (jpeg(65_535, 65_535), "Image size (4294836225 pixels) exceeds"),
    "10,000 x 10,000 in 700 bytes": (jpeg(10_000, 10_000), "10000 x 10000 pixels in 691 bytes"),
    "5,000 scans": (
        seeds.jpeg()[2][:-2] + b"\xff\xda\0\x08\1\1\0\1\x3f\0" * 5_000 + b"\xff\xd9",
        "scans, more than 100",
    ),
}


@pytest.mark.parametrize("case", JPEGS)
def test_jpeg(process, tmp_path, case):
    data, message = JPEGS[case]
    (tmp_path / "bomb.jpg").write_bytes(data)
    assert_refused(process, message, image_io.read_image, tmp_path / "bomb.jpg")


STORED = {
    "more than any image": (png(11_000, 11_000, pixels(SMALL)), "an absurd size of 11000 x 11000"),
    "png": (PNGS["60,000 x 60,000"][0], "an absurd size of 60000 x 60000"),
    "jpeg": (JPEGS["65,535 x 65,535"][0], "an absurd size of 65535 x 65535"),
    "scans": (JPEGS["5,000 scans"][0], "scans, more than 100"),
}


@pytest.mark.parametrize("case", STORED)
def test_images_of_a_built_dataset(process, case):
    data, message = STORED[case]
    assert_refused(process, message, images.decode_square, data, 64)


def coded(syntax, data, **tags):
    """A DICOM image of 64 x 64 whose pixels are `data` in the coding `syntax`."""

    def change(dataset):
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([data])
        dataset["PixelData"].VR = "OB"
        for name, value in tags.items():
            setattr(dataset, name, value)

    return change


def tagged(**tags):
    def change(dataset):
        for name, value in tags.items():
            setattr(dataset, name, value)

    return change


def jpeg2000(width, height):
    stream = io.BytesIO()
    Image.fromarray(draw_image(0, 64, 64)).save(stream, "JPEG2000", no_jp2=True)
    data = bytearray(stream.getvalue())
    at = data.index(b"\xff\x51") + 6
    data[at : at + 8] = struct.pack(">II", width, height)
    data[at + 16 : at + 24] = struct.pack(">II", width, height)  # in one tile
    return bytes(data)


DICOMS = {
    "rows and columns": (tagged(Rows=65_535, Columns=65_535), "absurd size of 65535 x 65535"),
    "frames": (tagged(NumberOfFrames=2**31 - 1), "with several frames"),
    "samples": (tagged(SamplesPerPixel=65_535), "65535 values a pixel"),
    "bits": (tagged(BitsAllocated=65_528), "values take 65528 bits"),
    "bytes": (
        tagged(Rows=10_000, Columns=10_000, BitsAllocated=64),
        "800,000,000 bytes; an image takes up to 200,000,000",
    ),
    "run lengths": (
        coded(RLELossless, b"\1\0\0\0\x40" + bytes(59) + b"\x81\0" * 40, Rows=9_999, Columns=9_999),
        "9999 x 9999 pixels in",
    ),
    "wavelets": (
        coded(JPEG2000Lossless, jpeg2000(9_999, 9_999), Rows=9_999, Columns=9_999),
        "9999 x 9999 pixels in",
    ),
    "wavelets of another size": (
        coded(JPEG2000Lossless, jpeg2000(9_999, 9_999)),
        "another size than its header says",
    ),
}


@pytest.mark.parametrize("case", DICOMS)
def test_dicom(process, tmp_path, case):
    change, message = DICOMS[case]
    path = tmp_path / "bomb.dcm"
    write_dicom(path, draw_image(0, 64, 64))
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    assert_refused(process, message, image_io.read_image, path)


LENGTHS = {
    "pixels of 4 GB": (b"\xe0\x7f\x10\x00OB\0\0" + b"\xfe\xff\xff\xff", "DICOM"),
    "a fragment of 4 GB": (
        b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\0\0\0\0\xfe\xff\0\xe0\xf0\xff\xff\xff",
        "DICOM",
    ),
    "a comment of 4 GB": (b"\x20\x00\x00\x40UT\0\0" + b"\xfe\xff\xff\xff", "DICOM"),
}


@pytest.mark.parametrize("case", LENGTHS)
def test_dicom_elements_that_claim_gigabytes(process, tmp_path, case):
    element, message = LENGTHS[case]
    path = tmp_path / "bomb.dcm"
    write_dicom(path, draw_image(0, 64, 64))
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\xe0\x7f\x10\x00O")] + element + bytes(500))
    assert_refused(process, message, image_io.read_image, path)
    tags = process.ask(dicom.read_tags, path)
    assert tags.error == "" and tags.memory < 64 << 20


def test_a_deflated_dicom_file(process, tmp_path):
    path = tmp_path / "bomb.dcm"
    write_dicom(path, draw_image(0, 64, 64))
    data = path.read_bytes()
    raw = b"1.2.840.10008.1.2.1\0"
    meta = data[: data.index(raw)] + DeflatedExplicitVRLittleEndian.encode()
    path.write_bytes(meta + b"\0" * (len(meta) % 2) + zeros(70)[2:])
    assert_refused(process, "DICOM", image_io.read_image, path)
    assert process.ask(dicom.read_tags, path).memory < 64 << 20


def test_files_longer_than_any_image(process, tmp_path):
    starts = {
        "a.dcm": bytes(128) + b"DICM",
        "a.png": b"\x89PNG\r\n\x1a\n",
        "a.jpg": b"\xff\xd8\xff",
    }
    for name, start in starts.items():
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(1 << 33)  # sparse: it takes no disk
        assert_refused(
            process, "8,589,934,592 bytes, more than", image_io.read_image, tmp_path / name
        )
    assert_refused(process, "more than the 400,000,000", ImgImage(tmp_path / "a.dcm"))
    for name in starts:
        (tmp_path / name).unlink()


def test_a_large_image_takes_ten_bytes_a_pixel_at_most(process, tmp_path):
    side = 5_000
    (tmp_path / "black.png").write_bytes(
        png(side, side, pixels(zlib.compress(bytes((side + 1) * side), 1)))
    )
    answer = process.ask(readers.shape_of_image, tmp_path / "black.png")
    assert answer.result == (256, 256, 1) and answer.memory < 10 * side**2


def test_the_process_is_really_limited(process):
    assert process.ask(np.ones, EXTRA_BYTES // 4, np.float64).error.startswith("MemoryError")
