"""Arrays of Keras's own files: .h5 and .weights.h5 of Keras 2 and 3, and .keras.

Only arrays are read, and only those in the file itself: of a .keras its model.weights.h5, not the
config beside it, which names code that Keras would run; no link to another place or file.
"""

import importlib.util
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

from cxr_jax.io.text import plain
from cxr_jax.weights.arrays import max_bytes, open_zip

SUFFIXES = (".h5", ".hdf5", ".keras")
SECONDS = 120  # ResNet-50 takes one
_CHILD = Path(__file__).with_name("_hdf5_child.py")


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays by layer and name, "conv1_conv/kernel"; the optimizer's are passed over.

    bfloat16 is ml_dtypes.bfloat16.

    Raises FileNotFoundError; ValueError without h5py, for a damaged file, and for one that holds
    links, arrays outside of it, or two arrays of one name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    if importlib.util.find_spec("h5py") is None:
        raise ValueError(
            f"{path}: Keras's own files need the package h5py: pip install -e '.[keras]'. Or save "
            "the weights as .npz: cxr_jax/weights/importers/keras.py says how"
        )
    try:
        if path.suffix != ".keras":
            return _read(path, max_bytes(path))
        with open_zip(path) as archive, tempfile.TemporaryDirectory() as folder:
            if "model.weights.h5" not in archive.namelist():
                raise ValueError("no model.weights.h5 in it")
            return _read(Path(archive.extract("model.weights.h5", folder)), max_bytes(path))
    except ValueError as error:
        said = plain(str(error))
        raise ValueError(f"{path}: not a sound file of Keras's arrays ({said})") from error


def _read(path: Path, most: int) -> dict[str, np.ndarray]:
    """Reads a file in a process that may crash or be stopped. Raises ValueError."""
    # No plugins: a file can ask HDF5 to load a library that unpacks it.
    environment = {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-P", _CHILD, path.resolve(), str(most), str(SECONDS)],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"HDF5 did not come to its end in {SECONDS} s: damaged") from error
    if done.returncode < 0:
        raise ValueError(f"HDF5 crashed on it, signal {-done.returncode}: damaged")
    if done.returncode:
        raise ValueError(done.stderr.decode(errors="replace").strip()[-900:])
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as arrays:
        read = dict(arrays)
    return {k: a.view(ml_dtypes.bfloat16) if a.dtype == "V2" else a for k, a in read.items()}
