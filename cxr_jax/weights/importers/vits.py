"""ViTs of torchvision, CLIP and REFERS; the first's source is in cnns.py, beside its other models.

clip      the image tower of OpenAI's CLIP (arXiv:2103.00020): ViT-B/32, B/16, L/14. Features are
          those of `encode_image`, the projection included. OpenAI's own files are TorchScript
          programs, which are not read; the state dict is, alone or in whole: with the package
          `clip`, `torch.save(clip.load("ViT-B/32", jit=False)[0].state_dict(), "clip.pt")`.
          A folder of the hub is read by the source `huggingface`. Texts are read with the
          tokenizer beside the file: tokenizer.json, or vocab.json and merges.txt.
chexzero  CheXzero (Tiu et al. 2022) and CXR-RePaiR-CLIP (Endo et al. 2021): CLIP trained on
          MIMIC-CXR, with its own mean and deviation; images are padded to a square with black.
refers    REFERS (Zhou et al. 2022, Nature Machine Intelligence 4): a ViT-B/16 trained with
          reports, in the layout of its fine-tuning code.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cxr_jax.weights.arrays import read_arrays, read_facts
from cxr_jax.weights.convert import Source, errors_naming, refuse_prefix, strip_prefix, without
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers._cnn import IMAGENET
from cxr_jax.weights.importers._towers import read_clip
from cxr_jax.weights.importers._vit import (
    OPENAI_BLOCK,
    Layout,
    query_key_value,
    read_vit,
    size_facts,
)

_CLIP = Layout(
    patches="conv1",
    positions="positional_embedding",
    cls="class_embedding",
    block="transformer.resblocks.{}.",
    outer={
        "norm_pre": "ln_pre",
        "norm": "ln_post",
        "project.kernel": Source(("proj",), np.transpose),
    },
    inner=OPENAI_BLOCK,
)
_CLIPS_TEXT = (
    *("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection"),
    *("logit_scale", "input_resolution", "context_length", "vocab_size"),
)
CLIP_PIXELS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_TORCHVISION = Layout(
    patches="conv_proj",
    positions="encoder.pos_embedding",
    cls="class_token",
    block="encoder.layers.encoder_layer_{}.",
    outer={"norm": "encoder.ln"},
    inner={
        "norm1": "ln_1",
        "qkv.kernel": "self_attention.in_proj_weight",
        "qkv.bias": "self_attention.in_proj_bias",
        "proj": "self_attention.out_proj",
        "norm2": "ln_2",
        "fc1": "mlp.0",
        "fc2": "mlp.3",
    },
)
_REFERS = Layout(
    patches="embeddings.patch_embeddings",
    positions="embeddings.position_embeddings",
    cls="embeddings.cls_token",
    block="encoder.layer.{}.",
    outer={"norm": "encoder.encoder_norm"},
    inner={
        "norm1": "attention_norm",
        **query_key_value("attn.{part}"),
        "proj": "attn.out",
        "norm2": "ffn_norm",
        "fc1": "ffn.fc1",
        "fc2": "ffn.fc2",
    },
)


def load_clip(
    path: str | Path, mean: Sequence[float], std: Sequence[float], fit: str = "crop"
) -> Encoder:
    """Reads the encoder below `visual.`; beside it the text tower, if there is one, when asked for.

    Raises ValueError for CLIP's own ResNets.
    """
    arrays = read_arrays(path)
    text = partial(read_clip, path, {}) if "text_projection" in arrays else None
    with errors_naming(path):
        arrays = strip_prefix(arrays, ("visual.",), _CLIPS_TEXT)
        if any(key.startswith("attnpool.") for key in arrays):
            raise ValueError(
                "this is a CLIP with a ResNet of its own kind; read are those with ViT"
            )
        if "proj" not in arrays or arrays["proj"].ndim != 2:
            raise ValueError("does not fit a CLIP: there is no visual.proj of two dimensions")
        fields = {"projection": arrays["proj"].shape[-1], "mean": tuple(mean), "std": tuple(std)}
        fields |= {"pre_norm": True, "activation": "quick_gelu", "epsilon": 1e-5}
        # Its code gives a head to 64 channels, whatever the width.
        heads = arrays["class_embedding"].size // 64 if "class_embedding" in arrays else None
        encoder = read_vit(Path(path).stem, arrays, _CLIP, heads=heads, fit=fit, **fields)
        return encoder._replace(text=text)


def load_torchvision(path: str | Path) -> Encoder:
    """Reads the encoder; the classifier, `heads`, is passed over."""
    arrays = read_arrays(path)
    with errors_naming(path):
        refuse_prefix(arrays, "conv_proj.weight", "class_token")
        # Files from before torchvision 0.14 call the MLP's layers linear_1 and linear_2.
        arrays = {
            re.sub(r"\.mlp\.linear_([12])\.", lambda m: f".mlp.{3 * int(m[1]) - 3}.", key): array
            for key, array in without(arrays, "heads.").items()
        }
        return _of_imagenet(path, arrays, _TORCHVISION)


def load_refers(path: str | Path) -> Encoder:
    """Reads the encoder below `transformer.`; the classifier, `head`, is passed over."""
    arrays = read_arrays(path)
    with errors_naming(path):
        arrays = strip_prefix(arrays, ("transformer.",), ("head.weight", "head.bias"))
        return _of_imagenet(path, arrays, _REFERS)


def _of_imagenet(path: str | Path, arrays: dict[str, np.ndarray], layout: Layout) -> Encoder:
    sizes = size_facts(read_facts(Path(path), "config.json"))
    pixels = dict(zip(("mean", "std"), IMAGENET))
    return read_vit(Path(path).stem, arrays, layout, **sizes, **pixels)


SOURCES = {
    "clip": partial(load_clip, mean=CLIP_PIXELS[0], std=CLIP_PIXELS[1]),
    "chexzero": partial(
        load_clip, mean=(101.48761 / 255,) * 3, std=(83.43944 / 255,) * 3, fit="pad"
    ),
    "refers": load_refers,
}
