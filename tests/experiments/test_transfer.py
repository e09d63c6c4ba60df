import json

import numpy as np
import pytest

from configs import common
from cxr_jax.evaluate.predictions import read_parquet
from cxr_jax.experiments import pretrain, transfer


@pytest.fixture
def config(data_dir):
    config = common.transfer()
    config.dataset, config.data.dir = "phantom/tiny", str(data_dir)
    config.num_resamples, config.image_size = 20, 32
    config.model.variant = "small"
    config.baselines = ""
    return config


def test_a_result_is_not_taken_up_again_once_the_encoder_has_changed(
    config, tiny_config, tmp_path, capsys
):
    training = tiny_config("simclr")
    config.encoder = str(tmp_path / "encoder")
    scores = []
    for stop in (2, 4, 4):
        pretrain.train(training, tmp_path / "encoder", stop_after=stop)
        capsys.readouterr()
        transfer.run(config, tmp_path / "transfer")
        scores.append(read_parquet(tmp_path / "transfer" / "predictions.parquet").scores)
    assert not np.array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[1], scores[2])
    assert "simclr step 4: finished before" in capsys.readouterr().out


def test_encoders_of_one_name_are_told_apart(config, tiny_config, tmp_path):
    training = tiny_config("simclr")
    for name in ("a", "b"):
        pretrain.train(training, tmp_path / name, stop_after=2)
        training.seed += 1
    config.encoder, config.baselines = str(tmp_path / "a"), f"{tmp_path / 'b'}, random"
    names = [encoder.name for encoder in transfer.load_encoders(config)]
    assert names == [
        f"simclr step 2 ({tmp_path / 'a'})",
        f"simclr step 2 ({tmp_path / 'b'})",
        "random",
    ]


def test_random_baseline_has_the_encoders_shape_and_is_not_compared_with_itself(config):
    config.encoder, config.baselines = "random", "random,random"
    (encoder,) = transfer.load_encoders(config)
    assert (encoder.name, encoder.image_size) == ("random", 32)
    assert encoder.model["variant"] == "small"


def test_label_budget_stands_in_the_report_in_words(config, tmp_path):
    config.label_fraction = 0.5
    transfer.run(config, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "(50 % of the training patients, drawn with seed 0)" in report
    assert "18 films of 6 patients" in report
    assert json.loads((tmp_path / "comparisons.json").read_text()) == []
