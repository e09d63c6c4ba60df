"""The optimum against scikit-learn's, its certificate, and what the objective leaves open."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxr_jax.stats.auroc import auroc
from cxr_jax.transfer._logistic import fit_logistic
from cxr_jax.transfer._multinomial import fit_multinomial

STRENGTHS = np.array([1e-6, 1e-2, 1.0, 1e3])


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
def test_optimum_is_that_of_scikit_learn(n, d):
    features, targets = problem(n, d)
    fresh, truth = problem(400, d, seed=0)[0], problem(400, d, seed=1)[1]
    fit = fit_multinomial(features, targets, STRENGTHS)
    assert fit.converged.all()
    for s, strength in enumerate(STRENGTHS):
        model = LogisticRegression(C=strength, tol=1e-10, solver="newton-cg", max_iter=5000)
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


def test_gradient_vanishes_and_classes_sum_to_zero():
    features, targets = problem(150, 25, k=4)
    fit = fit_multinomial(features, targets, STRENGTHS)
    for s, strength in enumerate(STRENGTHS):
        odds = np.exp(features @ fit.weights[s].T + fit.intercept[s])
        residual = odds / odds.sum(1, keepdims=True) - targets
        slope = strength * residual.T @ features + fit.weights[s]
        size = np.sqrt((slope**2).sum() + ((strength * residual.sum(0)) ** 2).sum())
        assert size < 1e-5 and size == pytest.approx(fit.gradient_norm[s], abs=1e-8)
    np.testing.assert_allclose(fit.intercept.sum(1), 0, atol=1e-9)
    np.testing.assert_allclose(fit.weights.sum(1), 0, atol=1e-6)


def test_two_classes_are_logistic_regression_at_twice_the_strength():
    features, targets = problem(120, 10, k=2)
    fit = fit_multinomial(features, targets, STRENGTHS)
    plain = fit_logistic(features, targets[:, 1:], 2 * STRENGTHS)
    np.testing.assert_allclose(fit.weights[:, 1], plain.weights[:, 0] / 2, atol=1e-5)
    np.testing.assert_allclose(fit.intercept[:, 1], plain.intercept[:, 0] / 2, atol=1e-4)


def test_images_without_class_are_as_rows_left_out():
    features, targets = problem(150, 12)
    missing = np.random.default_rng(2).random(150) < 0.4
    holes = np.where(missing[:, None], np.nan, targets)
    masked = fit_multinomial(features, holes, STRENGTHS)
    left_out = fit_multinomial(features[~missing], targets[~missing], STRENGTHS)
    np.testing.assert_allclose(masked.weights, left_out.weights, rtol=0, atol=1e-5)
    np.testing.assert_allclose(masked.intercept, left_out.intercept, rtol=0, atol=1e-4)


def test_nothing_to_learn_from_gives_the_prevalence():
    targets = np.eye(3)[[0, 0, 1, 2]]
    fit = fit_multinomial(np.zeros((4, 6)), targets, STRENGTHS)
    assert fit.converged.all()
    odds = np.exp(fit.intercept)
    np.testing.assert_allclose(odds / odds.sum(1, keepdims=True), [[0.5, 0.25, 0.25]] * 4)


def test_too_few_steps_are_reported():
    features, targets = problem(150, 12)
    fit = fit_multinomial(features, targets, STRENGTHS, max_newton_steps=2)
    assert not fit.converged[-1] and fit.gradient_norm[-1] > 1e-3
    assert np.isfinite(fit.weights).all()
