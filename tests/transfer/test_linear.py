"""The protocol around the probe: what it says, and many subsets at once."""

import numpy as np

from cxr_jax.data.splits import LabelledSplit
from cxr_jax.data.tasks import Task
from cxr_jax.transfer._protocol import Splits, Tools, build
from cxr_jax.weights.encoder import Encoder


def splits(exclusive=False, sizes=(60, 40, 30), k=3):
    """Splits of classes that the first features tell, and the features."""
    rng = np.random.default_rng(0)
    names = tuple("abc"[:k])
    task = Task(dict.fromkeys(names, ""), exclusive=exclusive)
    found, features = [], {}
    for name, n in zip(Splits._fields, sizes):
        features[name] = rng.normal(size=(n, 8)).astype(np.float32)
        targets = np.eye(k)[(features[name][:, :k] + rng.gumbel(size=(n, k))).argmax(1)]
        found.append(LabelledSplit(None, np.arange(n), targets, None, (), (), names, task, 0))
    return Splits(*found), features


def test_many_subsets_are_each_as_alone():
    whole, features = splits()
    protocol = build({"protocol": "linear", "strengths": (0.01, 1.0)})
    encoder = Encoder("any", {}, {}, 32)
    subsets = [np.arange(0, 60, 2), np.arange(45)]
    many = protocol.run_many(encoder, whole, subsets, Tools(features.__getitem__, print, None))
    for rows, result in zip(subsets, many):
        of = features | {"train": features["train"][rows]}
        train = whole.train._replace(rows=rows, targets=whole.train.targets[rows])
        tools = Tools(of.__getitem__, print, None)
        alone = protocol.run(encoder, whole._replace(train=train), tools)
        np.testing.assert_allclose(result.scores, alone.scores, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(result.head.kernel, alone.head.kernel, rtol=1e-3, atol=1e-5)
        assert (result.facts, result.summary) == (alone.facts, alone.summary)


def test_exclusive_classes_are_said_to_be_fitted_together():
    whole, features = splits(exclusive=True)
    protocol = build({"protocol": "linear", "strengths": (0.01, 1.0)})
    tools = Tools(features.__getitem__, print, None)
    result = protocol.run(Encoder("any", {}, {}, 32), whole, tools)
    assert result.score_kind == "log-probability"
    np.testing.assert_allclose(np.exp(result.scores).sum(axis=1), 1)
    assert len(set(result.facts["strength"].values())) == 1
    assert "multinomial logistic regression" in protocol.method(True)[0]
    assert "AUROC of a class: its images against those of all the others." in protocol.method(True)
    assert "chosen per label" in protocol.method(False)[0] and len(protocol.method(False)) == 1
