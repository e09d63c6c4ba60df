"""Small files that claim or unfold to gigabytes: refused before anything is allocated for them.

All are read in one process that may grow by 256 MB, a tenth of what the smallest would take.
"""

import gzip
import io
import struct
import zipfile
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from cxr_jax.data import images
from cxr_jax.weights.checkpoint_files import read_arrays
from data_builders import dicom, films
from data_builders.indiana_university import reports
from data_builders.jsrt.img_film import ImgFilm
from data_builders.medmnist_cxr import arrays
from tests.fakes.dicom_files import write_dicom
from tests.fakes.pictures import film
from tests.faults import readers, seeds
from tests.faults.containers import png_chunk
from tests.faults.limited import LimitedProcess

EXTRA_BYTES = 256 << 20
MODULES = (
    *("cxr_jax.data.images", "cxr_jax.weights.checkpoint_files", "data_builders.films"),
    *("data_builders.tables", "data_builders.indiana_university.reports", "pydicom.pixels"),
    *(
        "data_builders.jsrt.img_film",
        "data_builders.medmnist_cxr.arrays",
        "tests.faults.readers",
    ),
)


@pytest.fixture(scope="module")
def process():
    process = LimitedProcess(MODULES, EXTRA_BYTES)
    yield process
    process.close()


def refused(process, message, function, *arguments):
    """The call ends in an error of ours that holds `message`, having allocated next to nothing."""
    answer = process.ask(function, *arguments)
    kind, _, text = answer.error.partition(": ")
    assert kind in ("FilmError", "BuildError", "ValueError"), answer
    assert message in text
    assert answer.memory < 64 << 20


def png(width, height, *chunks, depth=8, colour=0):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    ends = (*chunks, png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(ends)


def zeros(megabytes):
    """Deflated zeros: a thousandth of what they unfold to."""
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(1 << 20)) for _ in range(megabytes)] + [packer.flush()])


def pixels(content):
    return png_chunk(b"IDAT", content)


SMALL = zlib.compress(bytes(17 * 16))
PNGS = {
    "60,000 x 60,000": (png(60_000, 60_000, pixels(SMALL)), "absurd size of 60000 x 60000"),
    "a side of 4 billion": (png(2**32 - 1, 16, pixels(SMALL)), "absurd size of 4294967295 x 16"),
    "more than its bytes unfold to": (
        png(10_000, 10_000, pixels(SMALL)),
        "10000 x 10000 pixels in 13 bytes",
    ),
    "deep colours": (png(9_000, 9_000, pixels(SMALL), depth=16, colour=6), "pixels in 13 bytes"),
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
    refused(process, message, films.read_film, tmp_path / "bomb.png")


def test_a_colour_profile_that_unfolds_to_gigabytes_is_left_alone(process, tmp_path):
    profile = png_chunk(b"iCCP", b"profile\0\0" + zeros(70))
    (tmp_path / "bomb.png").write_bytes(png(16, 16, profile, pixels(SMALL)))
    answer = process.ask(films.read_film, tmp_path / "bomb.png")
    assert answer.memory < 64 << 20
    assert answer.error == "" or "FilmError" in answer.error


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
    refused(process, message, films.read_film, tmp_path / "bomb.jpg")


STORED = {
    "more than any film": (png(11_000, 11_000, pixels(SMALL)), "11000 x 11000 pixels, more than"),
    "png": (PNGS["60,000 x 60,000"][0], "Image size (3600000000 pixels) exceeds"),
    "jpeg": (JPEGS["65,535 x 65,535"][0], "Image size (4294836225 pixels) exceeds"),
    "scans": (JPEGS["5,000 scans"][0], "scans, more than 100"),
}


@pytest.mark.parametrize("case", STORED)
def test_images_of_a_built_dataset(process, case):
    data, message = STORED[case]
    refused(process, message, images.decode_square, data, 64)


def coded(syntax, data, **tags):
    """A DICOM film of 64 x 64 whose pixels are `data` in the coding `syntax`."""

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
    Image.fromarray(film(0, 64, 64)).save(stream, "JPEG2000", no_jp2=True)
    data = bytearray(stream.getvalue())
    at = data.index(b"\xff\x51") + 6
    data[at : at + 8] = struct.pack(">II", width, height)
    data[at + 16 : at + 24] = struct.pack(">II", width, height)  # in one tile
    return bytes(data)


DICOMS = {
    "rows and columns": (tagged(Rows=65_535, Columns=65_535), "absurd size of 65535 x 65535"),
    "frames": (tagged(NumberOfFrames=2**31 - 1), "with several frames"),
    "samples": (tagged(SamplesPerPixel=65_535), "64 x 64 x 65535 values"),
    "bits": (tagged(BitsAllocated=65_528), "values of 65528 bits"),
    "bytes": (
        tagged(Rows=10_000, Columns=10_000, BitsAllocated=64),
        "800,000,000 bytes; a film takes up to 200,000,000",
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
    write_dicom(path, film(0, 64, 64))
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    refused(process, message, films.read_film, path)


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
    write_dicom(path, film(0, 64, 64))
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\xe0\x7f\x10\x00O")] + element + bytes(500))
    refused(process, message, films.read_film, path)
    tags = process.ask(dicom.read_tags, path)
    assert tags.error == "" and tags.memory < 64 << 20


def test_a_deflated_dicom_file(process, tmp_path):
    path = tmp_path / "bomb.dcm"
    write_dicom(path, film(0, 64, 64))
    data = path.read_bytes()
    raw = b"1.2.840.10008.1.2.1\0"
    meta = data[: data.index(raw)] + DeflatedExplicitVRLittleEndian.encode()
    path.write_bytes(meta + b"\0" * (len(meta) % 2) + zeros(70)[2:])
    refused(process, "DICOM", films.read_film, path)
    assert process.ask(dicom.read_tags, path).memory < 64 << 20


def test_files_longer_than_any_film(process, tmp_path):
    starts = {
        "a.dcm": bytes(128) + b"DICM",
        "a.png": b"\x89PNG\r\n\x1a\n",
        "a.jpg": b"\xff\xd8\xff",
    }
    for name, start in starts.items():
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(1 << 33)  # sparse: it takes no disk
        refused(process, "8,589,934,592 bytes, more than", films.read_film, tmp_path / name)
    refused(process, "more than the 400,000,000", ImgFilm(tmp_path / "a.dcm"))
    for name in starts:
        (tmp_path / name).unlink()


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy(shape, content=b"", descr="|u1"):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


ARRAYS = {
    "70 MB of zeros": ({"a.npy": npy((70 << 20,), bytes(70 << 20))}, "unpacks to 73,400"),
    "many of them": (
        {f"{i}.npy": npy((10 << 20,), bytes(10 << 20)) for i in range(10)},
        "unpacks to 104,858",
    ),
    "a header that lies": ({"a.npy": npy((10**10,), bytes(99), "<f8")}, "its header says 80,000,"),
    "a side of 10^30": ({"a.npy": npy((10**30,), bytes(99))}, "its header says 1,000,000,"),
    "endless nesting": ({"a.npy": npy("(" * 4_000 + ")" * 4_000)}, "is no NumPy array"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_npz(process, tmp_path, case):
    members, message = ARRAYS[case]
    refused(process, message, read_arrays, zipped(tmp_path / "bomb.npz", members))


def test_npz_of_films(process, tmp_path):
    members = {
        "train_images.npy": npy((70 << 20,), bytes(70 << 20)),
        "train_labels.npy": npy((1,)),
    }
    path = zipped(tmp_path / "bomb.npz", members)
    wanted = arrays.Wanted("train", 10, 28, 1)
    refused(process, "unpacks to 73,400", arrays.unpack, path, wanted, tmp_path)


def tensor(shape, strides):
    """A state_dict of one tensor over a storage of ten floats."""
    return b"\x80\x02" + seeds._pickled_dict({"a": (0, shape, strides)}) + b"."


# Dicts that hold the next one a hundred times over: 100^9 of them.
LAUGHS = (
    b"\x80\x02}q\0"
    + b"".join(
        b"}q"
        + bytes([n + 1])
        + b"("
        + b"".join(b"K" + bytes([k]) + b"h" + bytes([n]) for k in range(100))
        + b"u"
        for n in range(9)
    )
    + b"."
)
# A pair of the same pair of the same pair …, as a key: to hash it takes 2^60 steps.
PAIRS = b"\x80\x02})" + b"2\x86" * 60 + b"K\1s."
PICKLES = {
    "a key of pairs of pairs": (PAIRS, "a tuple of more than 100,000 values"),
    "a tensor spread out by strides of 0": (
        tensor((200,) * 5, (0,) * 5),
        "bytes that a file of its",
    ),
    "dicts that hold each other": (LAUGHS, "dicts, which no checkpoint has"),
    "bytes of 2^62": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".", "ends too early"),
    "a number of 2 GB": (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".", "ends too early"),
}


@pytest.mark.parametrize("case", PICKLES)
def test_torch(process, tmp_path, case):
    pickled, message = PICKLES[case]
    members = {"a/data.pkl": pickled, "a/data/0": bytes(40)}
    refused(process, message, read_arrays, zipped(tmp_path / "bomb.pth", members))


def test_torch_storage_that_unfolds(process, tmp_path):
    members = {"a/data.pkl": tensor((2, 3), (3, 1)), "a/data/0": bytes(70 << 20)}
    path = zipped(tmp_path / "bomb.pth", members)
    refused(process, "unpacks to 73,400", read_arrays, path)


@pytest.mark.parametrize("name", ["bomb.pth", "bomb.npz"])
def test_zip_members_that_claim_gigabytes(process, tmp_path, name):
    members = {"a/data.pkl": tensor((2, 3), (3, 1)), "a/data/0": bytes(4_000), "a.npy": npy((0,))}
    data = bytearray(zipped(tmp_path / name, members).read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 20 : entry + 24] = struct.pack("<I", 2**31)  # as packed, in the directory
    (tmp_path / name).write_bytes(data)
    refused(process, "claims 2,147,483,648 bytes", read_arrays, tmp_path / name)


@pytest.mark.parametrize("length", [2**63, 2**40, 2**31])
def test_safetensors_header_of_any_length(process, tmp_path, length):
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" * 50)
    refused(process, "not a sound .safetensors", read_arrays, path)


TABLES = {
    "a line of 70 MB": (
        gzip.compress(bytes(70 << 20).replace(b"\0", b"a")),
        "a line of more than",
    ),
    "a quote that never closes": (
        gzip.compress(b'image,label\n"' + b"a,1\n" * 5_000_000),
        "field larger than field limit",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables(process, tmp_path, case):
    data, message = TABLES[case]
    (tmp_path / "bomb.csv.gz").write_bytes(data)
    refused(process, message, readers.count_rows, tmp_path / "bomb.csv.gz")


LAUGHING = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">{}]><uId id="CXR1">&z;</uId>'.format(
    "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghiz"))
)
REPORTS = {
    "a billion laughs": (LAUGHING.encode(), "declares entities"),
    "in UTF-16": (LAUGHING.encode("utf-16"), "is broken"),
    "in UTF-7": (
        LAUGHING.replace("?>", ' encoding="utf-7"?>', 1).encode("utf-7"),
        "declares entities",
    ),
    "quadratic": (b"<!DOCTYPE x [<!ENTITY a '" + b"a" * 90_000 + b"'>]>", "declares entities"),
    "2 MB": (b"<uId id='CXR1'/>" + bytes(2_000_000), "is longer than 200,000 bytes"),
    "nested without end": (b"<a>" * 60_000, "is broken"),
    "nested and closed": (b"<a>" * 28_000 + b"</a>" * 28_000, "says it is another report"),
}


@pytest.mark.parametrize("case", REPORTS)
def test_xml(process, tmp_path, case):
    data, message = REPORTS[case]
    (tmp_path / "1.xml").write_bytes(data)
    refused(process, message, reports.read_xml, tmp_path / "1.xml")


def test_a_large_film_takes_ten_bytes_a_pixel_at_most(process, tmp_path):
    side = 5_000
    (tmp_path / "black.png").write_bytes(
        png(side, side, pixels(zlib.compress(bytes((side + 1) * side), 1)))
    )
    answer = process.ask(readers.shape_of_film, tmp_path / "black.png")
    assert answer.result == (256, 256, 1) and answer.memory < 10 * side**2


def test_the_process_is_really_limited(process):
    assert process.ask(np.ones, EXTRA_BYTES // 4, np.float64).error.startswith("MemoryError")
