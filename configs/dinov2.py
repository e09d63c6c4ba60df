"""DINOv2: DINO's loss on images, iBOT's on hidden patches, balanced assignments (arXiv:2304.07193).

python run.py --config=configs/dinov2.py --config.data.name=… --config.data.dir=…

Default  the paper's recipe from random weights, on a ViT-L/14 without SwiGLU, without stochastic
         depth, with one rate for all (a fifth for patches there) and at one size of image: 224 px,
         8 crops of 98 px, AdamW, batch 3072, 100,000 steps of warm-up, weight decay from .04 to
         .2. It needs 32 H200s by the compiler's account (not run here).
:small   ViT-S/16, 224 px, batch 128, meant for one GPU and a day (not run here: no GPU).
:adapt   a ViT-B/14 goes on from DINOv2 (--config.init=dinov2:/weights/dinov2-base) or RAD-DINO
         (--config.init=rad_dino:/weights/rad-dino) on your own images, on two CPU cores (not run
         here); what is exported is the mean of both ends.
:adapt_gpu  the same on one GPU: 224 px, batch 256, 10,000 steps (not run here: no GPU).
:cpu     your own images on two CPU cores, an hour and more (60 of its 1,000 steps were run:
         docs/results/objectives.md).
:demo    drawn images, minutes on two CPU cores, no download; ends with a transfer report (not run).
"""

from ml_collections.config_dict import ConfigDict, create

from configs import common


def get_config(preset: str = ""):
    config = common.pretrain()
    config.batch_size = 3072
    config.num_train_steps = 625_000
    config.checkpoint_every_steps = 5000
    config.model = common.vit("L", patch=14, layer_scale=1e-5)
    config.objective = create(
        name="dinov2",
        hidden=(2048, 2048),
        bottleneck=256,
        prototypes=131_072,
        num_local=8,
        student_temperature=0.1,
        teacher_temperature=(0.04, 0.07),
        teacher_warmup=0.06,  # 30 of 500 epochs
        tau_base=0.994,
        mask_ratio=(0.1, 0.5),
        patch_weight=1.0,
        koleo_weight=0.1,
    )
    config.views = common.multicrop_views((0.32, 1.0), (0.05, 0.32), size=98)
    config.optimizer = create(
        name="adamw",
        learning_rate=3.5e-4,
        final_learning_rate=1e-6,
        weight_decay=0.04,
        final_weight_decay=0.2,
        clip=3.0,
        clip_by="all",  # the code's is of the encoder and of each head
        warmup=100_000,
        groups=dict(prototypes=dict(match=("prototypes/",), frozen=1250)),
    )
    presets = {"small": small, "cpu": cpu, "demo": demo}
    return common.choose(config, preset, presets | common.adapted(adapt))


def small(config: ConfigDict) -> None:
    config.model = common.vit("S", layer_scale=1e-5)
    config.views.local.size = 96  # whole patches of 16
    config.batch_size = 128
    config.num_train_steps = 50_000
    config.checkpoint_every_steps = 500
    config.objective.prototypes = 16_384
    config.optimizer.warmup = 5000


def adapt(config: ConfigDict) -> None:
    common.adapt_vit(config, "B")
    config.objective.update(prototypes=4096, num_local=2, teacher_warmup=0.3)
    config.optimizer.update(final_learning_rate=0.0, final_weight_decay=0.05)
    config.optimizer.groups.prototypes.frozen = 50
    for view in config.views.values():
        view.size = view.size // 14 * 14
    config.views.local.update(size=config.views.a.size // 28 * 14, crop_scale=(0.1, 0.3))


def cpu(config: ConfigDict) -> None:
    common.for_minutes(config)
    config.batch_size = 64
    config.model = common.small_vit()
    config.image_size = 64
    config.objective.update(hidden=(256,), bottleneck=64, prototypes=256, num_local=2)
    config.objective.update(teacher_warmup=0.3, tau_base=0.99)
    config.optimizer.update(final_learning_rate=0.0, weight_decay=0.05, final_weight_decay=0.05)
    del config.optimizer.clip_by  # as it was run (docs/results/objectives.md)
    config.optimizer.groups.prototypes.frozen = 50
    for view in (config.views.a, config.views.b):
        view.crop_scale = (0.32, 1.0)
    config.views.local.update(size=32, crop_scale=(0.1, 0.32))


def demo(config: ConfigDict) -> None:
    cpu(config)
    common.demo(config)
    config.optimizer.learning_rate = 1e-3
    config.views.local.crop_scale = (0.2, 0.55)
