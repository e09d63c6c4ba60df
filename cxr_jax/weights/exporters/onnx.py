"""ONNX: a program with its weights, which onnxruntime and many others run without us.

Written by hand, a node for each of our layers (opset 17): what translates JAX programs wants a
fixed batch, and as many packages as we have.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cxr_jax import models
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.exporters import Exported
from cxr_jax.weights.exporters._onnx import Graph, densenet, resnet, vit
from cxr_jax.weights.exporters._tensors import at_its_size, width

_ARCHITECTURES: dict[str, Callable[[Graph, Any, dict[str, Any], str], str]] = {
    "resnet": resnet,
    "densenet": densenet,
    "vit": vit,
}


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
    if encoder.model["name"] not in _ARCHITECTURES:
        raise ValueError(
            f"no ONNX can be written of a {encoder.model['name']}, only of "
            f"{', '.join(_ARCHITECTURES)}"
        )
    encoder = at_its_size(encoder)
    model, size, channels = models.build(encoder.model), encoder.image_size, width(encoder)
    graph = Graph()
    mean, std = (np.reshape(values, (1, -1, 1, 1)) for values in (model.mean, model.std))
    pixels = graph.node("Div", graph.node("Sub", "images", mean), std)
    features = _ARCHITECTURES[encoder.model["name"]](graph, model, encoder.variables, pixels)
    graph.node("Identity", features, output="features")
    reads = (
        f"Images: grey, white = dense, shorter side brought to {size} px, the centre cropped, "
        "pixels in [0, 1]. They are normalised inside."
    )
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
