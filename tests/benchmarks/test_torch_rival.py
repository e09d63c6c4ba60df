"""The rival does our work: the same networks, losses, optimizers and, undisturbed, the same views.

A rival that did less would make every ratio worthless.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxr_jax.augment.views import augment_view
from cxr_jax.models import _layers, resnet
from cxr_jax.objectives.simclr import nt_xent
from cxr_jax.training import optim
from tests.fakes.plain_view import PLAIN

torch = pytest.importorskip("torch")

from benchmarks import _torch_augment, _torch_model, _torch_step  # noqa: E402

_QUICKLY = {"xla_backend_optimization_level": 0}


def _variables(module, x):
    """As initialised, but with scales and statistics that are neither 0 nor 1."""
    made = jax.jit(module.init, static_argnums=2, compiler_options=_QUICKLY)(
        jax.random.key(0), x, False
    )
    rng = np.random.default_rng(0)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            leaf if path[-1].key == "kernel" else rng.uniform(0.5, 1.5, leaf.shape).astype("f")
        ),
        made,
    )


# ResNet-50's kind of block, stem and pool in small.
_BOTTLENECK = resnet.ResNet((2, 1), (8, 16), bottleneck=True)


@pytest.mark.parametrize(
    "net, train", [(resnet.make("small"), True), (resnet.make("small"), False), (_BOTTLENECK, True)]
)
def test_the_networks_give_the_same_with_the_same_weights(net, train):
    chain = {
        "encoder": net,
        "projector": _layers.MLP(hidden=(6,), out=4, out_bn=True),
    }
    images = np.random.default_rng(1).random((4, 32, 32, 1), np.float32)
    x, params, stats, ours = images, {}, {}, {}
    for name, module in chain.items():
        variables = _variables(module, x)
        params[name], stats[name] = variables["params"], variables["batch_stats"]
        apply = jax.jit(
            lambda v, x, module=module: module.apply(v, x, train, mutable=["batch_stats"])[0],
            compiler_options=_QUICKLY,
        )
        x = ours[name] = np.asarray(apply(variables, x))
    rival = _torch_model.make_networks(chain, params, stats).train(train)
    with torch.no_grad():
        features = rival["encoder"](torch.from_numpy(images).permute(0, 3, 1, 2))
        projections = rival["projector"](features)
    np.testing.assert_allclose(features, ours["encoder"], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(projections, ours["projector"], rtol=2e-2, atol=2e-2)
    trained = sum(p.numel() for p in rival.parameters() if p.requires_grad)
    assert trained == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_another_shape_is_refused():
    module = _torch_model.MLP(3, _layers.MLP(hidden=(), out=2))
    with pytest.raises(ValueError, match=r"no dense_out.weight \(2, 5\)"):
        _torch_model.copy_variables(module, {"dense_out": {"kernel": np.zeros((5, 2), "f")}})
    with pytest.raises(ValueError, match=r"has more: dense_out.weight"):
        _torch_model.copy_variables(module, {})


def test_nt_xent_is_ours():
    z = np.random.default_rng(0).normal(size=(12, 5)).astype("f")
    expected = nt_xent(jnp.asarray(z[:6]), jnp.asarray(z[6:]), 0.2)
    assert float(_torch_step.nt_xent(torch.from_numpy(z), 0.2)) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    "fields",
    [
        dict(name="adamw", learning_rate=0.1, weight_decay=0.1),
        dict(name="sgd", learning_rate=0.1, weight_decay=0.1),
        dict(name="lars", learning_rate=0.1, weight_decay=0.1, rate_inside_momentum=True),
        dict(name="lars", learning_rate=0.1, weight_decay=0.1, rate_inside_momentum=False),
    ],
    ids=["adamw", "sgd", "lars inside", "lars outside"],
)
def test_three_updates_are_ours(fields):
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(3, 2)).astype("f"), "bias": rng.normal(size=2).astype("f")}
    slopes = [jax.tree.map(lambda p: rng.normal(size=p.shape).astype("f"), params) for _ in "abc"]
    fields |= dict(schedule="cosine", warmup=1)
    ours, schedule = optim.make_optimizer(fields, num_train_steps=4, batch_size=8)
    module = torch.nn.Linear(3, 2)
    _torch_model.copy_variables(module, params)
    rival = _torch_step.make_optimizer(module, fields)
    state = ours.init(params)
    for step, slope in enumerate(slopes):
        updates, state = ours.update(slope, state, params)
        params = optax.apply_updates(params, updates)
        module.weight.grad = torch.from_numpy(slope["kernel"].T.copy())
        module.bias.grad = torch.from_numpy(slope["bias"].copy())
        for group in rival.param_groups:
            group["lr"] = float(schedule(step))
        rival.step()
    np.testing.assert_allclose(module.weight.detach().T, params["kernel"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(module.bias.detach(), params["bias"], rtol=1e-5, atol=1e-6)


def _rival_view(originals, **changes):
    images = torch.from_numpy(originals).permute(0, 3, 1, 2)
    return _torch_augment.augment(images, PLAIN | changes).permute(0, 2, 3, 1).numpy()


def test_a_view_that_changes_nothing_but_the_size_is_ours():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 10, 10, 1)).astype(np.uint8)
    images = coarse.repeat(4, axis=1).repeat(4, axis=2)
    larger = PLAIN["size"] * 2
    ours = augment_view(jax.random.PRNGKey(0), images, PLAIN | dict(size=larger))
    np.testing.assert_allclose(_rival_view(images, size=larger), ours, atol=2e-3)


def test_every_change_of_a_view_acts_and_stays_within_grey_values():
    images = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 1)).astype(np.uint8)
    plain = _rival_view(images)
    always = dict(jitter_prob=1.0)
    for change in (
        dict(crop_scale=(0.2, 0.5)),
        dict(flip=1.0),
        dict(rotate=10.0),
        dict(blur_prob=1.0, blur_sigma=(1.0, 2.0)),
        dict(brightness=0.5) | always,
        dict(contrast=0.5) | always,
        dict(gamma=0.5) | always,
        dict(solarise_prob=1.0),
        dict(noise=0.1),
    ):
        changed = _rival_view(images, **change)
        assert changed.shape == plain.shape and changed.min() >= 0 and changed.max() <= 1
        assert np.abs(changed - plain).max() > 1e-2, change
    np.testing.assert_allclose(_rival_view(images, flip=1.0), plain[:, :, ::-1], atol=1e-5)
