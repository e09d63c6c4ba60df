"""A pretraining that starts from weights: its encoder everywhere, nothing else, and only once."""

import json
import re
from functools import partial

import jax
import numpy as np
import pytest

from cxr_jax import objectives, weights
from cxr_jax.data import seen_images
from cxr_jax.data.source import load_source
from cxr_jax.experiments import _pretrain_inputs as inputs
from cxr_jax.experiments import _transfer_report, _workdir, pretrain
from cxr_jax.experiments._workdir import as_json
from cxr_jax.models import resnet
from cxr_jax.objectives._average import average_with_start
from cxr_jax.training import step as train_step
from cxr_jax.training.step import TrainState
from cxr_jax.weights.encoder import features, random_encoder
from cxr_jax.weights.export import write_folder
from cxr_jax.weights.exporters import safetensors
from tests.fakes.bars import MICRO

QUICKLY = {"xla_backend_optimization_level": 0}  # to compile
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.2)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """An encoder with three channels and statistics of its own, and its file."""
    monkeypatch.setitem(resnet.VARIANTS, "micro", MICRO)
    monkeypatch.setitem(resnet.VARIANTS, "other", MICRO | {"widths": (5,)})
    return write_start({"name": "resnet", "variant": "micro"}, tmp_path / "file")


def write_start(model, folder):
    model |= {"mean": MEAN, "std": STD}
    encoder = random_encoder(model, image_size=32, seed=5)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: x + rng.uniform(0.1, 1, x.shape), encoder.variables)
    variables = jax.tree.map(lambda x: np.asarray(x, np.float32), moved)
    encoder = encoder._replace(variables=variables)
    write_folder(folder, safetensors.export(encoder), card="")
    return encoder, f"safetensors:{folder}"


def config_of(make, objective, spec):
    config = make(objective)
    config.init, config.model.variant = spec, "micro"
    return config


def test_a_config_for_gpus_says_on_a_cpu_how_long_it_would_take(tiny_config, capsys):
    config = tiny_config("simclr")
    config.model.dtype, config.num_train_steps = "bfloat16", 86400 * 100
    source = load_source("phantom/tiny", config.data.dir, "train", ("image",))
    training = train_step.prepare(config, objectives.build(config), len(source))
    pretrain._announce(config, source, {}, training)
    days = re.search(r"a CPU alone: about ([\d,.]+) days", capsys.readouterr().out)[1]
    assert float(days.replace(",", "")) > 0


@pytest.mark.parametrize("objective", ["simclr", "byol", "moco", "dino"])
def test_the_first_state_has_the_encoders_features_and_its_own_heads(
    objective, start, tiny_config, tmp_path
):
    encoder, spec = start
    config = config_of(tiny_config, objective, spec)
    taken, found = inputs.read_start(config, tmp_path / "run")
    assert (tuple(taken.model.mean), tuple(taken.model.std)) == (MEAN, STD)
    assert "mean" not in config.model
    pieces = objectives.build(taken)
    params, aux = jax.jit(pieces.init, compiler_options=QUICKLY)(jax.random.key(1), {})
    fresh = TrainState(0, params, aux, (), jax.random.PRNGKey(0))
    state = inputs.put_start(fresh, found, pieces)
    images = jax.random.uniform(jax.random.key(0), (3, 32, 32, 1))
    np.testing.assert_allclose(
        jax.jit(pieces.features)(state.params, state.aux, images),
        features(encoder)(images),
        rtol=1e-5,
        atol=1e-5,
    )
    exported = pieces.exported(state.params, state.aux)
    jax.tree.map(np.testing.assert_array_equal, exported, encoder.variables)
    copies = 1 if objective == "simclr" else 2  # the network, and what follows it
    stem = encoder.variables["params"]["conv1"]["kernel"]
    leaves = jax.tree.leaves((state.params, state.aux))
    assert sum(leaf.shape == stem.shape and bool((leaf == stem).all()) for leaf in leaves) == copies
    assert not any(leaf.shape == stem.shape and (leaf != stem).any() for leaf in leaves)
    for name in state.params.keys() - {"encoder"}:
        jax.tree.map(np.testing.assert_array_equal, state.params[name], fresh.params[name])
    places = [leaf.unsafe_buffer_pointer() for leaf in leaves]
    assert len(set(places)) == len(places)  # one buffer twice could not be donated


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_start_that_reads_images_otherwise_is_named(fit, start, tiny_config, tmp_path, capsys):
    write_folder(tmp_path / fit, safetensors.export(start[0]._replace(fit=fit)), card="")
    config = config_of(tiny_config, "simclr", f"safetensors:{tmp_path / fit}")
    inputs.read_start(config, tmp_path / "run")
    assert ("whole images (pad)" in capsys.readouterr().out) == (fit == "pad")


def test_it_is_loaded_once_and_the_ledger_holds_what_the_start_had_seen(
    start, tiny_config, data_dir, tmp_path
):
    encoder, spec = start
    config = config_of(tiny_config, "simclr", spec)
    config.num_train_steps = config.optimizer.warmup = 1
    config.optimizer.learning_rate, config.data.split = 1e-30, "train[:16]"
    first, second = tmp_path / "first", tmp_path / "second"
    pretrain.train(config, first)
    config.init, config.data.split = str(first), "train[20:36]"
    config.num_train_steps, config.checkpoint_every_steps = 2, 1
    pretrain.train(config, second, stop_after=1)
    kept = (second / seen_images.FILE).read_bytes()
    first.rename(tmp_path / "gone")
    assert int(pretrain.train(config, second).step) == 2
    again = weights.load(str(second))
    params = again.variables["params"], encoder.variables["params"]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-20), *params)
    assert (tuple(again.model["mean"]), tuple(again.model["std"])) == (MEAN, STD)
    with pytest.raises(FileNotFoundError, match="no workdir or weights file"):
        pretrain.train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (start_of_run,) = _workdir.read_provenance(second)["starts"]  # kept when the weights were gone
    assert start_of_run["encoders"] == {
        config.init: _workdir.fingerprint_weights(weights.load(str(tmp_path / "gone")))
    }

    assert (second / seen_images.FILE).read_bytes() == kept
    rows = sorted(seen_images.read(second).row.tolist())
    assert rows == [*range(16), *range(20, 36)]
    source = load_source("phantom/tiny", str(data_dir), "train", fields=("image",))
    seen = seen_images.seen_by_encoder(f"workdir:{second}", source)
    assert seen.image[:16].all() and seen.image[20:].all()
    lines = _transfer_report.exposure_lines({"runs/b": seen}, np.arange(36), "phantom")[1]
    assert lines[1] == "runs/b started from safetensors:file; what that had seen is not known."
    (second / seen_images.FILE).unlink()  # as of a run before ledgers were kept
    assert weights.seen_before(f"workdir:{second}") == (None, "workdir:second")


def test_adapt_exports_the_mean_of_the_start_and_what_training_made_of_it(tiny_config, tmp_path):
    vit = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 48, "pooling": "mean"}
    encoder, spec = write_start(vit, tmp_path / "vit")  # the preset leaves all but its size to it
    config = tiny_config("dino", "adapt")  # simclr's: test_share.py
    config.init, config.optimizer.learning_rate = spec, 0.03
    config.start_share, config.num_train_steps, config.checkpoint_every_steps = 0.25, 2, 1
    config.optimizer.warmup = 1
    pretrain.train(config, tmp_path / "run", stop_after=1)
    state = pretrain.train(config, tmp_path / "run")  # goes on without reading config.init
    exported = weights.load(str(tmp_path / "run"))
    taken = inputs.read_start(config, tmp_path / "run")[0]
    alone = objectives.build(taken)
    trained = alone.exported(state.params, state.aux)
    moved = jax.tree.map(lambda old, new: abs(old - new).max(), encoder.variables, trained)
    assert max(jax.tree.leaves(moved)) > 3e-5  # the teacher follows slowly

    def check(old, new, found):
        np.testing.assert_allclose(found, 0.25 * np.asarray(old) + 0.75 * new, rtol=1e-6, atol=1e-6)

    jax.tree.map(check, encoder.variables, trained, exported.variables)
    with pytest.raises(ValueError, match=r"start_share=0\.25 would export the text tower"):
        average_with_start(alone._replace(text=alone.exported), taken)
    pieces = average_with_start(alone, taken)  # what the online kNN reads
    images = jax.random.uniform(jax.random.key(0), (3, 32, 32, 1))
    np.testing.assert_allclose(
        jax.jit(pieces.features)(state.params, state.aux, images),
        features(exported)(images),
        rtol=1e-5,
        atol=1e-5,
    )


def test_what_is_frozen_is_the_starts_after_a_kill_too(start, tiny_config, tmp_path):
    encoder, spec = start
    config = config_of(tiny_config, "moco", spec)
    config.frozen_stages, config.num_train_steps, config.checkpoint_every_steps = 0, 2, 1
    config.start_share, config.microbatch_size, config.objective.bn_group = 0.5, 8, 4
    pretrain.train(config, tmp_path / "run", stop_after=1)
    pretrain.train(config, tmp_path / "run")
    exported = weights.load(str(tmp_path / "run"))
    same = jax.tree.map(np.array_equal, dict(exported.variables), dict(encoder.variables))
    assert all(jax.tree.leaves(same["batch_stats"]))
    kept = {name for name, part in same["params"].items() if all(jax.tree.leaves(part))}
    assert kept == {"conv1", "bn1"}


@pytest.mark.parametrize(
    ("share", "init", "message"),
    [(0.5, "", "config.init names none"), (1.0, None, "less than 1"), (-0.5, None, "at least 0")],
)
def test_a_share_without_a_start_or_outside_of_0_to_1_is_refused(
    share, init, message, start, tiny_config, tmp_path
):
    config = config_of(tiny_config, "simclr", start[1] if init is None else init)
    config.start_share = share
    with pytest.raises(ValueError, match=message):
        pretrain.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "other"}, r"config\.model\.variant: 'other'; in the weights 'micro'"),
        ({"mean": (0.5,), "std": (0.2,)}, r"config\.model\.mean: \(0\.5,\); in the weights"),
        ({"name": "densenet", "variant": "121"}, r"config\.model\.name: 'densenet'; .*'resnet'"),
        ({"stride_in_1x1": True}, r"config\.model\.stride_in_1x1: True; in the weights False"),
    ],
)
def test_another_architecture_is_refused_before_the_workdir_is_touched(
    changes, message, start, tiny_config, tmp_path
):
    config = config_of(tiny_config, "simclr", start[1])
    with config.unlocked():
        config.model.update(changes)
    with pytest.raises(ValueError, match=rf"(?s)another architecture.*{message}"):
        pretrain.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_random_is_refused_and_an_older_workdir_is_not_taken_for_this_run(
    start, tiny_config, tmp_path
):
    config = config_of(tiny_config, "simclr", "random")
    with pytest.raises(ValueError, match="leave it empty"):
        pretrain.train(config, tmp_path)
    config.init, config.lora.rank = "", 2
    with pytest.raises(ValueError, match=r"lora\.rank=2 adapts .* without config\.init"):
        pretrain.train(config, tmp_path)
    config.lora.rank, config.frozen_stages = 0, 1
    with pytest.raises(ValueError, match=r"frozen_stages=1 keeps .* without config\.init"):
        pretrain.train(config, tmp_path)
    config.init, config.lora.rank = start[1], 2
    with pytest.raises(ValueError, match=r"frozen_stages=1 and config\.lora\.rank=2: adapters"):
        pretrain.train(config, tmp_path)
    config.init, config.lora.rank, config.frozen_stages = "", 0, -1
    saved = as_json(config)
    del saved["init"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    config.init = start[1]
    with pytest.raises(ValueError, match=r"config\.init: saved '\(absent\)', given 'safetensors:"):
        pretrain.train(config, tmp_path)
