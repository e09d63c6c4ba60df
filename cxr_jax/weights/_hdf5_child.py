"""Reads Keras's HDF5 in a process of its own: `python _hdf5_child.py FILE MAX_BYTES SECONDS`.

A damaged file can make HDF5's C library crash, or loop for ever: importers/keras.py starts this
process and says what became of it. It writes an .npz of the arrays to stdout, or why the file is
refused to stderr. It imports nothing of cxr_jax, so that it starts fast.
"""

import math
import resource
import sys
import zipfile
from collections.abc import Iterator

import h5py
import numpy as np

_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
_MAX_PATH = 1000  # Keras's are shorter by far; groups within groups could make them endless


def main(path: str, max_bytes: int, seconds: int) -> None:
    """Writes the arrays, which may take `max_bytes` together, to stdout.

    Raises ValueError for what Keras does not write; h5py's many errors for damage.
    """
    _limit(resource.RLIMIT_CPU, seconds)
    _limit(resource.RLIMIT_AS, (1 << 30) + 3 * max_bytes)
    keys: set[str] = set()
    with h5py.File(path, "r") as file, zipfile.ZipFile(sys.stdout.buffer, "w") as out:
        for place, group, dataset in _datasets(file):
            if place.startswith(("optimizer/", "optimizer_weights/")):
                continue
            max_bytes -= _check(place, dataset, max_bytes)
            if (key := _key(place, group)) in keys:
                raise ValueError(f"two arrays are called {key}; save one network by itself")
            keys.add(key)
            with out.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, dataset[()], allow_pickle=False)


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Group, h5py.Dataset]]:
    """Yields (path, its group, it) for every array; follows no link to another place or file."""
    root = file["/"]
    groups, seen = [("", root)], {root}
    while groups:
        prefix, group = groups.pop()
        for name in group:
            path = prefix + name
            if len(path) > _MAX_PATH:
                raise ValueError(f"a path in it is longer than {_MAX_PATH:,} letters")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{path} is a link to another place, which is not followed")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                yield path, group, item
                continue
            if not isinstance(item, h5py.Group):
                raise ValueError(f"{path} is neither a group nor an array")
            if item in seen:
                raise ValueError(f"{path} is in it twice")
            seen.add(item)
            groups.append((f"{path}/", item))


def _check(path: str, dataset: h5py.Dataset, max_bytes: int) -> int:
    """Returns the bytes of an array. Raises ValueError unless the file holds the whole of it."""
    created = dataset.id.get_create_plist()
    if dataset.is_virtual or created.get_external_count():
        raise ValueError(f"{path} lies in another file, which is not opened")
    if dataset.shape is None:
        raise ValueError(f"{path} holds nothing")
    if dataset.dtype.kind not in "iuf" and dataset.dtype != "V2":  # V2: bfloat16
        raise ValueError(f"{path} holds no numbers of a kind that is read here")
    if any(created.get_filter(i)[0] not in _FILTERS for i in range(created.get_nfilters())):
        raise ValueError(f"{path} is packed in a way that is not read here")
    num_bytes = math.prod(dataset.shape) * dataset.dtype.itemsize
    if num_bytes > max_bytes:
        raise ValueError(
            f"{path} takes {num_bytes:,} bytes, more than weights in a file of its size do: made "
            "to exhaust memory"
        )
    if dataset.chunks:
        chunks = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks))
        is_whole = dataset.id.get_num_chunks() == chunks
    else:
        is_whole = dataset.id.get_storage_size() == num_bytes
    if not is_whole:
        raise ValueError(f"{path} announces {num_bytes:,} bytes and holds fewer")
    return num_bytes


def _key(path: str, group: h5py.Group) -> str:
    """Names an array by its layer: conv1_bn/gamma for layers/batch_normalization/vars/0.

    A layer's number of arrays tells convolutions (two) from batch norms (four) where the file has
    numbers in their place, as that of Keras 3 has.
    """
    *groups, name = path.split("/")
    if groups[-1:] != ["vars"]:
        return "/".join([*groups[-1:], name.removesuffix(":0")])
    # Before Keras 3 the group above is the layer's name, since then it is its class and a number.
    label = group.attrs.get("name", "")
    label = label.decode() if isinstance(label, bytes) else label
    layer = label if isinstance(label, str) and label else "/".join(groups[-2:-1])
    four = ("gamma", "beta", "moving_mean", "moving_variance")
    names = four if len(group) == 4 else ("kernel", "bias")
    known = name.isdigit() and int(name) < len(names) and len(group) in (2, 4)
    return f"{layer}/{names[int(name)] if known else name}"


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    except Exception as error:  # h5py raises many kinds
        sys.exit(str(error) if type(error) is ValueError else repr(error))
