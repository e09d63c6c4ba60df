"""The text encoder: what padding may change (nothing), pooling, and wrong fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.models.bert import make_text_encoder

FIELDS = dict(vocabulary=20, width=16, num_blocks=2, heads=2, hidden=24, positions=12)
LENGTHS = (6, 1, 4)
call = jax.jit(
    lambda encoder, method, variables, *texts: encoder.apply(variables, *texts, method=method),
    static_argnums=(0, 1),
)


def make(**changes):
    """(encoder, its parameters, random everywhere)."""
    encoder = make_text_encoder(FIELDS | changes, "config.objective.text")
    tokens = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), tokens, tokens == 0))
    rng = np.random.default_rng(0)
    return encoder, jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape)), shapes)


def texts(length, filler):
    """Three texts of LENGTHS in `length` places; `filler` stands where there is no token."""
    mask = np.arange(length) < np.array(LENGTHS)[:, None]
    tokens = np.random.default_rng(1).integers(0, 20, (3, max(LENGTHS)))
    tokens = np.pad(tokens, ((0, 0), (0, length - max(LENGTHS))))
    return jnp.asarray(np.where(mask, tokens, filler)), jnp.asarray(mask)


def test_padding_changes_nothing():
    encoder, variables = make()
    tokens, mask = texts(6, 0)
    expected = call(encoder, None, variables, tokens, mask)
    assert expected.shape == (3, 16) and expected.dtype == jnp.float32
    for others in (texts(6, 9), texts(11, 3)):
        np.testing.assert_allclose(call(encoder, None, variables, *others), expected, atol=1e-5)
    alone = call(encoder, None, variables, tokens[2:, :4], mask[2:, :4])
    np.testing.assert_allclose(alone[0], expected[2], atol=1e-5)


def test_pooling_is_over_the_tokens_there_are():
    tokens, mask = texts(6, 5)
    for pooling in ("max", "mean"):
        encoder, variables = make(pooling=pooling)
        states = np.asarray(call(encoder, "states", variables, tokens, mask))
        pooled = [getattr(row[own], pooling)(axis=0) for row, own in zip(states, np.asarray(mask))]
        np.testing.assert_allclose(call(encoder, None, variables, tokens, mask), pooled, atol=1e-6)


def test_order_counts_and_bfloat16_is_near():
    encoder, variables = make()
    tokens, mask = texts(6, 0)
    expected = call(encoder, None, variables, tokens, mask)
    turned = call(encoder, None, variables, tokens[:, ::-1], mask[:, ::-1])
    assert np.abs(turned[0] - expected[0]).max() > 0.01
    half = call(make(dtype="bfloat16")[0], None, variables, tokens, mask)
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(heads=3), r"text\.width=16 is no multiple of the 3 heads"),
        (dict(heads=0), r"set config\.objective\.text\.heads"),
        (dict(pooling="cls"), r"text\.pooling is 'cls'; use 'max' or 'mean'"),
        (dict(dtype="float16"), r"text\.dtype is 'float16'"),
        (dict(blocks=3), "has no field 'blocks'; did you mean 'num_blocks'"),
    ],
)
def test_wrong_fields_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)
