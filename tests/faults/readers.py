"""Readers of each kind of file, which give what it holds or one clear error."""

import functools
import gzip
import importlib.util
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.fakes.dicom_files import BIRTH, NAME
from tests.faults import containers, datasets, hdf5, mutations, seeds, stored, texts, workdirs
from tests.faults.mutations import Broken, Damage


class Kind(NamedTuple):
    """One kind of file.

    Attributes:
      seeds: sound files.
      damage: makes a mutant of one of them; the others are there to be spliced in.
      read: (folder, mutant, index) -> "read" or "listed" (as skipped, with its reason); raises
        ValueError with one clear line where it refuses, and anything else where it fails.
    """

    seeds: Callable[[], Sequence[bytes]]
    damage: Callable[[random.Random, bytes, Sequence[bytes]], bytes]
    read: Callable[[Path, bytes, int], str]


def read_image(folder: Path, data: bytes, index: int, suffix: str) -> str:
    """An image as the builders read it, at its own size or shrunk."""
    from cxr_jax.io import dicom
    from data_builders.base import parallel

    path = folder / f"image{suffix}"
    path.write_bytes(data)
    if dicom.is_dicom(path):
        dicom.read_tags(path)
    image = parallel.prepare_image(path, (None, 24, 64)[index % 3], ("jpeg", "png")[index % 2])
    if isinstance(image, parallel.Unreadable):
        check_message(image.reason)
        return "listed"
    _check_stored(image.image)
    return "read"


def read_picture(folder: Path, data: bytes, index: int, suffix: str) -> str:
    """Reads an image; every second one as if it were the image of a built dataset."""
    from cxr_jax.data import images

    if index % 2:
        return read_image(folder, data, index // 2, suffix)
    height, width = images.stored_size(data)
    square = images.decode_square(data, 24)
    if square.shape != (24, 24, 1) or square.dtype != np.uint8 or min(height, width) < 1:
        raise Broken(f"a stored image of {square.shape}, {square.dtype}")
    return "read"


def shape_of_image(path: Path) -> tuple[int, ...]:
    from cxr_jax.io import image_io as images

    return images.read_image(path, shorter_side=256).shape


def count_rows(path: Path) -> int:
    from data_builders.base import csv_table as tables

    return sum(1 for _ in tables.Table(path).rows(("image",)))


def _check_stored(encoded: bytes) -> None:
    from cxr_jax.data import images

    if images.decode_square(encoded, 16).shape != (16, 16, 1):
        raise Broken("what was stored is not read back")


def read_report(folder: Path, data: bytes, index: int) -> str:
    """An XML report; its name is the number it claims, or it would always be refused for that."""
    from data_builders.indiana_university import reports

    claimed = re.search(rb'uId id="CXR(\d{1,9})"', data)
    path = folder / f"{claimed[1].decode() if claimed else 1}.xml"
    path.write_bytes(data)
    try:
        report = reports.read_xml(path)
    finally:
        path.unlink()
    if set(report.labels) != set(reports.HEADINGS) or not isinstance(report.text, str):
        raise Broken(f"labels {report.labels}")
    return "read"


def read_weights(folder: Path, data: bytes, index: int, suffix: str) -> str:
    """Reads weights as a dict of arrays; MedMNIST's .npz every second time as images."""
    from cxr_jax.weights.arrays import read_arrays

    path = folder / f"weights{suffix}"
    path.write_bytes(data)
    if suffix == ".npz" and index % 2:
        return _read_medmnist(path)
    arrays = read_arrays(path, ("state_dict",) if index % 3 else ())
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise Broken(f"{key!r} is {array!r}")
        array.sum() if array.dtype.kind in "fiub" else None  # touches memory that is not there
    return "read"


def _read_medmnist(path: Path) -> str:
    from data_builders.medmnist_cxr import medmnist_cxr_dataset_builder as medmnist

    for part, most in (("train", 6), ("val", 3), ("test", 4)):
        images, labels = medmnist.unpack(path, part, most, 28, 1, path.parent)
        for index in range(len(labels)):
            image = np.lib.format.open_memmap(images, mode="r")[index]
            if image.shape != (28, 28) or image.dtype != np.uint8:
                raise Broken(f"an image of {image.shape}, {image.dtype}")
    return "read"


class Layout(NamedTuple):
    """Returns a dataset's raw folder in miniature, its tables' paths and contents."""

    name: str
    raw: Path
    tables: tuple[tuple[Path, bytes], ...]


_TABLES = (".csv", ".txt", ".TXT", ".gz")


@functools.lru_cache(maxsize=1)
def _layouts(folder: Path) -> tuple[Layout, ...]:
    from tests.fakes import every, image_folder, indiana_university

    layouts = []
    for name in (*every.names(), "indiana_university", "image_folder"):
        raw = folder / name
        if raw.exists():
            raw = folder / f"{name} of Kaggle"
            raw.mkdir()
            indiana_university.write(raw, **indiana_university.LAYOUTS["kaggle"])
        elif name == "image_folder":
            images = sorted(image_folder.write(raw))
            patients = [f"m{i % 4}" for i in range(len(images))]
            image_folder.write_labels(raw / "labels.csv", images, patient_id=patients)
        else:
            every.write(name, raw)
        found = sorted(path for path in raw.rglob("*") if path.suffix in _TABLES)
        if found:
            tables = tuple((path.relative_to(raw), path.read_bytes()) for path in found[:40])
            layouts.append(Layout(name, raw, tables))
    return tuple(layouts)


def read_table(folder: Path, data: bytes, index: int) -> str:
    """Lists a dataset with one of its tables damaged; the bytes of the mutant are its seed."""
    from data_builders import build
    from data_builders.base import builder as cxr_builder

    layouts = _layouts(folder)
    layout = layouts[index % len(layouts)]
    rng = random.Random(data)
    contents = [content for _, content in layout.tables]
    table, content = rng.choice(layout.tables)
    (layout.raw / table).write_bytes(_damaged(rng, content, contents))
    try:
        options = {}
        if layout.name == "image_folder":
            options = {"labels_csv": str(layout.raw / "labels.csv")}
        chosen = build.choose(layout.name, layout.raw, None, options)
        builder = chosen.builder(data_dir=folder / "data", config=chosen.config)
        builder.settings = cxr_builder.BuildSettings(num_workers=0, inputs=chosen.inputs)
        listing = builder.list_images(layout.raw)
    finally:
        (layout.raw / table).write_bytes(content)
        shutil.rmtree(folder / "data", ignore_errors=True)
    for record in listing.records:
        if isinstance(record.image, Path) and not record.image.resolve().is_relative_to(layout.raw):
            raise Broken(f"{record.image_id} leads to {record.image}")
    return "listed" if any(not entry.expected for entry in listing.skipped) else "read"


def _damaged(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Damages a table; one in five .gz as it is packed, the others before."""
    if content.startswith(b"\x1f\x8b") and rng.random() < 0.8:
        return gzip.compress(mutations.mutated_text(rng, gzip.decompress(content), others), 1)
    return mutations.mutated_text(rng, content, others)


def check_message(message: str) -> None:
    """An error is one line or few, fits a screen, and says nothing about the patient."""
    secrets = (NAME, BIRTH, "MRN0001", "1CT1", "CompressedSamples")
    printable = all(letter == "\n" or letter.isprintable() for letter in message)
    if not message.strip() or len(message) > 2000 or not printable:
        raise Broken(f"the message is {message[:300]!r} ({len(message)} characters)")
    if any(secret in message for secret in secrets):
        raise Broken(f"the message says who it is: {message!r}")


def _seeds_of_tables() -> list[bytes]:
    return [bytes(16)]


def _random_seed(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return rng.randbytes(16)


def _either(inside: Damage) -> Damage:
    """Six of ten damages within the container's checksums and lengths, four anywhere."""

    def either(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
        damage = inside if rng.random() < 0.6 else mutations.mutated
        return damage(rng, data, others)

    return either


KINDS = {
    "PNG": Kind(seeds.png, _either(containers.png), functools.partial(read_picture, suffix=".png")),
    "JPEG": Kind(
        seeds.jpeg, _either(containers.jpeg), functools.partial(read_picture, suffix=".jpg")
    ),
    "DICOM": Kind(
        seeds.dicom, _either(containers.dicom), functools.partial(read_image, suffix=".dcm")
    ),
    "CSV": Kind(_seeds_of_tables, _random_seed, read_table),
    "dataset": Kind(_seeds_of_tables, _random_seed, datasets.read_dataset),
    "workdir": Kind(_seeds_of_tables, _random_seed, workdirs.read_workdir),
    "Parquet": Kind(workdirs.parquets, _either(stored.parquet), workdirs.read_parquet),
    "XML": Kind(seeds.xml, _either(containers.xml), read_report),
    "report": Kind(texts.reports, mutations.mutated_text, texts.read_report),
    "npz": Kind(
        seeds.npz, _either(containers.zipped), functools.partial(read_weights, suffix=".npz")
    ),
    "safetensors": Kind(
        seeds.safetensors,
        _either(containers.safetensors),
        functools.partial(read_weights, suffix=".safetensors"),
    ),
    "torch": Kind(
        seeds.torch_zip, _either(containers.zipped), functools.partial(read_weights, suffix=".pth")
    ),
}
if importlib.util.find_spec("tokenizers"):
    KINDS["tokenizer"] = Kind(texts.tokenizers, texts.damage_tokenizer, texts.read_tokenizer)
if importlib.util.find_spec("h5py"):
    KINDS["Keras"] = Kind(hdf5.seeds, hdf5.mutated, hdf5.read)
