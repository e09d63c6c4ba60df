"""REFERS: the images of a study, fused, find its report, and a decoder writes it.

Zhou et al., "Generalized radiograph representation learning via cross-supervision between images
and free-text radiology reports", Nature Machine Intelligence 2022, and its official code.
config.model is a ViT with a class token. The batch holds {"image", "view_1", …, "tokens", "mask"}:
an image, others of its study, and the text of its report (config.data.reports). The text tower is
kept beside the encoder (docs/text.md). Fields of config.objective, all required:

views           images of a study that are fused; 3
temperature     of the softmax over the batch; .1
image_weight    weight of the direction from images to text; the other has the rest; .75
head_bn         batch norm of class tokens and texts before they meet, which the paper, starting
                from trained encoders, has not: from random ones all grow alike first
decoder_width   of a token of the report that is written; 1024
decoder_blocks  1
decoder_heads   of attention; 16

The text encoder is that of cxr_jax/models/bert.py. More fields of it:
Fields of config.objective.text:

weights        a file of BERT's (weights/importers/_text.py) to start from; "": random numbers
frozen_layers  how many of its lower layers, and with them its embeddings, stay as they are; 6

A study with fewer images repeats them, as in the code, each time with another augmentation; of one
with more, every draw takes an image and others of it, and how many such there are is said. Patches,
to which their image's class token is added, are weighed by what all views show at their place; the
decoder attends to all of them. Studies find reports by their class tokens side by side. Departures:
an epoch passes over images, not studies; the report is written from its beginning alone; texts are
pooled as config.objective.text says, where the code adds BERT's pooler; both directions of the
contrast have a gradient, in the code that from images to texts alone; reports keep their words for
sides where images are mirrored, which the code swaps as it mirrors the first image; no dropout.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from cxr_jax import models
from cxr_jax.augment.views import augment_view
from cxr_jax.config import Section, check_fields, check_positive, check_values
from cxr_jax.data.order import Fields, Partners, by_group, numbers, rows
from cxr_jax.data.source import Source
from cxr_jax.models._batch_norm import BatchNorm
from cxr_jax.models._transformer import attend
from cxr_jax.models.vit import ViT
from cxr_jax.objectives import IMAGE, Objective, _image_text, _networks
from cxr_jax.objectives.convirt import image_text_loss
from cxr_jax.objectives.dinov2 import all_tokens

_DECODER = ("decoder_width", "decoder_blocks", "decoder_heads")
_normal = nn.initializers.normal(0.02)


class Decoder(nn.Module):
    """Tokens and what was seen -> logits of each place's next token: [b l] -> [b l vocabulary].

    Blocks of causal attention, attention to `seen` and an MLP, each added to its input and
    normalised (Desai and Johnson, VirTex, arXiv:2006.06666); the last map is the embedding's.
    """

    vocabulary: int
    positions: int
    width: int
    num_blocks: int
    heads: int
    dtype: str

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b l"], seen: Float[Array, "b n c"]
    ) -> Float[Array, "b l k"]:
        word = self.param("word", _normal, (self.vocabulary, self.width))
        position = self.param("position", _normal, (self.positions, self.width))
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=_normal)

        def added(name: str, x: Array, y: Array) -> Array:
            return nn.LayerNorm(1e-8, self.dtype, use_fast_variance=False, name=name)(x + y)

        def attended(name: str, x: Array, to: Array, causal: bool) -> Array:
            parts = [dense(self.width, name=f"{name}_{part}") for part in ("q", "k", "v")]
            q, k, v = (layer(y) for layer, y in zip(parts, (x, to, to)))
            q, k, v = (y.reshape(*y.shape[:2], self.heads, -1) for y in (q, k, v))
            y = attend(q, k, v, causal=causal)
            return dense(self.width, name=f"{name}_proj")(y.reshape(x.shape))

        x = added("norm", word[tokens], position[: tokens.shape[1]])
        seen = dense(self.width, name="seen")(seen)
        for i in range(self.num_blocks):
            x = added(f"norm1_{i}", x, attended(f"self_{i}", x, x, True))
            x = added(f"norm2_{i}", x, attended(f"seen_{i}", x, seen, False))
            y = nn.gelu(dense(4 * self.width, name=f"fc1_{i}")(x), approximate=False)
            x = added(f"norm3_{i}", x, dense(self.width, name=f"fc2_{i}")(y))
        bias = self.param("bias", nn.initializers.zeros, (self.vocabulary,))
        return (x @ word.T.astype(x.dtype)).astype(jnp.float32) + bias


def draw_views(
    partners: Partners, views: int, seed: int, start: int, stop: int
) -> dict[str, Int[np.ndarray, " b"]]:
    """Draws, for the images at the positions [start, stop) of order.rows, others of their studies.

    {"view_1": rows in the source, …}: all different while a study has as many images.
    """
    own = rows(len(partners.images), seed, start, stop)
    size = partners.size[own]
    others = np.maximum(size - 1, 1)
    # Not the numbers that choose a sentence of the report.
    turn = (numbers(len(partners.images), seed + 1, start, stop) * others).astype(np.int32)
    place, first, drawn = partners.place[own], partners.first[own], {}
    for view in range(1, views):
        ahead = 1 + (turn + view - 1) % others
        drawn[f"view_{view}"] = partners.images[first + (place + ahead) % size]
    return drawn


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.model, .objective or .views that do not fit."""
    fields, encoder = config["objective"], models.build(config["model"])
    _check(fields, encoder)
    text, view, views = _image_text.text_encoder(config), config["views"]["a"], fields["views"]
    names = ("image", *(f"view_{i}" for i in range(1, views)))
    width = views * encoder.width
    normed = fields["head_bn"]
    head = {"hidden": (), "out": width, "hidden_bn": False, "out_bn": normed}
    head["out_bias"] = not normed
    norm = BatchNorm(False, use_bias=False)
    fusion = nn.Dense(views)
    sizes = (fields[name] for name in _DECODER)
    decoder = Decoder(text.vocabulary, text.positions, *sizes, encoder.dtype)

    def embed(params, aux, batch, key):
        tokens, mask, b = batch["tokens"], batch["mask"], len(batch["tokens"])
        keys = jax.random.split(key, views)
        images = [augment_view(k, batch[name], view) for k, name in zip(keys, names)]
        # Those of a study side by side, so that the batch stays split over the devices as it came.
        images = jnp.stack(images, axis=1).reshape(b * views, *images[0].shape[1:])
        seen = encoder.apply({"params": params["encoder"]}, images, method=all_tokens)
        seen = seen.reshape(b, views, *seen.shape[1:])
        classes = seen[:, :, 0]
        patches = (seen[:, :, encoder.num_prefix :] + classes[:, :, None]).swapaxes(1, 2)
        shares = fusion.apply({"params": params["fusion"]}, patches.reshape(*patches.shape[:2], -1))
        patches = (patches * nn.sigmoid(shares)[..., None]).reshape(b, -1, encoder.width)
        logits = decoder.apply({"params": params["decoder"]}, tokens[:, :-1], patches)
        missed = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        written = mask[:, 1:].astype(jnp.float32)
        vectors = text.apply({"params": aux["frozen_text"] | params["text"]}, tokens, mask)
        given, stats = _networks.apply(texts, params, aux["batch_stats"], vectors)
        studies = classes.reshape(b, width)
        if normed:
            variables = {"params": params["projector"], "batch_stats": stats["projector"]}
            variables = {name: part["bn_out"] for name, part in variables.items()}
            studies, after = norm.apply(variables, studies, mutable=["batch_stats"])
            stats = stats | {"projector": {"bn_out": after["batch_stats"]}}
        return {
            "image": studies,
            "text": given["text_projector"],
            "text_id": _image_text.text_ids(tokens, mask),
            "missed": jnp.sum(missed * written, axis=1),
            "written": written.sum(axis=1),
        }, aux | {"batch_stats": stats}

    def loss_from_outputs(outputs, aux):
        pairs = (outputs["image"], outputs["text"])
        contrast = image_text_loss(*pairs, fields["temperature"], fields["image_weight"])
        generation = outputs["missed"].sum() / jnp.maximum(outputs["written"].sum(), 1)
        parts = {"contrast_loss": contrast, "generation_loss": generation}
        return contrast + generation, (aux, _image_text.metrics_of(outputs) | parts)

    objective = _image_text.two_towers(
        config,
        head,
        loss_from_outputs,
        scale=lambda params: np.float32(1 / fields["temperature"]),
        metrics=("contrast_loss", "generation_loss"),
        one_image=False,
    )
    texts = {
        "text_projector": _networks.encoder_and_heads(config, t=head)["t"].clone(dtype=text.dtype)
    }

    def init(key, batch):
        key, fusion_key, decoder_key = jax.random.split(key, 3)
        params, aux = objective.init(key, batch)
        # Class tokens meet reports without a linear map.
        params["projector"] = {x: y for x, y in params["projector"].items() if x == "bn_out"}
        seen, token = jnp.zeros((1, 1, width)), jnp.zeros((1, 1), jnp.int32)
        params["fusion"] = fusion.init(fusion_key, seen)["params"]
        patch = seen[..., : encoder.width]
        return params | {"decoder": decoder.init(decoder_key, token, patch)["params"]}, aux

    def kept_text(params, aux):
        # Of one image, as of a study without others: its class token once for each view.
        kernel = np.tile(np.eye(encoder.width, dtype=np.float32), views)
        bias = {} if normed else {"bias": np.zeros(width, np.float32)}
        alike = {"kernel": kernel} | bias
        return objective.text(
            params | {"projector": params["projector"] | {"dense_out": alike}}, aux
        )

    def open_fields(source: Source, workdir: Path) -> tuple[Source, Fields]:
        source, found = objective.open_fields(source, workdir)
        partners = by_group(*source.columns(("patient_id", "study_id")).values())
        taken = f"config.objective.views={views}"
        how = f"each time {views} of them are drawn"
        _image_text.name_large_studies(source, partners, views, taken, how)

        def draw(seed, start, stop):
            return found.draw(seed, start, stop) | draw_views(partners, views, seed, start, stop)

        return source, found._replace(draw=draw)

    batch = {**objective.batch, **dict.fromkeys(names, IMAGE)}
    return objective._replace(
        init=init, embed=embed, batch=batch, open_fields=open_fields, text=kept_text
    )


def _check(fields: Section, encoder: nn.Module) -> None:
    if not isinstance(encoder, ViT):
        raise ValueError("REFERS fuses patches of a ViT; config.model.name must be 'vit'")
    if encoder.pooling != "class" or encoder.norm_after_pooling or encoder.projection:
        raise ValueError(
            "REFERS trains the class token: config.model needs pooling='class', "
            "norm_after_pooling=False and projection=0"
        )
    where = "config.objective"
    names = ("name", "views", "temperature", "image_weight", "head_bn", "text")
    check_fields(fields, where, (*names, *_DECODER))
    check_positive({"objective": fields}, [f"objective.{name}" for name in ("views", *_DECODER)])
    heads = fields["decoder_heads"]
    check_values(
        *(fields, where),
        ("temperature", fields["temperature"] > 0, "above 0"),
        ("image_weight", 0 <= fields["image_weight"] <= 1, "between 0 and 1"),
        ("decoder_width", fields["decoder_width"] % heads == 0, f"a multiple of its {heads} heads"),
    )
