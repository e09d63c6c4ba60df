"""What objectives of images and their reports share: both towers, their batch, what is kept.

The text tower's files in the workdir are tokenizer.json and text.json (weights/text.py); its
variables are the item "text" of a checkpoint.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cxr_jax.augment.views import augment_view, check_view
from cxr_jax.config import Section
from cxr_jax.data import reports, tokenizer
from cxr_jax.data.order import Fields, Partners, by_group
from cxr_jax.data.source import Source
from cxr_jax.models._layers import MLP
from cxr_jax.models.bert import Bert, make_text_encoder
from cxr_jax.objectives import IMAGE, Field, Objective, _networks, l2_normalise, no_change

METRICS = (*_networks.COLLAPSE_METRICS, "text_std", "retrieval_accuracy")  # what `metrics` gives
FACTS = "text.json"  # in the workdir: what the text tower is
_START = ("weights", "frozen_layers")


def two_towers(
    config: Section,
    head: Mapping[str, Any] | None,
    loss_from_outputs: Callable[..., Any],
    scale: Callable[[Any], Float[Array, ""] | np.float32],
    metrics: Sequence[str] = (),
    learnt: Mapping[str, float] | None = None,
    text_head: bool = True,
    one_image: bool = True,
) -> Objective:
    """Returns the objective whose outputs are {"image", "text": [b d], "text_id": [b], …}.

    An image goes through the encoder and a projector, one sentence of its report through the text
    encoder of config.objective.text and a projector of the same kind, the MLP with the fields
    `head`; None: neither has one, nor has the text without `text_head`. `learnt` are further
    parameters, numbers by name, with the value to start from; outputs hold each as [b]. `scale`
    gives of the parameters what cosines are multiplied by to become logits, a constant as NumPy's:
    a checkpoint of several hosts takes no array of JAX's that is of one. `metrics` are those that
    the loss gives beside METRICS. With `one_image` it is said of which studies there are more.
    """
    check_batch(config)
    text, view, name = text_encoder(config), config["views"]["a"], config["objective"]["name"]
    layers = config["objective"]["text"]["frozen_layers"]
    frozen = ("embeddings", *(f"layer_{i}" for i in range(layers))) if layers else ()
    chain = _networks.encoder_and_heads(config, **({"projector": head} if head else {}))
    texts_head = {}
    if head and text_head:
        texts_head["text_projector"] = chain["projector"].clone(dtype=text.dtype)
    learnt = dict(learnt or {})

    def init(key, batch):
        image_key, text_key, head_key = jax.random.split(key, 3)
        params, batch_stats = _networks.init(image_key, chain, view["size"])
        token = jnp.zeros((1, 1), jnp.int32)
        vector, variables = text.init_with_output(text_key, token, token == 0)
        for name, module in texts_head.items():
            head_variables = module.init(head_key, vector, train=False)
            params[name] = head_variables["params"]
            batch_stats[name] = head_variables.get("batch_stats", {})
        trained, kept = split_text(variables["params"], frozen)
        params |= {name: jnp.float32(value) for name, value in learnt.items()}
        return params | {"text": trained}, {"batch_stats": batch_stats, "frozen_text": kept}

    def embed(params, aux, batch, key):
        images = augment_view(key, batch["image"], view)
        outputs, batch_stats = _networks.apply(chain, params, aux["batch_stats"], images)
        tokens, mask = batch["tokens"], batch["mask"]
        vectors = text.apply({"params": aux["frozen_text"] | params["text"]}, tokens, mask)
        heads = {"text_projector": vectors}
        if texts_head:
            heads, batch_stats = _networks.apply(texts_head, params, batch_stats, vectors)
        outputs = {
            "image": outputs["projector" if head else "encoder"],
            "text": heads["text_projector"],
            "text_id": text_ids(tokens, mask),
            **{name: jnp.broadcast_to(params[name], (len(tokens),)) for name in learnt},
        }
        return outputs, aux | {"batch_stats": batch_stats}

    def open_fields(source: Source, workdir: Path) -> tuple[Source, Fields]:
        source, found = reports.open_reports(source, config["data"]["reports"], workdir)
        if one_image:
            partners = by_group(*source.columns(("patient_id", "study_id")).values())
            how = "each is paired with the report by itself"
            name_large_studies(source, partners, 1, f"the one that {name} takes", how)
        facts = {
            "model": _fields(text),
            "heads": {
                "image": _fields(chain["projector"]) if head else None,
                "text": _fields(texts_head["text_projector"]) if texts_head else None,
            },
            "max_tokens": config["data"]["reports"]["max_tokens"],
        }
        files = {tokenizer.FILE: found.tokenizer, FACTS: json.dumps(facts, indent=2) + "\n"}
        return source, Fields(found.draw, fingerprint=found.fingerprint(), files=files)

    def kept_text(params, aux):
        stats, heads = aux["batch_stats"], {}
        for place, name in (("image", "projector"), ("text", "text_projector")):
            if name in params:
                heads[place] = {"params": params[name], "batch_stats": stats[name]}
        tower = {"text": aux["frozen_text"] | params["text"], "scale": scale(params)}
        return tower | ({"heads": heads} if heads else {})

    return Objective(
        init=init,
        embed=embed,
        loss_from_outputs=loss_from_outputs,
        after_update=no_change,
        features=partial(_networks.features, chain),
        metrics=(*METRICS, *metrics),
        batch=batch_fields(config),
        open_fields=open_fields,
        text=kept_text,
    )


def name_large_studies(
    source: Source, partners: Partners, views: int, taken: str, how: str
) -> None:
    """Prints of how many studies there are more than `views` images, and an image of the first."""
    large = np.flatnonzero((partners.size > views) & (partners.place == 0))
    if not len(large):
        return
    image = source.columns(("image_id",))["image_id"][large[0]]
    print(
        f"{len(large):,} studies of {source.name} have more images than {taken}, up to "
        f"{partners.size.max()}: {how}. The first is that of image "
        f"{source.hashed('image', [image])[0]}."
    )


def batch_fields(config: Section) -> dict[str, Field]:
    """Returns what batches of images and their sentences hold."""
    length = (config["data"]["reports"]["max_tokens"],)
    return {"image": IMAGE, "tokens": Field(length, np.int32), "mask": Field(length, np.bool_)}


def metrics_of(outputs: Mapping[str, Float[Array, "..."]]) -> dict[str, Float[Array, ""]]:
    """Returns METRICS of the outputs "image", "text" and "text_id"."""
    images, texts = outputs["image"], outputs["text"]
    return _networks.collapse_metrics(images) | {
        "text_std": _networks.embedding_std(texts),
        "retrieval_accuracy": retrieval_accuracy(images, texts, outputs["text_id"]),
    }


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


def text_encoder(config: Section) -> Bert:
    """Returns the encoder of config.objective.text; ValueError for what does not fit.

    Its fields are those of cxr_jax/models/bert.py, and `weights` and `frozen_layers`.
    """
    where = "config.objective.text"
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


def check_batch(config: Section) -> None:
    """Raises ValueError where views or config.data.reports are not those of image-text batches."""
    name, views = config["objective"]["name"], config["views"]
    if set(views) != {"a"}:
        raise ValueError(f"config.views holds {', '.join(views)}; {name} has one view, 'a'")
    check_view(views["a"], "config.views.a")
    given, text = config["data"].get("reports"), text_encoder(config)
    if not given:
        raise ValueError(
            f"config.objective.name={name!r} needs batches with reports; set config.data.reports, "
            f"as configs/{name}.py does"
        )
    if given["max_tokens"] > text.positions:
        raise ValueError(
            f"config.data.reports.max_tokens={given['max_tokens']} is more than the "
            f"{text.positions} positions of config.objective.text"
        )


def _fields(module: MLP | Bert) -> dict[str, Any]:
    """Returns the fields that make the module, as JSON has them."""
    names = [name for name in module.__dataclass_fields__ if name not in ("parent", "name")]
    return {name: getattr(module, name) for name in names}


def text_ids(tokens: Int[Array, "n l"], mask: Bool[Array, "n l"]) -> Float[Array, "n"]:
    """Returns a number for each text; two share theirs once in 16 million."""
    tokens = jnp.where(mask, tokens + 1, 0)
    places = range(1, tokens.shape[1] + 1)
    factors = np.array([pow(0x9E3779B1, place, 2**32) for place in places], np.uint32)
    mixed = (tokens.astype(jnp.uint32) * factors).sum(axis=1, dtype=jnp.uint32)
    # A float, because gradients are taken by outputs: 24 bits fit one exactly.
    return (mixed >> 8).astype(jnp.float32)
