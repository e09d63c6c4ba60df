"""Three steps of fine-tuning; run by test_finetune.py with 8 virtual devices, which prints JSON."""

import json

import jax
from absl import flags

from configs import common
from cxr_jax.models import resnet
from cxr_jax.transfer import _protocol
from tests.fakes.bars import MICRO, bars, micro_encoder


def run(config):
    """{"loss": one per step, "scores": of the test images}."""
    config.protocol, config.batch_size = "finetune", 20
    config.finetune.update(
        learning_rates=(1e-3,),
        batch_size=16,
        min_steps=3,
        max_steps=3,
        evaluations=3,
        dtype="float32",
        num_workers=0,
    )
    tools = _protocol.Tools(None, lambda line: None, lambda step, values: None)
    result = _protocol.build(config).run(micro_encoder(), bars(sizes=(48, 20, 20)), tools)
    loss = [point["loss"] for point in result.facts["curve"]]
    return {"loss": loss, "scores": result.scores[:, :2].tolist()}


if __name__ == "__main__":
    assert jax.device_count() == 8
    flags.FLAGS(["eight_devices"])  # Grain reads its own flags
    resnet.VARIANTS["micro"] = MICRO
    print(json.dumps(run(common.transfer())))
