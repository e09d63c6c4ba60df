"""Fine-tuning: it learns what a frozen encoder does not know, repeatably, whatever goes wrong."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import common
from cxr_jax.experiments import _transfer_inputs
from cxr_jax.experiments._transfer_inputs import extract
from cxr_jax.models import resnet
from cxr_jax.stats.bootstrap import label_auroc
from cxr_jax.transfer import _protocol, finetune
from cxr_jax.weights.encoder import random_encoder
from tests.fakes import devices
from tests.fakes.bars import MICRO, bars, micro_encoder
from tests.transfer import eight_devices


@pytest.fixture
def config(monkeypatch):
    """A mild view, no flip (it would turn the labels round), one rate, few steps."""
    monkeypatch.setitem(resnet.VARIANTS, "micro", MICRO)
    config = common.transfer()
    config.protocol = "finetune"
    config.batch_size = 40
    config.finetune.update(
        learning_rates=(0.01,),
        batch_size=16,
        min_steps=6,
        max_steps=6,
        evaluations=2,
        dtype="float32",
        num_workers=0,
    )
    config.finetune.view.update(flip=0.0, rotate=0.0)
    return config


class Run:
    def __init__(self, config, splits, encoder=None):
        self.said, self.logged = [], []
        tools = _protocol.Tools(
            lambda name: extract(micro_encoder(), getattr(splits, name), 64, name),
            self.said.append,
            lambda step, values: self.logged.append((step, values)),
        )
        built = _protocol.build(config)
        self.result = built.run(encoder or micro_encoder(), splits, tools)
        self.auroc = label_auroc(splits.test.targets[:, :2], self.result.scores[:, :2]).mean()


def test_it_learns_what_its_frozen_start_does_not_know(config):
    config.finetune.update(learning_rates=(0.02,), min_steps=60, max_steps=60, evaluations=3)
    splits = bars()
    tuned = Run(config, splits)
    config.protocol = "linear"
    frozen = Run(config, splits)
    assert tuned.auroc > 0.95
    assert tuned.auroc > frozen.auroc + 0.1
    assert tuned.result.not_scored == {
        2: "no positives among the training labels; no positives among the validation labels"
    }
    assert tuned.result.scored.tolist() == [True, True, False]
    assert np.isnan(tuned.result.scores[:, 2]).all()
    assert [step for step, _ in tuned.logged] == [20, 40, 60]
    assert "validation AUROC" in tuned.said[-1]
    json.dumps(tuned.result.facts, allow_nan=False)


def test_lora_changes_the_matrices_of_blocks_by_its_rank_alone(config):
    config.finetune.lora.rank = 2
    config.finetune.update(dtype="bfloat16", layer_decay=0.75)
    vit = {"name": "vit", "variant": "16x1", "heads": 2, "hidden": 32, "patch": 8, "image_size": 16}
    encoder = random_encoder(vit, 16, seed=0)
    result = Run(config, bars(sizes=(34, 20, 20)), encoder).result
    trained = result.head.encoder.variables["params"]

    def compare(path, old, new):
        name = "/".join(entry.key for entry in path)
        change = np.asarray(new) - np.asarray(old)
        rank = np.linalg.matrix_rank(change, tol=1e-6) if change.ndim == 2 else change.any()
        assert rank == (2 if name.startswith("block") and name.endswith("kernel") else 0), name

    jax.tree_util.tree_map_with_path(compare, encoder.variables["params"], trained)
    sentence = " ".join(_protocol.build(config).method(False))
    assert "LoRA of rank 2 and alpha 16 in the encoder's matrices and a linear head" in sentence


@pytest.mark.parametrize("norm_eval", [False, True])
def test_statistics_of_batch_norm_stay_where_the_config_says_so(config, norm_eval):
    config.finetune.norm_eval = norm_eval
    trained = Run(config, bars(sizes=(34, 20, 20))).result.head.encoder.variables
    start = micro_encoder().variables
    for part, stays in (("batch_stats", norm_eval), ("params", False)):
        pairs = zip(*(jax.tree.leaves(one[part]) for one in (start, trained)), strict=True)
        assert stays == all(np.array_equal(old, new) for old, new in pairs), part
    sentence = " ".join(_protocol.build(config).method(False))
    assert norm_eval == ("by the encoder's running statistics" in sentence)


def test_equal_seeds_give_equal_scores_and_others_do_not(config):
    splits = bars(sizes=(34, 20, 20))
    first, again = Run(config, splits), Run(config, splits)
    np.testing.assert_array_equal(first.result.scores, again.result.scores)
    config.seed = 1
    assert not np.array_equal(
        first.result.scores, Run(config, splits).result.scores, equal_nan=True
    )


def test_exclusive_classes_share_a_softmax(config):
    splits = exclusive(bars(sizes=(48, 30, 20)))
    result = Run(config, splits).result
    assert result.score_kind == "log-probability" and result.not_scored.keys() == {2}
    np.testing.assert_allclose(np.exp(result.scores[:, :2]).sum(axis=1), 1)
    features = extract(result.head.encoder, splits.test, 64, "test")
    logits = features @ result.head.kernel[:, :2] + result.head.bias[:2]
    odds = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(result.scores[:, :2], odds, atol=1e-4)
    moment = result.facts["curve"][-1]
    # Of two classes, either's AUROC is the other's.
    assert 0 <= moment["validation_auroc"] <= 1
    sentence = " ".join(_protocol.build(config).method(True))
    assert "linear head under a softmax over the classes" in sentence
    assert "against those of all the others" in sentence


def exclusive(splits):
    """Every fifth training image without class."""
    splits.train.targets[::5] = np.nan
    return _protocol.Splits(
        *(split._replace(task=split.task._replace(exclusive=True)) for split in splits)
    )


def few_labels(splits, others):
    """The splits with a quarter of train labelled; `others` are the targets of the rest."""
    train = splits.train
    labelled = np.flatnonzero(np.arange(len(train.rows)) % 8 < 2)
    targets = np.full_like(train.targets, others)
    targets[labelled] = train.targets[labelled]
    return _transfer_inputs.cut(splits._replace(train=train._replace(targets=targets)), labelled)


def test_a_mean_teacher_learns_from_other_images_and_never_reads_their_labels(config):
    splits = bars(sizes=(64, 24, 24))
    splits = _protocol.Splits(
        *(split._replace(task=split.task._replace(exclusive=True)) for split in splits)
    )
    plain = few_labels(splits, others=0)
    assert len(plain.train.rows) == 16 and len(plain.train.rest) == 48
    off = Run(config, plain._replace(train=plain.train._replace(rest=np.zeros(0, int))))
    config.finetune.mean_teacher.update(decay=0.5, ramp_up=0.0, unlabelled_batch_size=32)
    np.testing.assert_array_equal(Run(config, plain).result.scores, off.result.scores)
    assert "Mean teacher" not in " ".join(_protocol.build(config).method(True))

    config.finetune.mean_teacher.weight = 3.0
    on = Run(config, plain).result
    assert not np.array_equal(on.scores, off.result.scores, equal_nan=True)
    np.testing.assert_allclose(np.exp(on.scores[:, :2]).sum(axis=1), 1)
    np.testing.assert_array_equal(Run(config, few_labels(splits, np.nan)).result.scores, on.scores)
    fewer = plain._replace(train=plain.train._replace(rest=plain.train.rest[:8]))
    assert not np.array_equal(Run(config, fewer).result.scores, on.scores, equal_nan=True)
    assert on.facts["unlabelled_films"] == 48 and "48 more without labels" in on.summary
    assert "whose labels nothing reads" in " ".join(_protocol.build(config).method(True))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("weight", -1.0, "weight is -1.0; it must be 0"),
        ("decay", 1.0, "decay is 1.0; it must be 0 or more and below 1"),
        ("ramp_up", 2.0, "ramp_up is 2.0; it must be a share"),
        ("unlabelled_batch_size", 0, "unlabelled_batch_size is 0"),
        ("ramp", 1, "has no field 'ramp'; did you mean 'ramp_up'"),
    ],
)
def test_bad_fields_of_the_mean_teacher_are_named(name, value, words):
    config = common.transfer()
    config.protocol, config.finetune.mean_teacher[name] = "finetune", value
    with pytest.raises(ValueError, match=rf"config\.finetune\.mean_teacher.*{words}"):
        _protocol.build(config)


def test_the_end_of_the_rate_that_ended_best_scores_the_test(config):
    config.finetune.learning_rates = (0.01, 1e-7, 0.003)
    splits = bars(sizes=(48, 30, 20))
    both = Run(config, splits).result
    curve = both.facts["curve"]
    assert [point["rate"] for point in curve] == [1e-7, 1e-7, 0.003, 0.003, 0.01, 0.01]
    ends = [point for point in curve if point["step"] == 6]
    best = max(ends, key=lambda point: point["validation_auroc"])  # the first of equals
    assert (both.facts["learning_rate"], both.facts["step"]) == (best["rate"], 6)
    config.finetune.learning_rates = (best["rate"],)
    np.testing.assert_array_equal(Run(config, splits).result.scores, both.scores)


@pytest.mark.parametrize(
    ("images", "ahead", "earlier"), [(40, 0.2, False), (4000, 0.2, True), (100, 3.0, True)]
)
def test_an_earlier_moment_counts_where_validation_tells_it_from_the_end(images, ahead, earlier):
    """The best of many moments on 40 images is a lucky one; on 4,000 it is better."""
    rng = np.random.default_rng(0)
    targets = np.tile([0.0, 1.0], images // 2)[:, None]
    validation = bars(sizes=(8, images, 8)).validation._replace(
        targets=targets, patient_ids=tuple(map(str, range(images)))
    )
    alike, *own = rng.normal(size=(3, images, 1))
    moments = [
        finetune._Moment(float(label_auroc(targets, scores)[0]), 0.1, step, scores, {})
        for step, signal, noise in zip((1, 9), (1 + ahead, 1), own)
        for scores in [alike + 0.3 * noise + signal * targets]
    ]
    assert moments[0].auroc > moments[1].auroc
    assert finetune._choose(*moments, validation).step == (1 if earlier else 9)


def test_a_rate_that_diverges_is_given_up_and_the_others_count(config):
    config.finetune.update(optimizer="sgd", learning_rates=(0.01, 1e30))
    splits = bars(sizes=(32, 20, 20))
    run = Run(config, splits)
    assert run.result.facts["learning_rate"] == 0.01
    assert "Learning rate 1e+30 was given up: at step" in run.result.remarks[0]
    assert np.isfinite(run.result.scores[:, :2]).all()
    config.finetune.learning_rates = (1e30,)
    with pytest.raises(FloatingPointError, match="every learning rate was given up"):
        Run(config, splits)


def test_small_sets_get_small_batches_and_enough_steps():
    fields = common.transfer().finetune
    fields.update(batch_size=64, epochs=20.0, min_steps=200, max_steps=900, evaluations=3)
    assert finetune.plan(fields, 34, 1)[:2] == (32, 200)
    assert finetune.plan(fields, 34, 8)[:2] == (32, 200)
    assert finetune.plan(fields, 5, 8)[:2] == (8, 200)
    assert finetune.plan(fields, 1280, 1) == (64, 400, (133, 266, 400))
    assert finetune.plan(fields, 100_000, 1)[1] == 900
    fields.update(min_steps=1, epochs=0.1)
    assert finetune.plan(fields, 64, 1) == (64, 1, (1,))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("learning_rates", (), r"config.finetune.learning_rates is \(\)"),
        ("learning_rates", (0.1, -1.0), "config.finetune.learning_rates"),
        ("optimizer", "adam", "config.finetune.optimizer is 'adam'; it must be 'adamw' or 'sgd'"),
        ("dtype", "float16", "config.finetune.dtype is 'float16'"),
        ("epochs", 0.0, "config.finetune.epochs=0"),
        ("warmup", 1.0, "config.finetune.warmup is 1.0; it must be a share of the steps"),
        ("layer_decay", 1.5, "config.finetune.layer_decay is 1.5"),
        ("max_steps", 5, "config.finetune.max_steps is 5; it must be min_steps or more"),
        ("num_workers", -1, "config.finetune.num_workers is -1"),
        ("weight_decay", -0.1, "config.finetune.weight_decay is -0.1"),
    ],
)
def test_bad_fields_are_named(name, value, words):
    config = common.transfer()
    config.protocol = "finetune"
    config.finetune[name] = value
    with pytest.raises(ValueError, match=words):
        _protocol.build(config)


def test_bad_view_is_named():
    config = common.transfer()
    config.protocol, config.finetune.view.flip = "finetune", 2.0
    with pytest.raises(ValueError, match=r"config.finetune.view.flip is 2.0"):
        _protocol.build(config)


def test_eight_devices_give_the_losses_of_one(config):
    """In a subprocess: the number of virtual devices is fixed when JAX starts."""
    script = Path(__file__).parent / "eight_devices.py"
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=devices.EIGHT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    eight, one = json.loads(done.stdout), eight_devices.run(config)
    assert len(one["loss"]) == 3
    # Sums in another order, and Adam magnifies what is nearly zero.
    np.testing.assert_allclose(eight["loss"], one["loss"], rtol=1e-3)
    np.testing.assert_allclose(eight["scores"], one["scores"], atol=0.02)
