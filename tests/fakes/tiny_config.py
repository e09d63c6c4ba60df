"""Configs that train on the tiny drawn dataset in seconds."""

import importlib
from pathlib import Path

from ml_collections import ConfigDict

# Fields of config.objective.
_SMALL = {
    "simclr": dict(hidden=(8,), out=4),
    "byol": dict(hidden=8, out=4),
    "simsiam": dict(hidden=(8,), out=4, predictor_hidden=4),
    "barlow": dict(hidden=(8,), out=4),
    "vicreg": dict(hidden=(8,), out=4),
    "moco": dict(hidden=8, out=4, queue_size=24, bn_group=8),
    "medaug": dict(hidden=8, out=4, queue_size=24, bn_group=4),
    "convirt": dict(hidden=(8,), out=4, text=dict(width=64, num_blocks=2)),
    "gloria": dict(text=dict(width=64, num_blocks=2, last=2)),
    "refers": dict(decoder_width=16, decoder_heads=2, text=dict(width=64, num_blocks=1)),
    "clip": dict(out=4, text=dict(width=64, num_blocks=1)),
    "dino": dict(hidden=(8,), bottleneck=4, prototypes=8, num_local=1),
    "dinov2": dict(hidden=(8,), bottleneck=4, prototypes=8, num_local=1),
    "mae": dict(decoder_width=8, decoder_blocks=1, decoder_heads=2),
    "ijepa": dict(
        **dict(num_targets=2, target_scale=(0.2, 0.3), predictor_width=8, predictor_blocks=1),
        predictor_heads=2,
    ),
}
OBJECTIVES = tuple(name for name in _SMALL if name != "clip")  # whose towers are convirt's
# Parts of a view that take long to compile.
LEFT_OUT = ("jitter_prob", "blur_prob", "rotate", "noise", "gamma")


def make(name: str, preset: str, data_dir: Path, whole_views: bool = False) -> ConfigDict:
    """That config, shrunk to a few steps of the smallest encoder and views without LEFT_OUT."""
    config = importlib.import_module(f"configs.{name}").get_config(preset)
    config.data.name, config.data.dir = "phantom/tiny", str(data_dir)
    config.data.image_size = 40
    config.image_size = 32
    config.data.num_workers = 0
    config.model.variant = "small" if config.model.name == "resnet" else "64x1"
    config.batch_size, config.num_train_steps = 16, 4
    config.checkpoint_every_steps, config.log_every_steps = 2, 1
    config.optimizer.warmup, config.optimizer.warmup_unit = 1, "steps"
    config.objective.update(_SMALL[name])
    for view in config.views.values():
        view.size = 32
        if not whole_views:
            view.update({field: 0.0 for field in LEFT_OUT})
    config.transfer.dataset = ""
    return config
