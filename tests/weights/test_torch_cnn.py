"""ResNets and DenseNets of every source against PyTorch (skipped without torch)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from cxr_jax import weights
from cxr_jax.models import densenet, resnet

torch = pytest.importorskip("torch")

from tests.weights import layouts, torch_cnn  # noqa: E402 (needs torch)

IMAGES = np.random.default_rng(0).uniform(size=(2, 65, 64, 1)).astype(np.float32)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(densenet.VARIANTS, "tiny", (1, 2))


def _assert_equal_features(spec, net, mean, std):
    grey = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2)).repeat(1, len(mean), 1, 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
    with torch.no_grad():
        reference = net((grey - mean) / std).numpy()
    encoder = weights.load(spec)
    ours = np.asarray(weights.features(encoder)(jnp.asarray(IMAGES)))
    assert ours.shape == reference.shape
    assert np.abs(ours - reference).max() < 1e-4 * np.abs(reference).max()
    return encoder


def test_torchvisions_densenet_under_new_and_old_names(tmp_path):
    net = torch_cnn.DenseNet((1, 2))
    torch.save(net.state_dict(), tmp_path / "new.pth")
    old = {}
    for key, tensor in net.state_dict().items():
        for name in ("norm", "conv"):
            if ".denselayer" in key:
                key = key.replace(f".{name}1.", f".{name}.1.").replace(f".{name}2.", f".{name}.2.")
        old[key] = tensor
    torch.save(old, tmp_path / "old.pth")
    for name in ("new", "old"):
        encoder = _assert_equal_features(f"{tmp_path}/{name}.pth", net, *IMAGENET)
        assert (encoder.model["variant"], encoder.image_size) == ("tiny", 224)


def test_s2mts2_is_a_leaky_densenet_below_a_query_encoder(tmp_path):
    net = torch_cnn.DenseNet((1, 2), slope=0.1)
    torch.save(torch_cnn.moco(net.state_dict(), module=""), tmp_path / "s2mts2.pth.tar")
    _assert_equal_features(f"s2mts2:{tmp_path}/s2mts2.pth.tar", net, *IMAGENET)


def test_torchxrayvisions_densenet_has_one_channel_of_1024(tmp_path):
    net = torch_cnn.DenseNet((1, 2), channels=1)
    torch.save(net.state_dict() | {"op_threshs": torch.full((18,), 0.5)}, tmp_path / "xrv.pt")
    # Its pixels: 1024 times what runs from -1 to 1.
    encoder = _assert_equal_features(
        f"torchxrayvision:{tmp_path}/xrv.pt", net, (0.5,), (0.5 / 1024,)
    )
    assert encoder.image_size == 224
    torch.save({"classifier.weight": torch.ones(2, 2)}, tmp_path / "xrv.pt")
    with pytest.raises(ValueError, match=r"xrv\.pt: neither a ResNet nor a DenseNet"):
        weights.load(f"torchxrayvision:{tmp_path}/xrv.pt")


def test_half_a_densenet_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.delitem(densenet.VARIANTS, "tiny")
    state = torch_cnn.DenseNet((6, 12)).state_dict()
    torch.save(state, tmp_path / "half.pth")
    with pytest.raises(ValueError, match=r"does not fit DenseNet-121.*missing: .*norm5"):
        weights.load(f"{tmp_path}/half.pth")


def test_keras_resnet50(tmp_path, monkeypatch):
    small = {"stage_sizes": (1, 2), "widths": (8, 16), "bottleneck": True}
    monkeypatch.setitem(resnet.VARIANTS, "50", small)
    net = torch_cnn.KerasResNet50((1, 2), (8, 16))
    arrays = net.arrays() | {"predictions/kernel": np.ones((64, 9), np.float32)}
    np.savez(tmp_path / "keras.npz", **{f"{key}:0": array for key, array in arrays.items()})
    mean = (103.939 / 255, 116.779 / 255, 123.68 / 255)
    _assert_equal_features(f"keras:{tmp_path}/keras.npz", net, mean, (1 / 255,) * 3)
    del arrays["conv3_block2_3_bn/gamma"], arrays["conv1_conv/bias"]
    np.savez(tmp_path / "keras.npz", **arrays)
    with pytest.raises(
        ValueError, match=r"Keras's ResNet-50.*2 missing: conv1_conv/bias, conv3_blo"
    ):
        weights.load(f"keras:{tmp_path}/keras.npz")


CXR = ((0.5020,) * 3, (0.085585,) * 3)
HALF = ((0.5,) * 3, (0.5,) * 3)
RESNETS = {
    "moco": (torch_cnn.moco, IMAGENET, 224),
    "moco_cxr": (torch_cnn.moco, CXR, 320),
    "gloria": (torch_cnn.gloria, HALF, 299),
    "biovil": (layouts.biovil, ((0.0,) * 3, (1.0,) * 3), 448),
    "convirt": (torch_cnn.convirt, IMAGENET, 224),
    "timm": (lambda state: state | {"fc.weight": torch.ones(2, 2)}, IMAGENET, 224),
    "torchxrayvision": (
        lambda state: {f"model.{k}": t for k, t in state.items()} | {"op_threshs": torch.ones(18)},
        ((0.5,), (0.5 / 1024,)),
        512,
    ),
}


@pytest.mark.parametrize("source", RESNETS)
def test_resnets_of_every_source(tmp_path, monkeypatch, source):
    monkeypatch.setitem(resnet.VARIANTS, "18", {"stage_sizes": (1, 1), "widths": (8, 16)})
    layout, (mean, std), size = RESNETS[source]
    net = torch_cnn.SmallResNet(channels=len(mean))
    torch.save(layout(net.state_dict()), tmp_path / "weights.ckpt")
    encoder = _assert_equal_features(f"{source}:{tmp_path}/weights.ckpt", net, mean, std)
    assert (encoder.name, encoder.image_size) == ("weights", size)


def test_what_a_source_does_not_expect_is_refused_by_name(tmp_path):
    path = tmp_path / "a.pth"
    state = torch_cnn.SmallResNet().state_dict()
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"a\.pth: no key begins with 'module\.encoder_q\.' or"):
        weights.load(f"moco:{path}")
    checkpoint = torch_cnn.moco(state)
    checkpoint["state_dict"]["module.predictor.weight"] = torch.ones(2)
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"1 unexpected beside .*: module\.predictor\.weight"):
        weights.load(f"moco:{path}")
    with pytest.raises(ValueError, match=r"nested under 'state_dict'"):
        weights.load(f"torchvision:{path}")
    with pytest.raises(ValueError, match=r"no key begins with 'gloria\.img_encoder\.model\.'"):
        weights.load(f"gloria:{path}")


def _save(net, path):
    arrays = {key: value.numpy() for key, value in net.state_dict().items()}
    if path.suffix == ".pth":
        torch.save(net.state_dict(), path)
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)


def test_features_of_a_whole_resnet_equal_torchs(tmp_path):
    """ResNet-34; 18 and 50 of both kinds against NumPy: test_torchvision.py."""
    net = torch_cnn.ResNet((3, 4, 6, 3))
    _save(net, tmp_path / "34.safetensors")
    images = np.random.default_rng(0).uniform(size=(2, 97, 64, 1)).astype(np.float32)
    with torch.no_grad():
        reference = net.features(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    ours = weights.features(weights.load(str(tmp_path / "34.safetensors")))(jnp.asarray(images))
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4 * np.abs(reference).max())


def test_the_three_formats_hold_the_same_encoder(tmp_path):
    net = torch_cnn.ResNet((2, 2, 2, 2))
    encoders = []
    for name in ("a.pth", "b.npz", "c.safetensors"):
        _save(net, tmp_path / name)
        encoders.append(weights.load(str(tmp_path / name)))
    for other in encoders[1:]:
        same = jax.tree.map(np.array_equal, encoders[0].variables, other.variables)
        assert jax.tree.all(same)
