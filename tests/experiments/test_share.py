"""Means of a pretraining's two ends, scored on validation: the ends, the table, the encoder."""

import csv
import json
import re
import shutil

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from configs import share as share_config
from cxr_jax import weights
from cxr_jax.data import seen_images
from cxr_jax.data.splits import image_batches, load_split
from cxr_jax.experiments import pretrain, share
from cxr_jax.models import resnet
from cxr_jax.weights.encoder import features, random_encoder
from cxr_jax.weights.export import write_folder
from cxr_jax.weights.exporters import safetensors
from tests.fakes import tiny_config
from tests.fakes.bars import MICRO


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A tiny run of simclr:adapt that exports a quarter of its start: (workdir, start, state)."""
    folder = tmp_path_factory.mktemp("share")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.VARIANTS, "micro", MICRO)
        start = random_encoder({"name": "resnet", "variant": "micro"}, image_size=32, seed=5)
        write_folder(folder / "start", safetensors.export(start), card="")
        config = tiny_config.make("simclr", "adapt", data_dir)
        config.model.variant, config.init = "micro", str(folder / "start")
        config.start_share, config.num_train_steps, config.optimizer.warmup = 0.25, 2, 1
        state = pretrain.train(config, folder / "run")
        yield folder / "run", start, state


@pytest.fixture
def config(run, data_dir):
    config = share_config.get_config()
    config.encoder, config.datasets, config.data.dir = str(run[0]), "phantom/tiny", str(data_dir)
    config.transfer.num_resamples, config.transfer.C = 20, (0.1, 10.0)
    return config


def test_ends_are_the_start_and_what_training_made_of_it(run):
    workdir, start, state = run
    old, new = share.ends(str(workdir))
    trained = {
        "params": state.params["encoder"],
        "batch_stats": state.aux["batch_stats"]["encoder"],
    }
    jax.tree.map(np.testing.assert_array_equal, old.variables, start.variables)
    for found, wanted in zip(*map(jax.tree.leaves, (new.variables, trained)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    stem = weights.load(str(workdir)).variables["params"]["conv1"]["kernel"]
    ends = (end.variables["params"]["conv1"]["kernel"] for end in (old, new))
    np.testing.assert_allclose(stem, np.average(list(ends), 0, [0.25, 0.75]), atol=1e-6)


def test_a_start_that_changed_since_is_refused(run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    path = workdir / "provenance.json"
    held = json.loads(path.read_text())
    (init,) = held["starts"][-1]["encoders"]
    # Its images are made squares otherwise since: its weights are the same.
    start, facts = shutil.copytree(init, tmp_path / "start"), tmp_path / "start/cxr_jax.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"fit": "squash"}))
    saved = json.loads((workdir / "config.json").read_text()) | {"init": str(start)}
    (workdir / "config.json").write_text(json.dumps(saved))
    known = held["starts"][-1]["encoders"]
    known[str(start)] = known.pop(init)
    path.write_text(json.dumps(held))
    share.ends(str(workdir))
    held["starts"][-1]["encoders"][str(start)] = "0123456789abcdef"
    path.write_text(json.dumps(held))
    with pytest.raises(ValueError, match="started from other weights than those that its"):
        share.ends(str(workdir))


def validation_auroc(encoder, config, names):
    """Of the best C of each of these labels, by scikit-learn."""
    parts = []
    for name in ("train", "validation"):
        split = load_split("phantom/tiny", config.data.dir, name)
        images = np.concatenate(list(image_batches(split, 64, encoder.image_size)))
        parts += [np.asarray(features(encoder)(images / np.float32(255))), split.targets]
    x, y, judged, targets = parts
    x, judged = (np.float64(part - x.mean(0)) / (x.std(0) + 1e-12) for part in (x, judged))
    found = {}
    for k, name in [(split.label_names.index(name), name) for name in names]:
        fits = [LogisticRegression(C=C, tol=1e-8, max_iter=10_000) for C in config.transfer.C]
        scores = [fit.fit(x, y[:, k]).decision_function(judged) for fit in fits]
        found[name] = max(roc_auc_score(targets[:, k], one) for one in scores)
    return found


def test_shares_are_scored_on_validation_and_the_best_is_an_encoder(run, config, tmp_path):
    config.shares = (0.0, 0.25, 0.75)
    share.run(config, tmp_path)
    with (tmp_path / "share.csv").open() as file:
        rows = list(csv.DictReader(file))
    macro = {float(row["share"]): float(row["auroc"]) for row in rows if row["label"] == "macro"}
    assert set(macro) == set(config.shares)
    assert {row["dataset"] for row in rows} == {"phantom/tiny"}
    rows = [row for row in rows if row["auroc"] and float(row["share"]) == 0.25]
    at = {row["label"]: float(row["auroc"]) for row in rows}
    assert at.pop("macro") == pytest.approx(np.mean(list(at.values())))
    exported = weights.load(str(run[0]))  # of that share
    assert at == pytest.approx(validation_auroc(exported, config, at))
    best = weights.load(str(tmp_path / "encoder"))
    chosen = max(macro, key=lambda share: (macro[share], share))
    start, trained = share.ends(str(run[0]))
    for found, old, new in zip(*(jax.tree.leaves(x.variables) for x in (best, start, trained))):
        np.testing.assert_allclose(found, chosen * old + (1 - chosen) * new, atol=1e-6)
    assert seen_images.find(tmp_path / "encoder") and (tmp_path / "share.png").is_file()
    files = sorted((tmp_path / "features").iterdir())
    assert len(files) == 2 * len(macro)  # of train and validation alone
    before = (tmp_path / "share.csv").read_text()
    written = [path.stat().st_mtime_ns for path in files]
    share.run(config, tmp_path)  # a second start reads them
    assert [path.stat().st_mtime_ns for path in files] == written
    assert (tmp_path / "share.csv").read_text() == before


def test_no_encoder_is_written_where_all_of_the_start_is_best(config, tmp_path, capsys):
    config.shares = (1.0,)
    (tmp_path / "encoder").mkdir()  # of an earlier start
    share.run(config, tmp_path)
    assert not (tmp_path / "encoder").exists()
    said = capsys.readouterr().out
    assert re.search(r"1 of the start, phantom/tiny, \d+ images: AUROC \.\d+ \[\.\d+, ", said)
    assert "all of the start, as if nothing had been trained" in said


def test_shares_are_scored_in_folds_without_a_test_image(config, tmp_path, capsys):
    config.shares, config.datasets = (0.5,), "phantom/tiny@folds=3@folds_of=train+validation"
    share.run(config, tmp_path)
    with (tmp_path / "share.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["label"] != "macro"]
    parts = [load_split("phantom/tiny", config.data.dir, name) for name in ("train", "validation")]
    known = np.concatenate([part.targets for part in parts])
    assert [float(row["n_pos"]) for row in rows] == (known == 1).sum(0).tolist()
    read = [len(np.load(features)) for features in (tmp_path / "features").iterdir()]
    assert sorted(read) == sorted(len(part.targets) for part in parts)
    next_command = capsys.readouterr().out.splitlines()[-1]
    assert next_command.endswith(f"--config.data.dir={config.data.dir}")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shares", (0.0, 1.5), r"config\.shares=\(0\.0, 1\.5\): shares lie between 0 and 1"),
        ("datasets", "", "config.encoder and config.datasets are needed"),
        ("datasets", "phantom/tiny@folds=3", "folds=3 scores test images too"),
        ("transfer.protocol", "segmentation", "segmentation: shares are compared by AUROC on val"),
        ("encoder", "start", "has no start to be averaged with"),
    ],
)
def test_what_cannot_be_averaged_or_would_read_test_images_is_refused(
    field, value, message, run, config, tmp_path
):
    value = str(run[0].parent / value) if field == "encoder" else value
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        share.run(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
