import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import xla
from cxr_jax.models import resnet

init = jax.jit(
    lambda net, images: net.init(jax.random.key(0), images, False),
    static_argnums=0,
    compiler_options={"xla_backend_optimization_level": 0},  # compiles several times faster
)
evaluate = jax.jit(
    lambda net, variables, images: net.apply(variables, images, False), static_argnums=0
)
train = jax.jit(
    lambda net, variables, images: net.apply(variables, images, True, mutable=["batch_stats"]),
    static_argnums=0,
)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def _images(batch=4, height=32, width=32, seed=0):
    return jax.random.uniform(jax.random.key(seed), (batch, height, width, 1))


def _variables(net, images):
    """As initialised, but with batch statistics and scales that are neither 0 nor 1."""
    rng = np.random.default_rng(0)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            leaf
            if path[-1].key == "kernel"
            else jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        ),
        init(net, images),
    )


def _num_params(net):
    shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, False), _images())
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    ("variant", "torchvision_total", "classifier"),
    [
        ("18", 11_689_512, 513_000),
        ("34", 21_797_672, 513_000),
        ("50", 25_557_032, 2_049_000),
        ("101", 44_549_160, 2_049_000),
        ("152", 60_192_808, 2_049_000),
    ],
)
def test_as_many_parameters_as_torchvision_documents(variant, torchvision_total, classifier):
    net = resnet.make(variant, **IMAGENET)
    assert _num_params(net) == torchvision_total - classifier


def test_evaluation_does_not_depend_on_the_batch():
    net, images = resnet.make("small"), _images(3, 48, 40)
    variables = _variables(net, images)
    together = evaluate(net, variables, images)
    alone = jnp.concatenate([evaluate(net, variables, image[None]) for image in images])
    assert together.shape == (3, 128)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_features_are_the_mean_of_the_map():
    net, images = resnet.make("small", dtype="bfloat16"), _images(2, 64, 48)
    variables = _variables(net, images)
    maps = net.apply(variables, images, False, method="maps")
    assert maps.shape == (2, 4, 3, 128) and maps.dtype == jnp.float32
    np.testing.assert_array_equal(
        net.apply(variables, maps, method="pool"), net.apply(variables, images, False)
    )
    np.testing.assert_allclose(
        net.apply(variables, images, False), np.asarray(maps).mean((1, 2)), rtol=1e-5
    )


def test_training_updates_statistics_with_torchs_momentum():
    net, images = resnet.make("small"), _images(8)
    variables = init(net, images)
    _, updated = train(net, variables, images)
    # The stem's convolution by hand: zero padding of the *normalised* image, 7x7, stride 4.
    padded = np.pad((np.asarray(images) - 0.5) / 0.25, ((0, 0), (3, 3), (3, 3), (0, 0)))
    kernel = np.asarray(variables["params"]["conv1"]["kernel"])
    stem = sum(
        padded[:, i : i + 29 : 4, j : j + 29 : 4] * kernel[i, j] for i in range(7) for j in range(7)
    )
    stats = updated["batch_stats"]["bn1"]
    np.testing.assert_allclose(stats["mean"], 0.1 * stem.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * stem.var((0, 1, 2)), rtol=1e-4)


def test_bfloat16_computes_near_float32_and_keeps_float32_state():
    net, half = resnet.make("small"), resnet.make("small", dtype="bfloat16")
    images = _images(4, 64, 64)
    initial = jax.eval_shape(lambda x: half.init(jax.random.key(0), x, True), images)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(initial)} == {"float32"}
    variables = _variables(net, images)
    full, _ = train(net, variables, images)
    low, updated = train(half, variables, images)
    assert low.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(updated)} == {"float32"}
    assert 0 < np.linalg.norm(low - full) < 0.05 * np.linalg.norm(full)


def test_kernels_start_as_kaiming_fan_out_and_residuals_at_zero():
    params = init(resnet.make("small"), _images(1))["params"]
    kernel = params["layer3_0"]["conv2"]["kernel"]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (128 * 9)), rel=0.01)
    down = params["layer3_0"]["downsample_conv"]["kernel"]
    assert np.std(down) == pytest.approx(np.sqrt(2 / 128), rel=0.03)
    assert not params["layer3_0"]["bn2"]["scale"].any()
    assert params["layer3_0"]["bn1"]["scale"].all()
    ones = init(resnet.make("small", zero_init_residual=False), _images(1))["params"]
    assert ones["layer3_0"]["bn2"]["scale"].all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "99"}, "no ResNet variant '99'; there are 18, 34, 50, 101, 152, small"),
        ({"variant": "18", "dtype": "float16"}, "dtype is 'float16'"),
        ({"variant": "18", "mean": (0.5, 0.5)}, "1 or 3 entries each, not 2 and 1"),
        ({"variant": "18", "stride_in_1x1": True}, "ResNet 18 has none"),
    ],
)
def test_arguments_that_make_no_sense_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnet.make(**arguments)


def test_depth_follows_the_stages():
    net = resnet.make("18")
    shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, False), _images())
    depths = {name: net.depth(name) for name in shapes["params"]}
    stages = {f"layer{stage}_{block}": stage for stage in (1, 2, 3, 4) for block in (0, 1)}
    assert depths == {"conv1": 0, "bn1": 0} | stages


def test_rematerialised_blocks_give_the_same_gradient_for_less_memory():
    images = _images(16, 64, 64)
    programs = []
    for remat in (False, True):
        net = resnet.ResNet(stage_sizes=(8,), widths=(8,), remat=remat)
        variables = _variables(net, images)

        def loss(params, stats, images, net=net):
            variables = {"params": params, "batch_stats": stats}
            return net.apply(variables, images, True, mutable=["batch_stats"])[0].sum()

        step = jax.jit(jax.grad(loss), compiler_options=xla.options())
        arguments = (variables["params"], variables["batch_stats"], images)
        programs.append((step.lower(*arguments).compile(), arguments))
    plain, remat = (program(*arguments) for program, arguments in programs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, remat)
    memory = [program.memory_analysis().temp_size_in_bytes for program, _ in programs]
    assert memory[1] < 0.7 * memory[0]
