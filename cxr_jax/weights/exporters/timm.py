"""ViTs and ResNets for timm.create_model, with as many input channels as ours."""

from typing import Any

import numpy as np

from cxr_jax import models
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.exporters import Exported
from cxr_jax.weights.exporters._tensors import (
    Arrays,
    at_its_size,
    blocks,
    cnn,
    has_clips_parts,
    layer,
    width,
)


def export(encoder: Encoder) -> Exported:
    """Writes the tensors, and config.json as timm's own repositories have it."""
    encoder = at_its_size(encoder)
    model = models.build(encoder.model)
    arguments: dict[str, Any] = {"in_chans": len(model.mean)}
    pooling = "avg"
    if encoder.model["name"] == "vit":
        if has_clips_parts(model):
            raise ValueError(
                "timm has no ViT with CLIP's parts; --format=huggingface and onnx have them"
            )
        arguments |= {
            **{"img_size": model.image_size, "patch_size": model.patch, "embed_dim": model.width},
            **{"depth": model.num_blocks, "num_heads": model.width // 64},
            **{"class_token": model.class_token, "reg_tokens": model.registers},
            **{"no_embed_class": True, "fc_norm": model.norm_after_pooling},
            **{"init_values": model.layer_scale or None, "dynamic_img_size": True},
        }
        pooling = "token" if model.pooling == "class" else "avg"
        tensors, architecture = _vit(encoder), "vit_base_patch16_224"
    elif encoder.model["name"] == "resnet" and not encoder.model.get("stride_in_1x1"):
        tensors, architecture = cnn(encoder), f"resnet{encoder.model['variant']}"
    else:
        raise ValueError(
            "timm's layout is written of ViTs and of ResNets of v1.5; --format=torchvision and "
            "onnx take the others"
        )
    pixels = {"mean": list(model.mean), "std": list(model.std)}
    size = [len(model.mean), encoder.image_size, encoder.image_size]
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": width(encoder),
        "global_pool": pooling,
        "model_args": arguments,
        "pretrained_cfg": {"input_size": size, "num_classes": 0, "crop_pct": 1.0, **pixels},
    }
    usage = f"""import json, timm
from safetensors.torch import load_file
arguments = json.load(open("config.json"))["model_args"]
net = timm.create_model("{architecture}", num_classes=0, global_pool="{pooling}", **arguments)
net.load_state_dict(load_file("model.safetensors"))
net.eval()  # features = net(images), [n {size[0]} h w], normalised as below"""
    return Exported(tensors, {"config.json": config}, usage)


def _vit(encoder: Encoder) -> Arrays:
    params = encoder.variables["params"]
    tensors = {"pos_embed": np.asarray(params["positions"])[None]}
    for name, key in (("cls", "cls_token"), ("register_tokens", "reg_token")):
        if name in params:
            array = np.asarray(params[name])
            tensors[key] = array.reshape(1, -1, array.shape[-1])
    norm = "fc_norm" if encoder.model.get("norm_after_pooling") else "norm"
    tensors |= layer(params["patch_embed"], "patch_embed.proj") | layer(params["norm"], norm)
    names = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    for number, block in blocks(encoder).items():
        prefix = f"blocks.{number}."
        for name, leaves in block.items():
            if name.startswith("scale"):
                tensors[f"{prefix}ls{name[-1]}.gamma"] = np.asarray(leaves)
            else:
                tensors |= layer(leaves, prefix + names.get(name, name))
    return tensors
