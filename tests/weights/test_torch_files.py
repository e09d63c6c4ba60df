"""Files that torch wrote and the features that torch computes from them (skipped without torch)."""

from collections import OrderedDict

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from cxr_jax import weights
from cxr_jax.weights.arrays import read_arrays

torch = pytest.importorskip("torch")
nn = torch.nn


def _conv(fan_in, out, size, stride=1):
    return nn.Conv2d(fan_in, out, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
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
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        fan_in = 64
        for stage, size in enumerate(sizes):
            width, layers = 64 * 2**stage, []
            for index in range(size):
                stride = 2 if stage and not index else 1
                layers.append(Block(fan_in, width, stride, bottleneck, v1))
                fan_in = width * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(fan_in, 1000)

    def features(self, grey):
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        x = (grey.repeat(1, 3, 1, 1) - mean) / std
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))


def _network(sizes, **kwargs):
    torch.manual_seed(0)
    net = ResNet(sizes, **kwargs).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


def _save(net, path):
    arrays = {key: value.numpy() for key, value in net.state_dict().items()}
    if path.suffix == ".pth":
        torch.save(net.state_dict(), path)
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)


CASES = {
    "18.pth": ((2, 2, 2, 2), {}, "torchvision"),
    "34.safetensors": ((3, 4, 6, 3), {}, "torchvision"),
    "50.pth": ((3, 4, 6, 3), {"bottleneck": True}, "torchvision"),
    "50v1.npz": ((3, 4, 6, 3), {"bottleneck": True, "v1": True}, "torchvision_v1"),
}


@pytest.mark.parametrize("name", CASES)
def test_features_equal_torchs(tmp_path, name):
    sizes, kwargs, source = CASES[name]
    net = _network(sizes, **kwargs)
    _save(net, tmp_path / name)
    images = np.random.default_rng(0).uniform(size=(2, 97, 64, 1)).astype(np.float32)
    with torch.no_grad():
        reference = net.features(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    ours = weights.features(weights.load(f"{source}:{tmp_path / name}"))(jax.numpy.asarray(images))
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4 * np.abs(reference).max())


def test_the_three_formats_hold_the_same_encoder(tmp_path):
    net = _network((2, 2, 2, 2))
    encoders = []
    for name in ("a.pth", "b.npz", "c.safetensors"):
        _save(net, tmp_path / name)
        encoders.append(weights.load(str(tmp_path / name)))
    for other in encoders[1:]:
        same = jax.tree.map(np.array_equal, encoders[0].variables, other.variables)
        assert jax.tree.all(same)


def test_torchs_dtypes_views_and_parameters(tmp_path):
    base = torch.randn(6, 4)
    tensors = OrderedDict(
        transposed=base.T,
        column=base[:, 1],
        half=base.half(),
        bfloat16=base.bfloat16(),
        double=base.double(),
        int64=torch.arange(5) - 2,
        bool=torch.tensor([True, False]),
        scalar=torch.tensor(3),
        empty=torch.zeros(0, 3),
        channels_last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        parameter=nn.Parameter(base * 2),
    )
    torch.save(tensors, tmp_path / "a.pth")
    read = read_arrays(tmp_path / "a.pth")
    assert set(read) == set(tensors)
    for key, tensor in tensors.items():
        assert read[key].dtype.name == str(tensor.dtype).removeprefix("torch.")
        array = read[key].astype(np.float64)
        np.testing.assert_array_equal(array, tensor.detach().double().numpy())


def test_files_of_other_kinds_are_refused_by_name(tmp_path):
    path = tmp_path / "a.pth"
    state = nn.Conv2d(1, 2, 3).state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"format before 1\.6"):
        read_arrays(path)
    torch.save(nn.Conv2d(1, 2, 3), path)
    with pytest.raises(ValueError, match=r"asks for torch\.nn\.modules\.conv\.Conv2d"):
        read_arrays(path)
    torch.save({"epoch": 1, "state_dict": state, "ema": dict(state)}, path)
    with pytest.raises(ValueError, match=r"nested under 'state_dict' and 'ema'.*\['state_dict'\]"):
        read_arrays(path)
    torch.save(torch.ones(3), path)
    with pytest.raises(ValueError, match=r"not a state_dict"):
        read_arrays(path)
    torch.save({"weight": torch.ones(3), "epoch": 3}, path)
    with pytest.raises(ValueError, match="'epoch' is no tensor"):
        read_arrays(path)
