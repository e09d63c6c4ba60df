"""However a state lies on eight devices, it is trained as on one."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import xla
from tests.fakes import devices
from tests.fakes.plain_view import PLAIN


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    view = PLAIN | dict(crop_scale=(0.5, 1.0), flip=0.5)
    config = dict(
        model=dict(name="tiny", width=16),
        views=dict(a=view, b=view),
        objective=dict(name="byol", hidden=512, out=16, tau_base=0.9),
        num_train_steps=10,
        microbatch_size=0,
    )
    done = subprocess.run(
        [
            *(sys.executable, str(Path(__file__).parent / "sharded_states.py")),
            *(json.dumps(config), str(tmp_path_factory.mktemp("checkpoint"))),
        ],
        env=devices.EIGHT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["plain", "split", "model"])
def test_updates_are_those_of_one_device_and_one_program_makes_them(results, name):
    assert results[name]["distance"] < 1e-4
    assert results[name]["stays"] and results[name]["programs"] == 1


def test_a_split_state_takes_less_of_each_device(results):
    assert results["plain"]["bytes"] == results["one"]["bytes"]
    assert results["split"]["bytes"] < results["plain"]["bytes"] / 4
    axes = {name: results[name]["axes"] for name in ("plain", "split", "model")}
    assert axes == {"plain": [], "split": ["data"], "model": ["data", "model"]}


def test_a_checkpoint_of_eight_devices_goes_on_on_one_and_on_two(results):
    for number in (1, 2):
        restored = results[f"restored_{number}"]
        assert restored["distance"] == 0 and restored["data"] == {"next": 7}
    assert results["restored_1"]["loss"] == pytest.approx(results["restored_2"]["loss"], rel=1e-4)


def test_numbers_that_do_not_fit_are_named(results):
    assert (
        "config.mesh.model=3 does not divide the 8 devices; use one of 1, 2, 4, 8"
        in (results["mesh of 3"])
    )
    assert (
        "config.batch_size=6 does not divide by the 4 groups of 2 devices"
        in (results["batch of 6"])
    )


def test_constants_of_one_program_do_not_reach_another():
    x = np.random.default_rng(0).normal(size=(8, 12, 32)).astype(np.float32)
    for number in range(12):
        matrix = jnp.full((32, 64), float(number % 3))
        product = jax.jit(lambda x, m=matrix: x @ m + 1, compiler_options=xla.options())
        np.testing.assert_allclose(product(x), x @ np.asarray(matrix) + 1, rtol=1e-4, atol=1e-4)
