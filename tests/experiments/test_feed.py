"""Cached or not, training sees the same images in the same order and resumes at the same place."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import objectives
from cxr_jax.data.source import load_source
from cxr_jax.experiments import _feed
from cxr_jax.experiments._pretrain_inputs import open_fields
from cxr_jax.training import sharding


def opened(config, data_dir, cache):
    config.data.cache = cache
    source = load_source(config.data.name, str(data_dir), "train", fields=("image",))
    source, fields = open_fields(config, objectives.build(config), source, data_dir)
    return _feed.open_feed(config, source, sharding.make_mesh(), fields), len(source)


def draw_images(batches, count):
    return [np.asarray(batches.take()[0]["image"]) for _ in range(count)]


@pytest.mark.parametrize("cache", ["host", "device"])
def test_a_cache_changes_no_batch_and_resumes_at_its_place(cache, tiny_config, data_dir):
    plain, size = opened(tiny_config("simclr"), data_dir, "none")
    several_epochs = 2 * size // 16 + 6
    expected = draw_images(plain, several_epochs)
    cached, _ = opened(tiny_config("simclr"), data_dir, cache)
    got = draw_images(cached, 5)
    state = cached.get_state()
    got += draw_images(cached, several_epochs - 5)
    np.testing.assert_array_equal(got, expected)
    again, _ = opened(tiny_config("simclr"), data_dir, cache)
    again.set_state(state)
    np.testing.assert_array_equal(draw_images(again, 3), expected[5:8])


def test_pairs_are_the_same_whatever_the_cache_and_after_a_resume(tiny_config, studies_dir):
    config = tiny_config("medaug", "cpu")
    config.data.name, config.batch_size, config.objective.bn_group = "image_folder", 4, 2
    plain, _ = opened(config, studies_dir, "none")
    expected = [jax.device_get(plain.take()[0]) for _ in range(7)]
    assert all(batch["pair"].shape == (4, 40, 40, 1) for batch in expected)
    assert {bool(paired) for batch in expected for paired in batch["paired"]} == {True, False}
    for cache in ("host", "device"):
        cached, _ = opened(config, studies_dir, cache)
        got = [cached.take()[0] for _ in range(3)]
        again, _ = opened(config, studies_dir, cache)
        again.set_state(cached.get_state())
        got += [again.take()[0] for _ in range(4)]
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(got), expected)


def test_an_unknown_cache_is_refused(tiny_config, data_dir):
    with pytest.raises(ValueError, match="cache='gpu': choose none, host, device"):
        opened(tiny_config("simclr"), data_dir, "gpu")


class Numbers:
    """Batches 1, 2, 3 … and how many were asked for."""

    def __init__(self):
        self.count = 0

    def __next__(self):
        self.count += 1
        return self.count

    def get_state(self):
        return {"count": self.count}


def test_two_batches_are_ready_ahead_and_the_state_is_of_the_one_handed_out():
    put, three = [], threading.Event()

    def remember(batch):
        put.append(batch)
        if len(put) == 3:
            three.set()
        return {"image": jnp.asarray(batch)}

    batches = _feed.Feed(Numbers(), remember, threading.Event())
    assert batches.take()[0] == {"image": 1}
    assert three.wait(60) and batches.get_state() == {"count": 1}
    batches._thread.submit(lambda: None).result()
    assert put == [1, 2, 3]


def test_a_batch_that_comes_while_a_step_runs_kept_nothing_waiting():
    released, ends = threading.Event(), []

    class Step:
        def block_until_ready(self):
            ends.append("step")
            released.set()  # the batch comes before the step's end

    def put(batch):
        released.wait(60)
        return {"image": jnp.asarray(batch)}

    batches = _feed.Feed(Numbers(), put, threading.Event())
    assert batches.take(Step())[0] == {"image": 1} and ends == ["step"]


def test_what_fails_in_the_thread_fails_the_step():
    def put(batch):
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        _feed.Feed(Numbers(), put, threading.Event()).take()
