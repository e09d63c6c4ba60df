"""VICReg: views agree, every dimension keeps its variance to itself (arXiv:2105.04906).

python run.py --config=configs/vicreg.py --config.data.name=… --config.data.dir=…

Default  the paper's recipe: ResNet-50, 224 px, LARS, batch 2048, 10 epochs of warm-up, cosine to a
         thousandth. It needs many accelerators (not run here).
:small   ResNet-50, 224 px, batch 256, meant for one GPU and an afternoon (not run here: no GPU).
:adapt   goes on from another encoder (--config.init=torchvision:/weights/resnet50.pth) on your own
         images, half an hour (estimated) on two CPU cores; what is exported is the mean of
         both ends. 80 of its steps with --config.frozen_stages=2 did as well as MoCo's
         (docs/results/study_trials.md).
:adapt_gpu  the same on one GPU: 224 px, batch 256, 10,000 steps (not run here: no GPU).
:cpu     your own images on two CPU cores in minutes; expect what docs/results/objectives.md shows.
:demo    drawn images, minutes on two CPU cores, no download; ends with a transfer report.
"""

from ml_collections.config_dict import ConfigDict, create

from configs import common


def get_config(preset: str = ""):
    config = common.pretrain()
    config.batch_size = 2048
    config.objective = create(
        name="vicreg",
        hidden=(8192, 8192),
        out=8192,
        invariance=25.0,
        variance=25.0,
        covariance=1.0,
    )
    config.views = common.byol_views()
    config.optimizer = common.lars(0.2, final_learning_rate=2e-4)
    return common.choose(config, preset, common.presets(cpu, adapt))


def adapt(config: ConfigDict) -> None:
    config.objective.update(hidden=(2048,), out=2048)
    config.optimizer.final_learning_rate = 0.0


def cpu(config: ConfigDict) -> None:
    common.for_minutes(config)
    adapt(config)
    config.objective.update(hidden=(512,), out=256)
