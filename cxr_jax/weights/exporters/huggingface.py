"""Encoders for transformers, with the JSON files that its AutoModel reads.

ResNets as its ResNetModel, ViTs as its Dinov2Model, of which they are a case, CLIP's ViTs as its
CLIPModel with their text tower, without one as its CLIPVisionModelWithProjection.
"""

from typing import Any

import numpy as np

from cxr_jax import models
from cxr_jax.models.bert import make_text_encoder
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.exporters import (
    Arrays,
    Exported,
    at_its_size,
    cnn,
    refuse_newer_vits,
    text_of,
)
from cxr_jax.weights.importers._towers import write_clip
from cxr_jax.weights.importers._vit import write_vit
from cxr_jax.weights.importers.dinos import DINOV2
from cxr_jax.weights.importers.huggingface import CLIP
from cxr_jax.weights.text import Text


def export(encoder: Encoder) -> Exported:
    """Writes the tensors, config.json and preprocessor_config.json."""
    encoder = at_its_size(encoder)
    model = models.build(encoder.model)
    channels, size = len(model.mean), encoder.image_size
    if encoder.model["name"] == "vit":
        refuse_newer_vits(model, "transformers")
    loader, output, more = "AutoModel", "pooler_output.flatten(1)", {}
    match encoder.model["name"]:
        case "resnet":
            tensors, config = _resnet(encoder, model)
        case "vit" if model.pre_norm or model.projection:
            tensors, config = _clip(encoder, model)
            loader, output = "CLIPVisionModelWithProjection", "image_embeds"
            if (tower := text_of(encoder)) and _is_clips(tower):
                tensors |= write_clip(tower)
                config, more = _with_text(config, tower, channels)
                loader, output = "CLIPModel", "image_embeds"
        case "vit":
            tensors, config = _dinov2(encoder, model)
        case "convnext" | "swin" as name:
            raise ValueError(f"no {name} is written for transformers; --format=safetensors has it")
        case _:
            raise ValueError(
                "transformers has no DenseNet; --format=torchvision and onnx take it, "
                "--format=safetensors keeps it"
            )
    processor = "CLIPImageProcessor" if loader != "AutoModel" else "BitImageProcessor"
    side, squash = {"height": size, "width": size}, encoder.fit == "squash"
    preprocessing = {
        "image_processor_type": processor,
        **{"do_resize": True, "size": side if squash else {"shortest_edge": size}, "resample": 2},
        **{"do_center_crop": not squash, "crop_size": side},
        **{"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True},
        "do_convert_rgb": channels == 3,
        **{"image_mean": list(model.mean), "image_std": list(model.std)},
    }
    image = f'Image.open("image.png").convert("{"L" if channels == 1 else "RGB"}")'
    if encoder.fit == "pad":  # which no processor of transformers does, with black
        image = f"ImageOps.pad({image}, ({size}, {size}), Image.BILINEAR)"
    usage = f"""from PIL import Image, ImageOps
from transformers import AutoImageProcessor, {loader}
net = {loader}.from_pretrained("FOLDER").eval()
prepare = AutoImageProcessor.from_pretrained("FOLDER")
image = {image}
pixels = prepare(image, return_tensors="pt")["pixel_values"]
features = net(pixels).{output}  # of [n {channels} h w], normalised as below"""
    files = {
        "config.json": config if more else config | {"num_channels": channels},
        "preprocessor_config.json": preprocessing,
        **more,
    }
    return Exported(tensors, files, usage, library="transformers", has_text=bool(more))


def _sizes(model: Any) -> dict[str, Any]:
    return {
        **{"hidden_size": model.width, "num_hidden_layers": model.num_blocks},
        **{"num_attention_heads": model.heads, "layer_norm_eps": model.epsilon},
        **{"image_size": model.image_size, "patch_size": model.patch},
        "hidden_act": model.activation.replace("gelu_tanh", "gelu_pytorch_tanh"),
    }


def _dinov2(encoder: Encoder, model: Any) -> tuple[Arrays, dict[str, Any]]:
    if model.pooling != "class":
        raise ValueError(
            "transformers' Dinov2Model gives the class token, this ViT a mean; --format=timm and "
            "onnx have it"
        )
    if model.hidden % model.width:
        raise ValueError(
            f"transformers' Dinov2Model has no MLP of {model.hidden} for a width of {model.width}, "
            "no multiple; --format=timm and onnx have it"
        )
    registers = {"num_register_tokens": model.registers} if model.registers else {}
    config = {
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "architectures": ["Dinov2WithRegistersModel" if registers else "Dinov2Model"],
        **_sizes(model),
        **{"mlp_ratio": model.hidden // model.width, "qkv_bias": True, "use_swiglu_ffn": False},
        **registers,
    }
    params = encoder.variables["params"]
    ones = np.ones(model.width, np.float32)
    tensors = {"embeddings.mask_token": 0 * ones[None], **write_vit(params, DINOV2)}
    for number in range(model.num_blocks):
        for place in (1, 2):  # of a ViT without layer scale they are 1
            tensors.setdefault(f"encoder.layer.{number}.layer_scale{place}.lambda1", ones)
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
        **{"intermediate_size": model.hidden, "projection_dim": model.projection},
    }
    return write_vit(encoder.variables["params"], CLIP), config


def _is_clips(text: Text) -> bool:
    """Returns whether transformers' CLIP has such a text tower."""
    model = text.model
    return (
        model.get("kind") == "clip"
        and model.get("pooling") == "last"
        and bool(model.get("projection"))
        and not text.heads
    )


def _with_text(
    image: dict[str, Any], text: Text, channels: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the config.json of both towers, and the files of the tokenizer."""
    model = make_text_encoder(text.model, "its text tower")
    start, *_, end = text.tokenizer.encode("a").ids
    image = {name: value for name, value in image.items() if name != "architectures"}
    config = {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": model.projection,
        "vision_config": image | {"num_channels": channels},
        "text_config": {
            "model_type": "clip_text_model",
            **{"vocab_size": model.vocabulary, "hidden_size": model.width},
            **{"num_hidden_layers": model.num_blocks, "num_attention_heads": model.heads},
            **{"intermediate_size": model.hidden, "max_position_embeddings": model.positions},
            "hidden_act": model.activation.replace("gelu_tanh", "gelu_pytorch_tanh"),
            **{"layer_norm_eps": 1e-5, "projection_dim": model.projection},
            **{"bos_token_id": start, "eos_token_id": end, "pad_token_id": end},
        },
    }
    named = text.tokenizer.id_to_token
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": text.max_tokens,
        **{"bos_token": named(start), "eos_token": named(end), "pad_token": named(end)},
    }
    tokenizer = text.tokenizer.to_str().encode()
    return config, {"tokenizer_config.json": words, "tokenizer.json": tokenizer}


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
