import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.models import densenet


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(densenet.VARIANTS, "tiny", (1, 2))


def _shapes(net):
    images = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)
    return jax.eval_shape(lambda x: net.init(jax.random.key(0), x, False), images)


@pytest.mark.parametrize(
    ("variant", "total", "width"),
    [("121", 7_978_856, 1024), ("169", 14_149_480, 1664), ("201", 20_013_928, 1920)],
)
def test_as_many_parameters_as_torchvision_documents(variant, total, width):
    net = densenet.make(variant, mean=(0.5,) * 3, std=(0.2,) * 3)
    count = sum(leaf.size for leaf in jax.tree.leaves(_shapes(net)["params"]))
    assert count == total - 1000 * (width + 1)


def test_bfloat16_computes_near_float32_and_training_changes_the_statistics():
    net, half = densenet.make("tiny"), densenet.make("tiny", dtype="bfloat16")
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda s: jnp.asarray(rng.uniform(0.02, 0.2, s.shape), jnp.float32), _shapes(half)
    )
    images = jax.random.uniform(jax.random.key(0), (3, 64, 48, 1))

    def run(net, train):
        call = jax.jit(lambda v, x: net.apply(v, x, train, mutable=["batch_stats"]))
        return call(variables, images)

    maps = jax.jit(lambda v, x: net.apply(v, x, False, method="maps"))(variables, images)
    assert maps.shape[1:3] == (8, 6)
    full, kept = run(net, False)
    np.testing.assert_allclose(full, np.asarray(maps).mean((1, 2)), rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], variables["batch_stats"])
    low, changed = run(half, True)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((low, changed))} == {"float32"}
    exact, _ = run(net, True)
    assert 0 < np.linalg.norm(low - exact) < 0.05 * np.linalg.norm(exact)
    stats = changed["batch_stats"]["denseblock2_denselayer2"]["norm1"]["mean"]
    assert np.abs(
        stats - variables["batch_stats"]["denseblock2_denselayer2"]["norm1"]["mean"]
    ).max()


def test_depth_follows_the_blocks():
    net = densenet.make("tiny")
    assert {name: net.depth(name) for name in _shapes(net)["params"]} == {
        **{"conv0": 0, "norm0": 0, "denseblock1_denselayer1": 1, "transition1": 1},
        **{"denseblock2_denselayer1": 2, "denseblock2_denselayer2": 2, "norm5": 2},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "161"}, "no DenseNet variant '161'; there are 121, 169, 201"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"mean": (0.5, 0.5)}, "1 or 3 entries each, not 2 and 1"),
    ],
)
def test_arguments_that_make_no_sense_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        densenet.make(**arguments)
