import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.models._positions import resample, rotary, rotated


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(7, 7), (3, 8), (16, 16)])
def test_as_torch_interpolates(size, antialias):
    torch = pytest.importorskip("torch")
    grid = np.random.default_rng(0).normal(size=(7, 7, 3)).astype(np.float32)
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(grid.transpose(2, 0, 1)[None]), size, mode="bicubic", antialias=antialias
    )[0].numpy()
    np.testing.assert_allclose(
        resample(jnp.asarray(grid), *size, antialias), reference.transpose(1, 2, 0), atol=1e-5
    )


def test_a_constant_stays_constant_and_a_ramp_a_ramp():
    ramp = jnp.broadcast_to(jnp.arange(8.0)[:, None, None], (8, 8, 2))
    resampled = resample(jnp.ones((8, 8, 2)), 5, 13)
    np.testing.assert_allclose(resampled, 1, atol=1e-6)
    middle = np.asarray(resample(ramp, 16, 8))[6:10, 4, 0]
    np.testing.assert_allclose(middle, [2.75, 3.25, 3.75, 4.25], atol=0.05)


def test_pairs_of_channels_are_turned_as_complex_numbers_by_row_and_column():
    x = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    angles = rotary("dinov3", 2, 3, channels=8, reference=0)
    numbers = (x[:, :4] + 1j * x[:, 4:]) * np.exp(1j * angles)
    expected = np.concatenate([numbers.real, numbers.imag], axis=1)
    turned = rotated(jnp.asarray(x), jnp.asarray(angles))
    np.testing.assert_allclose(turned, expected, atol=1e-5)
    # Of six patches the last: row 1 of 2, column 2 of 3; wavelengths 1 and 10, or 2 pi and 200 pi.
    turns = np.array([0.5, 0.05, 2 / 3, 2 / 30])
    np.testing.assert_allclose(angles[5], 2 * np.pi * turns, rtol=1e-5)
    eva = rotary("eva", 2, 3, channels=8, reference=4)
    np.testing.assert_allclose(eva[5], [2, 0.02, 8 / 3, 8 / 300], rtol=1e-5)
