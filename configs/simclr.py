"""SimCLR: two views of an image attract, all other images of the batch repel (arXiv:2002.05709).

python run.py --config=configs/simclr.py --config.data.name=… --config.data.dir=…

Default  the paper's recipe: ResNet-50, 224 px, LARS, batch 4096, 10 epochs of warm-up, cosine;
         10,000 steps are about 110 epochs of MIMIC-CXR. It needs many accelerators (not run here).
:small   ResNet-50, 224 px, batch 256, meant for one GPU and an afternoon (not run here: no GPU).
:adapt   goes on from another encoder (--config.init=torchvision:/weights/resnet50.pth) on your own
         images, half an hour on two quiet CPU cores; what is exported is the mean of both ends.
         What it brings: docs/results/study_trials.md.
:adapt_gpu  the same on one GPU: 224 px, batch 256, 10,000 steps (not run here: no GPU).
:cpu     your own images on two CPU cores in 4 minutes; expect what docs/results/first_images.md
         shows.
:demo    drawn images, 3 to 4 minutes on two CPU cores, no download; ends with a transfer report.
"""

from ml_collections.config_dict import ConfigDict, create

from configs import common


def get_config(preset: str = ""):
    config = common.pretrain()
    config.objective = create(name="simclr", temperature=0.1, hidden=(2048, 2048), out=128)
    config.views = create(a=common.view(), b=common.view())
    config.optimizer = common.lars(0.3, rate_inside_momentum=True, weight_decay=1e-4)
    return common.choose(config, preset, common.presets(cpu))


def cpu(config: ConfigDict) -> None:
    common.for_minutes(config)
    config.objective.update(temperature=0.2, hidden=(256,), out=64)
