"""The ResNet-50 of keras.applications: .h5, .weights.h5, .keras, or its weights as .npz.

Keras's own files need the package h5py (`pip install -e '.[keras]'`), not Keras. The .npz needs
neither; with Keras 3: `np.savez("weights.npz", **{w.path: w.numpy() for w in model.weights})`, with
Keras 2 `w.name` for `w.path`. Images of 224 px, with a mean but no deviation ("caffe"
preprocessing, blue first). Its bottlenecks have their stride in the first 1x1 convolution, its
convolutions a bias, its batch norms an epsilon of 1.001e-5: biases and epsilons go into the running
statistics.
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
from cxr_jax.weights.arrays import max_bytes, open_zip, read_arrays
from cxr_jax.weights.convert import Source, add_alike, errors_naming, fill, without
from cxr_jax.weights.encoder import Encoder

_PIXEL_MEAN = (103.939 / 255, 116.779 / 255, 123.68 / 255)
_EPSILON_MORE = 1.001e-5 - 1e-5  # than ours
_SUFFIXES = (".h5", ".hdf5", ".keras")
SECONDS = 120  # ResNet-50 takes one
_CHILD = Path(__file__).parents[1] / "_hdf5_child.py"


def load(path: str | Path) -> Encoder:
    """Reads the encoder in the file; the classifier, `predictions`, is passed over."""
    path = Path(path)
    read = read_hdf5 if path.suffix in _SUFFIXES else read_arrays
    arrays = {key.removesuffix(":0"): array for key, array in read(path).items()}
    model = {
        "name": "resnet",
        "variant": "50",
        "mean": _PIXEL_MEAN,
        "std": (1 / 255,) * 3,
        "stride_in_1x1": True,
    }
    with errors_naming(path):
        arrays = without(arrays, "predictions/")
        variables = fill(model, arrays, _source, "Keras's ResNet-50")
    return Encoder(path.stem, model, variables, image_size=224)


def _source(path: tuple[str, ...]) -> Source:
    """Turns ("params", "layer1_0", "bn2", "scale") into conv2_block1_2_bn/gamma."""
    *modules, leaf = path[1:]
    layer = _layer(modules)
    match leaf:
        case "kernel":  # Keras and Flax order its axes alike, `fill` expects PyTorch's order
            return Source((f"{layer}_conv/kernel",), lambda kernel: kernel.transpose(3, 2, 0, 1))
        case "mean":
            keys = (f"{layer}_bn/moving_mean", f"{layer}_conv/bias")
            return Source(keys, lambda mean, bias: add_alike(mean, -bias))
        case "var":
            return Source((f"{layer}_bn/moving_variance",), lambda var: var + _EPSILON_MORE)
    return Source((f"{layer}_bn/{'gamma' if leaf == 'scale' else 'beta'}",))


def _layer(modules: list[str]) -> str:
    if len(modules) == 1:
        return "conv1"
    block, module = modules
    stage, index = block.removeprefix("layer").split("_")
    number = 0 if module.startswith("downsample") else int(module[-1])
    return f"conv{int(stage) + 1}_block{int(index) + 1}_{number}"


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
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
            return _in_a_child(path, max_bytes(path))
        with open_zip(path) as archive, tempfile.TemporaryDirectory() as folder:
            if "model.weights.h5" not in archive.namelist():
                raise ValueError("no model.weights.h5 in it")
            return _in_a_child(Path(archive.extract("model.weights.h5", folder)), max_bytes(path))
    except ValueError as error:
        said = plain(str(error))
        raise ValueError(f"{path}: not a sound file of Keras's arrays ({said})") from error


def _in_a_child(path: Path, most: int) -> dict[str, np.ndarray]:
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


SOURCES = {"keras": load}
