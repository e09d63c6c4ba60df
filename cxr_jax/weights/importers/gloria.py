"""GLoRIA (Huang et al., ICCV 2021): the image encoder, a ResNet-18 or 50, of its checkpoints.

Its code enlarges a crop of 224 px to 299 and normalises by a mean and deviation of a half; here
images are brought to 299 px at once. Its .ckpt files hold, beside `state_dict`, a pickled config,
which is refused: save `torch.load(path, weights_only=False)["state_dict"]` by itself, if you trust
the file.
"""

from pathlib import Path

from cxr_jax.weights._layouts.cnn import cnn_encoder
from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.convert import errors_naming, strip_prefix
from cxr_jax.weights.encoder import Encoder


def load(path: str | Path) -> Encoder:
    """Reads the encoder below `gloria.img_encoder.model.`; text and embedders are passed over."""
    arrays = read_arrays(path, containers=("state_dict",))
    image = "gloria.img_encoder."
    others = ("gloria.text_encoder.", image + "global_embedder.", image + "local_embedder.")
    with errors_naming(path):
        arrays = strip_prefix(arrays, (image + "model.",), others)
    return cnn_encoder(path, arrays, image_size=299, mean=(0.5,) * 3, std=(0.5,) * 3)
