"""Images as they should look, from every kind of file, and one sentence for those without."""

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

from cxr_jax.io import image_io
from cxr_jax.io.limits import ImageError
from tests.fakes import dicom_files, image_folder
from tests.fakes.pictures import deep, draw_image, stretch
from tests.faults.containers import png_chunk


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return folder, image_folder.write(folder)


LOSSY = ("jpeg/plain.jpg", "jpeg/rotated.jpeg", "dicom/jpeg.dcm")


def test_every_kind_of_file_looks_as_it_should(export):
    folder, expected = export
    for name, picture in expected.items():
        read = image_io.read_image(folder / name)
        assert read.dtype == np.uint8 and read.shape == (*picture.shape, 1), name
        difference = np.abs(read[..., 0].astype(int) - picture)
        # Palettes hold 256 colours of which Pillow picks near ones; JPEG loses a little.
        if name in LOSSY or "palette" in name:
            assert difference.mean() < 2, name
        else:
            assert difference.max() == 0, name


def test_broken_files_say_why_and_nothing_of_the_patient(export):
    folder, _ = export
    for name, reason in image_folder.SKIPPED.items():
        if name.endswith(".tif"):
            reason = "not a PNG, JPEG or DICOM"
        with pytest.raises(ImageError, match=reason) as error:
            image_io.read_image(folder / name)
        message = str(error.value)
        assert dicom_files.NAME not in message and dicom_files.BIRTH not in message
        assert "MRN" not in message and "\n" not in message


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        image_io.read_image(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match="empty"):
        image_io.read_image(tmp_path / "empty.png")


def test_truncated_png(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(draw_image(0, 200, 200)).save(stream, "PNG")
    (tmp_path / "cut.png").write_bytes(stream.getvalue()[: stream.tell() // 2])
    with pytest.raises(ImageError, match="cut off"):
        image_io.read_image(tmp_path / "cut.png")


def test_no_flipped_bit_of_a_png_passes_for_the_image(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(draw_image(0, 200, 200)).save(stream, "PNG")
    content = stream.getvalue()
    for place in range(len(content) - 1, 8, -97):  # from IEND's checksum to the header
        changed = bytearray(content)
        changed[place] ^= 4
        (tmp_path / "flipped.png").write_bytes(changed)
        try:
            read = image_io.read_image(tmp_path / "flipped.png")
        except ImageError:
            continue
        # IEND has no content, and its own checksum says nothing about pixels.
        assert place >= len(content) - 4 and (read[..., 0] == draw_image(0, 200, 200)).all()


@pytest.mark.parametrize("side", [60_000, 12_000, 3])
def test_absurd_sizes_are_refused_before_they_are_decoded(tmp_path, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    data += struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 0) + b"IDAT"
    (tmp_path / "absurd.png").write_bytes(data + struct.pack(">I", zlib.crc32(b"IDAT")))
    with pytest.raises(ImageError, match="absurd size"):
        image_io.read_image(tmp_path / "absurd.png")


def test_dicom_absurd_size(tmp_path):
    path = tmp_path / "absurd.dcm"
    dicom_files.write_dicom(path, draw_image(0))
    data = path.read_bytes()
    # Rows (0028,0010) US, 2 bytes: claims 65,535 of them.
    data = data.replace(
        b"\x28\x00\x10\x00US\x02\x00\x48\x00", b"\x28\x00\x10\x00US\x02\x00\xff\xff"
    )
    data = data.replace(
        b"\x28\x00\x11\x00US\x02\x00\x3c\x00", b"\x28\x00\x11\x00US\x02\x00\xff\xff"
    )
    path.write_bytes(data)
    with pytest.raises(ImageError, match="absurd size of 65535 x 65535"):
        image_io.read_image(path)


def test_dicom_window_is_the_standards_linear_one(tmp_path):
    stored = deep(3, 0, 4095)
    slope, intercept, centre, width = 2.0, -100.0, 4000.0, 3000.0
    dicom_files.write_dicom(
        tmp_path / "window.dcm",
        stored,
        bits=12,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=centre,
        WindowWidth=width,
    )
    # PS3.3 C.11.2.1.2.1, with output 0 to 1.
    x = stored * slope + intercept
    window = np.clip((x - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    read = image_io.read_image(tmp_path / "window.dcm")[..., 0]
    assert np.abs(read - 255 * window).max() <= 0.51
    assert (read == 0).mean() > 0.1 and (read == 255).mean() > 0.1


def test_monochrome1_is_inverted_after_the_window(tmp_path):
    stored = deep(3, 0, 4095)
    window = {"WindowCenter": 1000.0, "WindowWidth": 1200.0}
    dicom_files.write_dicom(tmp_path / "two.dcm", stored, bits=12, **window)
    dicom_files.write_dicom(
        tmp_path / "one.dcm", stored, bits=12, photometric="MONOCHROME1", **window
    )
    two = image_io.read_image(tmp_path / "two.dcm").astype(int)
    one = image_io.read_image(tmp_path / "one.dcm").astype(int)
    assert np.abs(one - (255 - two)).max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_compress_the_image(tmp_path, photometric):
    stored = deep(3, 1000, 2000)
    stored[:, :5] = 0
    dicom_files.write_dicom(
        tmp_path / "padded.dcm", stored, bits=12, photometric=photometric, PixelPaddingValue=0
    )
    read = image_io.read_image(tmp_path / "padded.dcm")[..., 0]
    inner = stretch(stored[:, 5:])
    expected = inner if photometric == "MONOCHROME2" else 255 - inner
    assert np.abs(read[:, 5:].astype(int) - expected).max() <= 1
    assert (read[:, :5] == 0).all()


def test_colour_dicom_becomes_luminance_as_colour_png_does(tmp_path):
    colours = np.stack([draw_image(1), draw_image(2), draw_image(3)], axis=-1)
    dicom_files.write_dicom(tmp_path / "colour.dcm", colours, photometric="RGB")
    Image.fromarray(colours).save(tmp_path / "colour.png")
    from_dicom = image_io.read_image(tmp_path / "colour.dcm").astype(int)
    assert np.abs(from_dicom - image_io.read_image(tmp_path / "colour.png")).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_dicom_becomes_luminance_as_a_palette_png_does(tmp_path, bits):
    indices = Image.fromarray(np.stack([draw_image(n) for n in (1, 2, 3)], -1)).quantize(200)
    indices.save(tmp_path / "palette.png")
    tables = np.array(indices.getpalette(), np.uint16).reshape(-1, 3).T
    tags = {}
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        name = f"{colour}PaletteColorLookupTable"
        tags[f"{name}Descriptor"] = [len(table), 0, bits]
        entries = table.astype(np.uint8) if bits == 8 else table * 257
        tags[f"{name}Data"] = entries.tobytes() + b"\0" * (entries.nbytes % 2)
    path = tmp_path / "palette.dcm"
    dicom_files.write_dicom(path, np.asarray(indices), photometric="PALETTE COLOR", **tags)
    from_dicom = image_io.read_image(path).astype(int)
    assert np.abs(from_dicom - image_io.read_image(tmp_path / "palette.png")).max() <= 1
    # Without the palette its pixels are indices, which would look like an image and be none.
    dicom_files.write_dicom(path, draw_image(1), photometric="PALETTE COLOR")
    with pytest.raises(ImageError, match="does not hold its palette"):
        image_io.read_image(path)


@pytest.mark.parametrize(
    ("coding", "tail"), [("raw", 0), ("jpeg", 0), ("jpeg2000", 0), ("jpeg", 700), ("jpeg2000", 700)]
)
@pytest.mark.parametrize("shorter_side", [None, 16])
def test_corrupt_dicom_pixels_name_no_tag(tmp_path, coding, tail, shorter_side):
    path = tmp_path / "corrupt.dcm"
    dicom_files.write_dicom(path, draw_image(0), coding=coding)
    path.write_bytes(path.read_bytes()[:-700] + bytes(tail))
    with pytest.raises(
        ImageError, match=r"cannot be decoded: .*cut off|cut off within|ends early"
    ) as e:
        image_io.read_image(path, shorter_side)
    assert dicom_files.NAME not in str(e.value)


@pytest.mark.parametrize(
    ("shape", "resolution", "expected"),
    [
        ((500, 400), 256, (320, 256)),
        ((400, 1000), 256, (256, 640)),
        ((300, 300), 256, (256, 256)),
        ((255, 900), 256, (255, 900)),
        ((500, 400), None, (500, 400)),
    ],
)
def test_shrink_sets_the_shorter_side_and_never_enlarges(shape, resolution, expected):
    assert image_io.shrink(draw_image(0, *shape)[..., None], resolution).shape == (*expected, 1)


def test_shrink_averages_what_is_too_fine():
    checks = (255 * (np.indices((640, 512)).sum(0) % 2)).astype(np.uint8)[..., None]
    small = image_io.shrink(checks, 128)
    # Without antialiasing one phase of the board would survive as black or white.
    assert np.abs(small.astype(int) - 127).max() <= 3


def test_encodings_decode_to_the_image():
    picture = draw_image(1)[..., None]
    png = np.asarray(Image.open(io.BytesIO(image_io.encode(picture, "png"))))
    jpeg = Image.open(io.BytesIO(image_io.encode(picture, "jpeg")))
    assert (png == picture[..., 0]).all()
    assert jpeg.mode == "L" and np.abs(np.asarray(jpeg).astype(int) - picture[..., 0]).mean() < 2


def deep_png(path, pixels: np.ndarray, colour: int) -> None:
    """A 16-bit PNG [h w channels], which Pillow cannot write; colour as in PNG's header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_a_deep_png_with_colours_or_transparency_is_read_whole(tmp_path):
    grey = deep(1, 0, 4095)
    for channels, colour in ((1, 0), (3, 2), (2, 4), (4, 6)):
        deep_png(tmp_path / "a.png", np.repeat(grey[..., None], channels, 2), colour)
        picture = image_io.read_image(tmp_path / "a.png")[..., 0]
        assert np.abs(picture.astype(int) - stretch(grey)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA", "I;16"])
def test_a_png_whose_pixels_end_early_in_a_sound_file(tmp_path, mode):
    image = Image.fromarray(deep(1, 0, 65535) if mode == "I;16" else draw_image(1))
    (image if mode == "I;16" else image.convert(mode)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    assert image_io.read_image(tmp_path / "a.png").shape == (72, 60, 1)
    at = whole.index(b"IDAT")
    packed = whole[at + 4 : at + 4 + int.from_bytes(whole[at - 4 : at], "big")]
    rows = zlib.decompress(packed)
    for pixels in (packed[: len(packed) // 2], zlib.compress(rows[: -len(rows) // 72])):
        (tmp_path / "a.png").write_bytes(
            whole[: at - 4] + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
        )
        with pytest.raises(ImageError, match="cut off"):
            image_io.read_image(tmp_path / "a.png")


def test_a_side_that_jpeg_cannot_store_is_refused(tmp_path):
    Image.new("L", (16, 70_000)).save(tmp_path / "long.png")
    with pytest.raises(ImageError, match="an absurd size of 16 x 70000 pixels"):
        image_io.read_image(tmp_path / "long.png")


def test_a_name_that_no_file_can_have():
    with pytest.raises(ImageError, match="no such file"):
        image_io.read_image(Path("a\0b.png"))


@pytest.mark.parametrize("coding", ["raw", "jpeg", "jpeg unmarked", "jpeg2000"])
@pytest.mark.parametrize("colours", ["RGB", "YBR_FULL"])
def test_colours_of_every_coding_become_luminance(tmp_path, colours, coding):
    rgb = np.stack([draw_image(1), draw_image(2), draw_image(3)], axis=-1)
    stored = Image.fromarray(rgb).convert("YCbCr" if colours == "YBR_FULL" else "RGB")
    path = tmp_path / "colour.dcm"
    dicom_files.write_dicom(path, np.asarray(stored), photometric="RGB")
    dataset = pydicom.dcmread(path)
    stream, marked, options = io.BytesIO(), Image.fromarray(rgb), {"quality": 95, "subsampling": 0}
    if coding == "jpeg":
        marked.save(stream, "JPEG", **options)  # YCbCr inside, whatever the header says
    elif coding == "jpeg unmarked":
        jpeg = imagecodecs.jpeg8_encode(
            np.asarray(stored),
            level=95,
            colorspace="YCBCR",
            outcolorspace="YCBCR",
            subsampling="444",
        )
        start = jpeg.index(b"\xff\xe0")
        stream.write(jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4]) :])
    elif coding == "jpeg2000":
        marked.save(stream, "JPEG2000", irreversible=False, no_jp2=True)
        colours = "YBR_RCT" if colours == "YBR_FULL" else colours
    if coding != "raw":
        syntax = JPEG2000Lossless if coding == "jpeg2000" else JPEGBaseline8Bit
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([stream.getvalue()])
    dataset.PhotometricInterpretation = colours
    dataset.save_as(path)
    expected = np.asarray(Image.fromarray(rgb).convert("L")).astype(int)
    assert np.abs(image_io.read_image(path)[..., 0] - expected).mean() < 1.5
