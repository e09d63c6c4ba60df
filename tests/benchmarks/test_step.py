import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import jax
import pytest

from benchmarks import _command, _work, convolutions, features, step


def test_our_step_and_the_rivals_are_timed_and_are_the_same_work(tiny_config, tmp_path):
    pytest.importorskip("torch")
    printed, config = io.StringIO(), tiny_config("byol")
    config.frozen_stages = 1
    with redirect_stdout(printed):
        figures = step.measure(config, 2, 1, 64, compiling=(False,), profile=tmp_path)
    assert figures["same_parameters"]
    # Other views of sixteen images: the command's own 10 % is for real batches.
    losses = [row["first loss"] for row in figures["rows"]]
    assert max(losses) < 1.3 * min(losses)
    assert figures["ratio"] > 0 and figures["rival"].startswith("PyTorch, eager")
    names = [row["what"] for row in figures["rows"]]
    assert names == ["cxr_jax", "PyTorch, eager", "PyTorch, eager, channels last"]
    assert all(len(seconds) == 2 for seconds in figures["seconds"].values())
    assert "In words" in printed.getvalue()
    assert list(tmp_path.rglob("*.xplane.pb"))
    json.dumps(figures)


def test_the_work_of_a_step_is_that_of_its_networks(tiny_config):
    # SimCLR embeds two views, forward and backward: three times the forward pass, and the stem,
    # whose input needs no gradient, twice.
    config = tiny_config()
    flops = _work.step_flops(config)
    size, count = config.views.a.size, 2 * config.batch_size
    stem = 2 * 49 * 32 * (size // 4) ** 2 * count
    encoder = step._chain(config)["encoder"]
    images = jax.ShapeDtypeStruct((count, size, size, 1), "float32")
    variables = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, True), images)
    forward = jax.jit(lambda v, x: encoder.apply(v, x, True, mutable=["batch_stats"])[0])
    expected = 3 * forward.lower(variables, images).cost_analysis()["flops"] - stem
    assert flops == pytest.approx(expected, rel=0.1)
    config.microbatch_size = 8
    assert _work.step_flops(config) == flops


def test_a_config_that_is_no_pretraining_is_refused():
    with pytest.raises(ValueError, match=r"transfer\.py is of a transfer; .* step of pretraining"):
        _command.load_configs("configs/transfer.py", [])


def test_bad_input_ends_in_a_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step", "--config=configs/simclr.py:cpu", "--step=3"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: unknown option '--step'")


def test_features_are_timed_beside_the_rivals_and_are_the_same(capsys):
    pytest.importorskip("torch")
    figures = features.measure("small", 32, 4, 2, compiling=(False,))
    assert max(row["largest difference"] for row in figures["rows"]) < 1e-4
    assert figures["ratio"] > 0 and len(figures["rows"]) == 3
    assert "WARNING" not in capsys.readouterr().out


def test_convolutions_are_those_of_the_network_and_timed_beside_the_rivals(capsys):
    found = convolutions.shapes("50", 224, 1)
    # 4.09e9 multiply-adds (torchvision's table) less two channels of the first kernel and the end.
    counted = sum(times * convolutions.operations(shape) for shape, times in found.items())
    assert counted == pytest.approx(2 * (4.09e9 - 2 * 49 * 64 * 112**2 - 2048 * 1000), rel=1e-3)
    pytest.importorskip("torch")
    figures = convolutions.measure("small", 32, 2, 1)
    assert figures["rows"][-1]["convolutions"] == "all"
    assert "In words: the convolutions" in capsys.readouterr().out
