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

weights        a file of BERT's (weights/importers/_bert.py) to start from; "": random numbers
frozen_layers  how many of its lower layers, and with them its embeddings, stay as they are; the
               paper's 6. 0: everything is trained

Frozen parameters are in aux["frozen_text"], where no optimizer sees them. BERT's dropout is left
out. Sentences that several images of a batch share repel all the same, and images are mirrored
though sentences name sides, both as in the paper.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cxr_jax.augment.views import augment_view, check_view
from cxr_jax.config import Section, check_fields, check_values
from cxr_jax.data import reports, tokenizer
from cxr_jax.data.order import Fields
from cxr_jax.data.source import Source
from cxr_jax.models.bert import Bert, make_text_encoder
from cxr_jax.objectives import IMAGE, Field, Objective, _networks, l2_normalise, no_change

_FIELDS = ("name", "temperature", "image_weight", "hidden", "out", "head_bn", "text")
_START = ("weights", "frozen_layers")


def image_text_loss(
    images: Float[Array, "n d"],
    texts: Float[Array, "n d"],
    temperature: float,
    image_weight: float,
) -> Float[Array, ""]:
    """Returns the cross entropy of each image's text among the batch's, and of each text's image.

    Equations 2 to 4: the mean over images of image_weight times the first and 1 - image_weight
    times the second, float32.

    >>> round(image_text_loss(jnp.ones((5, 8)), jnp.ones((5, 8)), 0.1, 0.75).item(), 3)  # log n
    1.609
    """
    logits = similarities(images, texts) / temperature
    own = jnp.diagonal(logits)
    # Of the others alone, so that a small loss keeps its digits; a batch of one has none.
    others = jnp.where(jnp.eye(len(own), dtype=bool), -1e9, logits)
    to_text, to_image = (
        jax.nn.softplus(jax.nn.logsumexp(others, axis=axis) - own).mean() for axis in (1, 0)
    )
    return image_weight * to_text + (1 - image_weight) * to_image


def similarities(images: Float[Array, "n d"], texts: Float[Array, "n d"]) -> Float[Array, "n n"]:
    """Returns the cosines of each image, row by row, to every text."""
    # Full float32: the temperature would magnify tf32's rounding.
    highest = jax.lax.Precision.HIGHEST
    return jnp.matmul(l2_normalise(images), l2_normalise(texts).T, precision=highest)


def retrieval_accuracy(
    images: Float[Array, "n d"], texts: Float[Array, "n d"], text_ids: Float[Array, "n"]
) -> Float[Array, ""]:
    """Returns the share of images whose own text is nearer than every other; ties are misses.

    Texts of equal `text_ids` are the same: another image's copy is neither hit nor miss.
    """
    cosines = similarities(images, texts)
    others = jnp.where(text_ids[:, None] == text_ids, -1e9, cosines)
    return (jnp.diagonal(cosines) > others.max(axis=1)).mean(dtype=jnp.float32)


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.objective or config.views that do not fit."""
    fields = config["objective"]
    text = text_encoder(config)
    _check(config, text)
    view, normed = config["views"]["a"], fields["head_bn"]
    head = {"hidden_bn": normed, "out_bn": normed, "out_bias": not normed}
    chain = _networks.encoder_and_heads(config, projector=head)
    text_projector = chain["projector"].clone(dtype=text.dtype)
    layers = fields["text"]["frozen_layers"]
    frozen = ("embeddings", *(f"layer_{i}" for i in range(layers))) if layers else ()

    def init(key, batch):
        image_key, text_key, head_key = jax.random.split(key, 3)
        params, batch_stats = _networks.init(image_key, chain, view["size"])
        token = jnp.zeros((1, 1), jnp.int32)
        vector, variables = text.init_with_output(text_key, token, token == 0)
        head_variables = text_projector.init(head_key, vector, train=False)
        params["text_projector"] = head_variables["params"]
        batch_stats["text_projector"] = head_variables.get("batch_stats", {})
        trained, kept = split_text(variables["params"], frozen)
        return params | {"text": trained}, {"batch_stats": batch_stats, "frozen_text": kept}

    def embed(params, aux, batch, key):
        images = augment_view(key, batch["image"], view)
        outputs, batch_stats = _networks.apply(chain, params, aux["batch_stats"], images)
        tokens, mask = batch["tokens"], batch["mask"]
        vectors = text.apply({"params": aux["frozen_text"] | params["text"]}, tokens, mask)
        heads, text_stats = _networks.apply(
            {"text_projector": text_projector}, params, batch_stats, vectors
        )
        outputs = {
            "image": outputs["projector"],
            "text": heads["text_projector"],
            "text_id": _text_ids(jnp.where(mask, tokens + 1, 0)),
        }
        return outputs, aux | {"batch_stats": text_stats}

    def loss_from_outputs(outputs, aux):
        images, texts = outputs["image"], outputs["text"]
        metrics = _networks.collapse_metrics(images) | {
            "text_std": _networks.embedding_std(texts),
            "retrieval_accuracy": retrieval_accuracy(images, texts, outputs["text_id"]),
        }
        value = image_text_loss(images, texts, fields["temperature"], fields["image_weight"])
        return value, (aux, metrics)

    metrics = (*_networks.COLLAPSE_METRICS, "text_std", "retrieval_accuracy")
    length = config["data"]["reports"]["max_tokens"]
    batch = {
        "image": IMAGE,
        "tokens": Field((length,), np.int32),
        "mask": Field((length,), np.bool_),
    }

    def open_fields(source: Source, workdir: Path) -> tuple[Source, Fields]:
        source, found = reports.open_reports(source, config["data"]["reports"], workdir)
        return source, Fields(
            found.draw, fingerprint=found.fingerprint(), files={tokenizer.FILE: found.tokenizer}
        )

    features = partial(_networks.features, chain)
    return Objective(
        *(init, embed, loss_from_outputs, no_change, features, metrics, batch, open_fields)
    )


def text_encoder(config: Section) -> Bert:
    """Returns the encoder of config.objective.text; ValueError for what does not fit."""
    where = "config.objective.text"
    check_fields(config["objective"], "config.objective", _FIELDS)
    text = config["objective"]["text"]
    missing = [name for name in _START if name not in text]
    if missing:
        raise ValueError(f"{where} lacks {' and '.join(missing)}")
    shape = {name: value for name, value in dict(text).items() if name not in _START}
    encoder = make_text_encoder(shape, where)
    layers = text["frozen_layers"]
    if not 0 <= layers <= encoder.num_blocks:
        raise ValueError(f"{where}.frozen_layers={layers} of {encoder.num_blocks} layers")
    if layers and not text["weights"]:
        raise ValueError(
            f"{where}.frozen_layers={layers} without {where}.weights would keep random numbers: "
            "name a file of BERT's there (ClinicalBERT's in the paper), or set frozen_layers=0"
        )
    return encoder


def split_text(params: Mapping[str, Any], frozen: tuple[str, ...]) -> tuple[dict, dict]:
    """Returns (trained, frozen) of a text encoder's parameters."""
    trained = {name: part for name, part in params.items() if name not in frozen}
    return trained, {name: params[name] for name in frozen}


def put_text(params: Any, aux: Any, text: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns (params, aux) with the parameters `text` of a text encoder in place of theirs."""
    trained, frozen = split_text(text, tuple(aux["frozen_text"]))
    return params | {"text": trained}, aux | {"frozen_text": frozen}


def _text_ids(tokens: Int[Array, "n l"]) -> Float[Array, "n"]:
    """Returns a number for each text; two share theirs once in 16 million. 0 is no token."""
    places = range(1, tokens.shape[1] + 1)
    factors = np.array([pow(0x9E3779B1, place, 2**32) for place in places], np.uint32)
    mixed = (tokens.astype(jnp.uint32) * factors).sum(axis=1, dtype=jnp.uint32)
    # A float, because gradients are taken by outputs: 24 bits fit one exactly.
    return (mixed >> 8).astype(jnp.float32)


def _check(config: Section, text: Bert) -> None:
    fields, views, given = config["objective"], config["views"], config["data"].get("reports")
    check_values(
        *(fields, "config.objective"),
        ("temperature", fields["temperature"] > 0, "above 0"),
        ("image_weight", 0 <= fields["image_weight"] <= 1, "between 0 and 1"),
    )
    if set(views) != {"a"}:
        raise ValueError(f"config.views holds {', '.join(views)}; convirt has one view, 'a'")
    check_view(views["a"], "config.views.a")
    if not given:
        raise ValueError(
            "config.objective.name='convirt' needs batches with reports; set config.data.reports, "
            "as configs/convirt.py does"
        )
    if given["max_tokens"] > text.positions:
        raise ValueError(
            f"config.data.reports.max_tokens={given['max_tokens']} is more than the "
            f"{text.positions} positions of config.objective.text"
        )
