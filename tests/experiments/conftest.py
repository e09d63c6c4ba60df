"""Configs that train on the tiny drawn dataset in seconds."""

import importlib

import pytest


@pytest.fixture
def tiny_config(data_dir):
    """(config file, preset) -> that config, shrunk to a few steps of the smallest encoder."""

    def make(name: str, preset: str = "demo"):
        config = importlib.import_module(f"configs.{name}").get_config(preset)
        config.data.name, config.data.dir = "phantom/tiny", str(data_dir)
        config.data.image_size = 40
        config.image_size = 32
        config.data.num_workers = 0
        config.model.variant = "small"
        config.batch_size, config.num_train_steps = 16, 4
        config.checkpoint_every_steps, config.log_every_steps = 2, 1
        config.optimizer.warmup, config.optimizer.warmup_unit = 1, "steps"
        config.objective.update(hidden=(8,) if name == "simclr" else 8, out=4)
        for view in (config.views.a, config.views.b):
            view.size = 32
        config.transfer.dataset = ""
        return config

    return make
