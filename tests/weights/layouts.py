"""State dicts of publishers whose models torch_vit and torch_cnn lack: keys, shapes, random values.

Written out from their code; that they give their features is tested in test_libraries.py.
"""

import torch


def _pairs(*names, size, **layers):
    """Norms of `size` channels, and linear layers by name: (out, in, …)."""
    shapes = {f"{name}.{leaf}": (size,) for name in names for leaf in ("weight", "bias")}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _below(prefix, shapes):
    return {prefix + key: shape for key, shape in shapes.items()}


def _drawn(shapes):
    torch.manual_seed(0)
    return {key: torch.randn(shape) for key, shape in shapes.items()}


def dinov3(width=64, hidden=96):
    shapes = _pairs("norm", size=width, **{"embeddings.patch_embeddings": (width, 3, 8, 8)})
    tokens = {"cls_token": (1, 1, width), "mask_token": (1, 1, width)}
    shapes |= _below("embeddings.", tokens | {"register_tokens": (1, 4, width)})
    square = (width, width)
    block = _pairs(
        *("norm1", "norm2"),
        size=width,
        **{f"attention.{part}_proj": square for part in "qkvo"},
        **{"mlp.gate_proj": (hidden, width), "mlp.up_proj": (hidden, width)},
        **{"mlp.down_proj": (width, hidden)},
    )
    del block["attention.k_proj.bias"]
    block |= {f"layer_scale{place}.lambda1": (width,) for place in (1, 2)}
    return _drawn(shapes | _below("layer.0.", block) | _below("layer.1.", block))


def siglip(width=64, hidden=96):
    square = (width, width)
    mlp = {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    shapes = _pairs("post_layernorm", size=width)
    shapes |= _pairs(size=0, **{"embeddings.patch_embedding": (width, 3, 8, 8)})
    shapes["embeddings.position_embedding.weight"] = (16, width)
    head = _pairs("layernorm", size=width, **{"attention.out_proj": square}, **mlp)
    head |= {"probe": (1, 1, width), "attention.in_proj_weight": (3 * width, width)}
    shapes |= _below("head.", head | {"attention.in_proj_bias": (3 * width,)})
    attention = {f"self_attn.{part}_proj": square for part in ("q", "k", "v", "out")}
    block = _pairs("layer_norm1", "layer_norm2", size=width, **attention, **mlp)
    for number in (0, 1):
        shapes |= _below(f"encoder.layers.{number}.", block)
    others = {"text_model.x": (2,), "logit_scale": (1,), "logit_bias": (1,)}
    return _drawn(_below("vision_model.", shapes) | others)


def biomedclip(vit, out=24):
    """`vit`: a ViT by timm's keys."""
    trunk = {key: array for key, array in vit.items() if not key.startswith("head.")}
    head = _drawn({"visual.head.proj.weight": (out, 64), "logit_scale": (), "text.x": (2,)})
    return _below("visual.trunk.", trunk) | head


def eva_x(width=64, hidden=96):
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 17, width), "mask_token": (1, 1, width)}
    shapes |= _pairs("norm", size=width, **{"patch_embed.proj": (width, 3, 8, 8)})
    shapes |= _pairs(size=0, **{"lm_head": (9, width)}) | {"rope.freqs_cos": (16, width)}
    layers = {"attn.proj": (width, width), "mlp.w1": (hidden, width), "mlp.w2": (hidden, width)}
    layers |= {f"attn.{part}_proj": (width, width) for part in "qkv"}
    block = _pairs("norm1", "norm2", size=width, **layers, **{"mlp.w3": (width, hidden)})
    block = {k: s for k, s in block.items() if not k.endswith("_proj.bias")}
    block |= _pairs("mlp.ffn_ln", size=hidden) | {f"attn.{part}_bias": (width,) for part in "qv"}
    return {"module": _drawn(shapes | _below("blocks.0.", block) | _below("blocks.1.", block))}


def ark_plus(width=12, window=2):
    """Of two stages of a block each, in the layout of Swin's own code."""
    shapes = _pairs("patch_embed.norm", size=width, **{"patch_embed.proj": (width, 3, 4, 4)})
    for stage, heads in ((0, 1), (1, 3)):
        size = width << stage
        layers = {"attn.qkv": (3 * size, size), "attn.proj": (size, size)}
        layers |= {"mlp.fc1": (4 * size, size), "mlp.fc2": (size, 4 * size)}
        block = _pairs("norm1", "norm2", size=size, **layers)
        block["attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads)
        shapes |= _below(f"layers.{stage}.blocks.0.", block)
    shapes |= _below("layers.0.downsample.", _pairs("norm", size=4 * width))
    shapes |= {"layers.0.downsample.reduction.weight": (2 * width, 4 * width)}
    shapes |= _pairs("norm", size=2 * width, **{"projector": (5, 24), "omni_heads.0": (2, 5)})
    tensors = _below("module.", _drawn(shapes))
    return {"epoch": 3, "state_dict": {}, "teacher": tensors}


def biovil(state):
    tensors = _below("encoder.encoder.", state)
    others = ("encoder.backbone_to_vit.weight", "encoder.vit_pooler.x", "projector.model.0.weight")
    missing = {"encoder.missing_previous_emb": torch.ones(1, 2, 1, 1)}
    return tensors | {key: torch.ones(2) for key in others} | missing


def chexfound(state):
    """Of a ViT with registers under timm's names: a training's checkpoint."""
    state = {key.replace("reg_token", "register_tokens"): t for key, t in state.items()}
    state = _below("backbone.", state | {"mask_token": torch.zeros(1, 64)})
    return {"teacher": state | {"dino_head.mlp.0.weight": torch.ones(2)}, "iteration": 3}


def mae(state):
    others = ("decoder_embed.weight", "mask_token", "bert_encoder.x", "bert_mlp.weight")
    return {"model": state | {key: torch.ones(2) for key in others}}
