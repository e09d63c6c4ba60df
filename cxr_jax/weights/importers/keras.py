"""The ResNet-50 of keras.applications: .h5, .weights.h5, .keras, or its weights as .npz.

Keras's own files need the package h5py (`pip install -e '.[keras]'`), not Keras. The .npz needs
neither; with Keras 3: `np.savez("weights.npz", **{w.path: w.numpy() for w in model.weights})`, with
Keras 2 `w.name` for `w.path`. Images of 224 px, with a mean but no deviation ("caffe"
preprocessing, blue first). Its bottlenecks have their stride in the first 1x1 convolution, its
convolutions a bias, its batch norms an epsilon of 1.001e-5: biases and epsilons go into the running
statistics.
"""

from pathlib import Path

from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.convert import Source, add_alike, errors_naming, fill, without
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.hdf5 import SUFFIXES, read_keras

_PIXEL_MEAN = (103.939 / 255, 116.779 / 255, 123.68 / 255)
_EPSILON_MORE = 1.001e-5 - 1e-5  # than ours


def load(path: str | Path) -> Encoder:
    """Reads the encoder in the file; the classifier, `predictions`, is passed over.

    Raises FileNotFoundError; ValueError with all that does not fit.
    """
    path = Path(path)
    read = read_keras if path.suffix in SUFFIXES else read_arrays
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
    """("params", "layer1_0", "bn2", "scale") -> conv2_block1_2_bn/gamma."""
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
