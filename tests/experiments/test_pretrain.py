import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest

from cxr_jax import objectives, weights
from cxr_jax.experiments import pretrain
from cxr_jax.experiments._workdir import as_json, open_workdir, release
from cxr_jax.training import optim
from cxr_jax.training import step as train_step
from tests.fakes import devices

_ROOT = Path(__file__).parents[2]


def _lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_two_halves_equal_one_run_bitwise_and_the_encoder_is_what_was_trained(
    tiny_config, tmp_path
):
    """MoCo's, which has a target and a queue; tests/faults/test_killed_runs.py has all."""
    config = tiny_config("moco")
    whole = pretrain.train(config, tmp_path / "whole")
    pretrain.train(config, tmp_path / "halves", stop_after=2)
    halves = pretrain.train(config, tmp_path / "halves")
    jax.tree.map(np.testing.assert_array_equal, whole._asdict(), halves._asdict())
    whole_lines, halves_lines = (
        (tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "halves")
    )
    assert whole_lines == halves_lines
    assert [line["step"] for line in _lines(tmp_path / "whole")] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) for line in _lines(tmp_path / "whole"))
    encoder = weights.load(str(tmp_path / "whole"))
    images = jax.random.uniform(jax.random.key(0), (3, 32, 32, 1))
    expected = objectives.build(config).features(whole.params, whole.aux, images)
    np.testing.assert_allclose(weights.features(encoder)(images), expected, rtol=1e-5, atol=1e-6)
    assert encoder.image_size == 32


def test_a_run_compiles_its_step_once_resumed_or_not(tiny_config, tmp_path, caplog):
    config = tiny_config("simclr")
    with jax.log_compiles():
        pretrain.train(config, tmp_path, stop_after=2)
        pretrain.train(config, tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if line.startswith("Compiling jit(train_step)")]) == 2


@pytest.fixture
def workdir(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


def test_another_config_on_the_workdir_is_refused_and_the_fields_are_listed(tiny_config, workdir):
    config = tiny_config("simclr")
    config.seed, config.objective.temperature = 7, 0.5
    message = r"(?s)config\.objective\.temperature: saved 0\.2, given 0\.5.*config\.seed: saved 0"
    with pytest.raises(ValueError, match=message):
        pretrain.train(config, workdir)
    config.num_train_steps += 1
    with pytest.raises(ValueError, match=rf"one further: --config\.init={workdir} in a new run"):
        pretrain.train(config, workdir)
    # Of an optimizer's field that came later, what the run trains with.
    saved = json.loads((workdir / "config.json").read_text())
    del saved["optimizer"]["momentum"]
    (workdir / "config.json").write_text(json.dumps(saved))
    config = tiny_config("simclr")
    with config.unlocked():
        config.optimizer.clip_by = "all"
    with pytest.raises(ValueError, match=r"clip_by: saved 'parameter', given 'all'\nGive the"):
        open_workdir(workdir, config)
    config.optimizer.clip_by = "parameter"
    open_workdir(workdir, config)
    release(workdir)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", 100_000, "larger than the .* images"),
        ("microbatch_size", 5, r"microbatch_size=5 does not divide config\.batch_size=16"),
        ("num_train_steps", 0, r"config\.num_train_steps=0 must be at least 1"),
        ("data.name", "/work/images", "is not a dataset's name"),
        ("online_knn.dataset", "phantm", "dataset 'phantm' is not built"),
        ("data.split", "trian", "has no split 'trian'; it has train, "),
        ("data.pairs", "study", "data.pairs=study would change nothing: .*=simclr reads no pairs"),
        ("data.name", "padchest", "python -m data_builders.build padchest"),
    ],
)
def test_impossible_configs_are_refused(field, value, message, tiny_config, tmp_path):
    config = tiny_config("simclr")
    config.update_from_flattened_dict({field: value})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        pretrain.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("objective", "preset"),
    [
        # SimCLR and MoCo are trained here by other tests, BYOL and fine-tuning in test_run.py.
        *(("barlow", ""), ("dino", "vits"), ("ijepa", "small")),
    ],
)
def test_configs_train_one_tiny_step(objective, preset, tiny_config, tmp_path):
    config = tiny_config(objective, preset, whole_views=True)
    state = pretrain.train(config, tmp_path, stop_after=1)
    assert int(state.step) == 1
    assert np.isfinite(_lines(tmp_path)[0]["loss"])


def test_medaug_trains_on_pairs_and_refuses_to_without(tiny_config, studies_dir, tmp_path):
    config = tiny_config("medaug", "cpu")
    drawn = config.data.dir
    config.data.name, config.data.dir = "image_folder", str(studies_dir)
    config.batch_size = 8  # every image, of which five have another in their study
    pretrain.train(config, tmp_path / "run", stop_after=2)
    assert [line["true_pairs"] for line in _lines(tmp_path / "run")] == [5 / 8] * 2
    assert all(np.isfinite(line["loss"]) for line in _lines(tmp_path / "run"))
    config.data.pairs = ""
    with pytest.raises(ValueError, match=r"needs batches of pairs; set config\.data\.pairs=study"):
        pretrain.train(config, tmp_path / "without")
    config.data.pairs, config.batch_size = "study", 16
    config.data.name, config.data.dir = "phantom/tiny", drawn
    with pytest.raises(ValueError, match=r"no study of phantom/tiny 'train' has two images"):
        pretrain.train(config, tmp_path / "without")
    assert not (tmp_path / "without").exists()


@pytest.mark.parametrize("spec", ["moco", "dino:vits"])
def test_full_size_recipe_traces_to_a_state_of_unchanged_shapes(spec):
    """ResNet-50 or ViT, 224 px, the paper's batch, without running it.

    Every recipe, but for fewer blocks: tests/benchmarks/test_aot.py.
    """
    name, _, preset = spec.partition(":")
    config = importlib.import_module(f"configs.{name}").get_config(preset)
    pieces = objectives.build(config)
    optimizer, schedule = optim.make_optimizer(
        config.optimizer, config.num_train_steps, config.batch_size, 370_000
    )
    size = config.data.image_size
    batch = {"image": jax.ShapeDtypeStruct((config.batch_size, size, size, 1), np.uint8)}
    before = jax.eval_shape(lambda: train_step.create_state(pieces, optimizer, batch, 0))
    step = train_step.make_train_step(pieces, optimizer, schedule)
    after, metrics = jax.eval_shape(step, before, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), before
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {np.dtype("float32")}
    assert metrics["loss"].shape == ()


def test_one_and_eight_devices_train_alike(tiny_config, tmp_path):
    config = tiny_config("simclr", whole_views=True)
    config.num_train_steps = 2
    pretrain.train(config, tmp_path / "one")
    script = (
        "import json, pathlib, sys, ml_collections, jax; from cxr_jax.experiments import pretrain;"
        "assert jax.device_count() == 8;"
        "config = ml_collections.ConfigDict(json.loads(sys.argv[1]));"
        "pretrain.train(config, pathlib.Path(sys.argv[2]))"
    )
    subprocess.run(
        [sys.executable, "-c", script, json.dumps(as_json(config)), str(tmp_path / "eight")],
        env=devices.EIGHT,
        check=True,
    )
    for one, eight in zip(_lines(tmp_path / "one"), _lines(tmp_path / "eight"), strict=True):
        for name in ("loss", "gradient_norm", "embedding_std"):
            assert one[name] == pytest.approx(eight[name], rel=2e-4), name
    one, eight = (weights.load(str(tmp_path / name)).variables for name in ("one", "eight"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=2e-4), one, eight)


def test_batch_that_does_not_divide_over_the_devices_is_refused():
    script = (
        "from cxr_jax.training import sharding\n"
        "try: sharding.check_batch(12, sharding.make_mesh())\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=devices.EIGHT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "config.batch_size=12 does not divide by the 8 devices" in done.stdout
    assert "8 or 16" in done.stdout


def test_the_next_command_compares_with_the_start(tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "train", lambda *_: None)
    config = tiny_config("simclr")
    pretrain.run(config, tmp_path)
    assert "--config.baselines" not in capsys.readouterr().out
    config.init = "torchvision:/w/resnet50.pth"
    pretrain.run(config, tmp_path)
    assert " --config.baselines=random,torchvision:/w/resnet50.pth " in capsys.readouterr().out


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(tiny_config, workdir):
    config = tiny_config("simclr")
    config.log_every_steps = 100  # looked at every step all the same
    config.optimizer.learning_rate = 1e30
    (workdir / "config.json").write_text(json.dumps(as_json(config)))
    with pytest.raises(FloatingPointError, match=r"step 3: the .*(nan|inf).*learning_rate"):
        pretrain.train(config, workdir)
    assert sorted(path.name for path in (workdir / "checkpoints").glob("[0-9]*")) == ["2"]


def test_a_save_under_way_is_finished_when_the_next_step_is_not_finite(tiny_config, tmp_path):
    config = tiny_config("simclr")
    config.checkpoint_every_steps = 1
    config.optimizer.update(learning_rate=1e30, warmup=2, warmup_unit="steps")  # 0 in step 1
    with pytest.raises(FloatingPointError, match="step 2: "):
        pretrain.train(config, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_what_a_run_was_begun_with_is_missing_or_changed(tiny_config, workdir, capsys):
    config = tiny_config("simclr")
    signs = list(workdir.rglob("commit_success.txt"))
    assert signs and not any(sign.read_text() for sign in signs)  # Orbax would say where it is
    held = json.loads((workdir / "provenance.json").read_text())
    (name,) = held["starts"][0]["dataset"]
    held["starts"][0]["dataset"][name] = "0123456789abcdef"
    (workdir / "provenance.json").write_text(json.dumps(held))
    before = (workdir / "seen_images.parquet").read_bytes()
    with pytest.raises(
        ValueError, match=r"no longer those that .*\n  phantom/tiny train: was 0123"
    ):
        pretrain.train(config, workdir)
    config.seed = 7  # where a field is another one, it may be why the images are
    with pytest.raises(ValueError, match=r"config\.seed: saved 0, given 7"):
        pretrain.train(config, workdir)
    config.seed = 0
    assert (workdir / "seen_images.parquet").read_bytes() == before
    (workdir / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config.json is missing: restore it, or copy it"):
        pretrain.train(config, workdir)


def test_a_workdir_takes_another_bound_of_skips_and_the_full_name_of_its_dataset(tmp_path, capsys):
    config = ml_collections.ConfigDict(
        dict(skip_nonfinite=0, seed=1, data=dict(name="image_folder"))
    )
    open_workdir(tmp_path, config)
    config.skip_nonfinite, config.data.name = 3, "image_folder/256"
    open_workdir(tmp_path, config)
    assert "config.skip_nonfinite: saved 0, given 3" in capsys.readouterr().out
    assert json.loads((tmp_path / "config.json").read_text())["skip_nonfinite"] == 3
    config.data.name = "image_folders"
    with pytest.raises(ValueError, match=r"data.name: saved 'image_folder', given 'image_folders'"):
        open_workdir(tmp_path, config)
    open_workdir(tmp_path / "other", ml_collections.ConfigDict(dict(experiment="pretrain")))
    with pytest.raises(ValueError, match=r"workdir of a pretrain run, and this is a transfer run"):
        open_workdir(tmp_path / "other", ml_collections.ConfigDict(dict(experiment="transfer")))


def test_a_second_process_in_the_workdir_is_refused(tmp_path):
    script = (
        "import pathlib, sys, ml_collections; from cxr_jax.experiments import _workdir as workdir\n"
        "try: workdir.open_workdir(pathlib.Path(sys.argv[1]), ml_collections.ConfigDict())\n"
        "except BlockingIOError as error: print(error)"
    )
    open_workdir(tmp_path, ml_collections.ConfigDict())
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "another process is running in" in done.stdout
