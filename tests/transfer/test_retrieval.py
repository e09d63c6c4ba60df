"""Ranks and recall by hand, pair by pair."""

import numpy as np

from cxr_jax.transfer import retrieval


def by_hand(images, reports, patients, words):
    found, counts = [], []
    for i in range(len(images)):
        others = [j for j in range(len(images)) if patients[j] != patients[i]]
        others = [j for j in others if words[j] != words[i]]
        counts.append(len(others))
        own = images[i] @ reports[i]
        found.append(
            [
                1 + sum(images[i] @ reports[j] >= own for j in others),
                1 + sum(images[j] @ reports[i] >= own for j in others),
            ]
        )
    return np.array(found), np.array(counts)


def test_ranks_leave_the_same_patient_and_equal_reports_out(monkeypatch):
    monkeypatch.setattr(retrieval, "_ROWS", 7)
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(12, 4))
    words = rng.integers(0, 12, 20)
    images, patients = rng.normal(size=(20, 4)), rng.integers(0, 9, 20).astype(str)
    given = (images, texts[words], patients, words)
    place, count = retrieval.ranks(*given)
    expected, counts = by_hand(*given)
    np.testing.assert_array_equal(place, expected)
    np.testing.assert_array_equal(count, counts)
    # Without what is left out ranks are worse, or the example shows nothing.
    worse = retrieval.ranks(images, texts[words], np.arange(20).astype(str), np.arange(20))[0]
    assert (worse >= place).all() and (worse > place).any()


def test_recall_is_a_share_of_images_and_its_interval_of_patients():
    place = np.repeat([[1, 11], [3, 1]], [30, 10], axis=0)
    patients = np.repeat(np.arange(20), 2).astype(str)
    rows = retrieval.recall_rows(place, np.full(40, 19), patients, 200, 0)
    recall = {(row["direction"], row["k"]): row for row in rows}
    first = recall["image to report", 1]
    assert (first["recall"], first["chance"]) == (0.75, 0.05)
    assert recall["image to report", 5]["recall"] == 1
    assert recall["report to image", 10]["recall"] == 0.25
    assert first["low"] < 0.75 < first["high"]
    # Twenty patients, fifteen of them right: a binomial's standard error is .097.
    assert 0.3 < first["high"] - first["low"] < 0.5
    alone = retrieval.recall_rows(place, np.full(40, 19), np.arange(40).astype(str), 200, 0)[0]
    assert alone["high"] - alone["low"] < first["high"] - first["low"]
