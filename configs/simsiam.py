"""SimSiam: two views of an image, no negatives, no second network (arXiv:2011.10566).

python run.py --config=configs/simsiam.py --config.data.name=… --config.data.dir=…

Default  the paper's recipe: ResNet-50, 224 px, SGD, batch 512, cosine, the predictor's rate fixed.
         It needs several GPUs (not run here).
:small   ResNet-50, 224 px, batch 256, meant for one GPU and an afternoon (not run here: no GPU).
:adapt   goes on from another encoder (--config.init=torchvision:/weights/resnet50.pth) on your own
         images, half an hour (estimated) on two CPU cores; what is exported is the mean of
         both ends.
:adapt_gpu  the same on one GPU: 224 px, batch 256, 10,000 steps (not run here: no GPU).
:cpu     your own images on two CPU cores in minutes; expect what docs/results/objectives.md shows.
:demo    drawn images, minutes on two CPU cores, no download; ends with a transfer report.
"""

from ml_collections.config_dict import ConfigDict, create

from configs import common


def get_config(preset: str = ""):
    config = common.pretrain()
    config.batch_size = 512
    config.objective = create(name="simsiam", hidden=(2048, 2048), out=2048, predictor_hidden=512)
    config.views = common.moco_views()
    config.optimizer = create(
        name="sgd",
        learning_rate=0.05,
        scaling="linear",
        momentum=0.9,
        weight_decay=1e-4,
        exclude=(),  # the official code decays biases and norms too
        warmup=0,
        warmup_unit="steps",
        groups=dict(predictor=dict(match=("^predictor/",), schedule="constant")),
    )
    return common.choose(config, preset, common.presets(cpu, adapt))


def adapt(config: ConfigDict) -> None:
    config.optimizer.exclude = None  # AdamW decays more than the recipe's SGD


def cpu(config: ConfigDict) -> None:
    common.for_minutes(config)
    config.objective.update(hidden=(512,), out=256, predictor_hidden=64)
    adapt(config)
