"""Small files of weights, arrays, tables and reports that unfold to gigabytes: refused unread."""

import gzip
import struct
import zipfile

import pytest

from cxr_jax.weights.arrays import read_arrays
from data_builders.indiana_university import reports
from data_builders.medmnist_cxr import medmnist_cxr_dataset_builder as medmnist
from tests.faults import readers, seeds
from tests.faults.limited import assert_refused


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
    assert_refused(process, message, read_arrays, zipped(tmp_path / "bomb.npz", members))


def test_npz_of_images(process, tmp_path):
    members = {
        "train_images.npy": npy((70 << 20,), bytes(70 << 20)),
        "train_labels.npy": npy((1,)),
    }
    path = zipped(tmp_path / "bomb.npz", members)
    asked = ("train", 10, 28, 1, tmp_path)
    assert_refused(process, "unpacks to 73,400", medmnist.unpack, path, *asked)


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
PICKLES = {
    "a tensor spread out by strides of 0": (
        tensor((200,) * 5, (0,) * 5),
        "bytes that a file of its",
    ),
    "dicts that hold each other": (LAUGHS, "has keys that are not text"),
    "bytes of 2^62": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".", "but only 1 remain"),
    "a number of 2 GB": (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".", "not enough data"),
}


@pytest.mark.parametrize("case", PICKLES)
def test_torch(process, tmp_path, case):
    pickled, message = PICKLES[case]
    members = {"a/data.pkl": pickled, "a/data/0": bytes(40)}
    assert_refused(process, message, read_arrays, zipped(tmp_path / "bomb.pth", members))


def test_torch_storage_that_unfolds(process, tmp_path):
    members = {"a/data.pkl": tensor((2, 3), (3, 1)), "a/data/0": bytes(70 << 20)}
    path = zipped(tmp_path / "bomb.pth", members)
    assert_refused(process, "unpacks to 73,400", read_arrays, path)


@pytest.mark.parametrize("name", ["bomb.pth", "bomb.npz"])
def test_zip_members_that_claim_gigabytes(process, tmp_path, name):
    members = {"a/data.pkl": tensor((2, 3), (3, 1)), "a/data/0": bytes(4_000), "a.npy": npy((0,))}
    data = bytearray(zipped(tmp_path / name, members).read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 20 : entry + 24] = struct.pack("<I", 2**31)  # as packed, in the directory
    (tmp_path / name).write_bytes(data)
    assert_refused(process, "claims 2,147,483,648 bytes", read_arrays, tmp_path / name)


@pytest.mark.parametrize("length", [2**63, 2**40, 2**31])
def test_safetensors_header_of_any_length(process, tmp_path, length):
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" * 50)
    assert_refused(process, "not a sound .safetensors", read_arrays, path)


TABLES = {
    "a line of 70 MB": (
        gzip.compress(bytes(70 << 20).replace(b"\0", b"a")),
        "1,000,000 characters in a line",
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
    assert_refused(process, message, readers.count_rows, tmp_path / "bomb.csv.gz")


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
    assert_refused(process, message, reports.read_xml, tmp_path / "1.xml")
