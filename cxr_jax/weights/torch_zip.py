"""Reading what `torch.save` wrote, without torch and without running what the file asks for.

Since torch 1.6 a .pth is a zip: `<root>/data.pkl` holds the object, `<root>/data/<key>` the bytes
of each storage. A pickle may name any function to be called; here only the names that tensors,
parameters and ordered dicts need are known, and any other is refused before anything is called.
"""

import pickle
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

# What reading a damaged archive raises. RuntimeError: of a kind of zip that Python does not read;
# MemoryError: an array that announces more than there is.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, MemoryError)
_STORAGE_DTYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    numel: int


class Tensor(NamedTuple):
    """A view of a storage of the archive, not read yet; `offset` and `strides` count elements."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Made anew for every file: a pickle can set attributes on what it is handed.
        def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
            return Tensor(storage, offset, shape, strides)

        def rebuild_parameter(tensor: Any, *_: Any) -> Any:
            return tensor

        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        known = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": rebuild_tensor,
            "torch._utils._rebuild_parameter": rebuild_parameter,
        }
        if f"{module}.{name}" not in known:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no file of plain weights needs; nothing was "
                "run. Save the bare state_dict, and only if you trust the file open it with torch"
            )
        return known[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", np.dtype() as dtype, str(key), _, int(numel)):
                return _Storage(key, dtype, numel)
        raise pickle.UnpicklingError(f"unknown persistent reference {pid!r}")


def read_torch_zip(path: Path) -> Any:
    """The object saved at `path`, its tensors as NumPy arrays (bfloat16 as ml_dtypes.bfloat16).

    Raises ValueError for a file that is truncated, of the format before torch 1.6, or not one of
    torch's; for a pickle that names anything but tensors; for a tensor that reaches beyond its
    storage.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: {_why_not_a_zip(path)}")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive)
    except ZIP_ERRORS as error:
        raise ValueError(f"{path}: damaged archive ({error}); copy the file again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _why_not_a_zip(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(b"PK"):
        return "the archive's end is missing: the file is truncated; copy it again"
    if start.startswith(b"\x80\x02"):
        return (
            "torch's format before 1.6, which is not read here; with torch, save it again: "
            "torch.save(torch.load(path, weights_only=True), path)"
        )
    return "not a file that torch.save wrote"


def _read_archive(archive: zipfile.ZipFile) -> Any:
    names = set(archive.namelist())
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError("a zip file without one data.pkl: not one that torch.save wrote")
    (root,) = roots
    byteorder = "little"
    if root + "byteorder" in names:
        byteorder = archive.read(root + "byteorder").decode()
    with archive.open(root + "data.pkl") as file:
        try:
            saved = _Unpickler(file).load()
        except pickle.UnpicklingError as error:
            raise ValueError(f"refused: {error}") from error
        except (zipfile.BadZipFile, EOFError):
            raise
        except Exception as error:  # a malformed pickle can raise nearly anything
            raise ValueError(f"malformed pickle ({type(error).__name__}: {error})") from error

    storages: dict[str, np.ndarray] = {}

    def read(value: Any, where: str) -> Any:
        if isinstance(value, dict):
            return {key: read(item, f"{where}[{key!r}]") for key, item in value.items()}
        if isinstance(value, Tensor):
            storage = value.storage
            if not isinstance(storage, _Storage):
                raise ValueError(f"malformed tensor {where.strip('[]')}: no storage")
            if storage.key not in storages:
                storages[storage.key] = _read_storage(archive, names, root, storage, byteorder)
            return _view(storages[storage.key], value, where.strip("[]"))
        return value

    return read(saved, "")


def _read_storage(
    archive: zipfile.ZipFile, names: set[str], root: str, storage: _Storage, byteorder: str
) -> np.ndarray:
    name = f"{root}data/{storage.key}"
    if name not in names:
        raise ValueError(f"the archive lacks the storage {name}")
    content = archive.read(name)
    wanted = storage.numel * storage.dtype.itemsize
    if storage.numel < 0 or len(content) < wanted:
        raise ValueError(f"storage {name} is too short: {len(content)} bytes, {wanted} announced")
    array = np.frombuffer(content[:wanted], storage.dtype)
    return array.byteswap() if byteorder == "big" else array


def _view(storage: np.ndarray, tensor: Tensor, name: str) -> np.ndarray:
    _, offset, shape, strides = tensor
    numbers = [offset, *shape, *strides] if len(shape) == len(strides) else [-1]
    if not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(f"malformed tensor {name}: {offset}, {shape}, {strides}")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.size:
        raise ValueError(
            f"tensor {name} of shape {tuple(shape)} reaches element {last} of a storage that has "
            f"{storage.size}: the storage is too short"
        )
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    step = [s * storage.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, step).copy()
