import json
import threading

import numpy as np
import pytest

from cxr_jax.data import images, loader, order, splits
from cxr_jax.data.source import load_source


@pytest.fixture(scope="module")
def source(data_dir):
    return load_source("phantom/tiny", str(data_dir), "train", fields=("image",))


def _take(batches, count: int) -> np.ndarray:
    return np.concatenate([next(batches)["image"] for _ in range(count)])


def _multiset(images: np.ndarray) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


def test_an_epoch_holds_every_image_once_and_the_next_is_shuffled_anew(source):
    batches = loader.batches(source, 12, 32, seed=0)
    first, second = _take(batches, len(source) // 12), _take(batches, len(source) // 12)
    originals = [
        images.decode_square(record["image"], 32) for record in map(_record(source), range(36))
    ]
    assert first.dtype == np.uint8 and first.shape == (36, 32, 32, 1)
    assert _multiset(first) == _multiset(second) == _multiset(np.stack(originals))
    assert not np.array_equal(first, second)


def _record(source):
    return lambda i: source.records[i]


def test_seed_decides_the_order(source):
    same = [_take(loader.batches(source, 12, 32, seed=s), 2) for s in (3, 3, 4)]
    np.testing.assert_array_equal(same[0], same[1])
    assert not np.array_equal(same[0], same[2])


@pytest.mark.parametrize("blocks", [2, 4])
def test_blocks_joined_are_the_batch_and_have_one_state(source, blocks):
    whole = loader.batches(source, 12, 32, seed=0)
    parts = [
        loader.batches(source, 12, 32, 0, block=block, blocks=blocks) for block in range(blocks)
    ]
    for _ in range(4):  # more than an epoch
        joined = np.concatenate([next(part)["image"] for part in parts])
        np.testing.assert_array_equal(joined, next(whole)["image"])
        assert [part.get_state() for part in parts] == [whole.get_state()] * blocks


def test_another_number_of_blocks_goes_on_where_one_stood(source):
    one = loader.row_batches(source, 12, seed=0)
    for _ in range(4):
        next(one)
    halves = [loader.row_batches(source, 12, 0, block=block, blocks=2) for block in range(2)]
    for half in halves:
        half.set_state(one.get_state())
    joined = np.concatenate([next(half)["image"] for half in halves])
    np.testing.assert_array_equal(joined, next(one)["image"])


def test_state_puts_the_data_back_and_is_json(source):
    batches = loader.batches(source, 12, 32, seed=0)
    _take(batches, 2)
    state = json.loads(json.dumps(batches.get_state()))
    expected = _take(batches, 4)
    fresh = loader.batches(source, 12, 32, seed=0)
    fresh.set_state(state)
    np.testing.assert_array_equal(_take(fresh, 4), expected)


def test_worker_processes_give_the_same_batches_and_blocks(source):
    from absl import flags

    flags.FLAGS.mark_as_parsed()
    partners = order.by_group([str(row // 3) for row in range(36)], ["1"] * 36)
    fields = order.Fields(partners.draw, ("image", "pair"))
    threads = loader.batches(source, 12, 32, 0, fields=fields)
    worker = loader.batches(source, 12, 32, 0, num_workers=1, block=1, blocks=2, fields=fields)
    for expected, given in ((next(threads), next(worker)) for _ in range(3)):
        assert given.keys() == {"image", "pair", "paired"}
        for name in given:
            np.testing.assert_array_equal(given[name], expected[name][6:])


def test_impossible_batches_are_refused(source):
    with pytest.raises(ValueError, match="batch_size=64 is larger than the 36 images"):
        loader.batches(source, 64, 32, 0)


def test_targets_travel_with_their_images_and_no_image_is_dropped(data_dir):
    split = splits.load_split("phantom/tiny", str(data_dir), "train")
    split = split.take(np.array([30, 2, 5, 17, 8, 11, 29]))
    split = split._replace(targets=np.arange(14, dtype=np.float32).reshape(7, 2))
    (images,) = splits.image_batches(split, 7, 32)
    batches = loader.labelled_batches(split, 3, 32, seed=0)
    given = [next(batches) for _ in range(7)]  # three epochs in batches that run over their ends
    targets = np.concatenate([batch["target"] for batch in given])
    pictures = np.concatenate([batch["image"] for batch in given])
    order = targets[:, 0].astype(int) // 2
    np.testing.assert_array_equal(pictures, images[order])
    epochs = order.reshape(3, 7)
    assert (np.sort(epochs) == np.arange(7)).all()
    assert (epochs[0] != epochs[1]).any() and pictures.dtype == np.uint8
    large = next(loader.labelled_batches(split, 8, 32, seed=0))  # more than the images there are
    assert large["image"].shape == (8, 32, 32, 1) and large["target"].shape == (8, 2)
    # An epoch and the first image of the next, in the order of the seed.
    np.testing.assert_array_equal(large["target"], targets[:8])


def test_a_damaged_image_is_named_by_its_place(source):
    class Damaged:
        def encoded(self, rows):
            images = source.records.encoded(rows)
            return [image[:50] if row == 7 else image for row, image in zip(rows, images)]

        def __len__(self):
            return len(source)

    damaged = type(source)(*source[:3], Damaged(), *source[4:])
    with pytest.raises(ValueError, match="phantom/tiny 'train': image 7 is damaged"):
        loader.read_images(damaged, 32, True, np.arange(12))
    with pytest.raises(ValueError, match="'train': image 7 is damaged"):  # where some are left out
        loader.read_images(damaged.choose(np.arange(5, 12)), 32, True, np.arange(4))


def test_rows_are_the_source_s_images(data_dir):
    source = load_source("phantom/tiny", str(data_dir), "train")
    said = []
    originals = loader.decode_all(source, 24, said.append, threading.Event())
    assert originals.shape == (len(source), 24, 24, 1) and originals.dtype == np.uint8
    for row in (0, 7, len(source) - 1):
        expected = images.decode_square(source.records[row]["image"], 24)
        np.testing.assert_array_equal(originals[row], expected)


def test_it_ends_when_nobody_wants_it_any_more(data_dir):
    source = load_source("phantom/tiny", str(data_dir), "train")
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(InterruptedError):
        loader.decode_all(source, 24, print, stopped)


def test_images_that_do_not_fit_are_refused_with_the_sizes():
    loader.check_fits(100_000, 256, 10**10, "device")
    with pytest.raises(
        ValueError, match=r"cache=device: 200,000 images of 256 px need 13.1 GB and"
    ):
        loader.check_fits(200_000, 256, 10**10, "device")


def test_free_memory_is_the_machine_s():
    free = loader.free_memory("host")
    assert 10**7 < free < 10**14 and loader.free_memory("device") < 2 * free
