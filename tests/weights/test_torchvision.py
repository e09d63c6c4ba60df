import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from cxr_jax import weights

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def reference_features(tensors, images, v1=False):
    """torchvision's forward pass in NumPy, channels first: grey repeated, then normalised."""

    def conv(x, name, stride):
        kernel = tensors[f"{name}.weight"].astype(np.float64)
        size = kernel.shape[-1]
        pad = size // 2
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        patches = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
        return np.einsum(
            "nchwij,ocij->nohw", patches[:, :, ::stride, ::stride], kernel, optimize=True
        )

    def norm(x, name):
        weight, bias, mean, var = (
            tensors[f"{name}.{leaf}"].astype(np.float64)[:, None, None]
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    x = np.repeat(np.asarray(images, np.float64).transpose(0, 3, 1, 2), 3, axis=1)
    x = (x - MEAN[:, None, None]) / STD[:, None, None]
    x = np.maximum(norm(conv(x, "conv1", 2), "bn1"), 0)
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2].max((-2, -1))
    blocks = sorted({key.rpartition(".conv1")[0] for key in tensors if ".conv1" in key})
    for block in blocks:
        stride = 2 if block.endswith(".0") and not block.startswith("layer1") else 1
        last = 3 if f"{block}.conv3.weight" in tensors else 2
        strided = 2 if last == 3 and not v1 else 1
        y = x
        for i in range(1, last + 1):
            y = norm(conv(y, f"{block}.conv{i}", stride if i == strided else 1), f"{block}.bn{i}")
            y = y if i == last else np.maximum(y, 0)
        if f"{block}.downsample.0.weight" in tensors:
            x = norm(conv(x, f"{block}.downsample.0", stride), f"{block}.downsample.1")
        x = np.maximum(x + y, 0)
    return x.mean((2, 3))


def _images(height=72, width=56):
    return jax.random.uniform(jax.random.key(1), (2, height, width, 1))


def _assert_close(ours, reference):
    assert ours.shape == reference.shape
    # 1e-5 of the largest feature: the reference is in float64, ours in float32.
    assert np.abs(ours - reference).max() < 1e-5 * np.abs(reference).max()


@pytest.mark.parametrize(
    ("variant", "source"),
    [
        ("18", "torchvision"),
        ("50", "torchvision"),
        ("50", "torchvision_v1"),
    ],
)
def test_features_are_those_of_the_documented_network(make_weights, tmp_path, variant, source):
    tensors = make_weights(variant)
    np.savez(tmp_path / "weights.npz", **tensors)
    encoder = weights.load(f"{source}:{tmp_path}/weights.npz")
    assert encoder.model["variant"] == variant
    ours = weights.features(encoder)(_images())
    reference = reference_features(tensors, _images(), v1=source == "torchvision_v1")
    _assert_close(ours, reference)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_half_precision_files_become_float32_and_passed_over_keys_change_nothing(
    make_weights, tmp_path, suffix
):
    tensors = {key: array.astype(np.float16) for key, array in make_weights("18").items()}
    extra = {
        "fc.weight": np.ones((1000, 512), np.float16),
        "fc.bias": np.ones(1000, np.float16),
        "bn1.num_batches_tracked": np.array(7),
        "layer4.1.bn2.num_batches_tracked": np.array(7),
    }
    path = tmp_path / f"weights.{suffix}"
    write = (lambda d: np.savez(path, **d)) if suffix == "npz" else (lambda d: save_file(d, path))
    write(tensors)
    bare = weights.load(str(path))
    write(tensors | extra)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, bare.variables, weights.load(str(path)).variables)
    )
    assert {leaf.dtype.name for leaf in jax.tree.leaves(bare.variables)} == {"float32"}
    kernel = bare.variables["params"]["layer3_0"]["downsample_conv"]["kernel"]
    expected = tensors["layer3.0.downsample.0.weight"].astype(np.float32)
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), expected)


def _load(tmp_path, tensors):
    np.savez(tmp_path / "weights.npz", **tensors)
    return weights.load(str(tmp_path / "weights.npz"))


@pytest.mark.parametrize("variant", ["18", "34", "50", "101"])
def test_the_architecture_is_read_from_the_keys(make_weights, tmp_path, variant):
    encoder = _load(tmp_path, make_weights(variant))
    assert encoder.model == {
        "name": "resnet",
        "variant": variant,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    assert encoder.image_size == 224


def test_an_architecture_that_is_not_supported_is_named(make_weights, tmp_path):
    with pytest.raises(
        ValueError, match=r"neither a ResNet nor a DenseNet.*features\.conv0\.weight"
    ):
        _load(tmp_path, {"features.conv0.weight": np.zeros((64, 3, 7, 7), np.float32)})


def test_half_a_checkpoint_names_what_is_missing(make_weights, tmp_path):
    tensors = make_weights("34")
    half = {k: v for k, v in tensors.items() if not k.startswith(("layer3", "layer4"))}
    missing = len(tensors) - len(half)
    with pytest.raises(ValueError) as error:
        _load(tmp_path, half)
    message = str(error.value)
    assert f"does not fit ResNet-34, which has {len(tensors)} keys; {missing} missing: " in message
    assert "layer3.0.bn1." in message and message.endswith(f"… and {missing - 5} more")


def test_unexpected_keys_shapes_dtypes_and_values_are_reported_together(make_weights, tmp_path):
    tensors = make_weights("18")
    tensors["fc.0.weight"] = np.zeros((128, 512), np.float32)
    tensors["layer1.0.conv2.weight"] = np.zeros((64, 64, 1, 1), np.float32)
    tensors["bn1.weight"] = np.ones(64, np.int32)
    tensors["layer2.0.bn1.bias"][3] = np.nan
    del tensors["layer4.1.bn2.running_var"]
    with pytest.raises(ValueError) as error:
        _load(tmp_path, tensors)
    for part in (
        "1 missing: layer4.1.bn2.running_var",
        "1 unexpected: fc.0.weight",
        "1 of another shape: layer1.0.conv2.weight (64, 64, 1, 1) where (64, 64, 3, 3) is expected",
        "1 not of a floating dtype: bn1.weight (int32)",
        "1 not finite: layer2.0.bn1.bias",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("prefix", ["module.", "encoder_q.", "module.encoder_q.", "backbone."])
def test_a_prefix_is_refused_by_name_and_its_advice_works(make_weights, tmp_path, prefix):
    tensors = make_weights("18")
    prefixed = {prefix + key: array for key, array in tensors.items()}
    with pytest.raises(ValueError, match=f"carry the prefix '{prefix}'; strip it") as error:
        _load(tmp_path, prefixed)
    advice = str(error.value).partition("save again: ")[2]
    stripped = eval(advice, {"weights": prefixed})
    assert _load(tmp_path, stripped).model["variant"] == "18"


def test_two_networks_in_one_file_are_both_named(make_weights, tmp_path):
    tensors = make_weights("18")
    both = {f"{p}.{k}": v for p in ("encoder_q", "encoder_k") for k, v in tensors.items()}
    with pytest.raises(ValueError, match=r"prefix 'encoder_q\.' and 'encoder_k\.'"):
        _load(tmp_path, both)
