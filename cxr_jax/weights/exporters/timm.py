"""ViTs, ResNets and DenseNets for timm.create_model, with as many input channels as ours."""

from typing import Any

from cxr_jax import models
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.exporters import Exported, at_its_size, cnn, refuse_newer_vits
from cxr_jax.weights.importers._vit import write_vit
from cxr_jax.weights.importers.timm import FITS, LAYOUT

_CROP_MODES = {fit: mode for mode, fit in FITS.items()}


def export(encoder: Encoder) -> Exported:
    """Writes the tensors, and config.json as timm's own repositories have it."""
    encoder = at_its_size(encoder)
    model, name = models.build(encoder.model), encoder.model["name"]
    arguments: dict[str, Any] = {"in_chans": len(model.mean)}
    if name == "vit":
        refuse_newer_vits(model, "timm")
        architecture = "vit_base_patch16_clip_224" if model.pre_norm else "vit_base_patch16_224"
        if model.projection or model.epsilon != (1e-5 if model.pre_norm else 1e-6):
            raise ValueError(
                "timm has no ViT with all of CLIP's parts; --format=huggingface and onnx have them"
            )
        if model.pooling == "first_two":
            raise ValueError("no distilled ViT is written for timm; --format=onnx has it")
        arguments |= {
            **{"img_size": model.image_size, "patch_size": model.patch, "embed_dim": model.width},
            **{"depth": model.num_blocks, "num_heads": model.heads},
            **{"mlp_ratio": model.hidden / model.width, "act_layer": model.activation},
            **{"class_token": model.class_token, "reg_tokens": model.registers},
            **{"no_embed_class": True, "fc_norm": model.norm_after_pooling},
            **{"init_values": model.layer_scale or None, "dynamic_img_size": True},
            "global_pool": "token" if model.pooling == "class" else "avg",
        }
        norm = "fc_norm" if model.norm_after_pooling else "norm"
        layout = LAYOUT._replace(outer=LAYOUT.outer | {"norm": norm})
        tensors = write_vit(encoder.variables["params"], layout)
    elif not encoder.model.get("stride_in_1x1"):
        tensors = cnn(encoder, plain=False)
        kind = ("se" * encoder.model.get("squeeze", False)) + name
        architecture = f"{kind}{encoder.model['variant']}" + "d" * encoder.model.get("d", False)
    else:
        raise ValueError(
            "timm's ResNets are of v1.5, this one of v1; --format=torchvision and onnx take it"
        )
    pixels = {"mean": list(model.mean), "std": list(model.std)}
    size = [len(model.mean), encoder.image_size, encoder.image_size]
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": encoder.width,
        "global_pool": arguments.get("global_pool", "avg"),
        "model_args": arguments,
        "pretrained_cfg": {
            **{"input_size": size, "num_classes": 0, "crop_pct": 1.0, **pixels},
            **{"interpolation": "bilinear", "crop_mode": _CROP_MODES[encoder.fit]},
        },
    }
    usage = f"""import json, timm
from safetensors.torch import load_file
arguments = json.load(open("config.json"))["model_args"]
net = timm.create_model("{architecture}", num_classes=0, **arguments)
net.load_state_dict(load_file("model.safetensors"))
net.eval()  # features = net(images), [n {size[0]} h w], normalised as below
# or timm.create_model("local-dir:FOLDER", pretrained=True), and "hf-hub:OWNER/NAME" of the hub"""
    if encoder.fit == "pad":
        usage += "\n# timm's own transform fills the border with the mean: pad with black before it"
    return Exported(tensors, {"config.json": config}, usage, library="timm")
