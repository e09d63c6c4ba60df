"""Numbers that are not finite, and collapsed embeddings: what is said, skipped and written down."""

import csv
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxr_jax import objectives
from cxr_jax.data import order
from cxr_jax.data.order import NO_FIELDS, Fields, find_partners
from cxr_jax.data.source import load_source
from cxr_jax.experiments import _monitor
from cxr_jax.training import step as train_step
from cxr_jax.training.log import NoWriter, Writer

_HEALTHY = {"embedding_std": 1.0, "effective_rank": 9.0}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, []),
        ({"embedding_std": 0.05}, ["nearly collapsed (spread 0.050"]),
        ({"effective_rank": 1.2}, ["one direction alone (effective rank 1.20)"]),
        ({"prototypes_used": 1.1}, ["the same prototype (prototypes used: 1.10)"]),
        ({"prototypes_used": 30.0}, []),
    ],
)
def test_collapse_is_named_by_what_shows_it(changed, words):
    warnings = _monitor.collapse(_HEALTHY | changed)
    assert len(warnings) == len(words)
    for warning, expected in zip(warnings, words):
        assert expected in warning


@pytest.mark.parametrize(
    ("step", "values", "before", "num_blank", "words"),
    [
        (9, (1.0, 2.0, math.inf), (1.0, 2.0, 9.0), 0, "the update was too large"),
        (9, (math.nan, math.nan, math.nan), (1.0, 1.0, 99.0), 3, "3 of its images are blank"),
        (1, (math.nan, math.nan, math.nan), (), 0, "it is the first step"),
        (9, (math.nan, math.nan, math.nan), (1.0, 50.0, 99.0), 0, "the gradient's norm was 50"),
        (9, (1.0, math.inf, math.nan), (1.0, 1.0, 99.0), 0, "half precision"),
        (9, (math.nan, math.nan, math.nan), (1.0, 1.0, 99.0), 0, "a learning rate that is too"),
    ],
)
def test_the_likely_cause_follows_from_the_numbers(step, values, before, num_blank, words):
    names = ("loss", "gradient_norm", "parameter_norm")
    cause = _monitor.likely_cause(
        step, dict(zip(names, values)), dict(zip(names, before)), num_blank
    )
    assert words in cause


_NAN = {"loss": math.nan, "gradient_norm": math.nan, "parameter_norm": 1.0}
_FINITE = {"loss": 1.0, "gradient_norm": 1.0, "parameter_norm": 9.0}


@pytest.fixture
def watch(tiny_config, tmp_path, request):
    """(steps allowed to skip, skipped before) -> Health of a run on the tiny drawn images."""
    config = tiny_config("simclr")
    source = load_source(config.data.name, config.data.dir, "train", fields=("image",))
    writer = Writer(tmp_path)
    request.addfinalizer(writer.close)

    def make(allowed: int = 0, skipped: int = 0, advice: str = "stir") -> _monitor.Health:
        config.skip_nonfinite = allowed
        return _monitor.Health(config, source, NO_FIELDS, tmp_path, writer, skipped, advice)

    return make


def _listed(folder: Path) -> list[dict[str, str]]:
    with (folder / "nonfinite.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_failed_step_names_cause_and_images_and_keeps_ids_off_the_console(
    watch, tmp_path, capsys
):
    watchdog = watch()
    assert watchdog.check(1, _FINITE) and watchdog.check(2, _FINITE)
    with pytest.raises(FloatingPointError) as caught:
        watchdog.check(3, _NAN)
    said = str(caught.value)
    assert "step 3: the loss is nan, the gradient norm is nan. Likely cause: the training" in said
    assert f"{tmp_path / 'nonfinite.csv'} names them" in said
    rows = _listed(tmp_path)
    assert [int(row["row"]) for row in rows] == order.rows(36, 0, 32, 48).tolist()
    assert {(row["step"], row["blank"]) for row in rows} == {("3", "0")}
    console = said + "".join(capsys.readouterr())
    assert not any(row["image_id"] in console for row in rows)


def test_so_many_steps_are_skipped_as_config_says_and_counted_through_a_resume(watch, tmp_path):
    watchdog = watch(allowed=2)
    assert [watchdog.check(step, _NAN) for step in (4, 5)] == [False, False]
    assert watchdog.check(6, _FINITE) and watchdog.skipped == 2
    resumed = watch(allowed=2, skipped=1)  # from a checkpoint of step 4
    resumed.forget_after(4)
    assert {row["step"] for row in _listed(tmp_path)} == {"4"}
    assert not resumed.check(5, _NAN)
    with pytest.raises(FloatingPointError, match=r"step 6: .* 2 such steps were skipped before"):
        resumed.check(6, _NAN)
    assert [row["step"] for row in _listed(tmp_path)] == ["4"] * 16 + ["5"] * 16 + ["6"] * 16


def test_the_images_of_a_step_with_pairs_are_both_of_each_pair(tiny_config, studies_dir, tmp_path):
    config = tiny_config("medaug", "cpu")
    config.data.name, config.data.dir, config.batch_size = "image_folder", str(studies_dir), 2
    source = load_source(config.data.name, config.data.dir, "train", fields=("image",))
    partners = find_partners(source, "study")
    fields = Fields(partners.draw, ("image", "pair"))
    watchdog = _monitor.Health(config, source, fields, tmp_path, NoWriter(), 0, "")
    config.skip_nonfinite = 8
    for step in range(1, 9):
        watchdog.check(step, _NAN)
        places = (config.seed, 2 * (step - 1), 2 * step)
        images = {*order.rows(8, *places).tolist(), *partners.draw(*places)["pair"].tolist()}
        listed = [int(row["row"]) for row in _listed(tmp_path) if row["step"] == str(step)]
        assert sorted(listed) == sorted(images)
    assert len(_listed(tmp_path)) > 16  # some images have partners


def test_a_warning_reaches_the_terminal_and_tensorboard(watch, tmp_path, capsys):
    watch().warn_of_collapse(7, _HEALTHY | {"embedding_std": 0.01})
    said = capsys.readouterr().out
    assert re.search(r"WARNING: step 7: the embeddings have nearly collapsed .*: stir", said)
    events = b"".join(path.read_bytes() for path in tmp_path.glob("events.out.tfevents.*"))
    assert b"the embeddings have nearly collapsed" in events


def test_an_objective_that_cannot_collapse_is_not_warned_of(watch, tiny_config, capsys):
    advice = objectives.build(tiny_config("mae")).collapse_advice
    watch(advice=advice).warn_of_collapse(7, _HEALTHY | {"embedding_std": 0.01})
    assert capsys.readouterr().out == ""


def test_a_skipped_step_leaves_the_state_as_it_was_and_another_is_not_touched():
    """Least squares by AdamW, with running statistics; the second batch holds a NaN."""

    def loss_from_outputs(outputs, aux):
        return jnp.mean(outputs**2), ({"mean": 0.9 * aux["mean"] + outputs.mean()}, {})

    objective = objectives.Objective(
        init=lambda key, batch: ({"w": jnp.ones(3)}, {"mean": jnp.zeros(())}),
        embed=lambda params, aux, batch, key: (batch @ params["w"], aux),
        loss_from_outputs=loss_from_outputs,
        after_update=lambda params, aux, step: aux,
        features=lambda params, aux, images: images,
    )
    optimizer = optax.adamw(0.1)
    batch = jnp.arange(12.0).reshape(4, 3)
    plain, skipping = (
        jax.jit(
            train_step.make_train_step(objective, optimizer, lambda step: 0.1, skip_nonfinite=skip)
        )
        for skip in (False, True)
    )
    start = train_step.create_state(objective, optimizer, batch, 0)
    after, _ = skipping(start, batch)
    jax.tree.map(np.testing.assert_array_equal, after, plain(start, batch)[0])
    skipped, metrics = skipping(after, batch.at[2, 1].set(jnp.nan))
    assert math.isnan(metrics["loss"]) and int(skipped.step) == 2
    for name in ("params", "aux", "opt_state", "key"):
        jax.tree.map(np.testing.assert_array_equal, getattr(skipped, name), getattr(after, name))
