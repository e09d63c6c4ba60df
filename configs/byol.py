"""BYOL: predict the embedding of the other view by a slow copy of the encoder (arXiv:2006.07733).

python run.py --config=configs/byol.py --config.data.name=… --config.data.dir=…

Default  the paper's recipe for 100 epochs: ResNet-50, 224 px, LARS, batch 4096, rate .45, tau .99;
         10,000 steps are about 110 epochs of MIMIC-CXR. It needs many accelerators (not run here).
:small   ResNet-50, 224 px, batch 256, meant for one GPU and an afternoon (not run here: no GPU).
:adapt   goes on from another encoder (--config.init=torchvision:/weights/resnet50.pth) on your own
         images, 45 minutes (estimated) on two CPU cores; what is exported is the mean of
         both ends. Take moco.py:adapt: half of its steps lost to ImageNet's own features on two
         sets of six, at three times this rate, and at this rate 100 steps with frozen stages on
         two of four (docs/results/study_trials.md).
:adapt_gpu  the same on one GPU: 224 px, batch 256, 10,000 steps (not run here: no GPU).
:cpu     your own images on two CPU cores in minutes; expect what docs/results/objectives.md shows.
:demo    drawn images, 3 to 4 minutes on two CPU cores, no download; ends with a transfer report:
         expect macro AUROC .69 against .59 from random initialisation, beyond the interval.
"""

from ml_collections.config_dict import ConfigDict, create

from configs import common


def get_config(preset: str = ""):
    config = common.pretrain()
    config.objective = create(name="byol", tau_base=0.99, hidden=4096, out=256)
    config.views = common.byol_views()
    config.optimizer = common.lars(0.45)
    return common.choose(config, preset, common.presets(cpu, adapt))


def adapt(config: ConfigDict) -> None:
    config.objective.update(tau_base=0.98, hidden=1024)
    config.optimizer.learning_rate = 1e-4  # with 3e-4 fifty steps lost twice as much to ImageNet


def cpu(config: ConfigDict) -> None:
    common.for_minutes(config)
    config.objective.update(tau_base=0.98, hidden=512, out=64)
