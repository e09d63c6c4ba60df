"""Optimizers against hand-written numpy, in float64, over steps in which the rate changes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from cxr_jax import models
from cxr_jax.training.optim import make_optimizer

STEPS = 8
LARS = dict(
    name="lars", learning_rate=0.5, warmup=3, momentum=0.9, weight_decay=0.01, trust_coefficient=0.1
)


def parameters():
    rng = np.random.default_rng(0)
    encoder = {
        "conv1": {"kernel": rng.normal(size=(3, 3, 1, 4))},
        "bn1": {"scale": rng.normal(size=4), "bias": rng.normal(size=4)},
    }
    dense = {"kernel": rng.normal(size=(4, 5)), "bias": rng.normal(size=5)}
    return {"encoder": encoder, "projector": {"dense0": dense}}


def gradients(step):
    rng = np.random.default_rng(100 + step)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), parameters())


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join(key.key for key in path): np.asarray(leaf, np.float64) for path, leaf in leaves
    }


def trained(config, steps=STEPS, gradient=gradients):
    """Parameters after each step by the optimizer under test, float32 and jitted."""
    optimizer, _ = make_optimizer(config, num_train_steps=STEPS, batch_size=256)
    params = jax.tree.map(jnp.float32, parameters())
    state, history = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(jax.tree.map(jnp.float32, gradient(step)), state, params)
        params = optax.apply_updates(params, updates)
        history.append(flat(params))
    return history


def rate_at(step, peak, warmup, total=STEPS):
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + np.cos(np.pi * (step - warmup) / (total - warmup)))


def is_kernel(path):
    return path.endswith("kernel")


def numpy_lars(rate_inside_momentum, included=is_kernel, steps=STEPS):
    """You et al., arXiv:1708.03888, as SimCLR's (inside) and BYOL's (outside) code has it."""
    params = flat(parameters())
    velocity = {path: np.zeros_like(leaf) for path, leaf in params.items()}
    for step in range(steps):
        rate = rate_at(step, LARS["learning_rate"], LARS["warmup"])
        for path, gradient in flat(gradients(step)).items():
            trust = 1.0
            if included(path):
                gradient = gradient + LARS["weight_decay"] * params[path]
                norms = np.linalg.norm(params[path]), np.linalg.norm(gradient)
                trust = LARS["trust_coefficient"] * norms[0] / norms[1]
            if rate_inside_momentum:
                velocity[path] = LARS["momentum"] * velocity[path] + rate * trust * gradient
                params[path] = params[path] - velocity[path]
            else:
                velocity[path] = LARS["momentum"] * velocity[path] + trust * gradient
                params[path] = params[path] - rate * velocity[path]
    return params


def assert_close(actual, expected, atol=1e-5):
    assert actual.keys() == expected.keys()
    for path in expected:
        np.testing.assert_allclose(actual[path], expected[path], atol=atol, err_msg=path)


@pytest.mark.parametrize("inside", [True, False])
def test_lars_is_numpys_with_the_rate_inside_and_outside_the_momentum(inside):
    history = trained(LARS | dict(rate_inside_momentum=inside))
    assert_close(history[-1], numpy_lars(inside))
    other = numpy_lars(not inside)
    assert all(np.abs(history[-1][path] - other[path]).max() > 0.01 for path in other)


def test_exclusions_follow_the_path():
    config = LARS | dict(rate_inside_momentum=True, exclude=(r"^encoder/conv1/", r"bias$"))

    def included(path):
        return path in ("encoder/bn1/scale", "projector/dense0/kernel")

    assert_close(trained(config)[-1], numpy_lars(True, included))


def test_default_exclusions_are_every_bias_and_norm_of_a_resnet():
    model = models.build({"name": "resnet", "variant": "small"})
    images = jnp.zeros((1, 32, 32, 1))
    shapes = jax.eval_shape(lambda: model.init(jax.random.PRNGKey(0), images, train=False))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes["params"])
    config = dict(
        name="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.5, schedule="constant"
    )
    optimizer, _ = make_optimizer(config, num_train_steps=10, batch_size=1)
    no_gradient = jax.tree.map(np.zeros_like, params)
    updates, _ = optimizer.update(no_gradient, optimizer.init(params), params)
    for path, update in flat(updates).items():
        assert np.all(update == (-0.5 if is_kernel(path) else 0)), path
    assert sum(not is_kernel(path) for path in flat(updates)) > 10


def test_default_exclusions_are_tokens_positions_layer_scales_and_the_temperature_too():
    model = models.build(
        dict(name="vit", variant="64x1", image_size=32, registers=2, layer_scale=0.1)
    )
    images = jnp.zeros((1, 32, 32, 1))
    shapes = jax.eval_shape(lambda: model.init(jax.random.PRNGKey(0), images, train=False))
    encoder = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes["params"])
    other = {"mask_token": (8,), "gamma": (8,), "bias_table": (9, 2), "logit_scale": ()}
    other = {name: np.ones(shape, np.float32) for name, shape in other.items()}
    params = {"encoder": encoder, "decoder": other}
    config = dict(name="adamw", learning_rate=1.0, weight_decay=0.5, schedule="constant")
    optimizer, _ = make_optimizer(config, num_train_steps=10, batch_size=1)
    no_gradient = jax.tree.map(np.zeros_like, params)
    updates, _ = optimizer.update(no_gradient, optimizer.init(params), params)
    moved = {path for path, update in flat(updates).items() if np.any(update)}
    assert moved == {path for path in flat(params) if is_kernel(path)}
    assert len(moved) == 5 and len(flat(params)) == 25


def test_sgd_is_torchs():
    config = dict(
        name="sgd", learning_rate=0.1, warmup=3, momentum=0.8, weight_decay=0.05, exclude=()
    )
    params = flat(parameters())
    velocity = {path: np.zeros_like(leaf) for path, leaf in params.items()}
    for step in range(STEPS):
        for path, gradient in flat(gradients(step)).items():
            velocity[path] = 0.8 * velocity[path] + gradient + 0.05 * params[path]
            params[path] = params[path] - rate_at(step, 0.1, 3) * velocity[path]
    assert_close(trained(config)[-1], params)


def test_adamw_is_torchs():
    config = dict(name="adamw", learning_rate=0.1, warmup=3, weight_decay=0.05)
    params = flat(parameters())
    first = {path: np.zeros_like(leaf) for path, leaf in params.items()}
    second = {path: np.zeros_like(leaf) for path, leaf in params.items()}
    for step in range(STEPS):
        rate = rate_at(step, 0.1, 3)
        for path, gradient in flat(gradients(step)).items():
            params[path] = params[path] * (1 - rate * 0.05 * is_kernel(path))
            first[path] = 0.9 * first[path] + 0.1 * gradient
            second[path] = 0.999 * second[path] + 0.001 * gradient**2
            mean = first[path] / (1 - 0.9 ** (step + 1))
            square = second[path] / (1 - 0.999 ** (step + 1))
            params[path] = params[path] - rate * mean / (np.sqrt(square) + 1e-8)
    assert_close(trained(config)[-1], params)


def numpy_adam(decay=0.0, clip=np.inf, together=False, rate=lambda step, path: 0.1, beta2=0.999):
    """torch.optim.Adam: the decay is part of the gradient; clipping comes before it."""
    params = flat(parameters())
    first = {path: np.zeros_like(leaf) for path, leaf in params.items()}
    second = {path: np.zeros_like(leaf) for path, leaf in params.items()}
    for step in range(STEPS):
        of_all = np.sqrt(sum(np.sum(leaf**2) for leaf in flat(gradients(step)).values()))
        for path, gradient in flat(gradients(step)).items():
            length = of_all if together else np.linalg.norm(gradient)
            gradient = gradient * min(1, clip / (length + 1e-6))
            gradient = gradient + decay * params[path]
            first[path] = 0.9 * first[path] + 0.1 * gradient
            second[path] = beta2 * second[path] + (1 - beta2) * gradient**2
            mean = first[path] / (1 - 0.9 ** (step + 1))
            square = second[path] / (1 - beta2 ** (step + 1))
            params[path] = params[path] - rate(step, path) * mean / (np.sqrt(square) + 1e-8)
    return params


def test_adam_is_torchs_with_the_rate_a_tenth_at_each_milestone():
    config = dict(name="adam", learning_rate=0.1, weight_decay=0.3, exclude=())
    config |= dict(schedule="step", milestones=(0.5, 0.75))  # after 4 and 6 of 8 steps
    expected = numpy_adam(decay=0.3, rate=lambda step, path: 0.1 ** (1 + (step >= 4) + (step >= 6)))
    assert_close(trained(config)[-1], expected)


def test_beta2_is_a_field():
    config = dict(name="adam", learning_rate=0.1, schedule="constant", beta2=0.5)
    assert_close(trained(config)[-1], numpy_adam(beta2=0.5), atol=2e-5)


def test_each_gradient_is_clipped_on_its_own_or_all_together():
    config = dict(name="adam", learning_rate=0.1, clip=2.0, schedule="constant")
    assert_close(trained(config)[-1], numpy_adam(clip=2.0), atol=2e-5)
    # As torch.nn.utils.clip_grad_norm_.
    config |= dict(clip=7.0, clip_by="all")
    assert_close(trained(config)[-1], numpy_adam(clip=7.0, together=True), atol=2e-5)
    lengths = [np.linalg.norm(leaf) for leaf in flat(gradients(0)).values()]
    assert min(lengths) < 2 < max(lengths)


def test_groups_have_rates_of_their_own_and_may_be_frozen_at_first():
    config = dict(name="adam", learning_rate=0.1, schedule="constant")
    config["groups"] = dict(
        norms=dict(match=("/bn1/", "bias$"), learning_rate=0.02, schedule="cosine"),
        head=dict(match=("^projector/",), frozen=3),
    )

    def rate(step, path):
        if path.startswith("projector"):  # its bias too: "head" comes before "norms"
            return 0.1 * (step >= 3)
        return rate_at(step, 0.02, 0) if "bn1" in path else 0.1

    for made in (config, ConfigDict(config)):
        history = trained(made)
        assert_close(history[-1], numpy_adam(rate=rate), atol=2e-5)
    np.testing.assert_array_equal(
        history[2]["projector/dense0/kernel"],
        np.float32(parameters()["projector"]["dense0"]["kernel"]),
    )


def test_weight_decay_runs_from_first_to_final_by_a_cosine():
    config = dict(name="sgd", learning_rate=1.0, momentum=0.0, schedule="constant")
    config |= dict(weight_decay=0.04, final_weight_decay=0.4)
    history = trained(config, gradient=lambda step: jax.tree.map(np.zeros_like, parameters()))
    kernels = [params["projector/dense0/kernel"] for params in (flat(parameters()), *history)]
    shares = [1 - (after / before).mean() for before, after in itertools.pairwise(kernels)]
    expected = 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS))
    np.testing.assert_allclose(shares, expected, atol=1e-5)


def test_the_applied_update_follows_the_schedule():
    config = dict(name="sgd", learning_rate=0.1, warmup=3, momentum=0.0)
    history = trained(config, gradient=lambda step: gradients(0))
    path = "projector/dense0/bias"
    positions = [flat(parameters())[path], *(params[path] for params in history)]
    gradient = flat(gradients(0))[path]
    for step, moved in enumerate(np.diff(positions, axis=0)):
        np.testing.assert_allclose(moved, -rate_at(step, 0.1, 3) * gradient, atol=1e-6)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(name="lamb"), "name is 'lamb'; it must be one of lars, sgd, adam, adamw"),
        (dict(learning_rte=1), "no field 'learning_rte'; did you mean 'learning_rate'"),
        (dict(warmup_unit="epoch"), "warmup_unit is 'epoch'; it must be one of steps, epochs"),
        (dict(warmup_unit="epochs", warmup=1), "number of examples in an epoch is not known"),
        (dict(warmup=-1), "warmup is -1; it must not be negative"),
        (dict(schedule="steps"), "schedule is 'steps'; it must be one of cosine, constant, step"),
        (dict(schedule="step"), r"milestones is \(\); schedule 'step' needs shares"),
        (dict(schedule="step", milestones=(0.1,), warmup=2), "first lies within the warm-up of 2"),
        (dict(clip=0), "clip is 0; it must be above 0"),
        (dict(clip_by="norm"), "clip_by is 'norm'; it must be one of parameter, all"),
        (
            dict(groups=dict(head=dict(match="head"))),
            r"groups\.head\.match is 'head'; it must be a",
        ),
        (dict(groups=dict(head=dict(match=("head",), rate=1))), "groups.head has no field 'rate'"),
        (dict(groups=dict(head=dict(match=("head",), frozen=-1))), "frozen is -1; it must not be"),
        (dict(scaling="batch"), "scaling is 'batch'; it must be one of none, linear, sqrt"),
        (dict(exclude="bias"), "exclude is 'bias'; it must be a tuple of patterns"),
        (dict(name="lars"), "lacks 'rate_inside_momentum', which lars needs"),
    ],
)
def test_wrong_field_is_named(change, message):
    config = dict(name="sgd", learning_rate=0.1) | change
    with pytest.raises(ValueError, match=message):
        make_optimizer(config, num_train_steps=10, batch_size=1)


def test_missing_field_is_named():
    with pytest.raises(ValueError, match=r"config\.optimizer lacks 'learning_rate'"):
        make_optimizer({"name": "sgd"}, num_train_steps=10, batch_size=1)


def test_exclusion_that_matches_nothing_is_named():
    config = dict(name="adamw", learning_rate=0.1, exclude=("bias$", "batchnorm"))
    optimizer, _ = make_optimizer(config, num_train_steps=10, batch_size=1)
    with pytest.raises(ValueError, match="exclude has 'batchnorm', which matches no parameter"):
        optimizer.init(parameters())


def test_group_that_matches_nothing_is_named():
    config = dict(name="sgd", learning_rate=0.1, groups=dict(head=dict(match=("^predictor/",))))
    optimizer, _ = make_optimizer(config, num_train_steps=10, batch_size=1)
    with pytest.raises(ValueError, match=r"groups\.head\.match has '\^predictor/', which matches"):
        optimizer.init(parameters())
