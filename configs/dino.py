"""DINO: a student assigns crops to prototypes as its teacher assigns the film (arXiv:2104.14294).

python run.py --config=configs/dino.py --config.data.name=… --config.data.dir=…

Default  the paper's recipe, on a ResNet-50: 224 px, 8 crops of 96 px, AdamW, batch 1024, 10 epochs
         of warm-up, weight decay from .04 to .4. It needs many accelerators (not run here).
:small   ResNet-50, 224 px, batch 128, meant for one GPU and a day (not run here: no GPU).
:cpu     your own films on two CPU cores in minutes (score: not run here).
:demo    drawn films, minutes on two CPU cores, no download; ends with a transfer report. Run here
         for 220 steps only (spread .73, rank 6, target_entropy rising to 3.9): watch these.
:vits    the paper's main recipe, on a ViT-S/16, without its stochastic depth: as the default else.
         It needs several GPUs (not run here).
:cpu_vit a small ViT on your own films, two CPU cores, minutes (score: not run here).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(preset: str = ""):
    config = common.pretrain()
    config.batch_size = 1024
    config.objective = ConfigDict(
        dict(
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
    )
    jitter = dict(brightness=0.4, contrast=0.4)
    large, small_crops = (0.4, 1.0), (0.05, 0.4)
    config.views = ConfigDict(
        dict(
            a=common.view(**jitter, crop_scale=large, blur_prob=1.0),
            b=common.view(**jitter, crop_scale=large, blur_prob=0.1, solarise_prob=0.2),
            local=common.view(**jitter, crop_scale=small_crops, size=96),
        )
    )
    config.optimizer = ConfigDict(
        dict(
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
    )
    return common.choose(config, preset, {"small": small, "cpu": cpu, "demo": demo} | _VIT)


def small(config: ConfigDict) -> None:
    config.batch_size = 128
    config.num_train_steps = 20_000


def cpu(config: ConfigDict) -> None:
    common.for_minutes(config)
    config.batch_size = 64
    config.objective.update(hidden=(256,), bottleneck=64, prototypes=1024, num_local=2)
    # Without batch norm in the head, at the paper's temperatures or at higher rates, this small
    # network went to the uniform assignment (target_entropy near log 1024 = 6.9) in 200 steps.
    config.objective.update(head_bn=True, teacher_temperature=(0.02, 0.03))
    config.optimizer.update(learning_rate=1.25e-4, final_learning_rate=0.0, final_weight_decay=1e-4)
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


def cpu_vit(config: ConfigDict) -> None:
    common.for_minutes(config)
    config.batch_size = 64
    # Patches of 16: eight encodings of a film a step are too slow with four times the tokens.
    config.model = common.small_vit(patch=16)
    config.image_size = 64
    config.objective.update(hidden=(256,), bottleneck=64, prototypes=1024, num_local=4)
    config.objective.update(head_bn=True, teacher_temperature=(0.02, 0.03), tau_base=0.99)
    config.optimizer.update(learning_rate=5e-4, final_learning_rate=0.0, weight_decay=0.04)
    config.views.a.crop_scale = config.views.b.crop_scale = (0.4, 1.0)
    config.views.local.update(size=32, crop_scale=(0.1, 0.4))
    config.optimizer.groups.prototypes.frozen = 50  # steps here


_VIT = {"vits": vits, "cpu_vit": cpu_vit}
