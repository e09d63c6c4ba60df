"""The simulated coverage: its AUROCs, rules and truth are what the product or a formula gives."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from benchmarks import coverage
from cxr_jax.stats.auroc import auroc
from cxr_jax.stats.bootstrap import bootstrap_auroc
from cxr_jax.stats.delong import delong_variance


@pytest.mark.parametrize("images", [1, 3])
def test_a_drawn_test_set_is_what_the_product_would_be_given(images):
    of = coverage.design(6, 15, images)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=21), rng.normal(size=(21, 3))
    won = coverage.wins(of, 0.8, noise)
    scores = np.sqrt(of.shared) * noise[0][:, None] + np.sqrt(1 - of.shared) * noise[1]
    targets = np.full((21, 3), np.nan)
    for patient in range(21):
        targets[patient, : of.with_it[patient]] = 1
        targets[patient, 3 - of.without[patient] :] = 0
    scores += np.sqrt(2) * scipy.stats.norm.ppf(0.8) * (targets == 1)
    given = targets.ravel(), scores.ravel(), np.repeat(np.arange(21), 3)
    estimate = auroc(*given[:2])
    assert won.sum() / (of.with_it.sum() * of.without.sum()) == pytest.approx(estimate)
    found = coverage.intervals(of, won, *coverage.draws(rng, of))
    half = 1.959964 * np.sqrt(delong_variance(*given)) / (estimate * (1 - estimate))
    limits = scipy.special.expit(scipy.special.logit(estimate) + np.array([-half, half]))
    assert found["DeLong-logit"] == pytest.approx(limits)
    # By other draws: the limits differ by the noise of 1,000 resamples.
    assert found["product"] == pytest.approx(bootstrap_auroc(*given)[1:3], abs=0.02)


def test_the_truth_is_the_mean_of_many_test_sets():
    of, rng = coverage.design(4, 8, 3), np.random.default_rng(1)
    pairs = of.with_it.sum() * of.without.sum()
    found = [
        coverage.wins(of, 0.8, (rng.normal(size=12), rng.normal(size=(12, 3)))).sum() / pairs
        for _ in range(2000)
    ]
    assert np.mean(found) == pytest.approx(coverage.truth(of, 0.8), abs=4 * np.std(found) / 44)
