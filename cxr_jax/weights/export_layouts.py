"""Our variables under the key names of other tools, and the JSON that those tools read beside them.

One function per format: (encoder) -> (tensors, {file name: JSON}). Each raises ValueError for an
encoder that the tool's own module of that name cannot be.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax import models
from cxr_jax.models.positions import resample
from cxr_jax.weights import densenet_layout, resnet_layout
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.fill import to_torch

Arrays = dict[str, np.ndarray]


class Exported(NamedTuple):
    """Tensors by key, the JSON files beside them, and how a person loads them."""

    tensors: Arrays
    files: dict[str, Any]
    usage: str


def torchvision(encoder: Encoder) -> Exported:
    """ResNets and DenseNets for torchvision.models, whose first convolution reads three channels.

    A grey encoder's first kernel is spread over the three, a third each: of a film repeated in
    three channels and normalised by the card's numbers it makes the same.
    """
    tensors = _cnn(encoder)
    first = "conv1.weight" if encoder.model["name"] == "resnet" else "features.conv0.weight"
    if tensors[first].shape[1] == 1:
        tensors[first] = np.repeat(tensors[first] / 3, 3, axis=1)
    name = f"{encoder.model['name']}{encoder.model['variant']}"
    head = "fc" if encoder.model["name"] == "resnet" else "classifier"
    v1 = ""
    if encoder.model.get("stride_in_1x1"):
        v1 = (
            "\n# These weights are of v1: the stride of 2 sits in the first 1x1 convolution.\n"
            "for block in (net.layer2[0], net.layer3[0], net.layer4[0]):\n"
            "    block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)"
        )
    usage = f"""import torch, torchvision
from safetensors.torch import load_file
net = torchvision.models.{name}()
net.{head} = torch.nn.Identity(){v1}
net.load_state_dict(load_file("model.safetensors"))
net.eval()  # features = net(films), [n 3 h w], grey repeated, normalised as below"""
    return Exported(tensors, {}, usage)


def timm(encoder: Encoder) -> Exported:
    """ViTs and ResNets for timm.create_model, with as many input channels as ours."""
    encoder = _at_its_size(encoder)
    model = models.build(encoder.model)
    arguments: dict[str, Any] = {"in_chans": len(model.mean)}
    pooling = "avg"
    if encoder.model["name"] == "vit":
        _refuse_clips(model, "timm")
        arguments |= {
            **{"img_size": model.image_size, "patch_size": model.patch, "embed_dim": model.width},
            **{"depth": model.num_blocks, "num_heads": model.width // 64},
            **{"class_token": model.class_token, "reg_tokens": model.registers},
            **{"no_embed_class": True, "fc_norm": model.norm_after_pooling},
            **{"init_values": model.layer_scale or None, "dynamic_img_size": True},
        }
        pooling = "token" if model.pooling == "class" else "avg"
        tensors, architecture = _timm_vit(encoder), "vit_base_patch16_224"
    elif encoder.model["name"] == "resnet" and not encoder.model.get("stride_in_1x1"):
        tensors, architecture = _cnn(encoder), f"resnet{encoder.model['variant']}"
    else:
        raise ValueError("what goes out to timm are ViTs, and ResNets of v1.5")
    pixels = {"mean": list(model.mean), "std": list(model.std)}
    size = [len(model.mean), encoder.image_size, encoder.image_size]
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": _width(encoder),
        "global_pool": pooling,
        "model_args": arguments,
        "pretrained_cfg": {"input_size": size, "num_classes": 0, "crop_pct": 1.0, **pixels},
    }
    usage = f"""import json, timm
from safetensors.torch import load_file
arguments = json.load(open("config.json"))["model_args"]
net = timm.create_model("{architecture}", num_classes=0, global_pool="{pooling}", **arguments)
net.load_state_dict(load_file("model.safetensors"))
net.eval()  # features = net(films), [n {size[0]} h w], normalised as below"""
    return Exported(tensors, {"config.json": config}, usage)


def huggingface(encoder: Encoder) -> Exported:
    """ResNets as transformers' ResNetModel, ViTs as its Dinov2Model, of which they are a case."""
    encoder = _at_its_size(encoder)
    model = models.build(encoder.model)
    channels, size = len(model.mean), encoder.image_size
    if encoder.model["name"] == "vit":
        _refuse_clips(model, "Dinov2Model")
        if model.pooling != "class":
            raise ValueError("transformers' Dinov2Model gives the class token, this ViT a mean")
        tensors = _hugging_face_vit(encoder)
        registers = {"num_register_tokens": model.registers} if model.registers else {}
        kind = "dinov2_with_registers" if registers else "dinov2"
        config = {
            "model_type": kind,
            "architectures": ["Dinov2WithRegistersModel" if registers else "Dinov2Model"],
            "hidden_size": model.width,
            "num_hidden_layers": model.num_blocks,
            "num_attention_heads": model.width // 64,
            "mlp_ratio": 4,
            "hidden_act": "gelu",
            "layer_norm_eps": model.epsilon,
            "image_size": model.image_size,
            "patch_size": model.patch,
            "num_channels": channels,
            "qkv_bias": True,
            "use_swiglu_ffn": False,
            **registers,
        }
    elif encoder.model["name"] == "resnet":
        tensors = {_hugging_face_resnet_key(key): a for key, a in _cnn(encoder).items()}
        bottleneck = model.bottleneck
        config = {
            "model_type": "resnet",
            "architectures": ["ResNetModel"],
            "layer_type": "bottleneck" if bottleneck else "basic",
            "depths": list(model.stage_sizes),
            "hidden_sizes": [width * (4 if bottleneck else 1) for width in model.widths],
            "embedding_size": model.widths[0],
            "num_channels": channels,
            "hidden_act": "relu",
            "downsample_in_first_stage": False,
            "downsample_in_bottleneck": model.stride_in_1x1,
        }
    else:
        raise ValueError("transformers has no DenseNet; --format=safetensors keeps it")
    preprocessing = {
        "image_processor_type": "BitImageProcessor",
        **{"do_resize": True, "size": {"shortest_edge": size}, "resample": 2},
        **{"do_center_crop": True, "crop_size": {"height": size, "width": size}},
        **{"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True},
        "do_convert_rgb": channels == 3,
        **{"image_mean": list(model.mean), "image_std": list(model.std)},
    }
    usage = """from transformers import AutoModel
net = AutoModel.from_pretrained("FOLDER").eval()
# features = net(pixel_values).pooler_output.flatten(1), normalised as below"""
    files = {"config.json": config, "preprocessor_config.json": preprocessing}
    return Exported(tensors, files, usage)


def safetensors(encoder: Encoder) -> Exported:
    """Every encoder, as it is: our own names, read back by the weights source `safetensors`."""
    leaves = jax.tree_util.tree_leaves_with_path(encoder.variables)
    tensors = {".".join(entry.key for entry in path): np.asarray(leaf) for path, leaf in leaves}
    facts = {"name": encoder.name, "model": encoder.model, "image_size": encoder.image_size}
    usage = """import cxr_jax
encoder = cxr_jax.load_encoder("safetensors:FOLDER")
features = encoder(films)  # paths or arrays"""
    return Exported(tensors, {"cxr_jax.json": facts}, usage)


def _width(encoder: Encoder) -> int:
    model, films = models.build(encoder.model), jax.ShapeDtypeStruct((1, 64, 64, 1), np.float32)
    return jax.eval_shape(lambda v, x: model.apply(v, x, False), encoder.variables, films).shape[1]


def _at_its_size(encoder: Encoder) -> Encoder:
    """A ViT with positions for the films that it reads: tools differ in how they resample them."""
    size = encoder.image_size
    if encoder.model["name"] != "vit" or size % models.build(encoder.model).patch:
        return encoder
    model, params = models.build(encoder.model), encoder.variables["params"]
    old, new = model.image_size // model.patch, size // model.patch
    positions = jnp.asarray(params["positions"]).reshape(old, old, model.width)
    positions = resample(positions, new, new, model.antialias).reshape(new * new, model.width)
    return encoder._replace(
        model={**encoder.model, "image_size": size},
        variables={**encoder.variables, "params": {**params, "positions": positions}},
    )


def _refuse_clips(model: Any, tool: str) -> None:
    if model.pre_norm or model.projection or model.activation != "gelu" or model.epsilon != 1e-6:
        raise ValueError(f"{tool} has no ViT with CLIP's parts; --format=safetensors keeps them")


def _torch(leaf: str, array: Any) -> np.ndarray:
    array = np.asarray(array, np.float32)
    # safetensors writes what lies in memory, whatever the strides say.
    return np.ascontiguousarray(to_torch(array)) if leaf == "kernel" else array


def _cnn(encoder: Encoder) -> Arrays:
    """A ResNet or DenseNet under torchvision's keys."""
    name, variant = encoder.model["name"], encoder.model["variant"]
    if name not in ("resnet", "densenet"):
        raise ValueError(f"torchvision's layout is written of ResNets and DenseNets, not of {name}")
    if name == "resnet" and not variant.isdigit():
        raise ValueError(
            f"ResNet {variant!r} is our own: no other tool has it; --format=safetensors keeps it"
        )
    if encoder.model.get("negative_slope"):
        raise ValueError("torchvision's DenseNets have no leaky ReLUs")
    key_of = resnet_layout.key_of if name == "resnet" else densenet_layout.key_of
    tensors: Arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(encoder.variables):
        names = tuple(entry.key for entry in path)
        tensors[key_of(names)] = _torch(names[-1], leaf)
        if names[-1] == "var":  # torch counts batches beside them
            key = key_of(names).replace("running_var", "num_batches_tracked")
            tensors[key] = np.zeros((), np.int64)
    return tensors


def _timm_vit(encoder: Encoder) -> Arrays:
    params = encoder.variables["params"]
    tensors = {"pos_embed": np.asarray(params["positions"])[None]}
    for name, key in (("cls", "cls_token"), ("register_tokens", "reg_token")):
        if name in params:
            array = np.asarray(params[name])
            tensors[key] = array.reshape(1, -1, array.shape[-1])
    norm = "fc_norm" if encoder.model.get("norm_after_pooling") else "norm"
    tensors |= _layer(params["patch_embed"], "patch_embed.proj") | _layer(params["norm"], norm)
    for name, block in params.items():
        if name.startswith("block_"):
            prefix = f"blocks.{name.removeprefix('block_')}."
            names = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
            for layer, leaves in block.items():
                if layer.startswith("scale"):
                    tensors[f"{prefix}ls{layer[-1]}.gamma"] = np.asarray(leaves)
                else:
                    tensors |= _layer(leaves, prefix + names.get(layer, layer))
    return tensors


def _layer(leaves: Mapping[str, Any], key: str) -> Arrays:
    ending = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    return {f"{key}.{ending[leaf]}": _torch(leaf, array) for leaf, array in leaves.items()}


def _hugging_face_vit(encoder: Encoder) -> Arrays:
    params, embeddings = encoder.variables["params"], "embeddings."
    positions, cls = np.asarray(params["positions"]), np.asarray(params["cls"])
    tensors = {
        embeddings + "cls_token": cls[None, None],
        embeddings + "mask_token": np.zeros((1, len(cls)), np.float32),
        # Ours has no position of the class token: it is in the token.
        embeddings + "position_embeddings": np.pad(positions, ((1, 0), (0, 0)))[None],
    }
    if "register_tokens" in params:
        registers = np.asarray(params["register_tokens"])
        tensors[embeddings + "register_tokens"] = registers[None]
    tensors |= _layer(params["patch_embed"], embeddings + "patch_embeddings.projection")
    tensors |= _layer(params["norm"], "layernorm")
    for name, block in params.items():
        if not name.startswith("block_"):
            continue
        prefix = f"encoder.layer.{name.removeprefix('block_')}."
        for leaf, array in _layer(block["qkv"], "").items():
            for part, third in zip(("query", "key", "value"), np.split(array, 3)):
                tensors[f"{prefix}attention.attention.{part}{leaf}"] = np.ascontiguousarray(third)
        tensors |= _layer(block["proj"], prefix + "attention.output.dense")
        for layer, key in (("norm1", "norm1"), ("norm2", "norm2"), ("fc1", "mlp.fc1")):
            tensors |= _layer(block[layer], prefix + key)
        tensors |= _layer(block["fc2"], prefix + "mlp.fc2")
        for number in (1, 2):
            ones = np.ones(len(cls), np.float32)  # of a ViT without layer scale
            scale = np.asarray(block.get(f"scale{number}", ones))
            tensors[f"{prefix}layer_scale{number}.lambda1"] = scale
    return tensors


def _hugging_face_resnet_key(key: str) -> str:
    """layer1.0.downsample.1.bias -> encoder.stages.0.layers.0.shortcut.normalization.bias."""
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
