"""The attentive probe against torch's attention and plain NumPy, and what it can learn."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from configs import common
from cxr_jax.data.splits import LabelledSplit
from cxr_jax.data.tasks import Task
from cxr_jax.experiments import transfer
from cxr_jax.stats.auroc import auroc
from cxr_jax.transfer import _heads, attentive
from cxr_jax.transfer._protocol import Maps, Splits, Tools, build
from cxr_jax.transfer.predictions import read_parquet
from cxr_jax.weights.encoder import Encoder


def config(**changes):
    made = common.transfer()
    made.dense.update(dict(min_steps=60, max_steps=60, evaluations=3, heads=2) | changes)
    made.protocol = "attentive"
    return made


def splits(targets):
    """Splits whose images are rows of maps, with these targets."""
    parts = []
    for name, held in zip(Splits._fields, targets):
        ids = tuple(f"{name}{i}" for i in range(len(held)))
        parts.append(
            LabelledSplit(
                None,
                np.arange(len(held)),
                held,
                np.zeros(held.shape, bool),
                ids,
                ids,
                ("here", "nowhere"),
                Task({}),
                0,
            )
        )
    return Splits(*parts)


def tools(maps, said=None):
    """Gives these maps, name by name."""
    held = {
        name: Maps(one.astype(np.float16), np.arange(len(one)))
        for name, one in zip(Splits._fields, maps)
    }
    say = (said if said is not None else []).append
    return Tools(None, say, lambda step, values: None, maps=held.__getitem__)


def needles(rng, count, present):
    """Maps of noise; where a label is present, one place of nine points in its direction."""
    maps = rng.normal(size=(count, 3, 3, 8))
    for row, (i, j) in zip(np.flatnonzero(present), rng.integers(0, 3, (count, 2))):
        maps[row, i, j, :4] += 2.5
    return maps


def test_scores_are_those_of_attention():
    rng = np.random.default_rng(0)
    probe = attentive.Probe(
        *(rng.normal(size=s).astype(np.float32) for s in ((3, 8), (3, 8), (3,)))
    )
    maps = rng.normal(size=(5, 2, 3, 8)).astype(np.float32)
    ours = np.asarray(attentive.scores(probe, jnp.asarray(maps), heads=2))
    flat, wanted = maps.reshape(5, 6, 8), np.zeros((5, 3))
    for k in range(3):
        for share in (slice(0, 4), slice(4, 8)):
            product = flat[..., share] @ probe.query[k, share] / 2  # the root of four channels
            attention = scipy.special.softmax(product, axis=1)
            gathered = (attention[..., None] * flat[..., share]).sum(axis=1)
            wanted[:, k] += gathered @ probe.kernel[k, share]
    np.testing.assert_allclose(ours, wanted + probe.bias, rtol=1e-5, atol=1e-5)
    torch = pytest.importorskip("torch")
    attention = torch.nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.eye(8).repeat(3, 1))
        attention.out_proj.weight.copy_(torch.eye(8))
        given = torch.from_numpy(flat)
        queries = torch.from_numpy(probe.query).expand(5, 3, 8)
        gathered = attention(queries, given, given)[0].numpy()
    torchs = (gathered * probe.kernel).sum(axis=2) + probe.bias
    np.testing.assert_allclose(ours, torchs, rtol=1e-5, atol=1e-5)


def test_it_finds_a_needle_that_the_mean_of_the_map_loses():
    rng = np.random.default_rng(1)
    present = [rng.random(count) < 0.5 for count in (160, 120, 200)]
    maps = [100 + 3 * needles(rng, len(one), one) for one in present]  # far from standardised
    targets = [np.stack([one, 0 * one], 1).astype(np.float32) for one in present]
    targets[0][:40, 0] = np.nan  # not known
    protocol, said = build(config()), []
    result = protocol.run(Encoder("e", {}, {}, 32), splits(targets), tools(maps, said))
    assert result.not_scored.keys() == {1} and result.score_kind == "log-odds"
    assert np.isnan(result.scores[:, 1]).all()
    ours = auroc(targets[2][:, 0], result.scores[:, 0])
    direction = np.r_[np.ones(4), np.zeros(4)]  # what a linear probe would know at best
    mean = auroc(targets[2][:, 0], maps[2].mean((1, 2)) @ direction)
    assert ours > mean + 0.04 and ours > 0.85
    assert re.match(r"step 60 of 60: macro AUROC on validation 0\.\d+", said[-1])
    chosen = result.facts["chosen"]["here"]
    assert chosen["learning_rate"] in (1e-3, 1e-2, 1e-1) and chosen["step"] in (20, 40, 60)
    again = protocol.run(Encoder("e", {}, {}, 32), splits(targets), tools(maps))
    np.testing.assert_array_equal(again.scores, result.scores)


def test_heads_that_do_not_part_the_channels_are_refused():
    targets = [np.tile([[0, 1], [1, 0]], (4, 1)).astype(np.float32)] * 3
    maps = [np.ones((8, 2, 2, 8))] * 3
    with pytest.raises(ValueError, match=r"config\.dense\.heads=3 .* 8 channels .* try 1"):
        attentive.fit(config(heads=3), splits(targets), tools(maps))
    with pytest.raises(ValueError, match=r"config\.dense\.warmup is 1"):
        build(config(warmup=1.0))


def test_standardised_maps_have_mean_0_and_deviation_1():
    rng = np.random.default_rng(2)
    maps = (rng.normal(size=(300, 2, 2, 3)) * [1, 5, 0] + [0, 9, 7]).astype(np.float16)
    measured = _heads.standard(Maps(maps, np.arange(300)))
    flat = np.asarray(measured(jnp.asarray(maps))).reshape(-1, 3)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(flat.std(0), [1, 1, 0], atol=1e-3)


def test_a_transfer_says_what_its_maps_take_and_leaves_none(data_dir, tmp_path, capsys):
    made = config(max_steps=4, min_steps=4, evaluations=2, heads=8)
    made.dataset, made.data.dir = "phantom/tiny", str(data_dir)
    made.num_resamples, made.image_size, made.baselines = 20, 32, ""
    made.model.variant, made.pictures.draw = "small", False
    transfer.run(made, tmp_path / "run")
    said = capsys.readouterr().out
    assert re.search(
        r"maps of 36 train images, 2 x 2 x 128 in float16, take 0 MB in \S+/maps", said
    )
    assert not (tmp_path / "run/maps").exists()
    found = read_parquet(tmp_path / "run/predictions.parquet")
    assert found.score_kind == "log-odds" and len(found.image_id) == 24
    page = (tmp_path / "run/report.md").read_text()
    assert "Attentive probe" in page and "One learned query per label" in page
