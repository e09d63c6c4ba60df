"""Keras's HDF5 files: small sound ones, and such that no Keras would write."""

import contextlib
import io
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults import containers, mutations
from tests.faults.mutations import Broken


def seeds() -> list[bytes]:
    """.h5 of Keras 2, .weights.h5 of Keras 3, the same packed in chunks, and .keras."""
    kernel = np.linspace(-1, 1, 36, dtype=np.float32).reshape(3, 3, 1, 4)

    def legacy(file: Any) -> None:
        file.attrs["layer_names"] = [b"conv1_conv", b"conv1_bn"]
        file["conv1_conv/conv1_conv/kernel:0"] = kernel
        file["conv1_conv/conv1_conv/bias:0"] = np.zeros(4, np.float32)
        file["optimizer_weights/adam/kernel:0"] = kernel

    def numbered(file: Any, **packed: Any) -> None:
        for number, arrays in enumerate(((kernel, kernel[0, 0, 0]), (kernel[0, 0, 0],) * 4)):
            group = file.create_group(f"layers/any_{number}/vars")
            group.attrs["name"] = f"layer_{number}"
            for place, array in enumerate(arrays):
                group.create_dataset(str(place), data=array, **packed)

    def packed(file: Any) -> None:
        numbered(file, chunks=True, compression="gzip", shuffle=True)

    written = [_written(fill) for fill in (legacy, numbered, packed)]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", written[1])
    return [*written, stream.getvalue()]


def _written(fill: Callable[[Any], None], content: bytes = b"") -> bytes:
    import h5py

    stream = io.BytesIO(content)
    with h5py.File(stream, "a" if content else "w") as file:
        fill(file)
    return stream.getvalue()


def damage(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Returns a sound file with something strange in it; of a .keras a member damaged."""
    if data.startswith(b"PK"):
        return containers.zipped(rng, data, others)
    return _written(lambda file: _spoil(rng, file), data)


def _spoil(rng: random.Random, file: Any) -> None:
    import h5py

    names: list[str] = []
    file.visit(names.append)
    name = rng.choice(names)
    group = file[name] if isinstance(file[name], h5py.Group) else file[name].parent
    new = rng.choice(("new", "7", "kernel:0", "é", "a" * 1000))
    most = rng.choice((0, 1, 2**31, 2**40, 2**62))
    pages = {"chunks": (1 << 20,), "compression": "gzip", "fillvalue": 0}
    odd: list[Callable[[], Any]] = [
        lambda: file.__delitem__(name),
        lambda: group.__setitem__(new, h5py.SoftLink(rng.choice(("/", name, "/nowhere")))),
        lambda: group.__setitem__(new, h5py.ExternalLink("/etc/passwd", "/a")),
        lambda: group.__setitem__(new, file[name]),  # a second name
        lambda: group.__setitem__(new, file["/"]),  # a circle
        lambda: group.create_dataset(new, (most,), "f4", chunks=(1024,)),
        lambda: group.create_dataset(new, (8 << 20,), "f4", **pages).__setitem__(..., 0),
        lambda: group.create_dataset(new, (8 << 20,), "f4", **pages).__setitem__(3, 1),
        lambda: group.create_dataset(new, (3,), "f4", external=[("/etc/passwd", 0, 12)]),
        lambda: group.create_dataset(new, data=["text", "b" * 1000]),
        lambda: group.create_dataset(new, data=np.zeros(2, [("a", "f4"), ("b", "S3")])),
        lambda: group.create_dataset(new, (3,), h5py.vlen_dtype(np.int32)),
        lambda: group.create_dataset(new, (3,), h5py.ref_dtype),
        lambda: group.create_dataset(new, data=h5py.Empty("f4")),
        lambda: group.create_dataset(new, data=np.array([np.nan, np.inf], ">f8")),
        lambda: group.create_dataset(new, data=np.zeros((1,) * 30, np.int8)),
        lambda: group.create_dataset(new, data=np.zeros(9), compression="lzf"),
        lambda: group.__setitem__(new, np.dtype("f4")),
        lambda: group.attrs.__setitem__("name", rng.choice((b"\xff", 7, "x" * 60_000, [1.5, 2]))),
        lambda: [group.create_group(f"{new}{number}") for number in range(300)],
        lambda: group.create_group("/".join("g" * 200)),
    ]
    with contextlib.suppress(ValueError, OSError, RuntimeError, KeyError, TypeError):
        rng.choice(odd)()


def read(folder: Path, data: bytes, index: int) -> str:
    """Reads all arrays of a file, as dict."""
    from cxr_jax.weights.importers import keras

    keras.SECONDS = 10  # HDF5 loops for ever on some
    path = folder / ("weights.keras" if data.startswith(b"PK") else "weights.h5")
    path.write_bytes(data)
    try:
        arrays = keras.read_hdf5(path)
    finally:
        path.unlink()
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise Broken(f"{name!r} is {array!r}")
    return "read"


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """As `damage`, as bytes, or both one after the other."""
    if rng.random() < 0.4:
        data = damage(rng, data, others)
        if rng.random() < 0.7:
            return data
    return mutations.mutated(rng, data, others)
