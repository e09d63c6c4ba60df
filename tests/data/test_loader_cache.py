import threading

import numpy as np
import pytest

from cxr_jax.data import images, loader
from cxr_jax.data.source import load_source


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
