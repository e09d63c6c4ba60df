"""The benchmarks that read a compiled program, and that of the augmentation."""

import json
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from benchmarks import _command, _work, augment, memory, scaling
from configs import medaug
from cxr_jax import models


def test_two_devices_reduce_the_gradient(tiny_config):
    config = tiny_config()
    fields = ("batch_size", "data.image_size", "views.a.size", "views.b.size", "objective.out")
    flat = {name: config for name in fields}
    for name in fields:
        for part in name.split("."):
            flat[name] = flat[name][part]
    changes = [f"--config.{name}={value}" for name, value in flat.items()]
    arguments = ["--config=configs/simclr.py:cpu", "--steps=1", *changes]
    result = scaling.measure_apart(2, arguments)
    scaling.print_figures(config, [result])
    assert result["devices"] == 2 and len(result["seconds"]) == 1
    count, moved = result["collectives"]["all-reduce"]
    assert count >= 1 and moved > 4 * 300_000  # every gradient crosses
    with pytest.raises(ValueError, match=r"on 2 devices: .*batch_size=15"):
        scaling.measure_apart(2, [*arguments, "--config.batch_size=15"])


@pytest.mark.parametrize("bytes_of", [lambda b: 1000 * b + 7, lambda b: 5 * b * b + b])
def test_the_largest_batch_is_found_in_few_compilations(bytes_of):
    asked = []

    def ask(batch):
        asked.append(batch)
        return bytes_of(batch)

    batch, size = memory.largest_batch(ask, 900_000, multiple=8, start=64)
    assert batch % 8 == 0 and size == bytes_of(batch) <= 900_000
    assert bytes_of(batch + max(8, round(0.04 * batch))) > 900_000
    assert len(asked) <= 10


def test_nothing_fits_a_budget_below_the_weights():
    assert memory.largest_batch(lambda b: 10**6 + b, 10**5, 8, 64)[0] == 0


def test_the_batch_that_fits_is_found_without_running_and_confirmed(tiny_config, monkeypatch):
    folder = str(Path(__file__).parents[1] / "objectives" / "tiny")
    monkeypatch.setattr(models, "__path__", [*models.__path__, folder])
    config = tiny_config()
    config.model = ConfigDict(dict(name="tiny", width=16))  # compiles in no time
    config.batch_size = 16
    budget = memory.step_bytes(config, 16) - 1
    figures = memory.measure(config, budget, [0], confirm=True)
    (row,) = figures["rows"]
    assert row["largest batch"] == 8 and row["one step"].startswith("ran")
    # The step holds its uint8 images at the least.
    assert budget - 1e9 * row["GB"] > 8 * config.data.image_size**2


def test_views_are_timed_beside_the_step(tiny_config):
    pytest.importorskip("torch")
    figures = augment.measure(tiny_config(), repetitions=2, compiling=(False,))
    assert figures["share_of_step"] > 0 and figures["ratio"] > 0
    assert len(figures["rows"]) == 1 + 2 * 2
    json.dumps(figures)


def test_batches_are_invented_as_the_step_takes_them(monkeypatch):
    folder = str(Path(__file__).parents[1] / "objectives" / "tiny")
    monkeypatch.setattr(models, "__path__", [*models.__path__, folder])
    config = medaug.get_config("cpu")
    config.model = ConfigDict(dict(name="tiny", width=16))
    config.data.image_size, config.batch_size = 40, 8
    config.objective.update(hidden=8, out=4, queue_size=16, bn_group=4)
    made = _work.prepare(config)
    batch = _work.invent_batch(config, made)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == jax.tree.map(
        lambda x: (x.shape, x.dtype), made.shapes()[1]
    )
    assert (batch["image"] != batch["pair"]).any()
    assert memory._one_step(config, 8).startswith("ran, loss")


def test_a_table_has_a_cell_for_what_is_missing(capsys):
    _command.print_table([{"a": 1.25}, {"a": 2.0, "b": 3}], {"a": ".1f", "b": ""})
    assert capsys.readouterr().out.splitlines()[2:] == ["| 1.2 | – |", "| 2.0 | 3 |"]
