"""ONNX: a program with its weights, which onnxruntime and many others run without us.

Written by hand, a node for each of our layers (opset 17): what translates JAX programs wants a
fixed batch, and as many packages as we have.
"""

from typing import Any

import numpy as np

from cxr_jax import models
from cxr_jax.models._positions import rotary
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.exporters import Exported, at_its_size, describe

_END = np.iinfo(np.int64).max


def export(encoder: Encoder) -> Exported:
    """Writes model.onnx: "images", float32 [batch 1 size size] in [0, 1], to "features" [batch d].

    The program normalises the images itself and computes in float32.

    Raises ValueError without the package onnx.
    """
    try:
        import onnx
    except ImportError as error:
        raise ValueError(
            "--format=onnx needs the package onnx: pip install -e '.[onnx]'"
        ) from error
    if encoder.model["name"] not in _WRITERS:
        raise ValueError(
            f"no ONNX can be written of a {encoder.model['name']}, only of {', '.join(_WRITERS)}"
        )
    encoder = at_its_size(encoder)
    model, size, channels = models.build(encoder.model), encoder.image_size, encoder.width
    graph = _Graph()
    mean, std = (np.reshape(values, (1, -1, 1, 1)) for values in (model.mean, model.std))
    pixels = graph.node("Div", graph.node("Sub", "images", mean), std)
    features = _WRITERS[encoder.model["name"]](graph, model, encoder.variables, pixels)
    graph.node("Identity", features, output="features")
    reads = f"{describe(encoder)}. They are normalised inside."
    content = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node(*node, **attributes) for node, attributes in graph.nodes],
            encoder.name,
            [_float("images", ["batch", 1, size, size])],
            [_float("features", ["batch", channels])],
            [onnx.numpy_helper.from_array(a, name) for name, a in graph.constants.items()],
        ),
        producer_name="cxr_jax",
        doc_string=reads,
        # The oldest that has layer norms, so that older runtimes read it.
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(content, full_check=True)
    usage = f"""import onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
# images: float32 [n 1 {size} {size}] in [0, 1]; the program normalises them itself
(features,) = session.run(["features"], {{"images": images}})  # [n {channels}]"""
    return Exported({}, {"model.onnx": content.SerializeToString()}, usage, normalises=True)


def _float(name: str, shape: list[int | str]) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


class _Graph:
    """A graph under construction: nodes (op, inputs, outputs) with attributes, and constants."""

    def __init__(self) -> None:
        self.nodes: list[tuple[tuple[str, list[str], list[str]], dict[str, Any]]] = []
        self.constants: dict[str, np.ndarray] = {}

    def node(
        self, op: str, *inputs: Any, output: str = "", outputs: int = 1, **attributes: Any
    ) -> Any:
        """Adds a node; returns the name of its output, or those of several.

        Inputs are names; arrays and numbers become constants, integers int64 and others float32.
        """
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        made = [output or f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(((op, names, made), attributes))
        return made[0] if outputs == 1 else made

    def _constant(self, value: Any) -> str:
        array = np.asarray(value)
        dtype = np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.array(array, dtype, order="C")
        return name


class _Layers:
    """Adds the layers that lie below one name of a CNN's variables."""

    def __init__(self, graph: _Graph, variables: dict[str, Any], negative_slope: float = 0.0):
        self.graph, self.slope = graph, negative_slope
        self.params, self.statistics = variables["params"], variables["batch_stats"]

    def below(self, name: str) -> "_Layers":
        variables = {"params": self.params[name], "batch_stats": self.statistics.get(name, {})}
        return _Layers(self.graph, variables, self.slope)

    def conv(self, x: str, name: str, stride: int = 1) -> str:
        kernel = np.transpose(self.params[name]["kernel"], (3, 2, 0, 1))
        pads = [kernel.shape[2] // 2] * 4
        return self.graph.node("Conv", x, kernel, strides=[stride] * 2, pads=pads)

    def norm(self, x: str, name: str) -> str:
        params, statistics = self.params[name], self.statistics[name]
        values = (params["scale"], params["bias"], statistics["mean"], statistics["var"])
        return self.graph.node("BatchNormalization", x, *values, epsilon=1e-5)

    def relu(self, x: str) -> str:
        if self.slope:
            return self.graph.node("LeakyRelu", x, alpha=self.slope)
        return self.graph.node("Relu", x)

    def max_pool(self, x: str) -> str:
        return self.graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)

    def squeeze(self, x: str) -> str:
        x = self.graph.node("GlobalAveragePool", x)
        for name, after in (("fc1", "Relu"), ("fc2", "Sigmoid")):
            kernel = np.transpose(self.params[name]["kernel"], (3, 2, 0, 1))
            x = self.graph.node(
                after, self.graph.node("Conv", x, kernel, self.params[name]["bias"])
            )
        return x

    def mean(self, x: str) -> str:
        return self.graph.node("Flatten", self.graph.node("GlobalAveragePool", x))


def _resnet(graph: _Graph, model: Any, variables: dict[str, Any], pixels: str) -> str:
    layers = _Layers(graph, variables)
    x, last = pixels, "conv1"
    if model.d:
        x = layers.relu(layers.norm(layers.conv(x, "conv1_0", model.stem_stride), "conv1_1"))
        x, last = layers.relu(layers.norm(layers.conv(x, "conv1_3"), "conv1_4")), "conv1_6"
    x = layers.conv(x, last, 1 if model.d else model.stem_stride)
    x = layers.relu(layers.norm(x, "bn1"))
    if model.max_pool:
        x = layers.max_pool(x)
    for stage, size in enumerate(model.stage_sizes, start=1):
        for index in range(size):
            stride = 2 if stage > 1 and index == 0 else 1
            x = _resnet_block(layers.below(f"layer{stage}_{index}"), model, stride, x)
    return layers.mean(x)


def _resnet_block(layers: _Layers, model: Any, stride: int, x: str) -> str:
    graph, strides = layers.graph, (stride, 1)
    if model.bottleneck:
        strides = (stride, 1, 1) if model.stride_in_1x1 else (1, stride, 1)
    y = x
    for number, own in enumerate(strides, start=1):
        y = layers.norm(layers.conv(y, f"conv{number}", own), f"bn{number}")
        y = layers.relu(y) if number < len(strides) else y
    if model.squeeze:
        y = graph.node("Mul", y, layers.below("se").squeeze(y))
    if "downsample_conv" in layers.params:
        x = layers.norm(layers.conv(x, "downsample_conv", stride), "downsample_bn")
    if "downsample_1" in layers.params:
        if stride > 1:  # the last pixels of an odd side are averaged over those there are
            square = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
            x = graph.node("AveragePool", x, **square, ceil_mode=1, count_include_pad=0)
        x = layers.norm(layers.conv(x, "downsample_1"), "downsample_2")
    return layers.relu(graph.node("Add", x, y))


def _densenet(graph: _Graph, model: Any, variables: dict[str, Any], pixels: str) -> str:
    layers = _Layers(graph, variables, model.negative_slope)
    x = layers.conv(pixels, "conv0", 2)
    x = layers.max_pool(layers.relu(layers.norm(x, "norm0")))
    for block, size in enumerate(model.blocks, start=1):
        for number in range(1, size + 1):
            own = layers.below(f"denseblock{block}_denselayer{number}")
            y = own.conv(own.relu(own.norm(x, "norm1")), "conv1")
            y = own.conv(own.relu(own.norm(y, "norm2")), "conv2")
            x = graph.node("Concat", x, y, axis=1)
        if block < len(model.blocks):
            own = layers.below(f"transition{block}")
            x = own.conv(own.relu(own.norm(x, "norm")), "conv")
            x = graph.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return layers.mean(layers.relu(layers.norm(x, "norm5")))


def _vit(graph: _Graph, model: Any, variables: dict[str, Any], pixels: str) -> str:
    """Adds models.vit.ViT, for images of its own size; returns its output."""
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
    turns = _turns(model)
    for number in range(model.num_blocks):
        x = _vit_block(graph, model, params[f"block_{number}"], x, turns)
    if not model.norm_after_pooling:
        x = _norm(graph, model, params["norm"], x)
    if model.pooling == "attention":
        x = _attention_pool(graph, model, params["head"], x)
        return _dense(graph, params["project"], x) if model.projection else x
    first, end = model.pooled
    some = graph.node("Slice", x, np.array([first]), np.array([end or _END]), np.array([1]))
    x = graph.node("ReduceMean", some, axes=[1], keepdims=0)
    if model.norm_after_pooling:
        x = _norm(graph, model, params["norm"], x)
    return _dense(graph, params["project"], x) if model.projection else x


def _patches(graph: _Graph, model: Any, params: dict[str, Any], pixels: str) -> str:
    embed = params["patch_embed"]
    kernel = np.transpose(embed["kernel"], (3, 2, 0, 1))
    bias = [embed["bias"]] if "bias" in embed else []
    x = graph.node("Conv", pixels, kernel, *bias, strides=[model.patch] * 2)
    x = graph.node("Reshape", x, np.array([0, model.width, -1]))
    x = graph.node("Transpose", x, perm=[0, 2, 1])
    return graph.node("Add", x, params["positions"]) if "positions" in params else x


def _turns(model: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns cosine and sine of all tokens' rotary positions, [n 1 channels]; None for none."""
    if not model.rope:
        return None
    grid, channels = model.image_size // model.patch, model.width // model.heads
    angles = rotary(model.rope, grid, grid, channels, model.rope_grid)
    angles = np.pad(np.tile(angles, 2), ((model.num_prefix, 0), (0, 0)))[:, None]
    return np.cos(angles), np.sin(angles)


def _turned(graph: _Graph, turns: tuple[np.ndarray, np.ndarray] | None, x: str) -> str:
    """Turns channels of queries or keys, [b n heads channels]."""
    if turns is None:
        return x
    first, second = graph.node("Split", x, axis=-1, outputs=2)
    other = graph.node("Concat", graph.node("Neg", second), first, axis=-1)
    return graph.node("Add", graph.node("Mul", x, turns[0]), graph.node("Mul", other, turns[1]))


def _vit_block(graph: _Graph, model: Any, params: dict[str, Any], x: str, turns: Any) -> str:
    y = _attention(graph, model, params, _norm(graph, model, params["norm1"], x), turns)
    x = graph.node("Add", x, _scaled(graph, params, "scale1", y))
    y = _dense(graph, params["fc1"], _norm(graph, model, params["norm2"], x))
    y = _activated(graph, model.activation, y)
    y = _norm(graph, model, params["norm_mlp"], y) if model.mlp_norm else y
    y = _dense(graph, params["fc2"], y)
    return graph.node("Add", x, _scaled(graph, params, "scale2", y))


def _attention(graph: _Graph, model: Any, params: dict[str, Any], x: str, turns: Any) -> str:
    heads, own = model.heads, model.width // model.heads
    parts = graph.node("Split", _dense(graph, params["qkv"], x), axis=-1, outputs=3)
    split = [graph.node("Reshape", part, np.array([0, 0, heads, own])) for part in parts]
    split[:2] = [_turned(graph, turns, part) for part in split[:2]]
    query, value = (graph.node("Transpose", split[i], perm=[0, 2, 1, 3]) for i in (0, 2))
    key = graph.node("Transpose", split[1], perm=[0, 2, 3, 1])
    scores = graph.node("Mul", graph.node("MatMul", query, key), own**-0.5)
    mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)
    mixed = graph.node("Transpose", mixed, perm=[0, 2, 1, 3])
    return _dense(graph, params["proj"], graph.node("Reshape", mixed, np.array([0, 0, -1])))


def _attention_pool(graph: _Graph, model: Any, params: dict[str, Any], x: str) -> str:
    heads, own = model.heads, model.width // model.heads
    query = np.asarray(params["probe"]) @ params["q"]["kernel"] + params["q"]["bias"]
    parts = graph.node("Split", _dense(graph, params["kv"], x), axis=-1, outputs=2)
    split = [graph.node("Reshape", part, np.array([0, 0, heads, own])) for part in parts]
    key = graph.node("Transpose", split[0], perm=[0, 2, 3, 1])
    value = graph.node("Transpose", split[1], perm=[0, 2, 1, 3])
    scores = graph.node("MatMul", query.reshape(1, heads, 1, own) * own**-0.5, key)
    mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)
    x = _dense(graph, params["proj"], graph.node("Reshape", mixed, np.array([0, model.width])))
    y = _dense(graph, params["fc1"], _norm(graph, model, params["norm"], x))
    return graph.node(
        "Add", x, _dense(graph, params["fc2"], _activated(graph, model.activation, y))
    )


def _activated(graph: _Graph, activation: str, x: str) -> str:
    if activation == "swiglu":
        gate, value = graph.node("Split", x, axis=-1, outputs=2)
        return graph.node("Mul", graph.node("Mul", gate, graph.node("Sigmoid", gate)), value)
    if activation == "quick_gelu":
        return graph.node("Mul", x, graph.node("Sigmoid", graph.node("Mul", x, 1.702)))
    if activation == "gelu_tanh":
        cube = graph.node("Mul", graph.node("Mul", graph.node("Mul", x, x), x), 0.044715)
        inner = graph.node("Mul", graph.node("Add", x, cube), (2 / np.pi) ** 0.5)
        below = graph.node("Add", graph.node("Tanh", inner), 1.0)
    else:
        below = graph.node("Add", graph.node("Erf", graph.node("Mul", x, 0.5**0.5)), 1.0)
    return graph.node("Mul", graph.node("Mul", x, 0.5), below)


def _norm(graph: _Graph, model: Any, params: dict[str, Any], x: str) -> str:
    scale, bias = params["scale"], params["bias"]
    return graph.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=model.epsilon)


def _dense(graph: _Graph, params: dict[str, Any], x: str) -> str:
    x = graph.node("MatMul", x, params["kernel"])
    return graph.node("Add", x, params["bias"]) if "bias" in params else x


def _scaled(graph: _Graph, params: dict[str, Any], name: str, x: str) -> str:
    return graph.node("Mul", x, params[name]) if name in params else x


_WRITERS = {"resnet": _resnet, "densenet": _densenet, "vit": _vit}
