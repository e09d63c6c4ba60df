"""The pickle in a file of `torch.save`, read without torch and without running what it asks for.

Since torch 1.6 such a file is a zip: `<root>/data.pkl` holds the object, `<root>/data/<key>` the
bytes of each storage. A pickle may ask for any function to be called. Python's Unpickler reads it
here, and finds only the few names that tensors need; any other is refused by its name.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

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
# A tensor takes some 300 bytes and 4 tuples. An empty list takes 80 times its byte in memory, and
# tuples nested in each other 100,000 deep overflow the stack when they are hashed.
_MAX_PICKLE, _MAX_TUPLES = 8 << 20, 50_000
_MAX_AXES = 64  # NumPy's


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    numel: int


class _Tensor(NamedTuple):
    """A view of a storage, not read yet; `offset` and `strides` count elements."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


def read(
    archive: zipfile.ZipFile, containers: Sequence[str], max_bytes: int
) -> dict[str, np.ndarray]:
    """Reads the arrays of a state dict by key (bfloat16 as ml_dtypes.bfloat16).

    `containers` is as in `read_arrays`; `max_bytes` is what the arrays may take together.

    Raises ValueError for a zip that torch did not write, a pickle that names anything but tensors
    or holds anything but arrays by name where the weights are, and a tensor beyond its storage.
    """
    names = set(archive.namelist())
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError("a zip file without one data.pkl: not one that torch.save wrote")
    (root,) = roots
    if (size := archive.getinfo(root + "data.pkl").file_size) > _MAX_PICKLE:
        raise ValueError(f"a pickle of {size:,} bytes, more than the {_MAX_PICKLE:,} read here")
    is_big_endian = root + "byteorder" in names and archive.read(root + "byteorder") == b"big"
    tensors = _find_weights(_unpickle(archive.read(root + "data.pkl")), containers)
    contents: dict[str, bytes] = {}
    arrays: dict[str, np.ndarray] = {}
    left = max_bytes
    for key, tensor in tensors.items():
        shown, storage = repr(key[:100]), tensor.storage
        if not isinstance(storage, _Storage):
            raise ValueError(f"malformed tensor {shown}: no storage")
        name = f"{root}data/{storage.key}"
        if name not in names:
            raise ValueError(f"the archive lacks the storage {name}")
        if name not in contents:
            contents[name] = archive.read(name)
        flat = _elements(contents[name], storage, name)
        left -= _check_view(flat, tensor, shown)
        if left < 0:
            raise ValueError(
                f"its tensors take more than the {max_bytes:,} bytes that a file of its size may "
                f"hold, with {shown} of shape {tensor.shape}"
            )
        array = _view(flat, tensor)
        arrays[key] = array.byteswap() if is_big_endian else array
    return arrays


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # What a pickle is given it can set attributes on: text has none, functions are made anew.
        match module, name:
            case "torch", str() if name in _STORAGE_DTYPES:
                return name
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda storage, offset, shape, strides, *_: _Tensor(
                    storage, offset, shape, strides
                )
            case "torch._utils", "_rebuild_parameter":
                return lambda tensor, *_: tensor
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}, which no file of plain weights needs; nothing was "
            "run. Save the bare state_dict, and only if you trust the file open it with torch"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", str(kind), str(key), _, int(numel)) if kind in _STORAGE_DTYPES:
                return _Storage(key, _STORAGE_DTYPES[kind], numel)
        raise pickle.UnpicklingError("unknown persistent reference, no storage of a tensor")


def _unpickle(pickled: bytes) -> Any:
    """Returns the object, its tensors as `_Tensor`. Raises ValueError."""
    try:
        _check_opcodes(pickled)
        return _Unpickler(io.BytesIO(pickled)).load()
    except pickle.UnpicklingError as error:
        raise ValueError(f"refused: {error}") from error
    except Exception as error:  # a malformed pickle can raise nearly anything
        raise ValueError(f"malformed pickle ({type(error).__name__}: {error})") from error


def _check_opcodes(pickled: bytes) -> None:
    """Refuses what would exhaust memory or the stack of the Unpickler, which is written in C."""
    tuples = 0
    for place, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        # It makes room for as many objects as the largest number says.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > place:
            raise pickle.UnpicklingError("its objects are not numbered in order")
        tuples += opcode.name.startswith("TUPLE")
    if tuples > _MAX_TUPLES:
        raise pickle.UnpicklingError(f"more than {_MAX_TUPLES:,} tuples, which no checkpoint has")


def _find_weights(saved: Any, containers: Sequence[str]) -> Mapping[str, _Tensor]:
    """Returns the tensors by key, at the top level or in a container. Raises ValueError."""
    if not isinstance(saved, dict):
        raise ValueError(f"holds a {type(saved).__name__.strip('_')}, not a state_dict")
    found = dict(dict.items(saved))  # a pickle can put its own `items` on an ordered dict
    if not all(isinstance(key, str) for key in found):
        raise ValueError("has keys that are not text; save the bare state_dict")
    container = next((key for key in containers if isinstance(found.get(key), dict)), None)
    if container:
        found = dict(dict.items(found[container]))
    nested = [
        str(key)
        for key, value in found.items()
        if isinstance(value, dict) and any(isinstance(v, _Tensor) for v in dict.values(value))
    ]
    if nested:
        raise ValueError(
            f"the weights are nested under {' and '.join(map(repr, nested))}; save the one you "
            f"mean by itself, e.g. torch.save(checkpoint[{nested[0]!r}], 'weights.pth')"
        )
    others = [
        repr(key[:100]) if isinstance(key, str) else f"a key of type {type(key).__name__}"
        for key, value in found.items()
        if not (isinstance(key, str) and isinstance(value, _Tensor))
    ]
    if others:
        raise ValueError(f"{', '.join(others[:5])} is not a tensor; save the bare state_dict")
    return found


def _elements(content: bytes, storage: _Storage, name: str) -> np.ndarray:
    wanted = storage.numel * storage.dtype.itemsize
    if not 0 <= wanted <= len(content):
        raise ValueError(f"storage {name} is too short: {len(content)} bytes, {wanted} announced")
    return np.frombuffer(memoryview(content)[:wanted], storage.dtype)


def _check_view(flat: np.ndarray, tensor: _Tensor, shown: str) -> int:
    """Returns the bytes that a tensor takes. Raises ValueError for one beyond its storage."""
    _, offset, shape, strides = tensor
    fits = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    numbers = [offset, *shape, *strides] if fits and len(shape) <= _MAX_AXES else [-1]
    if not all(isinstance(n, int) and 0 <= n < 2**62 for n in numbers):
        raise ValueError(f"malformed tensor {shown}")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 not in shape and last >= flat.size:
        raise ValueError(
            f"tensor {shown} of shape {shape} reaches element {last} of a storage that has "
            f"{flat.size}: the storage is too short"
        )
    return math.prod(shape) * flat.itemsize


def _view(flat: np.ndarray, tensor: _Tensor) -> np.ndarray:
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, flat.dtype)
    steps = [stride * flat.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, steps).copy()
