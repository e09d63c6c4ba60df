"""Whole steps compiled for accelerators; each needs XLA's plugin, and neither a GPU nor a TPU."""

import pytest

from benchmarks import _account, _devices
from cxr_jax import config as config_file


def test_simclr_small_fits_an_h200_without_a_sort_or_a_scatter():
    pytest.importorskip("jax_cuda13_plugin")
    config = config_file.load("configs/simclr.py:small", [])
    figures = _account.account(config, _devices.describe("h200:1"))
    assert figures["fits"] and figures["memory_bytes"] < 17e9 and figures["bytes"] < 151e9
    assert set(figures["found"]) == {"convolution bf16"}
    assert {"augmentation", "ResNet forward", "MLP backward", "optimizer"} <= set(figures["parts"])
    # Forward, and by input and kernel backward: 2 views of 256 images, 4.1e9 multiply-adds each.
    assert figures["products"] == pytest.approx(3 * 2 * 512 * 4.1e9, rel=0.1)
    assert not figures["collectives"]


def test_simclr_cpu_compiles_for_four_tpus():
    pytest.importorskip("libtpu")
    config = config_file.load("configs/simclr.py:cpu", [])
    figures = _account.account(config, _devices.describe("v5e:2x2"))
    assert figures["fits"] and figures["chips"] == 4 and figures["xla_cycles"] > 0
    reduced = figures["collectives"]["all-reduce f32"]  # the gradient at the least
    assert reduced["bytes"] > 4 * 300_000
