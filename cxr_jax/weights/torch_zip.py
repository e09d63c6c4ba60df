"""Reading what `torch.save` wrote, without torch and without running what the file asks for.

Since torch 1.6 a .pth is a zip: `<root>/data.pkl` holds the object, `<root>/data/<key>` the bytes
of each storage. A pickle may name any function to be called; here only the names that tensors,
parameters and ordered dicts need are known, and any other is refused before anything is called.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from cxr_jax.io.text import plain
from cxr_jax.weights.zip_bounds import most_bytes, open_zip

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

# A training's checkpoint has some ten; NumPy knows no more axes.
_MAX_DICTS, _MAX_AXES = 10_000, 64
_MAX_TUPLE = 100_000
# An optimizer's state has one for each parameter, in old files its address.
_MAX_INT_KEYS, _MAX_INT_KEY = 20_000, 2**60


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

    __hash__ = None  # as for tuples, below


class _Memo(dict):
    """What a pickle may refer to again, numbered in order as every pickler does: numbers at will
    could be such that a dict takes for ever."""

    def __setitem__(self, place: int, value: Any) -> None:
        if place > len(self):
            raise pickle.UnpicklingError("its objects are not numbered in order")
        super().__setitem__(place, value)


class _Unpickler(pickle._Unpickler):  # the one in Python: it can be told to look at tuples
    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file)
        self.memo = _Memo()
        self._int_keys = 0
        self._lengths: dict[int, tuple[int, tuple]] = {}  # with the tuple, so that its id stays

    def _count(self) -> None:
        """Refuses a tuple that holds others over and over: to hash it, as a key, takes for ever."""
        made = self.stack[-1]
        length = 1 + sum(self._lengths.get(id(item), (1, ()))[0] for item in made)
        if length > _MAX_TUPLE:
            raise pickle.UnpicklingError(f"a tuple of more than {_MAX_TUPLE:,} values in all")
        self._lengths[id(made)] = length, made

    def _counted(load: Callable[[Any], None]) -> Callable[[Any], None]:
        def load_and_count(self: Any) -> None:
            load(self)
            self._count()

        return load_and_count

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)
    for _code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
        dispatch[_code[0]] = _counted(dispatch[_code[0]])

    def _check_keys(self, keys: Iterable[Any]) -> None:
        """Refuses keys of which many can have one hash, or be made to fill one place of a dict
        after the other: to put them into one takes for ever."""
        for key in keys:
            if isinstance(key, str):
                continue
            if not isinstance(key, int) or not -_MAX_INT_KEY < key < _MAX_INT_KEY:
                raise pickle.UnpicklingError("a key that is neither text nor a small whole number")
            self._int_keys += 1
            if self._int_keys > _MAX_INT_KEYS:
                raise pickle.UnpicklingError(f"more than {_MAX_INT_KEYS:,} numbers as keys")

    def _load_dict(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_dict()

    def _load_setitem(self) -> None:
        self._check_keys(self.stack[-2:-1])
        super().load_setitem()

    def _load_setitems(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_setitems()

    def _load_set(self) -> None:
        raise pickle.UnpicklingError("a set, which no file of plain weights needs")

    dispatch |= {pickle.DICT[0]: _load_dict, pickle.SETITEM[0]: _load_setitem}
    dispatch |= {pickle.SETITEMS[0]: _load_setitems}
    dispatch |= dict.fromkeys((pickle.EMPTY_SET[0], pickle.FROZENSET[0]), _load_set)

    def find_class(self, module: str, name: str) -> Any:
        # Made anew for every file: a pickle can set attributes on what it is handed.
        def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
            return Tensor(storage, offset, shape, strides)

        def rebuild_parameter(tensor: Any, *_: Any) -> Any:
            return tensor

        def ordered_dict(items: Any = ()) -> OrderedDict:
            pairs = dict.items(items) if isinstance(items, dict) else items
            items = [(key, value) for key, value in pairs]
            self._check_keys(key for key, _ in items)
            return OrderedDict(items)

        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        known = {
            "collections.OrderedDict": ordered_dict,
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
        raise pickle.UnpicklingError("unknown persistent reference, no storage of a tensor")


def read_torch_zip(path: Path) -> Any:
    """The object saved at `path`, its tensors as NumPy arrays (bfloat16 as ml_dtypes.bfloat16).

    Raises ValueError for a file that is truncated, of the format before torch 1.6, or not one of
    torch's; for a pickle that names anything but tensors; for a tensor that reaches beyond its
    storage.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: {_why_not_a_zip(path)}")
    try:
        with open_zip(path) as archive:
            return _read_archive(archive, most_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path}: {plain(str(error))}") from error


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


def _read_archive(archive: zipfile.ZipFile, most: int) -> Any:
    """`most`: how many bytes its tensors may take together."""
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
    left, dicts = most, 0

    def read(value: Any, where: str) -> Any:
        nonlocal left, dicts
        if isinstance(value, dict):
            dicts += 1
            if dicts > _MAX_DICTS:  # a few that hold each other are read without end
                raise ValueError(f"more than {_MAX_DICTS:,} dicts, which no checkpoint has")
            return {key: read(item, f"{where}[{_shown(key)}]") for key, item in dict.items(value)}
        if isinstance(value, Tensor):
            storage, name = value.storage, where.strip("[]")
            if not isinstance(storage, _Storage):
                raise ValueError(f"malformed tensor {name}: no storage")
            if storage.key not in storages:
                storages[storage.key] = _read_storage(archive, names, root, storage, byteorder)
            size = _check_view(storages[storage.key], value, name)
            if size > left:
                raise ValueError(
                    f"its tensors take more than the {most:,} bytes that a file of its size may "
                    f"hold, with {name} of shape {tuple(value.shape)}"
                )
            left -= size
            return _view(storages[storage.key], value)
        return value

    return read(saved, "")


def _shown(key: Any) -> str:
    """A key as errors name it: tuples may hold each other so that their text has no end."""
    return repr(key[:100]) if isinstance(key, str) else type(key).__name__


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


def _check_view(storage: np.ndarray, tensor: Tensor, name: str) -> int:
    """The bytes that a tensor takes; ValueError where it is none, or not within its storage."""
    _, offset, shape, strides = tensor
    fits = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    numbers = [offset, *shape, *strides] if fits and len(shape) <= _MAX_AXES else [-1]
    if not all(isinstance(n, int) and 0 <= n < 2**62 for n in numbers):
        raise ValueError(f"malformed tensor {name[:200]}")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.size:
        raise ValueError(
            f"tensor {name} of shape {tuple(shape)} reaches element {last} of a storage that has "
            f"{storage.size}: the storage is too short"
        )
    return math.prod(shape) * storage.itemsize


def _view(storage: np.ndarray, tensor: Tensor) -> np.ndarray:
    _, offset, shape, strides = tensor
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    step = [s * storage.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, step).copy()
