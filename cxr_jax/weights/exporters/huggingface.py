"""Encoders for transformers, with the JSON files that its AutoModel reads.

ResNets as its ResNetModel, ViTs as its Dinov2Model, of which they are a case, CLIP's ViTs as its
CLIPVisionModelWithProjection.
"""

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
    query_key_value,
)


def export(encoder: Encoder) -> Exported:
    """Writes the tensors, config.json and preprocessor_config.json."""
    encoder = at_its_size(encoder)
    model = models.build(encoder.model)
    channels, size = len(model.mean), encoder.image_size
    loader, output = "AutoModel", "pooler_output.flatten(1)"
    match encoder.model["name"]:
        case "resnet":
            tensors, config = _resnet(encoder, model)
        case "vit" if has_clips_parts(model):
            tensors, config = _clip(encoder, model)
            loader, output = "CLIPVisionModelWithProjection", "image_embeds"
        case "vit":
            tensors, config = _dinov2(encoder, model)
        case _:
            raise ValueError(
                "transformers has no DenseNet; --format=torchvision and onnx take it, "
                "--format=safetensors keeps it"
            )
    processor = "CLIPImageProcessor" if loader != "AutoModel" else "BitImageProcessor"
    preprocessing = {
        "image_processor_type": processor,
        **{"do_resize": True, "size": {"shortest_edge": size}, "resample": 2},
        **{"do_center_crop": True, "crop_size": {"height": size, "width": size}},
        **{"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True},
        "do_convert_rgb": channels == 3,
        **{"image_mean": list(model.mean), "image_std": list(model.std)},
    }
    usage = f"""from transformers import {loader}
net = {loader}.from_pretrained("FOLDER").eval()
# features = net(pixel_values).{output}, normalised as below"""
    files = {
        "config.json": config | {"num_channels": channels},
        "preprocessor_config.json": preprocessing,
    }
    return Exported(tensors, files, usage)


def _sizes(model: Any) -> dict[str, Any]:
    return {
        **{"hidden_size": model.width, "num_hidden_layers": model.num_blocks},
        **{"num_attention_heads": model.width // 64, "layer_norm_eps": model.epsilon},
        **{"image_size": model.image_size, "patch_size": model.patch},
    }


def _dinov2(encoder: Encoder, model: Any) -> tuple[Arrays, dict[str, Any]]:
    if model.pooling != "class":
        raise ValueError(
            "transformers' Dinov2Model gives the class token, this ViT a mean; --format=timm and "
            "onnx have it"
        )
    registers = {"num_register_tokens": model.registers} if model.registers else {}
    config = {
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "architectures": ["Dinov2WithRegistersModel" if registers else "Dinov2Model"],
        **_sizes(model),
        **{"mlp_ratio": 4, "hidden_act": "gelu", "qkv_bias": True, "use_swiglu_ffn": False},
        **registers,
    }
    params, embeddings = encoder.variables["params"], "embeddings."
    positions, cls = np.asarray(params["positions"]), np.asarray(params["cls"])
    tensors = {
        embeddings + "cls_token": cls[None, None],
        embeddings + "mask_token": np.zeros((1, len(cls)), np.float32),
        # Ours has no position of the class token: it is in the token.
        embeddings + "position_embeddings": np.pad(positions, ((1, 0), (0, 0)))[None],
    }
    if registers:
        tensors[embeddings + "register_tokens"] = np.asarray(params["register_tokens"])[None]
    tensors |= layer(params["patch_embed"], embeddings + "patch_embeddings.projection")
    tensors |= layer(params["norm"], "layernorm")
    names = {"norm1": "norm1", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    names |= {"proj": "attention.output.dense"}
    for number, block in blocks(encoder).items():
        prefix = f"encoder.layer.{number}."
        tensors |= query_key_value(block["qkv"], prefix + "attention.attention.{}")
        for name, key in names.items():
            tensors |= layer(block[name], prefix + key)
        for place in (1, 2):
            ones = np.ones(len(cls), np.float32)  # of a ViT without layer scale
            scale = np.asarray(block.get(f"scale{place}", ones))
            tensors[f"{prefix}layer_scale{place}.lambda1"] = scale
    return tensors, config


def _clip(encoder: Encoder, model: Any) -> tuple[Arrays, dict[str, Any]]:
    other = {
        "registers": model.registers,
        "layer scale": model.layer_scale,
        "a mean of its patches": model.pooling != "class",
        "no class token": not model.class_token,
        "no norm before its blocks": not model.pre_norm,
        "no projection": not model.projection,
    }
    if any(other.values()):
        raise ValueError(
            f"transformers' CLIP has no ViT with {' and '.join(k for k, v in other.items() if v)}; "
            "--format=onnx has it"
        )
    config = {
        "model_type": "clip_vision_model",
        "architectures": ["CLIPVisionModelWithProjection"],
        **_sizes(model),
        **{"intermediate_size": 4 * model.width, "projection_dim": model.projection},
        "hidden_act": model.activation,
    }
    params, vision = encoder.variables["params"], "vision_model."
    positions, cls = np.asarray(params["positions"]), np.asarray(params["cls"])
    tensors = {
        vision + "embeddings.class_embedding": cls,
        vision + "embeddings.position_embedding.weight": np.pad(positions, ((1, 0), (0, 0))),
    }
    tensors |= layer(params["patch_embed"], vision + "embeddings.patch_embedding")
    tensors |= layer(params["norm_pre"], vision + "pre_layrnorm")  # spelt so
    tensors |= layer(params["norm"], vision + "post_layernorm")
    tensors |= layer(params["project"], "visual_projection")
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    names |= {"proj": "self_attn.out_proj"}
    for number, block in blocks(encoder).items():
        prefix = f"{vision}encoder.layers.{number}."
        for key, array in query_key_value(block["qkv"], "{}").items():
            part, leaf = key.split(".")
            tensors[f"{prefix}self_attn.{part[0]}_proj.{leaf}"] = array
        for name, key in names.items():
            tensors |= layer(block[name], prefix + key)
    return tensors, config


def _resnet(encoder: Encoder, model: Any) -> tuple[Arrays, dict[str, Any]]:
    config = {
        "model_type": "resnet",
        "architectures": ["ResNetModel"],
        "layer_type": "bottleneck" if model.bottleneck else "basic",
        "depths": list(model.stage_sizes),
        "hidden_sizes": [width * (4 if model.bottleneck else 1) for width in model.widths],
        "embedding_size": model.widths[0],
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": model.stride_in_1x1,
    }
    return {_resnet_key(key): array for key, array in cnn(encoder).items()}, config


def _resnet_key(key: str) -> str:
    """Renames layer1.0.bn1.bias to encoder.stages.0.layers.0.layer.0.normalization.bias."""
    *modules, leaf = key.split(".")
    kinds = {"conv": "convolution", "bn": "normalization"}
    if len(modules) == 1:
        return f"embedder.embedder.{kinds[modules[0].rstrip('1')]}.{leaf}"
    stage, index, module = int(modules[0].removeprefix("layer")) - 1, modules[1], modules[2:]
    if module[0] == "downsample":
        place = "shortcut." + ("convolution", "normalization")[int(module[1])]
    else:
        place = f"layer.{int(module[0][-1]) - 1}.{kinds[module[0][:-1]]}"
    return f"encoder.stages.{stage}.layers.{index}.{place}.{leaf}"
