"""In PyTorch: torchvision's ResNets and DenseNet, small ones too, and Keras's ResNet-50."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F


def randomise(net):
    """Batch statistics and scales that are neither 0 nor 1."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


class DenseLayer(nn.Module):
    def __init__(self, channels, slope):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(128)
        self.conv1 = nn.Conv2d(channels, 128, 1, bias=False)
        self.conv2 = nn.Conv2d(128, 32, 3, padding=1, bias=False)
        self.slope = slope

    def forward(self, x):
        y = self.conv1(F.leaky_relu(self.norm1(x), self.slope))
        return torch.cat([x, self.conv2(F.leaky_relu(self.norm2(y), self.slope))], dim=1)


class DenseNet(nn.Module):
    def __init__(self, blocks, channels=3, slope=0.0):
        super().__init__()
        torch.manual_seed(0)
        relu = nn.LeakyReLU(slope)
        parts = OrderedDict(
            conv0=nn.Conv2d(channels, 64, 7, 2, 3, bias=False),
            norm0=nn.BatchNorm2d(64),
            relu0=relu,
            pool0=nn.MaxPool2d(3, 2, 1),
        )
        width = 64
        for i, size in enumerate(blocks, start=1):
            layers = OrderedDict()
            for j in range(size):
                layers[f"denselayer{j + 1}"] = DenseLayer(width, slope)
                width += 32
            parts[f"denseblock{i}"] = nn.Sequential(layers)
            if i < len(blocks):
                parts[f"transition{i}"] = nn.Sequential(
                    OrderedDict(
                        norm=nn.BatchNorm2d(width),
                        relu=relu,
                        conv=nn.Conv2d(width, width // 2, 1, bias=False),
                        pool=nn.AvgPool2d(2),
                    )
                )
                width //= 2
        parts["norm5"] = nn.BatchNorm2d(width)
        self.features, self.last = nn.Sequential(parts), relu
        self.classifier = nn.Linear(width, 18)
        randomise(self)

    def forward(self, pixels):
        return self.last(self.features(pixels)).mean((2, 3))


class KerasBlock(nn.Module):
    def __init__(self, channels, width, stride, shortcut):
        super().__init__()
        shapes = {1: (channels, width, 1), 2: (width, width, 3), 3: (width, 4 * width, 1)}
        shapes |= {0: (channels, 4 * width, 1)} if shortcut else {}
        self.conv = nn.ModuleDict(
            {
                str(number): nn.Conv2d(a, b, k, stride if number < 2 else 1, padding=k // 2)
                for number, (a, b, k) in shapes.items()
            }
        )
        self.bn = nn.ModuleDict(
            {str(number): nn.BatchNorm2d(b, eps=1.001e-5) for number, (_, b, _) in shapes.items()}
        )

    def step(self, number, x):
        return self.bn[number](self.conv[number](x))

    def forward(self, x):
        y = torch.relu(self.step("2", torch.relu(self.step("1", x))))
        return torch.relu(self.step("3", y) + (self.step("0", x) if "0" in self.conv else x))


class KerasResNet50(nn.Module):
    def __init__(self, sizes=(3, 4, 6, 3), widths=(64, 128, 256, 512)):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, widths[0], 7, 2, 3)
        self.bn = nn.BatchNorm2d(widths[0], eps=1.001e-5)
        self.blocks, channels = nn.ModuleDict(), widths[0]
        for stage, (size, width) in enumerate(zip(sizes, widths), start=2):
            for index in range(1, size + 1):
                stride = 2 if stage > 2 and index == 1 else 1
                block = KerasBlock(channels, width, stride, index == 1)
                self.blocks[f"conv{stage}_block{index}"] = block
                channels = 4 * width
        randomise(self)

    def forward(self, pixels):
        x = F.max_pool2d(torch.relu(self.bn(self.conv(pixels))), 3, 2, 1)
        for block in self.blocks.values():
            x = block(x)
        return x.mean((2, 3))

    def arrays(self):
        """Under Keras's names, kernels in its order (height, width, in, out)."""
        pairs = {"conv1": (self.conv, self.bn)} | {
            f"{name}_{number}": (block.conv[number], block.bn[number])
            for name, block in self.blocks.items()
            for number in block.conv
        }
        arrays = {}
        for name, (conv, bn) in pairs.items():
            arrays |= {
                f"{name}_conv/kernel": conv.weight.permute(2, 3, 1, 0),
                f"{name}_conv/bias": conv.bias,
                f"{name}_bn/gamma": bn.weight,
                f"{name}_bn/beta": bn.bias,
                f"{name}_bn/moving_mean": bn.running_mean,
                f"{name}_bn/moving_variance": bn.running_var,
            }
        return {key: tensor.detach().numpy() for key, tensor in arrays.items()}


class SmallResNet(nn.Module):
    """torchvision's layout with one basic block in each of two stages."""

    def __init__(self, channels=3):
        super().__init__()
        torch.manual_seed(0)

        def conv(a, b, size, stride=1):
            return nn.Conv2d(a, b, size, stride, size // 2, bias=False)

        self.conv1, self.bn1 = conv(channels, 8, 7, 2), nn.BatchNorm2d(8)
        for stage, (a, b, stride) in enumerate(((8, 8, 1), (8, 16, 2)), start=1):
            block = {"conv1": conv(a, b, 3, stride), "bn1": nn.BatchNorm2d(b)}
            block |= {"conv2": conv(b, b, 3), "bn2": nn.BatchNorm2d(b)}
            if a != b:
                block["downsample"] = nn.Sequential(conv(a, b, 1, stride), nn.BatchNorm2d(b))
            setattr(self, f"layer{stage}", nn.ModuleList([nn.ModuleDict(block)]))
        randomise(self)

    def forward(self, pixels):
        x = torch.relu(self.bn1(self.conv1(pixels)))
        x = F.max_pool2d(x, 3, 2, 1)
        for (block,) in (self.layer1, self.layer2):
            y = torch.relu(block["bn1"](block["conv1"](x)))
            y = block["bn2"](block["conv2"](y))
            x = torch.relu(y + (block["downsample"](x) if "downsample" in block else x))
        return x.mean((2, 3))


def _conv(fan_in, out, size, stride=1):
    return nn.Conv2d(fan_in, out, size, stride, padding=size // 2, bias=False)


class ResNetBlock(nn.Module):
    def __init__(self, fan_in, width, stride, bottleneck, v1):
        super().__init__()
        out = width * (4 if bottleneck else 1)
        self.relu = nn.ReLU()
        if bottleneck:
            self.conv1 = _conv(fan_in, width, 1, stride if v1 else 1)
            self.conv2 = _conv(width, width, 3, 1 if v1 else stride)
            self.conv3 = _conv(width, out, 1)
            self.bn3 = nn.BatchNorm2d(out)
        else:
            self.conv1 = _conv(fan_in, width, 3, stride)
            self.conv2 = _conv(width, width, 3)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or fan_in != out:
            self.downsample = nn.Sequential(_conv(fan_in, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "conv3"):
            y = self.bn3(self.conv3(self.relu(y)))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, sizes, bottleneck=False, v1=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        fan_in = 64
        for stage, size in enumerate(sizes):
            width, layers = 64 * 2**stage, []
            for index in range(size):
                stride = 2 if stage and not index else 1
                layers.append(ResNetBlock(fan_in, width, stride, bottleneck, v1))
                fan_in = width * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(fan_in, 1000)
        randomise(self)

    def features(self, grey):
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        x = (grey.repeat(1, 3, 1, 1) - mean) / std
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))


class HuggingFaceResNet(nn.Module):
    """transformers' ResNetModel of basic blocks, by its config, under its names."""

    def __init__(self, config):
        super().__init__()

        def layer(a, b, size, stride=1):
            conv = nn.Conv2d(a, b, size, stride, size // 2, bias=False)
            return nn.ModuleDict({"convolution": conv, "normalization": nn.BatchNorm2d(b)})

        width = config["embedding_size"]
        embedder = layer(config["num_channels"], width, 7, 2)
        self.embedder, stages = nn.ModuleDict({"embedder": embedder}), []
        for stage, (depth, out) in enumerate(zip(config["depths"], config["hidden_sizes"])):
            blocks = []
            for index in range(depth):
                stride = 2 if stage and not index else 1
                layers = [layer(width, out, 3, stride), layer(out, out, 3)]
                block = {"layer": nn.ModuleList(layers)}
                if stride != 1 or width != out:
                    block["shortcut"] = layer(width, out, 1, stride)
                blocks.append(nn.ModuleDict(block))
                width = out
            stages.append(nn.ModuleDict({"layers": nn.ModuleList(blocks)}))
        self.encoder = nn.ModuleDict({"stages": nn.ModuleList(stages)})

    def forward(self, pixels):
        def run(layer, x):
            return layer["normalization"](layer["convolution"](x))

        x = F.max_pool2d(torch.relu(run(self.embedder["embedder"], pixels)), 3, 2, 1)
        for stage in self.encoder["stages"]:
            for block in stage["layers"]:
                y = run(block["layer"][1], torch.relu(run(block["layer"][0], x)))
                x = torch.relu(y + (run(block["shortcut"], x) if "shortcut" in block else x))
        return x.mean((2, 3))


def moco(state, module="module."):
    """A checkpoint of MoCo's code around an encoder, its classifier replaced by a projector."""
    encoder = {key: t for key, t in state.items() if not key.startswith(("classifier", "fc"))}
    projector = {"fc.0.weight": torch.ones(2, 2), "classifier_group.2.weight": torch.ones(2)}
    tensors = {
        f"{module}{name}.{key}": tensor
        for name in ("encoder_q", "encoder_k")
        for key, tensor in (encoder | projector).items()
    }
    queue = {f"{module}queue": torch.ones(2, 4), f"{module}queue_ptr": torch.zeros(1).long()}
    return {"epoch": 3, "arch": "x", "state_dict": tensors | queue, "optimizer": {"state": {}}}


def lightly(state):
    """SimCLR's checkpoint by lightly's examples: the ResNet's children in an nn.Sequential."""
    numbers = {
        "conv1": "0",
        "bn1": "1",
        **{f"layer{stage}": str(stage + 3) for stage in (1, 2, 3, 4)},
    }
    tensors = {
        f"backbone.{numbers[key.partition('.')[0]]}.{key.partition('.')[2]}": tensor
        for key, tensor in state.items()
        if not key.startswith("fc.")
    }
    return {"epoch": 3, "state_dict": tensors | {"projection_head.layers.0.weight": torch.ones(2)}}


def gloria(state):
    image = "gloria.img_encoder."
    tensors = {f"{image}model.{key}": tensor for key, tensor in state.items()}
    others = ("gloria.text_encoder.x", f"{image}global_embedder.weight")
    return {"state_dict": tensors | {key: torch.ones(2) for key in others}}


def convirt(state):
    return {"image_encoder": state, "text_encoder": {"x": torch.ones(2)}}
