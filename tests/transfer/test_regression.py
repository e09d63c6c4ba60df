"""Both regressions: the optimum against scikit-learn's, its certificate, and degenerate inputs."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxr_jax.stats.auroc import auroc
from cxr_jax.transfer._regression import fit_logistic, fit_multinomial

C = np.array([1e-6, 1e-3, 1.0, 1e4])
C_OF_CLASSES = np.array([1e-6, 1e-2, 1.0, 1e3])


def encoder_features(rng, n, d):
    """Non-negative and with a spectrum that falls by decades, as pooled features have."""
    mixing = rng.normal(size=(d, d)) * np.logspace(0, -2.5, d)[:, None]
    features = np.maximum(rng.normal(size=(n, d)) @ mixing + 0.5, 0)
    return (features - features.mean(0)) / np.where(features.std(0) == 0, 1, features.std(0))


def noisy_targets(rng, features, num_labels):
    logits = features @ rng.normal(size=(features.shape[1], num_labels))
    logits = logits / logits.std(0) + rng.logistic(size=logits.shape) - 0.5
    return (logits > 0).astype(float)


def sklearn_optimum(features, target, value):
    with warnings.catch_warnings():
        # Reaching rounding before tol is as good as it gets: the comparison below decides.
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=value, tol=1e-10, solver="newton-cholesky", max_iter=1000)
        model.fit(features, target)
        polished = LogisticRegression(
            C=value, tol=1e-10, solver="lbfgs", max_iter=20000, warm_start=True
        )
        polished.coef_, polished.intercept_ = model.coef_, model.intercept_
        polished.classes_ = model.classes_
        polished.fit(features, target)
    return polished.coef_[0], polished.intercept_[0]


@pytest.mark.parametrize(("n", "d"), [(400, 30), (60, 150), (80, 80)])
def test_optimum_is_that_of_scikit_learn(n, d):
    rng = np.random.default_rng(n)
    features = encoder_features(rng, n, d)
    targets = noisy_targets(rng, features, 2)
    fresh = encoder_features(rng, 500, d)
    truth = noisy_targets(rng, fresh, 1)[:, 0]
    fit = fit_logistic(features, targets, C)
    assert fit.converged.all()
    for s, value in enumerate(C):
        for k in range(2):
            weights, intercept = sklearn_optimum(features, targets[:, k], value)
            distance = np.linalg.norm(fit.weights[s, k] - weights)
            assert distance < 1e-4 * np.linalg.norm(weights)
            assert fit.intercept[s, k] == pytest.approx(intercept, abs=1e-4, rel=1e-4)
            ours = auroc(truth, fresh @ fit.weights[s, k] + fit.intercept[s, k])
            assert ours == pytest.approx(auroc(truth, fresh @ weights + intercept), abs=1e-6)


@pytest.mark.parametrize(("n", "d"), [(200, 20), (40, 90)])
def test_gradient_vanishes_at_the_weights_returned(n, d):
    rng = np.random.default_rng(1)
    features = encoder_features(rng, n, d)
    targets = noisy_targets(rng, features, 1)
    fit = fit_logistic(features, targets, C)
    for s, value in enumerate(C):
        weights, intercept = fit.weights[s, 0], fit.intercept[s, 0]
        residual = 1 / (1 + np.exp(-(features @ weights + intercept))) - targets[:, 0]
        gradient = np.append(value * residual @ features + weights, value * residual.sum())
        assert np.linalg.norm(gradient) < 1e-5
        assert np.linalg.norm(gradient) == pytest.approx(fit.gradient_norm[s, 0], abs=1e-8)


def test_missing_targets_are_as_rows_left_out():
    rng = np.random.default_rng(2)
    features = encoder_features(rng, 150, 25)
    targets = noisy_targets(rng, features, 2)
    missing = rng.random(150) < 0.4
    targets[missing, 1] = np.nan
    masked = fit_logistic(features, targets, C)
    left_out = fit_logistic(features[~missing], targets[~missing], C)
    np.testing.assert_allclose(masked.weights[:, 1], left_out.weights[:, 1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(masked.intercept[:, 1], left_out.intercept[:, 1], rtol=0, atol=1e-4)


def test_batching_changes_nothing():
    rng = np.random.default_rng(3)
    features = encoder_features(rng, 100, 12)
    targets = noisy_targets(rng, features, 3)
    together = fit_logistic(features, targets, C)
    for k in range(3):
        alone = fit_logistic(features, targets[:, [k]], C[2:3])
        np.testing.assert_allclose(together.weights[2, k], alone.weights[0, 0], atol=1e-5)


def test_duplicate_and_constant_features():
    """Copies share the weight equally, a constant takes none: the penalty decides."""
    rng = np.random.default_rng(4)
    features = encoder_features(rng, 120, 10)
    targets = noisy_targets(rng, features, 1)
    widened = np.concatenate([features, features[:, :1], np.zeros((120, 1))], axis=1)
    fit = fit_logistic(widened, targets, C)
    assert fit.converged.all()
    np.testing.assert_allclose(fit.weights[:, 0, 0], fit.weights[:, 0, 10], atol=1e-6)
    np.testing.assert_allclose(fit.weights[:, 0, 11], 0, atol=1e-9)


def test_nothing_to_learn_from_gives_the_prevalence():
    targets = np.array([[1.0], [0], [0], [0]])
    fit = fit_logistic(np.zeros((4, 6)), targets, C)
    assert fit.converged.all()
    np.testing.assert_allclose(fit.weights, 0, atol=1e-12)
    np.testing.assert_allclose(fit.intercept, np.log(1 / 3), atol=1e-6)


def test_too_few_steps_are_reported():
    rng = np.random.default_rng(5)
    features = encoder_features(rng, 200, 20)
    fit = fit_logistic(features, noisy_targets(rng, features, 1), C, max_newton_steps=2)
    assert not fit.converged[-1, 0]
    assert fit.gradient_norm[-1, 0] > 1e-3
    assert np.isfinite(fit.weights).all()


def test_float32_stays_the_default_outside():
    import jax.numpy as jnp

    fit_logistic(np.eye(4), np.array([[1.0], [0.0], [1.0], [0.0]]), C)
    assert jnp.asarray(np.zeros(2)).dtype == jnp.float32


def problem(n, d, k=3, seed=0):
    """Standardised features with a spectrum that falls by decades, and the class of each row."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) * np.logspace(0, -2, d)[:, None]
    features = np.maximum(rng.normal(size=(n, d)) @ mixing + 0.5, 0)
    features = (features - features.mean(0)) / features.std(0)
    logits = features @ rng.normal(size=(d, k))
    logits = logits / logits.std(0) + rng.gumbel(size=(n, k)) - np.arange(k) / 2
    return features, np.eye(k)[logits.argmax(1)]


@pytest.mark.parametrize(("n", "d"), [(300, 20), (60, 90)])
def test_multinomial_optimum_is_that_of_scikit_learn(n, d):
    features, targets = problem(n, d)
    fresh, truth = problem(400, d, seed=0)[0], problem(400, d, seed=1)[1]
    fit = fit_multinomial(features, targets, C_OF_CLASSES)
    assert fit.converged.all()
    for s, value in enumerate(C_OF_CLASSES):
        model = LogisticRegression(C=value, tol=1e-10, solver="newton-cg", max_iter=5000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rounding before tol: the comparison decides
            model.fit(features, targets.argmax(1))
        distance = np.linalg.norm(fit.weights[s] - model.coef_)
        assert distance < 1e-4 * np.linalg.norm(model.coef_)
        theirs = model.intercept_ - model.intercept_.mean()
        np.testing.assert_allclose(fit.intercept[s], theirs, rtol=1e-4, atol=1e-4)
        ours = fresh @ fit.weights[s].T + fit.intercept[s]
        np.testing.assert_allclose(
            [auroc(t, x) for t, x in zip(truth.T, ours.T)],
            [roc_auc_score(t, x) for t, x in zip(truth.T, model.decision_function(fresh).T)],
            atol=1e-6,
        )


def test_multinomial_rounding_ends_no_fit_in_nan():
    # Features of falling spread, a hardly regularised fit: single precision added to the classes'
    # sum until nothing else was left (first seen on real features, at C=10,000).
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(300, 300)))[0]
    features = rng.normal(size=(200, 300)) * np.arange(1, 301) ** -0.5 @ basis
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    targets = np.eye(4)[rng.integers(0, 4, 200)]
    assert fit_multinomial(features, targets, np.array([1e6])).converged.all()


def test_multinomial_gradient_vanishes_and_classes_sum_to_zero():
    features, targets = problem(150, 25, k=4)
    fit = fit_multinomial(features, targets, C_OF_CLASSES)
    for s, value in enumerate(C_OF_CLASSES):
        odds = np.exp(features @ fit.weights[s].T + fit.intercept[s])
        residual = odds / odds.sum(1, keepdims=True) - targets
        slope = value * residual.T @ features + fit.weights[s]
        size = np.sqrt((slope**2).sum() + ((value * residual.sum(0)) ** 2).sum())
        assert size < 1e-5 and size == pytest.approx(fit.gradient_norm[s, 0], abs=1e-8)
    np.testing.assert_allclose(fit.intercept.sum(1), 0, atol=1e-9)
    np.testing.assert_allclose(fit.weights.sum(1), 0, atol=1e-6)


def test_two_classes_are_logistic_regression_at_twice_the_C():
    features, targets = problem(120, 10, k=2)
    fit = fit_multinomial(features, targets, C_OF_CLASSES)
    plain = fit_logistic(features, targets[:, 1:], 2 * C_OF_CLASSES)
    np.testing.assert_allclose(fit.weights[:, 1], plain.weights[:, 0] / 2, atol=1e-5)
    np.testing.assert_allclose(fit.intercept[:, 1], plain.intercept[:, 0] / 2, atol=1e-4)


def test_images_without_class_are_as_rows_left_out():
    features, targets = problem(150, 12)
    missing = np.random.default_rng(2).random(150) < 0.4
    holes = np.where(missing[:, None], np.nan, targets)
    masked = fit_multinomial(features, holes, C_OF_CLASSES)
    left_out = fit_multinomial(features[~missing], targets[~missing], C_OF_CLASSES)
    np.testing.assert_allclose(masked.weights, left_out.weights, rtol=0, atol=1e-5)
    np.testing.assert_allclose(masked.intercept, left_out.intercept, rtol=0, atol=1e-4)


def test_multinomial_nothing_to_learn_from_gives_the_prevalence():
    targets = np.eye(3)[[0, 0, 1, 2]]
    fit = fit_multinomial(np.zeros((4, 6)), targets, C_OF_CLASSES)
    assert fit.converged.all()
    odds = np.exp(fit.intercept)
    np.testing.assert_allclose(odds / odds.sum(1, keepdims=True), [[0.5, 0.25, 0.25]] * 4)


def test_multinomial_too_few_steps_are_reported():
    features, targets = problem(150, 12)
    fit = fit_multinomial(features, targets, C_OF_CLASSES, max_newton_steps=2)
    assert not fit.converged[-1].any() and (fit.gradient_norm[-1] > 1e-3).all()
    assert np.isfinite(fit.weights).all()
