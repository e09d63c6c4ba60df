"""The linear probe against scikit-learn's, its choice of C, and labels it cannot fit."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from cxr_jax.data.splits import LabelledSplit
from cxr_jax.data.tasks import Task
from cxr_jax.stats.auroc import auroc
from cxr_jax.transfer._protocol import Splits, Tools, build, stand_ins
from cxr_jax.transfer.linear import linear_probe, linear_probes
from cxr_jax.weights.encoder import Encoder

GRID = tuple(10.0**exponent for exponent in range(-6, 5))


def probe(train, validation, test_features, grid=GRID):
    return linear_probe(train, validation, test_features, grid)


def splits(seed=0, sizes=(120, 90, 200), d=15, num_labels=2):
    """Features with wild scales, as encoders give them, and targets that depend on them."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(d, num_labels))
    parts = []
    for n in sizes:
        latent = rng.normal(size=(n, d))
        targets = (latent @ direction + 3 * rng.logistic(size=(n, num_labels)) > 0).astype(float)
        features = latent * np.logspace(-3, 2, d) + np.linspace(0, 50, d)
        parts.append((features.astype(np.float32), targets))
    return parts


def sklearn_probe(train, validation, test_features, grid, k):
    scaler = StandardScaler().fit(train[0].astype(np.float64))
    models = []
    for C in grid:
        model = LogisticRegression(C=C, tol=1e-10, max_iter=50000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(scaler.transform(train[0].astype(np.float64)), train[1][:, k])
        models.append(model)
    checked = scaler.transform(validation[0].astype(np.float64))
    target = validation[1][:, k]
    scores = [roc_auc_score(target, model.decision_function(checked)) for model in models]
    losses = [log_loss(target, model.predict_proba(checked)[:, 1]) for model in models]
    order = sorted(range(len(models)), key=lambda s: (-round(scores[s], 9), losses[s], s))
    chosen = models[order[0]]
    tested = scaler.transform(test_features.astype(np.float64))
    return chosen.decision_function(tested), grid[order[0]], scores


def test_probe_is_that_of_scikit_learn():
    train, validation, (test_features, truth) = splits()
    grid = (1e-4, 1e-2, 1.0, 100.0)
    result = probe(train, validation, test_features, grid)
    assert result.scored.all() and not result.not_scored
    for k in range(2):
        scores, C, on_validation = sklearn_probe(train, validation, test_features, grid, k)
        assert result.C[k] == C
        np.testing.assert_allclose(result.validation_auroc[:, k], on_validation, atol=1e-6)
        np.testing.assert_allclose(result.scores[:, k], scores, rtol=1e-4, atol=1e-4)
        ours, theirs = auroc(truth[:, k], result.scores[:, k]), roc_auc_score(truth[:, k], scores)
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_C_is_chosen_without_the_test_images():
    train, validation, (test_features, _) = splits()
    result = probe(train, validation, test_features)
    alone = probe(train, validation, test_features[:1])
    np.testing.assert_array_equal(result.C, alone.C)
    np.testing.assert_allclose(result.scores[:1], alone.scores, rtol=1e-9)
    best = result.validation_auroc.max(axis=0)
    chosen = [result.validation_auroc[np.array(GRID) == s, k] for k, s in enumerate(result.C)]
    np.testing.assert_array_equal(np.concatenate(chosen), best)


def test_ties_go_to_log_loss_then_to_stronger_regularisation():
    """One feature ranks the same at every C: log-loss decides."""
    rng = np.random.default_rng(0)
    feature = rng.normal(size=(300, 1))
    target = (feature + rng.logistic(size=(300, 1)) > 0).astype(float)
    grid = (1e-3, 1e-2, 0.1)
    result = probe((feature, target), (feature, target), feature, grid)
    assert len(np.unique(result.validation_auroc)) == 1
    assert result.C[0] == 0.1  # fitted to these rows, so the loss falls as C grows
    # Targets turned round on validation: every C is wrong, the most cautious least so.
    result = probe((feature, target), (feature, 1 - target), feature, grid)
    assert result.C[0] == 1e-3
    # Nothing to learn from: every C ties in both, and the smallest is taken.
    flat = np.ones((300, 1))
    assert probe((flat, target), (flat, target), flat, grid).C[0] == 1e-3


def test_C_on_the_edge_is_noted():
    train, validation, (test_features, _) = splits(num_labels=1)
    result = probe(train, validation, test_features, (1e-9, 1e-8))
    edge = {1e-9: "strongest", 1e-8: "weakest"}[result.C[0]]
    assert f"is the {edge} regularisation tried" in result.notes[0]
    inner = probe(train, validation, test_features, (1e-9, result.C[0], 1e9))
    assert result.C[0] == inner.C[0] or 0 not in inner.notes


def test_missing_targets_do_not_count():
    train, validation, (test_features, _) = splits()
    holes = np.random.default_rng(1).random(len(train[0])) < 0.3
    masked = train[1].copy()
    masked[holes, 0] = np.nan
    result = probe((train[0], masked), validation, test_features)
    full = probe(train, validation, test_features)
    np.testing.assert_allclose(result.scores[:, 1], full.scores[:, 1], rtol=1e-6, atol=1e-6)
    assert np.isfinite(result.scores).all()
    assert np.abs(result.scores[:, 0] - full.scores[:, 0]).max() > 1e-3


def test_labels_with_one_class_are_named_and_the_others_scored():
    train, validation, (test_features, _) = splits(num_labels=4)
    train[1][:, 1] = 0
    validation[1][:, 3] = np.where(np.arange(len(validation[1])) % 2, np.nan, 1)
    result = probe(train, validation, test_features)
    assert result.not_scored == {
        1: "no positives among the training labels",
        3: "no negatives among the validation labels",
    }
    assert result.scored.tolist() == [True, False, True, False]
    assert np.isnan(result.scores[:, [1, 3]]).all() and np.isnan(result.C[[1, 3]]).all()
    kept = probe(
        (train[0], train[1][:, [0, 2]]), (validation[0], validation[1][:, [0, 2]]), test_features
    )
    np.testing.assert_allclose(result.scores[:, [0, 2]], kept.scores, rtol=1e-6, atol=1e-6)


def test_no_label_left_is_an_error_that_says_why():
    train, validation, (test_features, _) = splits(num_labels=1)
    with pytest.raises(ValueError, match="label 0: no negatives among the training labels"):
        probe((train[0], np.ones_like(train[1])), validation, test_features)


def test_constant_features_are_harmless():
    train, validation, (test_features, _) = splits()

    def widen(features):
        return np.concatenate([features, np.full((len(features), 2), 0.1, np.float32)], axis=1)

    plain = probe(train, validation, test_features)
    wide = probe(
        (widen(train[0]), train[1]), (widen(validation[0]), validation[1]), widen(test_features)
    )
    np.testing.assert_allclose(wide.scores, plain.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t, v, x: t[0].__setitem__((3, 2), np.nan), "train features, row 3, feature 2"),
        (lambda t, v, x: x.__setitem__((1, 0), np.inf), "test features, row 1, feature 0: inf"),
        (lambda t, v, x: v[1].__setitem__((5, 1), -1), "validation targets, label 1: row 5"),
    ],
)
def test_unusable_values_are_named(spoil, words):
    train, validation, (test_features, _) = splits()
    spoil(train, validation, test_features)
    with pytest.raises(ValueError, match=words):
        probe(train, validation, test_features)


@pytest.mark.parametrize("grid", [(), (1.0, 0.0), (-1.0,)])
def test_C_must_be_positive(grid):
    train, validation, (test_features, _) = splits()
    with pytest.raises(ValueError, match="give positive numbers"):
        probe(train, validation, test_features, grid)


def test_probe_of_exclusive_classes_is_that_of_scikit_learn():
    train, validation, (test_features, truth) = (classes(part) for part in splits(num_labels=3))
    holes = validation[1].copy()
    holes[::7] = np.nan
    grid = (1e-4, 1e-2, 1.0)
    result = linear_probe(train, (validation[0], holes), test_features, grid, tuple("abc"), True)
    scaler = StandardScaler().fit(train[0].astype(np.float64))
    has = ~np.isnan(holes[:, 0])
    models, found = [], []
    for C in grid:
        model = LogisticRegression(C=C, tol=1e-10, max_iter=50000)
        models.append(model.fit(scaler.transform(train[0].astype(np.float64)), train[1].argmax(1)))
        chances = model.predict_proba(scaler.transform(validation[0][has].astype(np.float64)))
        found.append(roc_auc_score(holes[has].argmax(1), chances, multi_class="ovr"))
    np.testing.assert_allclose(result.validation_auroc.mean(axis=1), found, atol=1e-6)
    best = int(np.argmax(found))
    assert (grid[best] == result.C).all()
    chances = models[best].predict_proba(scaler.transform(test_features.astype(np.float64)))
    np.testing.assert_allclose(np.exp(result.scores), chances, rtol=1e-3, atol=1e-5)
    ours = np.mean([auroc(t, x) for t, x in zip(truth.T, result.scores.T)])
    theirs = roc_auc_score(truth.argmax(1), chances, multi_class="ovr")
    assert ours == pytest.approx(theirs, abs=1e-6)
    logits = test_features @ result.kernel + result.bias
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(result.scores, expected, atol=1e-6)
    assert not result.notes and all("regularisation tried" in line for line in result.remarks)


def test_a_class_without_images_is_named_and_the_others_are_fitted_without_it():
    train, validation, (test_features, _) = (classes(part) for part in splits(num_labels=4))
    is_third = validation[1][:, 2] == 1
    checked = validation[0][~is_third], validation[1][~is_third]
    result = linear_probe(train, checked, test_features, (0.01, 1.0), tuple("abcd"), True)
    assert result.not_scored == {2: "no positives among the validation labels"}
    assert result.scored.tolist() == [True, True, False, True]
    assert np.isnan(result.scores[:, 2]).all() and np.isnan(result.kernel[:, 2]).all()
    keep = train[1][:, 2] == 0
    among = np.full(train[1][:, [0, 1, 3]].shape, np.nan)
    among[keep] = train[1][keep][:, [0, 1, 3]]
    others = linear_probe(
        (train[0], among),
        (checked[0], checked[1][:, [0, 1, 3]]),
        test_features,
        (0.01, 1.0),
        tuple("abd"),
        True,
    )
    np.testing.assert_allclose(result.scores[:, [0, 1, 3]], others.scores, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.exp(others.scores).sum(axis=1), 1)


def test_one_class_left_is_an_error():
    train, validation, (test_features, _) = (classes(part) for part in splits(num_labels=3))
    first, second = train[1][:, 2] == 0, validation[1][:, 1] == 0
    with pytest.raises(ValueError, match="of 3 exclusive classes only 1 has images"):
        linear_probe(
            (train[0][first], train[1][first]),
            (validation[0][second], validation[1][second]),
            test_features,
            (1.0,),
            tuple("abc"),
            True,
        )


def test_subsets_have_the_results_that_they_have_alone():
    train, validation, (test_features, truth) = splits(sizes=(400, 90, 200), num_labels=3)
    train[1][:, 2] = np.arange(400) == 0  # a label that one subset has and the others have not
    rng = np.random.default_rng(5)
    subsets = [np.sort(rng.choice(np.arange(1, 400), n, replace=False)) for n in (31, 33, 300, 12)]
    subsets[1][0] = 0
    both = (train, subsets, validation, test_features, GRID)
    together = linear_probes(*both)
    assert [probe.scored.tolist() for probe in together] == [
        [True, True, place == 1] for place in range(4)
    ]
    for rows, batched in zip(subsets, together):
        alone = probe((train[0][rows], train[1][rows]), validation, test_features)
        assert batched.not_scored == alone.not_scored and batched.notes == alone.notes
        np.testing.assert_array_equal(batched.C, alone.C)
        size = np.linalg.norm(np.nan_to_num(alone.kernel))
        assert np.linalg.norm(np.nan_to_num(batched.kernel - alone.kernel)) < 1e-4 * size
        for k in np.flatnonzero(alone.scored)[:2]:
            assert auroc(truth[:, k], batched.scores[:, k]) == pytest.approx(
                auroc(truth[:, k], alone.scores[:, k]), abs=1e-6
            )


def classes(part):
    """The largest of the noisy logits decides, so that every row has one class."""
    features, targets = part
    order = np.random.default_rng(len(features)).permuted(
        np.tile(np.arange(targets.shape[1]), (len(features), 1)), axis=1
    )
    return features, np.eye(targets.shape[1])[(2 * targets + order).argmax(1)]


def labelled_splits(exclusive=False, sizes=(60, 40, 30), k=3):
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


def test_few_labelled_images_are_standardised_with_unlabelled_ones():
    (features, targets), validation, (test_features, _) = splits(sizes=(300, 90, 200), num_labels=1)
    few = np.arange(12)
    given = [few], validation, test_features, (0.1,)
    (found,) = linear_probes((features, targets), *given, others=[features[12:]])
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000)
    model.fit(scaler.transform(features[few]), targets[few, 0])
    expected = model.decision_function(scaler.transform(test_features))
    np.testing.assert_allclose(found.scores[:, 0], expected, rtol=1e-3, atol=1e-3)
    (alone,) = linear_probes((features, targets), *given)
    assert np.abs(alone.scores[:, 0] - expected).max() > 0.01


def test_stand_ins_fill_up_whoever_is_labelled():
    rest = np.arange(5000)
    assert len(stand_ins(24, rest)) == 1000 and not len(stand_ins(1024, rest))
    assert np.array_equal(stand_ins(1000, rest[:20]), stand_ins(0, rest[:20]))
    counts = np.histogram(stand_ins(24, rest), bins=10, range=(0, 5000))[0]
    assert counts.min() > 90  # from all over the split
    kept = stand_ins(24, rest[rest % 7 > 0])
    assert len(np.intersect1d(kept, stand_ins(24, rest))) > 800


def test_many_subsets_are_each_as_alone():
    whole, features = labelled_splits()
    protocol = build({"protocol": "linear", "C": (0.01, 1.0)})
    encoder = Encoder("any", {}, {}, 32)
    subsets = [np.arange(0, 60, 2), np.arange(45)]
    many = protocol.run_many(encoder, whole, subsets, Tools(features.__getitem__, print, None))
    for rows, result in zip(subsets, many):
        left = np.setdiff1d(np.arange(60), rows)
        rest = features["train"][stand_ins(len(rows), left)]
        of = features | {"train": features["train"][rows], "unlabelled": rest}
        train = whole.train._replace(rows=rows, targets=whole.train.targets[rows], rest=left)
        tools = Tools(of.__getitem__, print, None)
        alone = protocol.run(encoder, whole._replace(train=train), tools)
        np.testing.assert_allclose(result.scores, alone.scores, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(result.head.kernel, alone.head.kernel, rtol=1e-3, atol=1e-5)
        assert (result.facts, result.summary) == (alone.facts, alone.summary)


def test_exclusive_classes_are_said_to_be_fitted_together():
    whole, features = labelled_splits(exclusive=True)
    protocol = build({"protocol": "linear", "C": (0.01, 1.0)})
    tools = Tools(features.__getitem__, print, None)
    result = protocol.run(Encoder("any", {}, {}, 32), whole, tools)
    assert result.score_kind == "log-probability"
    np.testing.assert_allclose(np.exp(result.scores).sum(axis=1), 1)
    assert len(set(result.facts["strength"].values())) == 1
    assert "multinomial logistic regression" in protocol.method(True)[0]
    assert "AUROC of a class: its images against those of all the others." in protocol.method(True)
    assert "chosen per label" in protocol.method(False)[0] and len(protocol.method(False)) == 1
