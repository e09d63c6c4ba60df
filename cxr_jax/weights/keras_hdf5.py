"""Arrays of Keras's own files: .h5 and .weights.h5 of Keras 2 and 3, and .keras.

Only arrays are read, and only those in the file itself: of a .keras its model.weights.h5, not the
config beside it, which names code that Keras would run; no link to another place or file.
"""

import collections
import contextlib
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from cxr_jax.io.text import plain
from cxr_jax.weights import hdf5, hdf5_arrays
from cxr_jax.weights.zip_bounds import most_bytes, open_zip

SUFFIXES = (".h5", ".hdf5", ".keras")
_OPTIMIZER = ("optimizer/", "optimizer_weights/")
# What a damaged file raises, or the zip around it; ValueError: ours.
_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(MemoryError, LookupError, OverflowError, ValueError),
)


def read_keras_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Arrays by layer and name, "conv1_conv/kernel"; those of the optimizer are passed over.

    A layer's number of arrays tells convolutions (two) from batch norms (four) where the file has
    numbers in their place, as that of Keras 3 has. bfloat16 is ml_dtypes.bfloat16.

    Raises FileNotFoundError; ValueError for a damaged file, and for one that holds links, arrays
    outside of it, or two arrays of one name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    found, left = [], most_bytes(path)
    try:
        with _content(path) as content:
            for dataset in hdf5.datasets(content):
                if dataset.name.startswith(_OPTIMIZER):
                    continue
                left -= dataset.nbytes
                if left < 0:
                    raise ValueError(
                        f"{dataset.name} takes {dataset.nbytes:,} bytes, more than weights in a "
                        "file of its size do: made to exhaust memory"
                    )
                array = hdf5_arrays.read(content, dataset)
                if array.dtype == np.dtype("V2"):
                    array = array.view(ml_dtypes.bfloat16)
                found.append((_key(dataset), array))
    except _ERRORS as error:
        said = plain(str(error))
        raise ValueError(f"{path}: not a sound file of Keras's arrays ({said})") from error
    arrays = dict(found)
    if len(arrays) < len(found):
        counts = collections.Counter(name for name, _ in found)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(
            f"{path}: two arrays are called {plain(twice)}; save one network by itself"
        )
    return arrays


@contextlib.contextmanager
def _content(path: Path) -> Iterator[hdf5.Bytes]:
    if path.suffix != ".keras":
        # Not read: it may be large.
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            yield mapped
        return
    with open_zip(path) as archive:
        if "model.weights.h5" not in archive.namelist():
            raise ValueError("no model.weights.h5 in it")
        yield archive.read("model.weights.h5")


def _key(dataset: hdf5.Dataset) -> str:
    """model_weights/conv1_bn/conv1_bn/gamma:0 or layers/batch_normalization/vars/0 -> conv1_bn/…"""
    *groups, name = dataset.name.split("/")
    if groups[-1:] != ["vars"]:
        return "/".join([*groups[-1:], name.removesuffix(":0")])
    # Before Keras 3 the group above is the layer's name, since then it is its class and a number.
    layer = dataset.label or "/".join(groups[-2:-1])
    four = ("gamma", "beta", "moving_mean", "moving_variance")
    names = four if dataset.siblings == 4 else ("kernel", "bias")
    known = name.isdigit() and int(name) < len(names) and dataset.siblings in (2, 4)
    return f"{layer}/{names[int(name)] if known else name}"
