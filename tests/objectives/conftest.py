"""A tiny encoder found by name, and configs that use it."""

import copy
from pathlib import Path

import jax
import numpy as np
import pytest

from cxr_jax import models
from tests.fakes.plain_view import PLAIN

RANDOM = PLAIN | dict(crop_scale=(0.5, 1.0), flip=0.5)
OBJECTIVES = {
    "simclr": dict(name="simclr", temperature=0.2, hidden=(12,), out=6),
    "byol": dict(name="byol", hidden=12, out=6, tau_base=0.9),
    "simsiam": dict(name="simsiam", hidden=(12, 12), out=8, predictor_hidden=4),
    "barlow": dict(name="barlow", hidden=(12,), out=6, redundancy=0.1),
    "vicreg": dict(
        name="vicreg", hidden=(12,), out=6, invariance=25.0, variance=25.0, covariance=1.0
    ),
    "convirt": dict(
        **dict(name="convirt", temperature=0.2, image_weight=0.75, hidden=(12,), out=6),
        head_bn=False,
        text=dict(
            **dict(vocabulary=11, width=16, num_blocks=1, heads=2, hidden=16, positions=8),
            **dict(weights="", frozen_layers=0),
        ),
    ),
    "gloria": dict(
        **dict(name="gloria", temperature=0.1, attention_temperature=0.25, word_temperature=0.2),
        **dict(global_weight=1.0, local_weight=0.5),
        text=dict(
            **dict(vocabulary=11, width=16, num_blocks=2, heads=2, hidden=16, positions=8),
            **dict(pooling="mean", last=2, weights="", frozen_layers=0),
        ),
    ),
    "refers": dict(
        **dict(name="refers", views=3, temperature=0.1, image_weight=0.75, head_bn=False),
        **dict(decoder_width=16, decoder_blocks=1, decoder_heads=2),
        text=dict(
            **dict(vocabulary=11, width=16, num_blocks=1, heads=2, hidden=16, positions=8),
            **dict(weights="", frozen_layers=0),
        ),
    ),
    "clip": dict(
        **dict(name="clip", temperature=0.07, hidden=(), out=6, head_bn=False),
        text=dict(
            **dict(vocabulary=11, width=16, num_blocks=1, heads=2, hidden=16, positions=8),
            **dict(kind="clip", pooling="last", weights="", frozen_layers=0),
        ),
    ),
    "moco": dict(
        **dict(name="moco", hidden=12, out=6, temperature=0.2),
        **dict(queue_size=20, momentum=0.9, bn_group=2),
    ),
    "dino": dict(
        **dict(name="dino", hidden=(12,), bottleneck=5, prototypes=7, num_local=3, head_bn=False),
        **dict(student_temperature=0.1, teacher_temperature=(0.04, 0.07), teacher_warmup=0.3),
        **dict(centre_momentum=0.9, tau_base=0.9),
    ),
    "mae": dict(name="mae", mask_ratio=0.75, decoder_width=32, decoder_blocks=2, decoder_heads=2),
    "ijepa": dict(
        **dict(name="ijepa", num_targets=2, target_scale=(0.25, 0.4), target_ratio=(0.5, 1.5)),
        **dict(context_scale=(0.5, 1.0), predictor_width=32, predictor_blocks=1),
        **dict(predictor_heads=2, tau_base=0.9),
    ),
    "dinov2": dict(
        **dict(name="dinov2", hidden=(12,), bottleneck=5, prototypes=7, num_local=2),
        **dict(student_temperature=0.1, teacher_temperature=(0.04, 0.07), teacher_warmup=0.3),
        **dict(tau_base=0.9, mask_ratio=(0.2, 0.5), patch_weight=1.0, koleo_weight=0.1),
    ),
}
VIT = dict(name="vit", variant="64x1", patch=8, image_size=32)
_OF_VITS = ("mae", "ijepa", "dinov2", "refers")
_VIEWS = dict.fromkeys(("dino", "dinov2"), ("a", "b", "local")) | dict.fromkeys(
    ("mae", "ijepa", "convirt", "gloria", "refers", "clip"), ("a",)
)


@pytest.fixture
def tiny(monkeypatch):
    """(objective name, view fields) -> config with the tiny encoder, or a small ViT."""
    folder = str(Path(__file__).parent / "tiny")
    monkeypatch.setattr(models, "__path__", [*models.__path__, folder])

    resnet = dict(name="resnet", variant="small", zero_init_residual=False)
    encoders = dict.fromkeys(_OF_VITS, VIT) | {"gloria": resnet}

    def config(name, view=RANDOM):
        return dict(
            model=dict(encoders.get(name, dict(name="tiny", width=16))),
            views={key: dict(view) for key in _VIEWS.get(name, ("a", "b"))},
            objective=copy.deepcopy(OBJECTIVES[name]),
            data=dict(pairs="study", reports=dict(max_tokens=7)),
            num_train_steps=10,
            batch_size=8,
            microbatch_size=0,
        )

    config.plain, config.random, config.vit = PLAIN, RANDOM, VIT
    return config


@pytest.fixture
def batch():
    """Eight images of 32 x 32 with different blocks, so that the tiny encoder can tell them.

    And a text for each, of different lengths, which only image-text objectives read: of its words
    every second has two pieces.
    """
    blocks = np.random.default_rng(5).integers(40, 216, (8, 4, 4, 1))
    images = blocks.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
    tokens = np.random.default_rng(6).integers(0, 11, (8, 7))
    mask = np.arange(7) < np.array([7, 3, 5, 2, 6, 4, 7, 1])[:, None]
    word = np.where(mask, np.array([0, 1, 1, 2, 3, 3, 4]), -1).astype(np.int32)
    batch = {"image": images, "word": word, "mask": mask}
    batch["tokens"] = np.where(mask, tokens, 0).astype(np.int32)
    return jax.tree.map(jax.numpy.asarray, batch)
