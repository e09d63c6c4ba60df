"""DINO: a student assigns crops to prototypes as its teacher assigns the image (arXiv:2104.14294).

python run.py --config=configs/dino.py --config.data.name=… --config.data.dir=…

Default  the paper's recipe, on a ResNet-50: 224 px, 8 crops of 96 px, AdamW, batch 1024, 10 epochs
         of warm-up, weight decay from .04 to .4. It needs many accelerators (not run here).
:small   ResNet-50, 224 px, batch 128, meant for one GPU and a day (not run here: no GPU).
:adapt   a ViT-S/16 goes on from another (--config.init=timm:/weights/vit_small_patch16_224.dino)
         on your own images, 40 minutes (estimated) on two CPU cores; what is exported
         is the mean of both ends.
:adapt_gpu  the same on one GPU: 224 px, batch 256, 10,000 steps (not run here: no GPU).
:cpu     your own images on two CPU cores in minutes; expect what docs/results/objectives.md shows.
:demo    drawn images, minutes on two CPU cores, no download; ends with a transfer report. Run here
         for 220 steps only (spread .73, rank 6, target_entropy rising to 3.9): watch these.
:vits    the paper's main recipe, on a ViT-S/16, without its stochastic depth: as the default else.
         It needs several GPUs (not run here).
"""

from ml_collections.config_dict import ConfigDict, create

from configs import common


def get_config(preset: str = ""):
    config = common.pretrain()
    config.batch_size = 1024
    config.objective = create(
        name="dino",
        hidden=(2048, 2048),
        bottleneck=256,
        prototypes=65_536,
        head_bn=False,
        num_local=8,
        student_temperature=0.1,
        teacher_temperature=(0.04, 0.07),
        teacher_warmup=0.3,  # 30 of 100 epochs
        centre_momentum=0.9,
        tau_base=0.996,
    )
    config.views = common.multicrop_views((0.4, 1.0), (0.05, 0.4), size=96)
    config.optimizer = create(
        name="adamw",
        learning_rate=5e-4,
        final_learning_rate=1e-6,
        scaling="linear",
        weight_decay=0.04,
        final_weight_decay=0.4,
        clip=3.0,
        warmup=10,
        warmup_unit="epochs",
        groups=dict(prototypes=dict(match=("^prototypes/",), frozen=1)),
    )
    presets = {"small": small, "cpu": cpu, "demo": demo, "vits": vits}
    return common.choose(config, preset, presets | common.adapted(adapt))


def small(config: ConfigDict) -> None:
    config.batch_size = 128
    config.num_train_steps = 20_000


def adapt(config: ConfigDict) -> None:
    common.adapt_vit(config, "S")
    config.objective.update(prototypes=4096, num_local=2)
    config.optimizer.update(final_learning_rate=0.0, final_weight_decay=0.05)
    config.optimizer.groups.prototypes.frozen = 50  # steps here
    config.views.local.update(size=config.views.a.size // 2, crop_scale=(0.1, 0.3))


def cpu(config: ConfigDict) -> None:
    common.for_minutes(config)
    config.batch_size = 64
    config.objective.update(hidden=(256,), bottleneck=64, prototypes=256, num_local=2)
    # Without batch norm in the head, at the paper's temperatures or after a faster teacher
    # (tau_base .98) this small network went towards the uniform assignment in 200 steps:
    # target_entropy near log 256 = 5.5, few directions in use.
    config.objective.update(head_bn=True, teacher_temperature=(0.02, 0.02))
    config.optimizer.update(learning_rate=5e-4, final_learning_rate=0.0, final_weight_decay=1e-4)
    config.views.a.crop_scale = config.views.b.crop_scale = (0.4, 1.0)
    # Not smaller: XLA is slow where the last map has fewer than 3 x 3 pixels.
    config.views.local.update(size=48, crop_scale=(0.1, 0.4))
    config.optimizer.groups.prototypes.frozen = 50  # steps here


def demo(config: ConfigDict) -> None:
    cpu(config)
    common.demo(config)
    config.optimizer.learning_rate = 1.25e-4
    config.views.local.crop_scale = (0.2, 0.55)


def vits(config: ConfigDict) -> None:
    config.model = common.vit("S")
