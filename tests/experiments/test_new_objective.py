"""An objective of one file, with a batch field that nothing else knows, through a pretraining."""

import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from cxr_jax import objectives
from cxr_jax.data import order
from cxr_jax.data.source import load_source
from cxr_jax.experiments import pretrain


@pytest.fixture
def age_config(tiny_config, monkeypatch):
    """SimCLR's config with the toy objective in the place of SimCLR."""
    folder = str(Path(__file__).parents[1] / "objectives" / "toy")
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, folder])
    config = tiny_config("simclr")
    config.objective = ConfigDict(dict(name="age", reads="age", stored="age"))
    config.objective.metrics = ("mean_age",)
    return config


@pytest.mark.parametrize(("cache", "microbatch_size"), [("none", 0), ("device", 8)])
def test_its_field_is_read_with_its_images(
    age_config, data_dir, tmp_path, cache, microbatch_size, capsys
):
    age_config.data.cache, age_config.microbatch_size = cache, microbatch_size
    if cache == "none":  # once on its way
        pretrain.train(age_config, tmp_path, stop_after=2)
    pretrain.train(age_config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    source = load_source("phantom/tiny", str(data_dir), "train", fields=("age",))
    ages = np.array([source.records[row]["age"] for row in range(len(source))])
    seen = order.rows(len(source), age_config.seed, 0, 4 * 16).reshape(4, 16)
    expected = ages[seen].mean(axis=1)
    np.testing.assert_allclose([line["mean_age"] for line in lines], expected, rtol=1e-6)
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert "spread" not in capsys.readouterr().out  # which it does not measure


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reads": "weight"}, r"'age' reads 'weight', and its batch holds image, age: what it"),
        ({"stored": "weight"}, r"dataset phantom/.* has no field weight; its examples have age,"),
        ({"metrics": ()}, r"gives the metrics mean_age and declares \(none\)"),
    ],
)
def test_what_it_does_not_declare_is_named_before_training(age_config, tmp_path, changes, message):
    age_config.objective.update(changes)
    with pytest.raises(ValueError, match=message):
        pretrain.train(age_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_field_of_another_type_than_declared_is_named(age_config, tmp_path, monkeypatch):
    made = objectives.build(age_config)
    drawn = order.Fields(lambda seed, start, stop: {"years": np.zeros(stop - start)})
    wrong = made._replace(open_fields=lambda source, workdir: (source, drawn))
    monkeypatch.setattr(objectives, "build", lambda config: wrong)
    with pytest.raises(ValueError, match=r"'age': 'float32 \[\]'.*reads .*'years': 'float64 \[\]'"):
        pretrain.train(age_config, tmp_path / "run")
