"""The comparison compares the same problems."""

import numpy as np

from benchmarks import probe


def test_both_ways_find_the_same_weights():
    problems = probe.invent(draws=2, rows=80, width=6, labels=3)
    prevalence = problems.targets.mean(axis=(0, 1))
    np.testing.assert_allclose(prevalence, [0.03, 0.165, 0.3], atol=0.02)
    found = probe.measure(problems, num_timed=2)
    assert found["apart"] < 1e-4
    assert found["ours"] > 0 and found["loop"] > 0
