"""Numbers that are not finite, and collapsed embeddings: what is said, skipped and written down."""

import csv
import json
import math

import jax
import numpy as np
import pytest

from cxr_jax import training
from cxr_jax.data import order
from cxr_jax.experiments import health, pretrain

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
    warnings = health.collapse(_HEALTHY | changed)
    assert len(warnings) == len(words)
    for warning, expected in zip(warnings, words):
        assert expected in warning


@pytest.mark.parametrize(
    ("step", "values", "before", "num_blank", "words"),
    [
        (9, (1.0, 2.0, math.inf), (1.0, 2.0, 9.0), 0, "the update was too large"),
        (9, (math.nan, math.nan, math.nan), (1.0, 1.0, 99.0), 3, "3 of its films are blank"),
        (1, (math.nan, math.nan, math.nan), (), 0, "it is the first step"),
        (9, (math.nan, math.nan, math.nan), (1.0, 50.0, 99.0), 0, "the gradient's norm was 50"),
        (9, (1.0, math.inf, math.nan), (1.0, 1.0, 99.0), 0, "half precision"),
        (9, (math.nan, math.nan, math.nan), (1.0, 1.0, 99.0), 0, "a learning rate that is too"),
    ],
)
def test_the_likely_cause_follows_from_the_numbers(step, values, before, num_blank, words):
    names = ("loss", "gradient_norm", "parameter_norm")
    cause = health.likely_cause(step, dict(zip(names, values)), dict(zip(names, before)), num_blank)
    assert words in cause


def test_so_many_steps_are_skipped_as_config_says_and_no_more(tiny_config, tmp_path):
    """Every step fails here: its update takes the parameters out of float32."""
    config = tiny_config("simclr")
    config.optimizer.update(learning_rate=1e38, warmup=0)
    config.skip_nonfinite = 3
    made = training.prepare(config, 36)
    start = made.create()
    after = pretrain.train(config, tmp_path, stop_after=2)
    for name in ("params", "aux", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(start, name))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped_steps"] for line in lines] == [1, 2]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    with pytest.raises(FloatingPointError, match=r"step 4: the .* 3 such steps were skipped"):
        pretrain.train(config, tmp_path)  # counts on from the 2 of the checkpoint
    with (tmp_path / "nonfinite.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1] * 16 + [2] * 16 + [3] * 16 + [4] * 16
    assert [int(row["row"]) for row in rows] == order.rows(36, config.seed, 0, 64).tolist()
    assert len({row["image_id"] for row in rows}) == 36
    assert {row["blank"] for row in rows} == {"0"}


def test_a_failed_run_names_step_films_and_cause_and_keeps_ids_off_the_console(
    tiny_config, tmp_path, capsys
):
    config = tiny_config("simclr")
    config.optimizer.update(learning_rate=1e38, warmup=0)
    with pytest.raises(FloatingPointError) as caught:
        pretrain.train(config, tmp_path)
    said = str(caught.value)
    assert "step 1: the parameter norm is inf" in said and "the update was too large" in said
    assert "nonfinite.csv names them" in said
    with (tmp_path / "nonfinite.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    console = said + "".join(capsys.readouterr())
    assert not any(row["image_id"] in console for row in rows)
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))
