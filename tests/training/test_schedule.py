"""Learning rates over a training: warm-up, cosine, scaling with the batch, and what is refused."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from cxr_jax.training.optim import make_optimizer


def rates(steps, num_train_steps=110, batch_size=100, num_examples=None, **fields):
    config = ConfigDict(dict(name="sgd", learning_rate=0.3) | fields)
    _, schedule = make_optimizer(config, num_train_steps, batch_size, num_examples)
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize(
    "warmup",
    [
        dict(warmup=10, warmup_unit="steps"),
        dict(warmup=2, warmup_unit="epochs", num_examples=500),
        dict(warmup=1000, warmup_unit="examples"),
    ],
)
def test_warm_up_and_cosine_in_three_units(warmup):
    values = rates([0, 1, 5, 10, 35, 60, 110, 200], **warmup)
    quarter = 0.3 * (1 + np.cos(np.pi / 4)) / 2
    expected = [0, 0.03, 0.15, 0.3, quarter, 0.15, 0, 0]
    np.testing.assert_allclose(values, expected, atol=1e-7)


@pytest.mark.parametrize(
    "name, value",
    [
        *(("learning_rate", value) for value in (-1.0, 0.0, 1e400, -1e400, float("nan"), 1e39)),
        *(("final_learning_rate", value) for value in (-0.1, float("nan"))),
        *(("weight_decay", value) for value in (-1e-6, float("inf"), float("nan"))),
        ("final_weight_decay", -1),
    ],
)
def test_rates_and_decays_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"^config.optimizer.{name} is .*, and finite"):
        rates([0], **{name: value})
    if name.endswith("learning_rate") and value:
        groups = dict(head={"match": ("x",), name: value})
        with pytest.raises(ValueError, match=rf"^config.optimizer.groups.head.{name} is "):
            rates([0], groups=groups)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    np.testing.assert_allclose(rates([0, 55, 110]), [0.3, 0.15, 0], atol=1e-7)


def test_final_rate_and_constant_rate():
    values = rates([0, 55, 110], final_learning_rate=0.1)
    np.testing.assert_allclose(values, [0.3, 0.2, 0.1], rtol=1e-6)
    values = rates([0, 5, 10, 109], schedule="constant", warmup=10)
    np.testing.assert_allclose(values, [0, 0.15, 0.3, 0.3], rtol=1e-6)


@pytest.mark.parametrize("scaling, peak", [("none", 0.3), ("linear", 0.3 * 16), ("sqrt", 0.3 * 64)])
def test_rate_scales_with_the_batch(scaling, peak):
    values = rates([0, 110], batch_size=4096, scaling=scaling, final_learning_rate=0.03)
    np.testing.assert_allclose(values, [peak, peak / 10], rtol=1e-6)


def test_warm_up_longer_than_the_training_warns_once_and_keeps_rising(capsys):
    groups = dict(head=dict(match=("x",)))
    values = rates([0, 10, 19], num_train_steps=20, warmup=40, groups=groups)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("WARNING: the warm-up of 40 steps fills all 20 training steps: ")
    np.testing.assert_allclose(values, [0, 0.075, 0.1425], rtol=1e-6)
