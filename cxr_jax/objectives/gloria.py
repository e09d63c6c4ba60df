"""GLoRIA: image and report find each other, and each word the regions of the image that it is of.

Huang et al., "GLoRIA: A Multimodal Global-Local Representation Learning Framework for
Label-efficient Medical Image Recognition", ICCV 2021, and its official code. config.model is a
ResNet: the regions are places of the map of its last stage but one. The batch holds {"image",
"tokens", "mask", "word"}, of which word is the number of a token's word. A word's vector is the
sum of its pieces', a report's the mean of all. The text tower is kept beside the encoder
(docs/text.md). Fields of config.objective, all required:

temperature            of the softmax over the batch; .1
attention_temperature  of the softmax over an image's regions; .25
word_temperature       of the soft maximum over a report's words; .2
global_weight          of the loss of whole images and reports; 1
local_weight           of the loss of words and regions; 1

The text encoder is that of cxr_jax/models/bert.py, with pooling "mean". More fields of it:
Fields of config.objective.text:

weights        a file of BERT's (weights/importers/_text.py) to start from; "": random numbers
frozen_layers  how many of its lower layers, and with them its embeddings, stay as they are; 0

As in the code, not in the paper, each region first divides itself among the words by a softmax,
the beginning of the text counts as a word, its end does not, and the soft maximum is not scaled
back. Sentences keep their marks, and their case where the tokenizer does: the code drops both.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from cxr_jax import models
from cxr_jax.augment.views import augment_view
from cxr_jax.config import Section, check_fields, check_values
from cxr_jax.data import tokenizer
from cxr_jax.data.order import Fields
from cxr_jax.data.source import Source
from cxr_jax.models.resnet import ResNet
from cxr_jax.objectives import Field, Objective, _image_text, _networks
from cxr_jax.objectives.convirt import image_text_loss, pair_loss

_TEMPERATURES = ("temperature", "attention_temperature", "word_temperature")
_WEIGHTS = ("global_weight", "local_weight")


def local_similarities(
    regions: Float[Array, "n r d"],
    words: Float[Array, "m l d"],
    real: Bool[Array, "m l"],
    attention_temperature: float,
    word_temperature: float,
) -> Float[Array, "n m"]:
    """Returns how well each image's regions match each report's words.

    Every word attends to an image's regions; the soft maximum over words of its cosine to what it
    attended to (equations 4 to 6). Every report has a `real` word.
    """

    @jax.checkpoint  # of all reports at once the attention would not fit
    def of_report(report: tuple[Array, Array]) -> Array:
        words, real = report
        scores = jnp.einsum("nrd,ld->nrl", regions, words, precision="highest")
        shares = jax.nn.softmax(scores, axis=2, where=real)
        attention = jax.nn.softmax(shares / attention_temperature, axis=1)
        seen = jnp.einsum("nrl,nrd->nld", attention, regions, precision="highest")
        norms = jnp.linalg.norm(seen, axis=2) * jnp.linalg.norm(jnp.where(real, words.T, 1), axis=0)
        cosines = jnp.sum(seen * words, axis=2) / jnp.maximum(norms, 1e-8)
        return jax.nn.logsumexp(cosines / word_temperature, axis=1, where=real)

    return jax.lax.map(of_report, (words, real)).T


def number_words(
    tokens: Int[np.ndarray, "b l"], mask: Bool[np.ndarray, "b l"], continues: Bool[np.ndarray, " k"]
) -> Int[np.ndarray, "b l"]:
    """Returns the number of each token's word in its text, from 0; -1 where there is no token.

    `continues` says of each of the tokenizer's pieces whether it goes on with a word.
    """
    first = mask & ~continues[tokens]
    return np.where(mask, np.cumsum(first, axis=1) - 1, -1).astype(np.int32)


def continuing_pieces(tokenizer_json: str) -> Bool[np.ndarray, " k"]:
    """Returns of each piece of a WordPiece tokenizer whether it goes on with a word ("##s").

    Raises ValueError for another kind of tokenizer.
    """
    model = json.loads(tokenizer_json)["model"]
    if model.get("type", "WordPiece") != "WordPiece":
        raise ValueError(
            f"config.data.reports.tokenizer is of the kind {model['type']}: gloria joins pieces to "
            "words as BERT's WordPiece marks them; use such a tokenizer, or '' to make one"
        )
    prefix = model.get("continuing_subword_prefix", "##")
    found = np.zeros(1 + max(model["vocab"].values()), bool)
    found[[n for piece, n in model["vocab"].items() if piece.startswith(prefix)]] = True
    return found


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.model, .objective or .views that do not fit."""
    fields, encoder = config["objective"], models.build(config["model"])
    _check(fields, encoder)
    text, view = _image_text.text_encoder(config), config["views"]["a"]
    if text.pooling != "mean":
        raise ValueError(f"config.objective.text.pooling is {text.pooling!r}; gloria's is 'mean'")
    head = {"hidden": (), "out": text.width, "hidden_bn": False, "out_bias": True}
    project = {"projector": _networks.encoder_and_heads(config, projector=head)["projector"]}
    stage = len(encoder.stage_sizes) - 1
    inner = f"layer{stage}_{encoder.stage_sizes[stage - 1] - 1}"
    channels = encoder.widths[stage - 1] * (4 if encoder.bottleneck else 1)
    to_words = nn.Dense(text.width, use_bias=False, dtype=encoder.dtype)

    def embed(params, aux, batch, key):
        images = augment_view(key, batch["image"], view)
        stats, tokens, mask = aux["batch_stats"], batch["tokens"], batch["mask"]
        maps, changed = encoder.apply(
            {"params": params["encoder"], "batch_stats": stats["encoder"]},
            images,
            train=True,
            method="maps",
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: module.name == inner,
        )
        (regions,) = changed["intermediates"][inner]["__call__"]
        regions = to_words.apply(
            {"params": params["regions"]}, regions.reshape(len(images), -1, channels)
        )
        given, _ = _networks.apply(project, params, stats, maps.mean(axis=(1, 2)))
        variables = {"params": aux["frozen_text"] | params["text"]}
        states = text.apply(variables, tokens, mask, method="states").astype(jnp.float32)
        states = jnp.where(mask[..., None], states, 0)
        of_word = jax.nn.one_hot(batch["word"], tokens.shape[1])
        last = jnp.maximum(batch["word"].max(axis=1, keepdims=True), 1)
        outputs = {
            "image": given["projector"],
            "text": states.sum(axis=1) / mask.sum(axis=1, keepdims=True),
            "text_id": _image_text.text_ids(tokens, mask),
            "regions": regions.astype(jnp.float32),
            "words": jnp.einsum("blw,bld->bwd", of_word, states, precision="highest"),
            "real": (jnp.arange(tokens.shape[1]) < last).astype(jnp.float32),
        }
        stats = stats | {"encoder": changed["batch_stats"]}
        return outputs, aux | {"batch_stats": stats}

    def loss_from_outputs(outputs, aux):
        sharpness = [fields[name] for name in _TEMPERATURES]
        of_all = 2 * image_text_loss(outputs["image"], outputs["text"], sharpness[0], 0.5)
        parts = (outputs["regions"], outputs["words"], outputs["real"] > 0)
        of_parts = 2 * pair_loss(local_similarities(*parts, *sharpness[1:]) / sharpness[0], 0.5)
        value = fields["global_weight"] * of_all + fields["local_weight"] * of_parts
        metrics = _image_text.metrics_of(outputs)
        return value, (aux, metrics | {"global_loss": of_all, "local_loss": of_parts})

    objective = _image_text.two_towers(
        config,
        head,
        loss_from_outputs,
        scale=lambda params: np.float32(1 / fields["temperature"]),
        metrics=("global_loss", "local_loss"),
        text_head=False,
    )

    def init(key, batch):
        key, regions_key = jax.random.split(key)
        params, aux = objective.init(key, batch)
        regions = to_words.init(regions_key, jnp.zeros((1, channels)))["params"]
        return params | {"regions": regions}, aux

    def open_fields(source: Source, workdir: Path) -> tuple[Source, Fields]:
        source, found = objective.open_fields(source, workdir)
        draw = partial(_with_words, found.draw, continuing_pieces(found.files[tokenizer.FILE]))
        return source, found._replace(draw=draw)

    length = config["data"]["reports"]["max_tokens"]
    batch = {**objective.batch, "word": Field((length,), np.int32)}
    return objective._replace(init=init, embed=embed, batch=batch, open_fields=open_fields)


def _with_words(draw, continues, seed, start, stop):
    drawn = draw(seed, start, stop)
    return drawn | {"word": number_words(drawn["tokens"], drawn["mask"], continues)}


def _check(fields: Section, encoder: nn.Module) -> None:
    if not isinstance(encoder, ResNet):
        raise ValueError("GLoRIA's regions are of a ResNet; config.model.name must be 'resnet'")
    where = "config.objective"
    check_fields(fields, where, ("name", *_TEMPERATURES, *_WEIGHTS, "text"))
    check_values(
        *(fields, where),
        *((name, fields[name] > 0, "above 0") for name in _TEMPERATURES),
        *((name, fields[name] >= 0, "0 or more") for name in _WEIGHTS),
    )
