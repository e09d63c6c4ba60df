"""torchxrayvision's DenseNets (224 px) and ResNet-50 (512 px), of one channel.

Its pixels run from -1024 to 1024. The DenseNet files that it downloads hold a pickled module, which
is refused: with torchxrayvision, `torch.save(torchxrayvision.models.DenseNet(weights=NAME)
.state_dict(), "weights.pt")`.
"""

from pathlib import Path

from cxr_jax.weights._layouts.cnn import CLASSIFIERS, cnn_encoder
from cxr_jax.weights._layouts.densenet import is_densenet
from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.convert import of_file
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.key_prefix import below


def load(path: str | Path) -> Encoder:
    """The encoder in the file; a ResNet's keys may begin with `model.`, as its module's do.

    The classifier and its thresholds, `op_threshs`, are passed over.

    Raises FileNotFoundError; ValueError with all that does not fit.
    """
    arrays = read_arrays(path)
    if any(key.startswith("model.") for key in arrays):
        with of_file(path):
            arrays = below(arrays, ("model.",), ("op_threshs",))
    return cnn_encoder(
        path,
        arrays,
        image_size=224 if is_densenet(arrays) else 512,
        mean=(0.5,),
        std=(0.5 / 1024,),
        heads=(*CLASSIFIERS, "op_threshs"),
    )
