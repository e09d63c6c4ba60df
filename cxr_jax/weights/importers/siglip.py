"""SigLIP's towers and those of what was built on it, as transformers saves them.

A folder of the hub, or its file alone: both sides of an image are then brought to the size of the
positions, with a mean and a deviation of a half.

siglip     SigLIP (arXiv:2303.15343)
medsiglip  MedSigLIP (arXiv:2507.05201): its So400m/14 for 448 px, by the same preprocessing

Features are those of the attention pooling, as its zero-shot classification compares with texts.
The text tower is read when it is asked for, with the tokenizer beside it.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cxr_jax.weights.convert import Source, errors_naming, refuse_prefix, strip_prefix, without
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers._towers import read_siglip
from cxr_jax.weights.importers._transformers import read_folder, vit_of
from cxr_jax.weights.importers._vit import CLIP_BLOCK, Layout


def _part(leaf: str, first: int, end: int) -> Source:
    """Returns the source of thirds of what torch's MultiheadAttention packs."""
    key = f"head.attention.in_proj_{leaf}"
    return Source((key,), lambda a: a[first * len(a) // 3 : end * len(a) // 3])


LAYOUT = Layout(
    patches="embeddings.patch_embedding",
    positions="embeddings.position_embedding.weight",
    cls="",
    block="encoder.layers.{}.",
    outer={
        **{"norm": "post_layernorm", "head.norm": "head.layernorm"},
        "head.probe": Source(("head.probe",), np.ravel),
        "head.q.kernel": _part("weight", 0, 1),
        "head.q.bias": _part("bias", 0, 1),
        "head.kv.kernel": _part("weight", 1, 3),
        "head.kv.bias": _part("bias", 1, 3),
        **{"head.proj": "head.attention.out_proj", "head.fc1": "head.mlp.fc1"},
        "head.fc2": "head.mlp.fc2",
    },
    inner=CLIP_BLOCK,
    has_place=False,
    flat=True,
)
_TEXTS = ("text_model.", "logit_scale", "logit_bias")


def load(path: str | Path) -> Encoder:
    """Reads the image tower; beside it the text's, if it is there, when asked for."""
    half = (0.5,) * 3
    file, arrays, config, seen = read_folder(path, 0, (half, half), "squash")
    text = None
    if "text_model.head.weight" in arrays:
        # What equals transformers' default is not in config.json.
        given = {"num_attention_heads": 12} if "model_type" in config else {}
        text = partial(read_siglip, file, given | config.get("text_config", {}))
    with errors_naming(file):
        arrays = strip_prefix(arrays, ("vision_model.", ""), _TEXTS)
        refuse_prefix(arrays, f"{LAYOUT.patches}.weight", "head.probe")
        arrays = without(arrays, "embeddings.position_ids")
        config = config.get("vision_config", config)
        fields: dict[str, Any] = {"class_token": False, "pooling": "attention"}
        if "model_type" not in config and arrays.get("head.probe") is not None:
            fields["heads"] = {1152: 16}.get(arrays["head.probe"].size) or (
                arrays["head.probe"].size // 64 or None
            )
        encoder = vit_of(path, arrays, LAYOUT, config, seen, "gelu_pytorch_tanh", 1e-6, fields)
        return encoder._replace(text=text)


SOURCES = {"siglip": load, "medsiglip": load}
