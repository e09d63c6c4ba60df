import pytest

from tests.fakes import tiny_config as tiny


@pytest.fixture
def tiny_config(data_dir):
    """(config file, preset) -> that config, shrunk to a few steps of the smallest encoder."""

    def make(name: str, preset: str = "demo", whole_views: bool = False):
        return tiny.make(name, preset, data_dir, whole_views)

    return make
