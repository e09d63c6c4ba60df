"""I-JEPA: from a part of an image, what a slow teacher sees in its other blocks (arXiv:2301.08243).

python run.py --config=configs/ijepa.py --config.data.name=… --config.data.dir=…

Default  the paper's recipe on its smallest encoder: ViT-B/16, 224 px, AdamW, batch 2048, 15 epochs
         of warm-up, weight decay from .04 to .4, no augmentation but the crop. It needs many
         accelerators (not run here).
:small   ViT-S/16, 224 px, batch 256, meant for one GPU and a day (not run here: no GPU).
:adapt   a ViT-B/16 goes on from another (--config.init=timm:/weights/vit_base_patch16_224.mae)
         on your own images, on two CPU cores (not run here); what is exported is the mean of both
         ends.
:adapt_gpu  the same on one GPU: 224 px, batch 256, 10,000 steps (not run here: no GPU).
:cpu     your own images on two CPU cores in minutes; expect what docs/results/objectives.md shows.
:demo    drawn images, minutes on two CPU cores, no download; ends with a transfer report (not run).
"""

from ml_collections.config_dict import ConfigDict, create

from configs import common


def get_config(preset: str = ""):
    config = common.pretrain()
    config.batch_size = 2048
    config.num_train_steps = 110_000  # 600 epochs of MIMIC-CXR, the paper's of ImageNet for ViT-B
    config.model = common.vit("B", pooling="mean", class_token=False)
    config.objective = create(
        name="ijepa",
        num_targets=4,
        target_scale=(0.15, 0.2),
        target_ratio=(0.75, 1.5),
        context_scale=(0.85, 1.0),
        predictor_width=384,
        predictor_blocks=6,
        predictor_heads=12,
        tau_base=0.996,
    )
    no_more = dict(flip=0.0, jitter_prob=0.0, blur_prob=0.0)
    config.views = create(a=common.view(crop_scale=(0.3, 1.0), **no_more))
    config.optimizer = create(
        name="adamw",
        learning_rate=1e-3,
        final_learning_rate=1e-6,
        weight_decay=0.04,
        final_weight_decay=0.4,
        warmup=15,
        warmup_unit="epochs",
    )
    presets = {"small": small, "cpu": cpu, "demo": demo}
    return common.choose(config, preset, presets | common.adapted(adapt))


def small(config: ConfigDict) -> None:
    config.model = common.vit("S", pooling="mean", class_token=False)
    config.batch_size = 256
    config.num_train_steps = 100_000
    config.objective.predictor_width = 192


def adapt(config: ConfigDict) -> None:
    common.adapt_vit(config, "B")
    config.objective.update(predictor_width=192, predictor_blocks=4, predictor_heads=6)
    config.optimizer.update(final_learning_rate=0.0, final_weight_decay=0.05)
    view = config.views.a
    view.size = max(view.size, 128)  # of fewer patches blocks are too few: 6 of 36


def cpu(config: ConfigDict) -> None:
    common.for_minutes(config)
    config.model = common.small_vit(pooling="mean", class_token=False)
    config.image_size = 64
    config.objective.update(predictor_width=64, predictor_blocks=2, predictor_heads=4)
    config.objective.tau_base = 0.99  # of 1,000 steps
    config.optimizer.update(final_learning_rate=0.0, weight_decay=0.05, final_weight_decay=0.05)
    config.views.a.crop_scale = (0.3, 1.0)


def demo(config: ConfigDict) -> None:
    cpu(config)
    common.demo(config)
    config.optimizer.learning_rate = 1e-3
    config.views.a.noise = 0.0  # nobody can predict it
