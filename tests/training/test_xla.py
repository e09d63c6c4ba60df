"""That programs compiled with our options compute what they say."""

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.training import xla


def test_constants_of_one_program_do_not_reach_another():
    x = np.random.default_rng(0).normal(size=(8, 12, 32)).astype(np.float32)
    for number in range(12):
        matrix = jnp.full((32, 64), float(number % 3))
        product = jax.jit(lambda x, m=matrix: x @ m + 1, compiler_options=xla.options())
        np.testing.assert_allclose(product(x), x @ np.asarray(matrix) + 1, rtol=1e-4, atol=1e-4)
