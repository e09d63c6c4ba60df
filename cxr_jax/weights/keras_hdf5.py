"""Arrays of Keras's own files: .h5 and .weights.h5 of Keras 2 and 3, and .keras.

Only arrays are read, and only those in the file itself: of a .keras its model.weights.h5, not the
config beside it, which names code that Keras would run; no link to another place or file.
"""

import io
import math
import mmap
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cxr_jax.weights import hdf5_heap
from cxr_jax.weights.zip_bounds import most_bytes, open_zip
from data_builders.plain_text import plain

SUFFIXES = (".h5", ".hdf5", ".keras")
_FILTERS = (1, 2, 3)  # HDF5's numbers of deflate, shuffle and Fletcher's checksum
_OPTIMIZER = ("optimizer/", "optimizer_weights/")
# What a damaged file raises, in HDF5 or in the zip around it; ValueError: ours.
_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(RuntimeError, MemoryError, KeyError, TypeError, ValueError),
)


def read_keras_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Arrays by layer and name, "conv1_conv/kernel"; those of the optimizer are passed over.

    A layer's number of arrays tells convolutions (two) from batch norms (four) where the file has
    numbers in their place, as that of Keras 3 has. bfloat16 is ml_dtypes.bfloat16.

    Raises FileNotFoundError; ValueError without the package h5py, for a damaged file, and for one
    that holds links, arrays outside of it, or two arrays of one name.
    """
    try:
        import h5py
    except ImportError as error:
        raise ValueError(
            f"to read {path} the package h5py is needed: pip install -e '.[keras]'; or save the "
            "weights as .npz with Keras, see cxr_jax/weights/keras.py"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    try:
        found = []
        left = most_bytes(path)
        with h5py.File(_checked(path), "r") as file:
            for name, dataset in _datasets(file, h5py):
                if name.startswith(_OPTIMIZER):
                    continue
                _check(name, dataset, left)
                left -= dataset.nbytes
                found.append((_key(name, dataset), _array(name, dataset)))
    except _ERRORS as error:
        said = plain(str(error))
        raise ValueError(f"{path}: not a sound file of Keras's arrays ({said})") from error
    arrays = dict(found)
    if len(arrays) < len(found):
        names = [name for name, _ in found]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"{path}: two arrays are called {plain(twice)}; save one network by itself"
        )
    return arrays


def _checked(path: Path) -> Path | io.BytesIO:
    """What HDF5 opens, when its heaps are known to end."""
    if path.suffix == ".keras":
        content = _weights_of(path)
        hdf5_heap.check(content)
        return io.BytesIO(content)
    # Not read: it may be large.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        hdf5_heap.check(mapped)
    return path


def _weights_of(path: Path) -> bytes:
    with open_zip(path) as archive:
        if "model.weights.h5" not in archive.namelist():
            raise ValueError("no model.weights.h5 in it")
        return archive.read("model.weights.h5")


def _datasets(file: Any, h5py: Any) -> Iterator[tuple[str, Any]]:
    """(path in the file, dataset) of all of them, each group visited once."""
    seen, groups = set(), [("", file)]
    while groups:
        prefix, group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            raise ValueError(f"{prefix} stands in it twice")
        seen.add(address)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(
                    f"{prefix}{name} is a link to another place, which is not followed"
                )
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append((f"{prefix}{name}/", item))
            elif isinstance(item, h5py.Dataset):
                yield prefix + name, item


def _check(name: str, dataset: Any, most: int) -> None:
    """Refuses what is not numbers in the file itself, of at most `most` bytes unpacked."""
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{name} lies in another file, which is not opened")
    if dataset.shape is None:
        raise ValueError(f"{name} holds nothing")
    # What was never written is not stored, and would be read as zeros.
    missing = dataset.size and dataset.id.get_storage_size() == 0
    if dataset.chunks:
        parts = (-(-size // part) for size, part in zip(dataset.shape, dataset.chunks))
        missing = missing or dataset.id.get_num_chunks() < math.prod(parts)
    if missing:
        raise ValueError(f"{name} announces {dataset.nbytes} bytes and holds none, or some only")
    if dataset.dtype.kind not in "fiub" and dataset.dtype != np.dtype("V2"):
        raise ValueError(f"{name} holds {dataset.dtype}, no numbers")
    filters = dataset.id.get_create_plist()
    used = {filters.get_filter(place)[0] for place in range(filters.get_nfilters())}
    if not used <= set(_FILTERS):
        raise ValueError(f"{name} is packed in a way that is not read here")
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if max(dataset.nbytes, chunk) > most:
        raise ValueError(
            f"{name} takes {max(dataset.nbytes, chunk):,} bytes, more than weights in a file of "
            "its size do: made to exhaust memory"
        )


def _array(name: str, dataset: Any) -> np.ndarray:
    array = dataset[()]
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else np.asarray(array)


def _key(path: str, dataset: Any) -> str:
    """model_weights/conv1_bn/conv1_bn/gamma:0 or layers/batch_normalization/vars/0 -> conv1_bn/…"""
    *groups, name = path.split("/")
    if groups[-1:] != ["vars"]:
        return "/".join([*groups[-1:], name.removesuffix(":0")])
    # Before Keras 3 the group above is the layer's name, since then it is its class and a number.
    layer = dataset.parent.attrs.get("name")
    if not isinstance(layer, str):
        layer = "/".join(groups[-2:-1])
    four = ("gamma", "beta", "moving_mean", "moving_variance")
    names = four if len(dataset.parent) == 4 else ("kernel", "bias")
    known = name.isdigit() and int(name) < len(names) and len(dataset.parent) in (2, 4)
    return f"{layer}/{names[int(name)] if known else name}"
