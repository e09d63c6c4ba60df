"""The rival's networks: PyTorch modules of the shape, and with the weights, of our Flax ones.

Submodules carry Flax's names, so that `copy_variables` needs no table.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cxr_jax.models import _layers, resnet

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"} | {
    "mean": "running_mean",
    "var": "running_var",
}


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """resnet.BasicBlock, or resnet.Bottleneck in the v1.5 form."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        if bottleneck:
            shapes, outputs = ((width, 1, 1), (width, 3, stride), (4 * width, 1, 1)), 4 * width
        else:
            shapes, outputs = ((width, 3, stride), (width, 3, 1)), width
        self.depth, before = len(shapes), inputs
        for index, (channels, kernel, step) in enumerate(shapes, start=1):
            setattr(self, f"conv{index}", _conv(before, channels, kernel, step))
            setattr(self, f"bn{index}", nn.BatchNorm2d(channels))
            before = channels
        self.projected = stride != 1 or inputs != outputs
        if self.projected:
            self.downsample_conv = _conv(inputs, outputs, 1, stride)
            self.downsample_bn = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for index in range(1, self.depth + 1):
            y = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(y))
            if index < self.depth:
                y = functional.relu(y, inplace=True)
        if self.projected:
            x = self.downsample_bn(self.downsample_conv(x))
        return functional.relu(x + y, inplace=True)


class ResNet(nn.Module):
    """Images [b 1 h w] in [0, 1] -> features [b d]: `net` in PyTorch, of one input channel."""

    def __init__(self, net: resnet.ResNet):
        super().__init__()
        if len(net.mean) != 1 or net.stride_in_1x1:
            raise ValueError("config.model: the PyTorch rival reads one channel, in the v1.5 form")
        self.mean, self.std = net.mean[0], net.std[0]
        self.max_pool = net.max_pool
        self.conv1 = _conv(1, net.widths[0], net.stem_kernel, net.stem_stride)
        self.bn1 = nn.BatchNorm2d(net.widths[0])
        before, self.blocks = net.widths[0], []
        for stage, (size, width) in enumerate(zip(net.stage_sizes, net.widths, strict=True)):
            for index in range(size):
                stride = 2 if stage > 0 and index == 0 else 1
                name = f"layer{stage + 1}_{index}"
                self.add_module(name, Block(before, width, stride, net.bottleneck))
                self.blocks.append(name)
                before = 4 * width if net.bottleneck else width

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1((images - self.mean) / self.std)), inplace=True)
        if self.max_pool:
            x = functional.max_pool2d(x, 3, 2, 1)
        for name in self.blocks:
            x = getattr(self, name)(x)
        return x.mean(dim=(2, 3))


class MLP(nn.Module):
    """heads.MLP: [b c] -> [b out]."""

    def __init__(self, inputs: int, head: _layers.MLP):
        super().__init__()
        self.layers = []
        for index, width in enumerate(head.hidden):
            self._add(f"{index}", inputs, width, not head.hidden_bn, head.hidden_bn, True)
            inputs = width
        bias = head.out_bias and not head.out_bn
        self._add("_out", inputs, head.out, bias, head.out_bn, head.out_bias)
        self.last = self.layers[-1]

    def _add(self, name: str, inputs: int, width: int, bias: bool, norm: bool, shift: bool) -> None:
        self.add_module(f"dense{name}", nn.Linear(inputs, width, bias=bias))
        if norm:
            made = nn.BatchNorm1d(width)
            made.bias.requires_grad_(shift)  # PyTorch has no batch norm with a scale alone
            self.add_module(f"bn{name}", made)
        self.layers.append((f"dense{name}", f"bn{name}" if norm else ""))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for dense, norm in self.layers:
            x = getattr(self, dense)(x)
            if norm:
                x = getattr(self, norm)(x)
            if (dense, norm) != self.last:
                x = functional.relu(x)
        return x


def make_networks(chain: Mapping[str, Any], params: Any, batch_stats: Any) -> nn.ModuleDict:
    """PyTorch's form of `chain` (objectives.networks) with these variables, by the same names."""
    made, width = nn.ModuleDict(), 0
    for name, module in chain.items():
        if isinstance(module, resnet.ResNet):
            made[name] = ResNet(module)
            width = module.widths[-1] * (4 if module.bottleneck else 1)
        elif isinstance(module, _layers.MLP):
            made[name] = MLP(width, module)
            width = module.out
        else:
            raise ValueError(
                f"config.model: the PyTorch rival has no {type(module).__name__}, only ResNets"
            )
        copy_variables(made[name], params[name], batch_stats[name])
    return made


def freeze(encoder: ResNet, net: resnet.ResNet, stages: int) -> None:
    """Keeps the stem, so many stages and all batch statistics as they are; -1: nothing."""
    if stages < 0:
        return
    for name, part in encoder.named_children():
        if net.depth(name) <= stages:
            part.requires_grad_(False)
    for part in encoder.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()


def copy_variables(module: nn.Module, *trees: Any) -> None:
    """Fills `module` from Flax's params and batch statistics.

    Raises ValueError where a variable has no place in it or one of another shape, or a place of a
    trained parameter stays unfilled: the two would not be the same network.
    """
    places = dict(module.named_parameters()) | dict(module.named_buffers())
    filled = set()
    for tree in trees:
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            *modules, last = (entry.key for entry in path)
            name, array = ".".join([*modules, _LEAVES[last]]), np.asarray(leaf)
            if last == "kernel":  # [h w in out] or [in out]
                array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            if name not in places or tuple(places[name].shape) != array.shape:
                raise ValueError(f"the PyTorch rival's network has no {name} {array.shape}")
            with torch.no_grad():
                places[name].copy_(torch.from_numpy(array.copy()))
            filled.add(name)
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    if trained - filled:
        raise ValueError(f"the PyTorch rival's network has more: {', '.join(trained - filled)}")
