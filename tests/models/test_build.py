import pytest
from ml_collections import ConfigDict

from cxr_jax import models


def test_build_takes_what_a_config_file_holds_after_a_round_trip_through_json():
    config = ConfigDict({"name": "resnet", "variant": "34", "mean": [0.4], "std": [0.2]})
    net = models.build(config)
    assert net.stage_sizes == (3, 4, 6, 3)
    assert (net.mean, net.std) == ((0.4,), (0.2,))
    hash(net)


def test_an_unknown_model_is_answered_with_the_folders_files():
    with pytest.raises(ValueError, match=r"no model 'vgg' in cxr_jax/models; it holds: .*resnet"):
        models.build({"name": "vgg"})
    with pytest.raises(ValueError, match="no model None"):
        models.build({"variant": "18"})
    with pytest.raises(ValueError, match="no model 'heads'"):
        models.build({"name": "heads"})


def test_an_unknown_field_is_answered_with_the_models_fields():
    with pytest.raises(ValueError, match=r"'resnet'.*'depth'.*its fields are: variant, dtype"):
        models.build({"name": "resnet", "variant": "18", "depth": 3})
