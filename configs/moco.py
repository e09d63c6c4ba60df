"""MoCo v2: an image's view finds its key in a queue of past images (arXiv:1911.05722, 2003.04297).

python run.py --config=configs/moco.py --config.data.name=… --config.data.dir=…

Default    the paper's recipe: ResNet-50, 224 px, SGD, batch 256, cosine, queue of 65,536. Meant for
           several GPUs (not run here).
:moco_cxr  MoCo-CXR (Sowrirajan et al., arXiv:2010.05352): 320 px, mirrored, rotated, Adam,
           batch 16, 20 epochs of CheXpert. The paper starts from ImageNet's weights:
           --config.init=torchvision:/weights/resnet50.pth (random weights without). Build the
           dataset at 512 px (not run here: no GPU).
:small     ResNet-50, 224 px, queue of 16,384, meant for one GPU, an afternoon (not run here).
:adapt     goes on from another encoder (--config.init=torchvision:/weights/resnet50.pth) on your
           own images, with its stem, two stages and batch statistics frozen: 45 minutes on one CPU
           core beside other work. A linear probe won on one labelled set of six with all labels and
           on two others with a tenth (docs/results/study.md). What is exported is the mean of both
           ends.
:adapt_gpu the same on one GPU: 224 px, batch 256, 10,000 steps (not run here: no GPU).
:cpu       your own images on two CPU cores in minutes; expect docs/results/objectives.md.
:demo      drawn images, minutes on two CPU cores, no download; ends with a transfer report.
"""

from ml_collections.config_dict import ConfigDict, create

from configs import common


def get_config(preset: str = ""):
    config = common.pretrain()
    config.batch_size = 256
    config.objective = create(
        name="moco",
        temperature=0.2,
        hidden=2048,
        out=128,
        queue_size=65_536,
        momentum=0.999,
        bn_group=32,  # 256 images on 8 GPUs
    )
    config.views = common.moco_views()
    config.optimizer = create(
        name="sgd",
        learning_rate=0.03,
        momentum=0.9,
        weight_decay=1e-4,
        exclude=(),  # the official code decays biases and norms too
        warmup=0,
        warmup_unit="steps",
    )
    presets = {"moco_cxr": common.moco_cxr, "small": small, "cpu": cpu, "demo": demo}
    return common.choose(config, preset, presets | common.adapted(adapt))


def small(config: ConfigDict) -> None:
    config.num_train_steps = 20_000
    config.objective.queue_size = 16_384


def adapt(config: ConfigDict) -> None:
    # Keys of the last eight steps: the copy that makes them follows fast, and those of 64 steps
    # were of another network (docs/results/study_trials.md).
    config.objective.update(queue_size=8 * config.batch_size, momentum=0.99, bn_group=16)
    config.optimizer.exclude = None  # AdamW decays more than the recipe's SGD
    # Half of the time a step, and of the first nineteen short runs the one whose features came
    # furthest ahead of ImageNet's (docs/results/study_trials.md).
    config.frozen_stages = 2


def cpu(config: ConfigDict) -> None:
    common.for_minutes(config)
    # A copy that follows in so short a training, but slowly: with .98 contrastive_accuracy rose to
    # .3 and fell to .03 with the rate, as if the network had told keys by their age in the queue.
    config.objective.update(hidden=256, out=64, queue_size=2048, momentum=0.99)
    config.optimizer.exclude = None


def demo(config: ConfigDict) -> None:
    cpu(config)
    common.demo(config)
    config.objective.update(queue_size=1024, bn_group=16)
