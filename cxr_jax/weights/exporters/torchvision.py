"""ResNets and DenseNets for torchvision.models."""

import numpy as np

from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.exporters import Exported, cnn


def export(encoder: Encoder) -> Exported:
    """Writes the tensors of the module of the same name, whose first convolution reads RGB.

    A grey encoder's first kernel is spread over the three channels, a third each: features of an
    image repeated in three channels, normalised by the card's numbers, are the same.
    """
    tensors = cnn(encoder)
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
net.eval()  # features = net(images), [n 3 h w], grey repeated, normalised as below"""
    return Exported(tensors, {}, usage, library="torchvision")
