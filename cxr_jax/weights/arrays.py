"""A checkpoint file (.npz, .safetensors, torch's) as a flat dict of arrays, as they were saved."""

import errno
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import load_file

from cxr_jax.io.json import read_json
from cxr_jax.io.limits import read_npy_header
from cxr_jax.io.text import plain
from cxr_jax.weights import torch_pickle

# What torch.save wrote goes by many names; .tar is the end of .pth.tar, and no tar archive.
_TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in a folder of the hub
_SUFFIXES = (".npz", ".safetensors", *_TORCH_SUFFIXES)
# Weights hardly compress; a zip file that does so better than this is made to exhaust memory. A
# small file may hold little but zeros.
_MAX_RATIO, _LEAST_BYTES = 20, 64 << 20
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_arrays(path: str | Path, containers: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Reads the arrays of a file by key.

    Args:
      containers: keys under which a training's checkpoint may hold its weights ("state_dict"); what
        lies beside them (epoch, optimizer) is passed over. A file of bare weights has none.

    Raises FileNotFoundError; ValueError for an unknown suffix, a damaged file, or a torch file that
    holds anything but arrays by name at its top level, or in a container.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/weights.npz", bias=np.ones(2))
    ...     read_arrays(f"{folder}/weights.npz")
    {'bias': array([1., 1.])}
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        known = ", ".join(_SUFFIXES)
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; read are {known}")
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    try:
        if path.suffix == ".npz":
            return _read_npz(path)
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if not zipfile.is_zipfile(path):
            raise ValueError(_why_not_a_zip(path))
        with open_zip(path) as archive:
            return torch_pickle.read(archive, containers, max_bytes(path))
    except ValueError as error:
        is_torch = path.suffix in _TORCH_SUFFIXES
        what = "" if is_torch else f"not a sound {path.suffix} of plain arrays: "
        raise ValueError(f"{path}: {what}{plain(str(error))}") from error


def find_weights(path: str | Path) -> Path:
    """Returns the file of weights in a folder as Hugging Face's hub has it, or `path`, a file."""
    path = Path(path)
    files = [path / name for name in WEIGHTS]
    return next((file for file in files if file.is_file()), files[0]) if path.is_dir() else path


def read_facts(file: Path, name: str) -> dict[str, Any]:
    """Reads the JSON file called `name` beside the weights, {} if it is not there; ValueError."""
    path = file.parent / name
    return read_json(path) if path.is_file() else {}


def max_bytes(path: Path) -> int:
    """Returns how many bytes of arrays a file may give, by its size."""
    return max(_LEAST_BYTES, _MAX_RATIO * path.stat().st_size)


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a zip file whose directory was checked before anything is unpacked.

    Raises ValueError for damage, also such as is found while it is open, a member that is there
    twice or packed in an unusual way, and members that would unpack to more than `max_bytes`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_directory(archive.infolist(), path)
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        what = str(error) or "it ends too early"
        raise ValueError(f"damaged archive ({what}); copy the file again") from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise  # the disk's fault, not the file's, whose places may lie before its start
        raise ValueError(f"damaged archive ({error}); copy the file again") from error


def _check_directory(entries: Sequence[zipfile.ZipInfo], path: Path) -> None:
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("an archive with two members of one name")
    for entry in entries:
        if entry.compress_type not in _COMPRESSIONS:
            raise ValueError(f"member {entry.filename!r} is packed in a way that is not read here")
        if entry.compress_size > path.stat().st_size:  # Python would make room for it
            raise ValueError(f"member {entry.filename!r} claims {entry.compress_size:,} bytes")
    unpacked, most = sum(entry.file_size for entry in entries), max_bytes(path)
    if unpacked > most:
        raise ValueError(
            f"unpacks to {unpacked:,} bytes, more than the {most:,} that weights in a file of its "
            "size take: made to exhaust memory"
        )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not a zip archive")
    with open_zip(path) as archive:
        return {
            entry.filename.removesuffix(".npy"): _read_npy(archive, entry)
            for entry in archive.infolist()
        }


def _read_npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Reads a member that has exactly the bytes that its header says. Raises ValueError."""
    with archive.open(entry) as stream:
        try:
            shape, fortran, dtype = read_npy_header(stream)
        except ValueError as error:
            raise ValueError(f"{entry.filename!r} is {error}") from error
        size = math.prod(shape) * dtype.itemsize
        if stream.tell() + size != entry.file_size:
            raise ValueError(
                f"{entry.filename!r} has {entry.file_size:,} bytes, but its header says "
                f"{stream.tell() + size:,}"
            )
        values = np.frombuffer(stream.read(), dtype) if size else np.empty(0, dtype)
    if dtype == np.dtype("V2"):  # NumPy writes bfloat16, which it does not know, as bytes
        values = values.view(ml_dtypes.bfloat16)
    return values.reshape(shape, order="F" if fortran else "C").copy()


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    # The last two: a dtype that NumPy lacks.
    except (safetensors.SafetensorError, KeyError, AttributeError) as error:
        raise ValueError(str(error)) from error


def _why_not_a_zip(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(b"PK"):
        return "the archive's end is missing: the file is truncated; copy it again"
    if start.startswith(b"\x80\x02"):
        return (
            "torch's format before 1.6, which is not read here; with torch, save it again as "
            "another file: torch.save(torch.load(path, weights_only=True), new_path). That refuses "
            "a file of a whole module, as torchxrayvision's are: with the package that defines it, "
            "torch.save(torch.load(path, weights_only=False).state_dict(), new_path), which runs "
            "what the file asks for: only if you trust it"
        )
    return "not a file that torch.save wrote"
