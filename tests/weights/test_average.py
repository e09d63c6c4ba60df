"""The mean of several encoders' weights, as a folder that every `encoder=` reads."""

import jax
import numpy as np
import pytest

from cxr_jax import weights
from cxr_jax.data import seen_images
from cxr_jax.weights import average, random_encoder
from cxr_jax.weights.export import write_folder
from cxr_jax.weights.exporters import safetensors

MODEL = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 32}
SEEN = [("p1", "0a"), ("p2", "0b"), ("p3", "0c")]


@pytest.fixture
def folders(tmp_path):
    """Three encoders of one shape; what the first two had seen is known."""
    for number in range(3):
        encoder = random_encoder(MODEL | {"dtype": ("float32", "bfloat16")[number % 2]}, 32, number)
        write_folder(tmp_path / str(number), safetensors.export(encoder), card="")
        if number < 2:
            seen = seen_images.make("mine", "mine", {"train": SEEN})
            of_two = seen.take(np.arange(number, number + 2))
            seen_images.write(tmp_path / str(number) / seen_images.FILE, of_two)
    return [str(tmp_path / str(number)) for number in range(3)]


@pytest.mark.parametrize("shares", [[], [0.5, 0.25, 0.25]])
def test_mean_is_an_encoder_whose_images_are_those_of_all(shares, folders, tmp_path):
    given = ["--weights", *map(str, shares)] if shares else []
    out = average.main([*folders, f"--out={tmp_path / 'soup'}", *given])
    soup, parts = weights.load(str(out)), [weights.load(folder) for folder in folders]
    assert (soup.model, soup.image_size) == (parts[0].model, 32)
    leaves = [jax.tree.leaves(encoder.variables) for encoder in (soup, *parts)]
    for found, *of_parts in zip(*leaves, strict=True):
        expected = sum(np.float64(s) * x for s, x in zip(shares or [1 / 3] * 3, of_parts))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert seen_images.read(out).row.tolist() == [0, 1, 2]
    assert weights.seen_before(str(out))[1] == "2"  # of this one there is no list
    assert f"| {(shares or [1 / 3])[0]:g} | random (0) |" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5, 0.6], r"--weights 0\.5 0\.6: of 2 encoders .* whose sum is 1 \(it is 1\.1\)"),
        ([1.0], "of 2 encoders they are 2 numbers"),
        ([1.5, -0.5], "from 0 on"),
        ([float("nan"), 1.0], "whose sum is 1"),
    ],
)
def test_shares_that_are_none_are_refused(shares, message, folders, tmp_path):
    with pytest.raises(ValueError, match=message):
        average.average([weights.load(folder) for folder in folders[:2]], shares)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "128x1"}, "differ in variant '64x1' and '128x1'"),
        ({"mean": (0.4,), "std": (0.2,)}, r"differ in mean \(0\.5,\) and .*0\.4.*; std"),
        ({"name": "resnet", "variant": "small"}, "differ in name 'vit' and 'resnet'"),
    ],
)
def test_encoders_of_two_kinds_have_no_mean(changes, message):
    names = ("name", "variant") if "name" in changes else MODEL
    other = random_encoder({name: MODEL[name] for name in names} | changes, 32, 0)
    pair = [random_encoder(MODEL, 32, 0), other]
    with pytest.raises(ValueError, match=f"have no mean: they {message}"):
        average.average(pair, [0.5, 0.5])
    with pytest.raises(ValueError, match="have no mean: they differ in"):
        average.average(pair[::-1], [0.5, 0.5])


def test_a_folder_that_holds_something_is_left_alone(folders):
    with pytest.raises(ValueError, match=r"--out=.*is there and not empty"):
        average.main([*folders, f"--out={folders[0]}"])
