"""ResNets and DenseNets as nodes of ONNX: (graph, module, variables, pixels) -> features."""

from typing import Any

import numpy as np

from cxr_jax.weights.exporters._onnx_graph import Graph


class _Layers:
    """Nodes of the layers that lie below one name of the variables."""

    def __init__(self, graph: Graph, variables: dict[str, Any], negative_slope: float = 0.0):
        self.graph, self.slope = graph, negative_slope
        self.params, self.statistics = variables["params"], variables["batch_stats"]

    def below(self, name: str) -> "_Layers":
        variables = {"params": self.params[name], "batch_stats": self.statistics[name]}
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

    def mean(self, x: str) -> str:
        return self.graph.node("Flatten", self.graph.node("GlobalAveragePool", x))


def resnet(graph: Graph, model: Any, variables: dict[str, Any], pixels: str) -> str:
    """models.resnet.ResNet."""
    layers = _Layers(graph, variables)
    x = layers.conv(pixels, "conv1", model.stem_stride)
    x = layers.relu(layers.norm(x, "bn1"))
    if model.max_pool:
        x = layers.max_pool(x)
    for stage, size in enumerate(model.stage_sizes, start=1):
        for index in range(size):
            stride = 2 if stage > 1 and index == 0 else 1
            x = _block(layers.below(f"layer{stage}_{index}"), model, stride, x)
    return layers.mean(x)


def _block(layers: _Layers, model: Any, stride: int, x: str) -> str:
    strides = (stride, 1)
    if model.bottleneck:
        strides = (stride, 1, 1) if model.stride_in_1x1 else (1, stride, 1)
    y = x
    for number, own in enumerate(strides, start=1):
        y = layers.norm(layers.conv(y, f"conv{number}", own), f"bn{number}")
        y = layers.relu(y) if number < len(strides) else y
    if "downsample_conv" in layers.params:
        x = layers.norm(layers.conv(x, "downsample_conv", stride), "downsample_bn")
    return layers.relu(layers.graph.node("Add", x, y))


def densenet(graph: Graph, model: Any, variables: dict[str, Any], pixels: str) -> str:
    """models.densenet.DenseNet."""
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
