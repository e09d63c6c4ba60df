"""The benchmark measures the same AUROCs by every way; its seconds are nobody's test."""

import numpy as np

from benchmarks import bootstrap


def test_every_way_gives_the_same_aurocs():
    images = bootstrap.invent(num_images=8000, num_patients=1000, num_labels=2)
    assert len(np.unique(images.patients)) == 1000
    rows = bootstrap.measure(images, num_resamples=4, num_timed=2)
    assert len(rows) == 3 and all(row["seconds"] > 0 for row in rows)
    assert all(row["apart"] < 1e-12 for row in rows)


def test_table_is_printed(monkeypatch, capsys):
    small = bootstrap.invent(num_images=8000, num_patients=1000, num_labels=2)
    monkeypatch.setattr(bootstrap, "invent", lambda *_: small)
    bootstrap.main()
    head, _, ours, *rivals, words = capsys.readouterr().out.splitlines()
    assert "8,000 images" in head and "bootstrap_auroc" in ours and len(rivals) == 2
    assert words.startswith("In words: ")
