"""torchxrayvision's DenseNets (224 px) and ResNet-50 (512 px), of one channel.

Its pixels run from -1024 to 1024. The DenseNet files that it downloads hold a pickled module, which
is refused: with torchxrayvision, `torch.save(torchxrayvision.models.DenseNet(weights=NAME)
.state_dict(), "weights.pt")`.
"""

from pathlib import Path

from cxr_jax.weights._layouts.cnn import CLASSIFIERS, cnn_encoder, is_densenet
from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.convert import errors_naming, strip_prefix
from cxr_jax.weights.encoder import Encoder


def load(path: str | Path) -> Encoder:
    """Reads the encoder in the file; a ResNet's keys may begin with `model.`, as its module's do.

    The classifier and its thresholds, `op_threshs`, are passed over.
    """
    arrays = read_arrays(path)
    if any(key.startswith("model.") for key in arrays):
        with errors_naming(path):
            arrays = strip_prefix(arrays, ("model.",), ("op_threshs",))
    return cnn_encoder(
        path,
        arrays,
        image_size=224 if is_densenet(arrays) else 512,
        mean=(0.5,),
        std=(0.5 / 1024,),
        heads=(*CLASSIFIERS, "op_threshs"),
    )
