from pathlib import Path

import pytest

from configs import common
from tests.fakes import tiny_config as tiny


@pytest.fixture
def tiny_config(data_dir):
    """(config file, preset) -> that config, shrunk to a few steps of the smallest encoder."""

    def make(name: str, preset: str = "demo", whole_views: bool = False):
        return tiny.make(name, preset, data_dir, whole_views)

    return make


@pytest.fixture(scope="session")
def begun(data_dir, made_once) -> Path:
    """The workdir of the tiny run of SimCLR, stopped after step 2: to be read, or copied."""
    from cxr_jax.experiments import pretrain

    def fill(folder: Path) -> None:
        pretrain.train(tiny.make("simclr", "demo", data_dir), folder / "run", stop_after=2)

    return made_once("begun", fill) / "run"


@pytest.fixture
def config(data_dir):
    """A transfer of random weights to the tiny drawn images; modules may have their own."""
    config = common.transfer()
    config.dataset, config.data.dir = "phantom/tiny", str(data_dir)
    config.num_resamples, config.image_size = 20, 32
    config.model.variant = "small"
    config.baselines = ""
    config.pictures.draw = False
    return config


@pytest.fixture
def finetuned(config):
    """That transfer, as two steps of fine-tuning."""
    config.protocol = "finetune"
    config.finetune.update(
        learning_rates=(1e-3,), batch_size=16, min_steps=2, max_steps=2, evaluations=1
    )
    config.finetune.update(dtype="float32", num_workers=0)
    config.finetune.view.rotate = 0.0
    return config
