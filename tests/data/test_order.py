"""The order of images and their partners; batches hold the same whoever draws them."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cxr_jax.data import images, loader, order, seen_images
from cxr_jax.data.source import load_source
from tests.fakes import studies


def test_every_epoch_is_a_permutation_of_its_own():
    epochs = order.rows(7, 3, 0, 21).reshape(3, 7)
    assert (np.sort(epochs) == np.arange(7)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("of", [order.rows, order.numbers])
def test_any_piece_is_what_the_whole_order_holds_there(of):
    whole = of(10, 0, 0, 45)
    for start, stop in ((0, 1), (8, 12), (10, 20), (19, 45), (5, 5)):
        np.testing.assert_array_equal(of(10, 0, start, stop), whole[start:stop])


@pytest.mark.parametrize("of", [order.rows, order.numbers])
def test_the_seed_decides(of):
    assert (of(50, 0, 0, 50) != of(50, 1, 0, 50)).any()


def test_numbers_are_uniform_and_of_their_positions_not_of_their_rows():
    numbers = order.numbers(1000, 3, 0, 20_000)
    assert stats.kstest(numbers, "uniform").pvalue > 0.01 and len(set(numbers)) == 20_000
    assert abs(np.corrcoef(numbers, order.rows(1000, 3, 0, 20_000))[0, 1]) < 0.03


@pytest.fixture(scope="module")
def source(studies_dir):
    return load_source("image_folder", str(studies_dir), "train", fields=("image", "image_id"))


def numbers_of(source) -> list[int]:
    """The images' numbers in tests/fakes/studies.py, by their rows."""
    return [int(Path(source.records[row]["image_id"].decode()).stem) for row in range(len(source))]


def drawn(partners: order.Partners, epochs: int) -> dict[int, list[int]]:
    """Row -> the rows that were its partner, epoch by epoch."""
    count = len(partners.images)
    rows = order.rows(count, 4, 0, epochs * count)
    found = partners.draw(4, 0, epochs * count)["pair"]
    return {row: found[rows == row].tolist() for row in range(count)}


def test_partners_are_all_the_others_of_the_study_equally_often():
    partners = order.by_group([str(row % 4) for row in range(16)], ["1"] * 16)
    for row, found in drawn(partners, 600).items():
        others = set(range(row % 4, 16, 4)) - {row}
        counts = [found.count(other) for other in others]
        assert sum(counts) == 600 and min(counts) > 150  # expected 200, deviation 11.5


def test_of_unknown_patients_and_studies_no_image_is_another_ones_partner():
    partners = order.by_group(["a", "", "a", "", "a", "b"], ["1", "1", "", "", "1", "1"])
    found = {row: set(partner) for row, partner in drawn(partners, 20).items()}
    assert found == {0: {4}, 1: {1}, 2: {2}, 3: {3}, 4: {0}, 5: {5}}


def test_partners_of_a_dataset_come_from_its_metadata(source):
    nested = source.choose(np.array([6, 5, 4, 3, 2, 1, 0])).choose(np.array([6, 1, 2, 0, 4]))
    for chosen in (source, nested):
        numbers = numbers_of(chosen)
        found = {
            numbers[row]: {numbers[partner] for partner in partners}
            for row, partners in drawn(order.find_partners(chosen, "study"), 40).items()
        }
        expected = {number: studies.OTHERS[number] & set(numbers) for number in numbers}
        assert found == {number: others or {number} for number, others in expected.items()}


def test_partners_of_a_patient_come_from_any_of_its_studies(source):
    numbers = numbers_of(source)
    found = drawn(order.find_partners(source, "patient"), 40)
    patients = {number: studies.PATIENTS[number] for number in numbers}
    for row, partners in found.items():
        number = numbers[row]
        others = {n for n in numbers if patients[n] == patients[number] and n != number}
        assert {numbers[partner] for partner in partners} == (others or {number})


def test_other_words_for_pairs_are_refused(source):
    with pytest.raises(ValueError, match=r"pairs='visit': choose study or patient, or ''"):
        order.find_partners(source, "visit")


def test_a_dataset_without_studies_of_two_images_is_refused(data_dir):
    images = load_source("phantom/tiny", str(data_dir), "train", fields=("image",))
    with pytest.raises(ValueError, match=r"no study of phantom/tiny 'train' has two images"):
        order.find_partners(images, "study")


def test_batches_hold_the_images_of_their_pairs(source):
    numbers, partners = numbers_of(source), order.find_partners(source, "study")
    fields = order.Fields(partners.draw, ("image", "pair"))
    batches = loader.batches(source, 6, 32, 4, fields=fields)
    row_batches = loader.row_batches(source, 6, 4, fields=fields)
    plain = loader.batches(source, 6, 32, 4)
    for batch, rows in ((next(batches), next(row_batches)) for _ in range(4)):
        np.testing.assert_array_equal(batch["image"], next(plain)["image"])
        for name in ("image", "pair"):
            originals = [images.decode_square(image, 32) for image in source.encoded(rows[name])]
            np.testing.assert_array_equal(batch[name], originals)
        others = [studies.OTHERS[numbers[row]] for row in rows["image"]]
        np.testing.assert_array_equal(batch["paired"], [bool(other) for other in others])


def test_blocks_joined_are_the_batch_also_from_where_another_number_stood(source):
    fields = order.Fields(order.find_partners(source, "study").draw, ("image", "pair"))
    whole = loader.row_batches(source, 6, 4, fields=fields)
    for _ in range(5):
        next(whole)
    state = json.loads(json.dumps(whole.get_state()))
    halves = [loader.row_batches(source, 6, 4, block, 2, fields) for block in range(2)]
    for half in halves:
        half.set_state(state)
    for _ in range(4):
        parts, expected = [next(half) for half in halves], next(whole)
        for name in ("image", "pair"):
            joined = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(joined, expected[name])


def test_partners_count_as_seen(source):
    fields = order.Fields(order.find_partners(source, "study").draw, ("image", "pair"))
    rows = next(loader.row_batches(source, 3, 4, fields=fields))
    seen = seen_images.seen_in_training(source, 3, seed=4, fields=fields)
    hashes = seen_images.list_images(source).phash
    assert set(rows["pair"]) - set(rows["image"])  # else this would test nothing
    assert set(seen.phash.tolist()) == set(hashes[np.union1d(rows["image"], rows["pair"])].tolist())
