"""kill -9 of a pretraining with each objective: what each keeps besides parameters comes back."""

import random

import pytest

from tests.fakes import tiny_config
from tests.faults import runs

_STEPS, _KILLS = 24, 3


@pytest.mark.parametrize("objective", tiny_config.OBJECTIVES)
def test_a_killed_run_ends_as_an_undisturbed_one(objective, data_dir, studies_dir, tmp_path, full):
    """Queues, targets, teachers, centres, pairs and reports, bit for bit."""
    if not full:
        pytest.skip("with --full; tests/experiments/test_pretrain.py resumes one")
    if objective == "convirt":
        pytest.importorskip("tokenizers")
    config = tiny_config.make(objective, "cpu" if objective == "medaug" else "demo", data_dir)
    if objective == "medaug":
        config.data.name, config.data.dir, config.batch_size = "image_folder", str(studies_dir), 8
    config.num_train_steps, config.checkpoint_every_steps = _STEPS, 4
    file = tmp_path / "config.py"
    file.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config(preset):\n    return ConfigDict({config.to_dict()!r})\n"
    )
    command, log = [f"--config={file}"], tmp_path / "log"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert runs.Run([*command, f"--workdir={whole}"], log).end() == 0, log.read_text()
    draw, done = random.Random(objective), 0
    for _ in range(_KILLS):
        run = runs.Run([*command, f"--workdir={killed}"], log)
        done = draw.randint(done + 1, min(done + 8, _STEPS - 1))
        assert run.wait_for(lambda: runs.logged(killed) >= done), run.said()  # noqa: B023
        assert run.kill(), run.said()
        done = max(done, runs.logged(killed))
    run = runs.Run([*command, f"--workdir={killed}"], log)
    assert run.end() == 0, run.said()
    assert "Resuming" in run.said()
    runs.assert_equal_ends(whole, killed)
