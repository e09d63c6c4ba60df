"""Programs are made for the platform that is described, from a process that has another one."""

import jax
import jax.numpy as jnp
import pytest

from cxr_jax import xla
from cxr_jax.models import _layers


def _lowered(platform):
    net, x = _layers.Conv(4, 3), jnp.zeros((1, 4, 4, 3))
    with xla.made_for(platform):
        shapes = jax.eval_shape(net.init, jax.random.key(0), x)
        traced = jax.jit(net.apply).trace(shapes, x)
        options = xla.options()
    name = "cuda" if platform == "gpu" else platform
    return traced.lower(lowering_platforms=(name,)).as_text(), options


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_layers_and_options_are_those_of_the_described_platform(platform):
    text, options = _lowered(platform)
    assert "stablehlo.convolution" in text and "optimization_barrier" not in text
    assert not options
    own, options = _lowered(jax.default_backend())
    assert "optimization_barrier" in own and options == xla.options()


def test_devices_are_those_described_while_they_are():
    own, described = jax.devices(), object()
    with pytest.raises(ZeroDivisionError), xla.made_for("tpu", [described]):
        assert xla.devices() == [described] and xla.platform() == "tpu"
        raise ZeroDivisionError
    assert xla.devices() == own and xla.platform() == jax.default_backend()


def test_devices_that_are_asked_for_and_missing_are_named(monkeypatch):
    def missing():
        raise AssertionError

    xla.check_devices()
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(xla.jax, "default_backend", missing)
    with pytest.raises(ValueError, match=r"JAX_PLATFORMS=cuda asks for .*\(no plugin for them\)"):
        xla.check_devices()
