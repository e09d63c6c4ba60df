"""ViTs as nodes of ONNX: (graph, module, variables, pixels) -> features."""

from typing import Any

import numpy as np

from cxr_jax.weights.exporters._onnx_graph import Graph

_END = np.iinfo(np.int64).max


def vit(graph: Graph, model: Any, variables: dict[str, Any], pixels: str) -> str:
    """models.vit.ViT, for images of the size that its position embeddings were learnt for."""
    params = variables["params"]
    prefix = [params["cls"][None]] if model.class_token else []
    prefix += [params["register_tokens"]] if model.registers else []
    x = _patches(graph, model, params, pixels)
    if prefix:
        batch = graph.node("Shape", x, start=0, end=1)
        shape = graph.node("Concat", batch, np.array([1, 1]), axis=0)
        x = graph.node(
            "Concat", graph.node("Expand", np.concatenate(prefix)[None], shape), x, axis=1
        )
    if model.pre_norm:
        x = _norm(graph, model, params["norm_pre"], x)
    for number in range(model.num_blocks):
        x = _block(graph, model, params[f"block_{number}"], x)
    if not model.norm_after_pooling:
        x = _norm(graph, model, params["norm"], x)
    if model.pooling == "class":
        x = graph.node("Gather", x, 0, axis=1)
    else:
        first = len(np.concatenate(prefix)) if prefix else 0
        patches = graph.node("Slice", x, np.array([first]), np.array([_END]), np.array([1]))
        x = graph.node("ReduceMean", patches, axes=[1], keepdims=0)
    if model.norm_after_pooling:
        x = _norm(graph, model, params["norm"], x)
    return _dense(graph, params["project"], x) if model.projection else x


def _patches(graph: Graph, model: Any, params: dict[str, Any], pixels: str) -> str:
    embed = params["patch_embed"]
    kernel = np.transpose(embed["kernel"], (3, 2, 0, 1))
    bias = [embed["bias"]] if "bias" in embed else []
    x = graph.node("Conv", pixels, kernel, *bias, strides=[model.patch] * 2)
    x = graph.node("Reshape", x, np.array([0, model.width, -1]))
    return graph.node("Add", graph.node("Transpose", x, perm=[0, 2, 1]), params["positions"])


def _block(graph: Graph, model: Any, params: dict[str, Any], x: str) -> str:
    y = _attention(graph, params, _norm(graph, model, params["norm1"], x))
    x = graph.node("Add", x, _scaled(graph, params, "scale1", y))
    y = _dense(graph, params["fc1"], _norm(graph, model, params["norm2"], x))
    y = _dense(graph, params["fc2"], _activated(graph, model.activation, y))
    return graph.node("Add", x, _scaled(graph, params, "scale2", y))


def _attention(graph: Graph, params: dict[str, Any], x: str) -> str:
    heads, own = params["proj"]["kernel"].shape[0] // 64, 64
    parts = graph.node("Split", _dense(graph, params["qkv"], x), axis=-1, outputs=3)
    split = [graph.node("Reshape", part, np.array([0, 0, heads, own])) for part in parts]
    query, value = (graph.node("Transpose", split[i], perm=[0, 2, 1, 3]) for i in (0, 2))
    key = graph.node("Transpose", split[1], perm=[0, 2, 3, 1])
    scores = graph.node("Mul", graph.node("MatMul", query, key), own**-0.5)
    mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)
    mixed = graph.node("Transpose", mixed, perm=[0, 2, 1, 3])
    return _dense(graph, params["proj"], graph.node("Reshape", mixed, np.array([0, 0, -1])))


def _activated(graph: Graph, activation: str, x: str) -> str:
    if activation == "quick_gelu":
        return graph.node("Mul", x, graph.node("Sigmoid", graph.node("Mul", x, 1.702)))
    below = graph.node("Add", graph.node("Erf", graph.node("Mul", x, 0.5**0.5)), 1.0)
    return graph.node("Mul", graph.node("Mul", x, 0.5), below)


def _norm(graph: Graph, model: Any, params: dict[str, Any], x: str) -> str:
    scale, bias = params["scale"], params["bias"]
    return graph.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=model.epsilon)


def _dense(graph: Graph, params: dict[str, Any], x: str) -> str:
    x = graph.node("MatMul", x, params["kernel"])
    return graph.node("Add", x, params["bias"]) if "bias" in params else x


def _scaled(graph: Graph, params: dict[str, Any], name: str, x: str) -> str:
    return graph.node("Mul", x, params[name]) if name in params else x
