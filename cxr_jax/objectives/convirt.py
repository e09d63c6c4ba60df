"""ConVIRT: an image finds its report among those of the batch, and the report its image.

Zhang et al., "Contrastive Learning of Medical Visual Representations from Paired Images and Text",
arXiv:2010.00747. The batch holds {"image", "tokens", "mask"} (config.data.reports): of each image's
report one sentence. Only the image encoder is exported. Fields of config.objective, all required:

temperature   of the softmax over the batch; .1
image_weight  weight of the direction from image to text, lambda; the other has the rest; .75
hidden        the two projectors' hidden widths, for which the paper gives no number; 512
out           the space in which images and sentences meet; 512
head_bn       batch norm behind every layer of the projectors, which have none in the paper: it
              starts from trained encoders, and from random ones all outputs may grow alike first

The text encoder is that of cxr_jax/models/bert.py. More fields of it:
Fields of config.objective.text:

weights        a file of BERT's (weights/importers/_text.py) to start from; "": random numbers
frozen_layers  how many of its lower layers, and with them its embeddings, stay as they are; the
               paper's 6. 0: everything is trained

Frozen parameters are in aux["frozen_text"], where no optimizer sees them. BERT's dropout is left
out. Sentences that several images of a batch share repel all the same, and images are mirrored
though sentences name sides, both as in the paper.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cxr_jax.config import Section, check_fields, check_values
from cxr_jax.objectives import Objective, _image_text

_FIELDS = ("name", "temperature", "image_weight", "hidden", "out", "head_bn", "text")


def image_text_loss(
    images: Float[Array, "n d"],
    texts: Float[Array, "n d"],
    temperature: float | Float[Array, ""],
    image_weight: float,
) -> Float[Array, ""]:
    """Returns the cross entropy of each image's text among the batch's, and of each text's image.

    Equations 2 to 4: the mean over images of image_weight times the first and 1 - image_weight
    times the second, float32.

    >>> round(image_text_loss(jnp.ones((5, 8)), jnp.ones((5, 8)), 0.1, 0.75).item(), 3)  # log n
    1.609
    """
    return pair_loss(_image_text.similarities(images, texts) / temperature, image_weight)


def pair_loss(logits: Float[Array, "n n"], image_weight: float) -> Float[Array, ""]:
    """Returns that loss of any logits, row by row an image's."""
    own = jnp.diagonal(logits)
    # Of the others alone, so that a small loss keeps its digits; a batch of one has none.
    others = jnp.where(jnp.eye(len(own), dtype=bool), -1e9, logits)
    to_text, to_image = (
        jax.nn.softplus(jax.nn.logsumexp(others, axis=axis) - own).mean() for axis in (1, 0)
    )
    return image_weight * to_text + (1 - image_weight) * to_image


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.objective or config.views that do not fit."""
    fields = config["objective"]
    check_fields(fields, "config.objective", _FIELDS)
    check_values(
        *(fields, "config.objective"),
        ("temperature", fields["temperature"] > 0, "above 0"),
        ("image_weight", 0 <= fields["image_weight"] <= 1, "between 0 and 1"),
    )
    temperature, normed = fields["temperature"], fields["head_bn"]

    def loss_from_outputs(outputs, aux):
        pairs = (outputs["image"], outputs["text"])
        value = image_text_loss(*pairs, temperature, fields["image_weight"])
        return value, (aux, _image_text.metrics_of(outputs))

    head = {"hidden_bn": normed, "out_bn": normed, "out_bias": not normed}
    return _image_text.two_towers(
        config, head, loss_from_outputs, scale=lambda params: np.float32(1 / temperature)
    )
