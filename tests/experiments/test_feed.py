"""Cached or not, training sees the same films in the same order and resumes at the same place."""

import numpy as np
import pytest

from cxr_jax import sharding
from cxr_jax.data.source import load_source
from cxr_jax.experiments import feed


def opened(config, data_dir, cache):
    config.data.cache = cache
    source = load_source("phantom/tiny", str(data_dir), "train", fields=("image",))
    return feed.open_feed(config, source, sharding.make_mesh()), len(source)


def images(batches, count):
    return [np.asarray(next(batches)["image"]) for _ in range(count)]


@pytest.mark.parametrize("cache", ["host", "device"])
def test_a_cache_changes_no_batch_and_resumes_at_its_place(cache, tiny_config, data_dir):
    plain, size = opened(tiny_config("simclr"), data_dir, "none")
    several_epochs = 2 * size // 16 + 6
    expected = images(plain, several_epochs)
    cached, _ = opened(tiny_config("simclr"), data_dir, cache)
    got = images(cached, 5)
    state = cached.get_state()
    got += images(cached, several_epochs - 5)
    np.testing.assert_array_equal(got, expected)
    again, _ = opened(tiny_config("simclr"), data_dir, cache)
    again.set_state(state)
    np.testing.assert_array_equal(images(again, 3), expected[5:8])


def test_an_unknown_cache_is_refused(tiny_config, data_dir):
    with pytest.raises(ValueError, match="cache='gpu': choose none, host, device"):
        opened(tiny_config("simclr"), data_dir, "gpu")
