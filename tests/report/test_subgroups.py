"""Tables of subgroups against scikit-learn on images chosen by hand."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxr_jax.report import subgroups
from cxr_jax.transfer import image_table
from tests.fakes import benchmark as fake


def runs(*signals, labels=("Mass",)):
    return [
        (f"encoder {k}", fake.predictions(signal, k, "phantom", labels))
        for k, signal in enumerate(signals)
    ]


def test_numbers_are_those_of_the_images_chosen_by_hand():
    given = runs(1.0, 2.0, labels=("Mass", "Nodule"))
    images = image_table.in_order(fake.draw_images(), given[0][1].image_id)
    found, sentences = subgroups.groups(given, images, 50)
    number = np.arange(80)
    by_hand = {
        "sex F": number % 4 < 2,
        "sex M": number % 4 >= 2,
        "age 18-39": (number % 50 < 20) & (number != 5),
        "age 40-59": (number % 50 >= 20) & (number % 50 < 40),
        "age 60-79": number % 50 >= 40,
        "age unknown": number == 5,
        "projection AP": (number % 3 == 0) & (number != 6),
        "projection PA": number % 3 != 0,
        "projection unknown": number == 6,
    }
    assert [group.name for group in found] == list(by_hand) and sentences == []
    for group in found:
        rows = by_hand[group.name]
        assert group.images == rows.sum() and group.positives is None
        for (_, predictions), row in zip(given, group.rows):
            columns = [
                roc_auc_score(target, score)
                for target, score in zip(predictions.targets[rows].T, predictions.scores[rows].T)
                if all(len(set(predictions.patient_id[rows][target == v])) > 4 for v in (0, 1))
            ]
            if not columns:
                assert np.isnan(row.auroc) and row.note.startswith("not estimable")
                continue
            assert row.auroc == pytest.approx(np.mean(columns))


def test_facts_that_do_not_part_the_images_are_sentences():
    given = runs(1.0)
    images = image_table.in_order(fake.draw_images(), given[0][1].image_id)
    same = images._replace(
        sex=np.full(80, ""), age=np.full(80, np.nan), projection=np.full(80, "PA")
    )
    assert subgroups.groups(given, same, 10) == (
        [],
        ["All images: projection PA.", "Sex and age are not known of any image."],
    )


def test_table_and_notes():
    given = runs(1.0, 2.0)
    images = image_table.in_order(fake.draw_images(), given[0][1].image_id)
    found, _ = subgroups.groups(given, images, 50)
    names = [name for name, _ in given]
    header, rows, _ = subgroups.table(names, found)
    assert header == ["group", "images", *names]
    positives = int(given[0][1].targets[np.arange(80) % 4 < 2].sum())
    assert rows[0][:2] == ["sex F", f"40\n({positives} positive)"]
    assert rows[0][2].startswith(".") and "\n[." in rows[0][2]
    assert rows[5][2:] == ["–", "–"]
    said = subgroups.notes(names, found)
    assert [text for text in said if text.startswith("age unknown: not estimable: no ")]
    row = found[0].rows[0]
    group = found[0]._replace(rows=(row, row._replace(note="take care")))
    assert subgroups.notes(names, [group]) == ["sex F: encoder 1: take care."]
