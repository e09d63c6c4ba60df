"""Means, intervals, verdicts and label equivalence of a grid, against loops written out."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from cxr_jax.report.benchmark import page, text
from cxr_jax.report.benchmark.scores import equivalences, verdicts
from cxr_jax.stats.label_equivalence import LabelEquivalence
from cxr_jax.transfer.predictions import read_parquet, write_parquet
from tests.fakes import benchmark as fake
from tests.report.benchmark.measured import DATASETS, SIGNALS, macro, measured, of, rewrite


def written_out(workdir, cells, num_resamples):
    """Mean over seeds of the macro AUROC, and the same in resamples of patients and seeds."""
    files = [read_parquet(workdir / cell["folder"] / "predictions.parquet") for cell in cells]
    mean = np.mean([macro(file.targets, file.scores) for file in files])
    patients = np.array(list(dict.fromkeys(files[0].patient_id)))  # in the order of their images
    rng = np.random.default_rng(0)
    seeds = np.random.default_rng(0).integers(len(files), size=(len(files), num_resamples))
    replicates = []
    for drawn_seeds in seeds.T:
        drawn = patients[rng.integers(0, len(patients), len(patients))]
        rows = np.concatenate([np.flatnonzero(files[0].patient_id == one) for one in drawn])
        resampled = [macro(file.targets[rows], file.scores[rows]) for file in files]
        replicates.append(np.mean([resampled[seed] for seed in drawn_seeds]))
    return mean, np.array(replicates)


def student(workdir, cell):
    """Student's distribution with the degrees of freedom of the labels' mean (Satterthwaite)."""
    file = read_parquet(workdir / cell["folder"] / "predictions.parquet")
    few = [
        min(len(set(file.patient_id[column == value])) for value in (0, 1))
        for column in file.targets.T
    ]
    variances = [1 / n for n in few]
    below = sum(v**2 / (n - 1) for v, n in zip(variances, few))
    return scipy.stats.t(sum(variances) ** 2 / below)


def test_scores_and_verdicts_are_those_of_loops(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, DATASETS, fractions=(1.0,))
    grid, found = measured(tmp_path, cells)
    assert grid.encoders == ["imagenet", "simclr"]  # the reference first
    by_hand, p_values = {}, {}
    for dataset in DATASETS:
        place = found.places["linear", dataset, 1.0]
        assert (place.images, place.patients, place.labels) == (80, 40, ("Mass", "Nodule"))
        loops = {}
        for encoder in SIGNALS:
            chosen = of(cells, encoder=encoder, dataset=dataset)
            mean, replicates = loops[encoder] = written_out(tmp_path, chosen, 100)
            score = place.scores[encoder]
            assert score.seeds == (0, 1) and score.images == 1001  # of 1000 and 1001, half up
            assert score.mean == pytest.approx(mean, abs=1e-12)
            t, error = student(tmp_path, chosen[0]), replicates.std(ddof=1)
            odds = (
                mean / (1 - mean) * np.exp(np.array(t.interval(0.95)) * error / mean / (1 - mean))
            )
            assert score.interval == pytest.approx(odds / (1 + odds))
        differences = loops["simclr"][1] - loops["imagenet"][1]
        mean, error = loops["simclr"][0] - loops["imagenet"][0], differences.std(ddof=1)
        p_values[dataset] = max(2 * t.sf(abs(mean) / error), 2 / 101)
        by_hand[dataset] = (mean, *(mean + np.array(t.interval(0.95)) * error))
        by_hand[dataset] += ((t.ppf(0.975) + t.ppf(0.8)) * error,)
    smaller, larger = sorted(p_values, key=p_values.get)
    adjusted = {smaller: 2 * p_values[smaller]}
    adjusted[larger] = max(p_values[larger], adjusted[smaller])
    verdict = verdicts(found, grid, "linear", 1.0)
    for dataset in DATASETS:
        one = verdict["simclr", dataset]
        got = (one.difference, one.low, one.high, one.detectable)
        assert got == pytest.approx(by_hand[dataset], abs=1e-4)
        assert one.p_adjusted == pytest.approx(adjusted[dataset])
        assert one.verdict == "win"  # the signal is twice as strong


def test_rows_in_another_order_are_the_same_images(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, DATASETS[:1], fractions=(1.0,))
    _, before = measured(tmp_path, cells)
    path = tmp_path / cells[0]["folder"] / "predictions.parquet"
    image, patient, names, targets, scores = read_parquet(path)[:5]
    given = (image[::-1], patient[::-1], names[::-1], targets[::-1, ::-1], scores[::-1, ::-1])
    write_parquet(type(read_parquet(path))(*given), path)
    _, after = measured(tmp_path, cells)
    for name, score in next(iter(before.places.values())).scores.items():
        np.testing.assert_allclose(
            score.replicates, next(iter(after.places.values())).scores[name].replicates
        )


def test_comparison_takes_the_seeds_that_both_have(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, DATASETS[:1], fractions=(1.0,))
    lost = of(cells, encoder="simclr", seed=0)[0]
    lost.update(state="failed", error=fake.ERROR, num_images=None, seen=None)
    grid, found = measured(tmp_path, cells)
    place = found.places["linear", DATASETS[0], 1.0]
    assert place.scores["imagenet"].seeds == (0, 1) and place.scores["simclr"].seeds == (1,)
    one = verdicts(found, grid, "linear", 1.0)["simclr", DATASETS[0]]
    assert one.auroc_b == pytest.approx(place.scores["imagenet"].auroc[1])
    assert [cell.error for cell in found.failed] == [
        "ValueError: image '…' has no row for label 'Mass'"
    ]


def test_other_images_and_unreadable_files_are_refused_alone(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS | {"byol": 1.0}, DATASETS[:1], fractions=(1.0,))
    stranger, broken = of(cells, encoder="simclr", seed=0)[0], of(cells, encoder="byol", seed=0)[0]
    rewrite(
        tmp_path, stranger, lambda p: p._replace(image_id=np.char.replace(p.image_id, "7", "x"))
    )
    (tmp_path / broken["folder"] / "predictions.parquet").write_bytes(b"not parquet")
    _, found = measured(tmp_path, cells)
    failed = {cell.encoder: cell.error for cell in found.failed}
    assert set(failed) == {"simclr", "byol"}
    assert "image '…' is only in the" in failed["simclr"] and "secret" not in str(failed)
    scores = found.places["linear", DATASETS[0], 1.0].scores
    assert {name: score.seeds for name, score in scores.items()} == {
        "imagenet": (0, 1),
        "simclr": (1,),
        "byol": (1,),
    }


def test_label_that_one_cell_lacks_is_left_out_for_all(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, DATASETS[:1])
    few = of(cells, encoder="simclr", fraction=0.1, seed=1)[0]
    rewrite(
        tmp_path,
        few,
        lambda p: p._replace(
            label_names=("Mass",), targets=p.targets[:, :1], scores=p.scores[:, :1]
        ),
    )
    _, found = measured(tmp_path, cells)
    name = DATASETS[0]
    assert found.places["linear", name, 0.1].labels == ("Mass",)
    assert found.places["linear", name, 1.0].labels == ("Mass", "Nodule")
    # Curves are of one quantity: at 100 % too of the label that both fractions have.
    path = tmp_path / of(cells, encoder="simclr", fraction=1.0, seed=0)[0]["folder"]
    own = read_parquet(path / "predictions.parquet")
    curve = found.curves["linear", name, 1.0]["simclr"]
    assert curve.auroc[0] == pytest.approx(roc_auc_score(own.targets[:, 0], own.scores[:, 0]))
    assert any(
        "Nodule is left out for all encoders: no score from simclr" in note for note in found.notes
    )
    assert found.dropped == {("linear", name): ["Nodule"]}
    # Table, verdict and curve of one page say whose mean they are.
    page.write(tmp_path, 100)
    said = (tmp_path / "benchmark.md").read_text()
    assert f"{name}: means over Mass at 10 %; over Mass, Nodule at 100 %." in said
    assert "The curve and the labels saved leave out Nodule, which cannot be scored" in said


def test_label_with_one_class_is_named_and_in_no_mean(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, DATASETS[:1], fractions=(1.0,))
    for cell in cells:
        rewrite(tmp_path, cell, lambda p: p._replace(targets=p.targets * [1, 0]))
    _, found = measured(tmp_path, cells)
    assert found.places["linear", DATASETS[0], 1.0].labels == ("Mass",)
    assert found.notes[0].endswith("no mean holds Nodule: no positives in the test set.")
    for cell in cells:
        rewrite(tmp_path, cell, lambda p: p._replace(targets=p.targets * 0))
    _, found = measured(tmp_path, cells)
    assert not found.places and not found.curves
    assert found.notes[-1].endswith("no label can be scored for every encoder.")


def test_label_equivalence_finds_ten_times(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, DATASETS[:1], seeds=(0,), n=600)
    # simclr with 100 images says what imagenet says with 1,000.
    source = tmp_path / of(cells, encoder="imagenet", fraction=1.0)[0]["folder"]
    target = tmp_path / of(cells, encoder="simclr", fraction=0.1)[0]["folder"]
    held = (source / "predictions.parquet").read_bytes()
    (target / "predictions.parquet").write_bytes(held)
    grid, found = measured(tmp_path, cells)
    few, many = equivalences(found, grid, "linear", DATASETS[0], "simclr")
    assert (few.labels_a, many.labels_a) == (100, 1000)
    assert few.labels_b == pytest.approx(1000) and few.ratio == pytest.approx(10)
    assert many.ratio == pytest.approx(1) and many.bound == "at least"
    sentence = text.equivalence(few, "simclr", "imagenet")
    assert sentence.startswith("With simclr 100 labels do what 1,000 do from imagenet (10.0 times,")


def test_labels_that_are_not_saved_are_not_called_saved():
    worse = LabelEquivalence(100, 60, 0.6, "", 0.4, "", 0.9, "", 50, 0)
    said = text.equivalence(worse, "simclr", "imagenet")
    assert said.endswith("do from imagenet (0.6 times, 0.4 to 0.9): of so few simclr saves none.")
    better = worse._replace(labels_b=300, ratio=3.0)
    assert "saves none" not in text.equivalence(better, "simclr", "imagenet")


def test_what_a_table_rests_on_is_said_with_it(tmp_path):
    """Resamples that were left out, and one choice of training patients."""
    cells = fake.grid(tmp_path, SIGNALS, DATASETS[:1], seeds=(0,))
    rare = np.repeat([1.0, 0.0], [10, 70])  # of five patients
    for cell in cells:
        rewrite(
            tmp_path,
            cell,
            lambda p: p._replace(targets=p.targets * [1, 0] + rare[:, None] * [0, 1]),
        )
    _, found = measured(tmp_path, cells, 1000)
    lost = found.places["linear", DATASETS[0], 0.1].scores["simclr"].num_excluded
    assert 0 < lost < 30
    page.write(tmp_path, 1000)
    said = (tmp_path / "benchmark.md").read_text()
    assert f"{DATASETS[0]}, 100 %: in {lost} of 1,000 resamples a class is absent" in said
    assert f"{DATASETS[0]}, 10 %: one choice of training patients" in said
    assert f"{DATASETS[0]}, 100 %: one choice" not in said


def test_one_fraction_has_no_equivalence(tmp_path):
    grid, found = measured(
        tmp_path, fake.grid(tmp_path, SIGNALS, DATASETS[:1], fractions=(1.0,), seeds=(0,))
    )
    assert equivalences(found, grid, "linear", DATASETS[0], "simclr") == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (LabelEquivalence(34, 117, 3.44, "", 2.1, "", 5.6, "", 9, 0), "3.4 times, 2.1 to 5.6"),
        (
            LabelEquivalence(34, 900, 26.5, "at least", 9.0, "", 26.5, "at least", 9, 0),
            "at least 26.5 times, 9.0 to at least 26.5",
        ),
        (
            LabelEquivalence(34, 34, 1.0, "at most", 1.0, "at most", 1.0, "at most", 9, 0),
            "at most 1.0 times",
        ),
        (
            LabelEquivalence(900, 34, 0.0378, "", float("nan"), "", float("nan"), "", 0, 9),
            "0.038 times, no interval",
        ),
    ],
)
def test_ratio_in_words(given, words):
    assert text.ratio(given) == words
