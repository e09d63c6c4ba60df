"""Checkpoints with torchvision's keys and shapes, written out from its documentation."""

import numpy as np
import pytest

BLOCKS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 6, 3), "101": (3, 4, 23, 3)}


@pytest.fixture(scope="session")
def make_weights():
    """make_weights("18") -> {torchvision key: float32 array} with random weights, BN included."""

    def make(variant, seed=0):
        rng = np.random.default_rng(seed)
        weights = {}

        def conv(name, out, fan_in, size):
            std = np.sqrt(1 / (fan_in * size * size))
            kernel = rng.normal(0, std, (out, fan_in, size, size))
            weights[f"{name}.weight"] = kernel.astype(np.float32)

        def norm(name, size):
            for leaf, low, high in (
                ("weight", 0.5, 1.5),
                ("bias", -0.5, 0.5),
                ("running_mean", -0.5, 0.5),
                ("running_var", 0.5, 1.5),
            ):
                weights[f"{name}.{leaf}"] = rng.uniform(low, high, size).astype(np.float32)

        bottleneck = variant in ("50", "101")
        conv("conv1", 64, 3, 7)
        norm("bn1", 64)
        fan_in = 64
        for stage, (count, width) in enumerate(zip(BLOCKS[variant], (64, 128, 256, 512)), start=1):
            out = 4 * width if bottleneck else width
            for index in range(count):
                name = f"layer{stage}.{index}"
                sizes = [(width, 1), (width, 3), (out, 1)] if bottleneck else [(width, 3)] * 2
                channels = fan_in
                for number, (size, kernel) in enumerate(sizes, start=1):
                    conv(f"{name}.conv{number}", size, channels, kernel)
                    norm(f"{name}.bn{number}", size)
                    channels = size
                if index == 0 and fan_in != out:
                    conv(f"{name}.downsample.0", out, fan_in, 1)
                    norm(f"{name}.downsample.1", out)
                fan_in = out
        return weights

    return make
