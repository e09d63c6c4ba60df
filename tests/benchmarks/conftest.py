"""A config that the benchmarks go through in seconds; one for all, so that it compiles once."""

import pytest

from configs import byol, simclr


@pytest.fixture
def tiny_config(data_dir):
    """Objective name -> its config for a few images of 32 px."""

    def make(name="simclr"):
        config = {"simclr": simclr, "byol": byol}[name].get_config("cpu")
        config.data.name, config.data.dir = "phantom/tiny", str(data_dir)
        config.data.image_size = config.image_size = 40
        config.batch_size = 16
        config.objective.update(hidden=(8,) if name == "simclr" else 8, out=4)
        config.views.a.size = config.views.b.size = 32
        return config

    return make
