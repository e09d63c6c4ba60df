"""CLIP: image and report find each other among those of the batch, at a temperature that is learnt.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
arXiv:2103.00020, and on chest X-rays CheXzero (Tiu et al., Nature Biomedical Engineering 2022) and
CXR-RePaiR-CLIP (Endo et al., ML4H 2021), which start both towers from OpenAI's CLIP: config.init
and config.objective.text.weights name its file. The batch holds {"image", "tokens", "mask"}
(config.data.reports): of each image's report the whole text or a sentence. The text tower is kept
beside the encoder (docs/text.md). Fields of config.objective, all required:

temperature  of the softmax over the batch, with which training begins; .07 in the paper, and .01 in
             OpenAI's files. What is learnt is the logarithm of its inverse, which is held between
             0 and log 100 as in the paper
hidden       hidden widths of the two projectors; (): linear maps, as in the paper
out          the space in which images and texts meet; 0: no projectors, because the features and
             the text tower's vectors are already in one (CLIP's ViT and text: `projection`)
head_bn      batch norm behind every layer of the projectors, which the paper does not have: towers
             that start from random numbers may otherwise make all outputs alike first

The text encoder is that of cxr_jax/models/bert.py. More fields of it:
Fields of config.objective.text:

weights        a file of CLIP's or of BERT's (weights/importers/_text.py); "": random numbers
frozen_layers  how many of its lower layers, and with them its embeddings, stay as they are; 0
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxr_jax.config import Section, check_fields, check_values
from cxr_jax.objectives import Objective, _image_text
from cxr_jax.objectives.convirt import image_text_loss

_FIELDS = ("name", "temperature", "hidden", "out", "head_bn", "text")
_LARGEST = math.log(100)


def clip_loss(
    images: Float[Array, "n d"], texts: Float[Array, "n d"], logit_scale: Float[Array, ""]
) -> Float[Array, ""]:
    """Returns the mean cross entropy of each image's text among the batch's, and the reverse.

    Logits are the cosines times exp(`logit_scale`), held in [0, log 100] (figure 3 and section 2.5
    of arXiv:2103.00020).

    >>> round(clip_loss(jnp.ones((5, 8)), jnp.ones((5, 8)), jnp.float32(2.0)).item(), 3)  # log n
    1.609
    """
    return image_text_loss(images, texts, jnp.exp(-held(logit_scale)), 0.5)


@jax.custom_vjp
def held(logit_scale: Float[Array, ""]) -> Float[Array, ""]:
    """Returns the number in [0, log 100] that is nearest.

    Outside, only a gradient that leads back is passed: the paper's code sets the parameter back
    after each step, and a plain clip would leave one that came out where it is.
    """
    return jnp.clip(logit_scale, 0, _LARGEST)


def _held_forward(logit_scale):
    return held(logit_scale), logit_scale


def _held_backward(logit_scale, slope):
    # Steps go against the slope.
    leads_out = ((logit_scale >= _LARGEST) & (slope < 0)) | ((logit_scale <= 0) & (slope > 0))
    return (jnp.where(leads_out, 0, slope),)


held.defvjp(_held_forward, _held_backward)


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.objective or config.views that do not fit."""
    fields = config["objective"]
    check_fields(fields, "config.objective", _FIELDS)
    good = 0.01 <= fields["temperature"] <= 1
    check_values(
        *(fields, "config.objective"),
        ("temperature", good, "between .01 and 1"),
        ("out", fields["out"] >= 0, "0 or more"),
        ("hidden", bool(fields["out"]) or not fields["hidden"], "() where out is 0"),
    )

    def loss_from_outputs(outputs, aux):
        logit_scale = outputs["logit_scale"].mean()  # the same for every image
        value = clip_loss(outputs["image"], outputs["text"], logit_scale)
        temperature = jnp.exp(-held(logit_scale))
        return value, (aux, _image_text.metrics_of(outputs) | {"temperature": temperature})

    normed = fields["head_bn"]
    head = {"hidden_bn": normed, "out_bn": normed, "out_bias": False} if fields["out"] else None
    objective = _image_text.two_towers(
        config,
        head,
        loss_from_outputs,
        scale=lambda params: jnp.exp(held(params["logit_scale"])),
        metrics=("temperature",),
        learnt={"logit_scale": -math.log(fields["temperature"])},
    )
    if head is None:
        _check_widths(objective, config)
    return objective


def _check_widths(objective: Objective, config: Section) -> None:
    """Raises ValueError where features and text vectors without projectors differ in width."""
    size = config["views"]["a"]["size"]
    length = config["data"]["reports"]["max_tokens"]
    batch = {
        "image": jax.ShapeDtypeStruct((1, size, size, 1), jnp.uint8),
        "tokens": jax.ShapeDtypeStruct((1, length), jnp.int32),
        "mask": jax.ShapeDtypeStruct((1, length), bool),
    }
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    params, aux = jax.eval_shape(objective.init, key, batch)
    outputs, _ = jax.eval_shape(objective.embed, params, aux, batch, key)
    widths = [outputs[name].shape[1] for name in ("image", "text")]
    if widths[0] != widths[1]:
        raise ValueError(
            f"config.objective.out=0, and features have {widths[0]} entries, texts {widths[1]}: "
            "give the space that both are projected to (512), or set config.model.projection and "
            "config.objective.text.projection to one number"
        )
