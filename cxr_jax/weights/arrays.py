"""A checkpoint file (.npz, .safetensors, torch's) as a flat dict of arrays, as they were saved."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import load_file

from cxr_jax.io.limits import read_npy_header
from cxr_jax.io.text import plain
from cxr_jax.weights.torch_zip import read_torch_zip
from cxr_jax.weights.zip_bounds import open_zip

# What torch.save wrote goes by many names; .tar is the end of .pth.tar, and no tar archive.
TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar")


def read_arrays(path: str | Path, containers: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Arrays by key.

    `containers`: under which keys of a training's checkpoint its weights may stand ("state_dict");
    what stands beside them (epoch, optimizer) is then passed over. A file of bare weights has none.

    Raises FileNotFoundError; ValueError for an unknown suffix, a damaged file, or a torch file that
    holds anything but arrays by name at its top level, or in a container.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    if path.suffix not in (*readers, *TORCH_SUFFIXES):
        known = ", ".join((*readers, *TORCH_SUFFIXES))
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; read are {known}")
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    if path.suffix in readers:
        return readers[path.suffix](path)
    return _read_torch(path, containers)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a sound .npz of plain arrays (it is no zip archive)")
    try:
        with open_zip(path) as archive:
            return {
                entry.filename.removesuffix(".npy"): _read_array(archive, entry)
                for entry in archive.infolist()
            }
    except ValueError as error:
        raise ValueError(
            f"{path}: not a sound .npz of plain arrays ({plain(str(error))})"
        ) from error


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """One member, which must have exactly the bytes that its header says.

    Raises ValueError.
    """
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
        raise ValueError(f"{path}: not a sound .safetensors ({plain(str(error))})") from error


def _read_torch(path: Path, containers: Sequence[str]) -> dict[str, np.ndarray]:
    saved = read_torch_zip(path)
    if not isinstance(saved, dict):
        raise ValueError(f"{path}: holds a {type(saved).__name__}, not a state_dict")
    if not all(isinstance(key, str) for key in saved):
        raise ValueError(f"{path}: has keys that are no text; save the bare state_dict")
    container = next((key for key in containers if isinstance(saved.get(key), dict)), None)
    if container:
        saved = saved[container]
    nested = [
        str(key)
        for key, value in saved.items()
        if isinstance(value, dict) and any(isinstance(item, np.ndarray) for item in value.values())
    ]
    if nested:
        raise ValueError(
            f"{path}: the weights are nested under {' and '.join(map(repr, nested))}; save the one "
            f"you mean by itself, e.g. torch.save(checkpoint[{nested[0]!r}], 'weights.pth')"
        )
    others = [repr(key[:100]) for key, value in saved.items() if not isinstance(value, np.ndarray)]
    if others:
        raise ValueError(f"{path}: {', '.join(others[:5])} is no tensor; save the bare state_dict")
    return saved
