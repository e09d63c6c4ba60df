"""MedAug: MoCo-CXR whose positive is another image of the same study (arXiv:2102.10663).

python run.py --config=configs/medaug.py --config.data.name=… --config.data.dir=…

Default  the paper's recipe, MoCo-CXR's: ResNet-50, 320 px, Adam, batch 16, 20 epochs of CheXpert.
         The paper starts from ImageNet's weights:
         --config.init=torchvision:/weights/resnet50.pth (random weights without). Build the dataset
         at 512 px, and keep its lateral images (not run here: no GPU).
:small   ResNet-50, 224 px, queue of 16,384, meant for one GPU and an afternoon (not run here).
:adapt   goes on from another encoder (--config.init=torchvision:/weights/resnet50.pth) on your own
         images, as MoCo's preset does: 20 minutes (estimated) on two CPU cores; what is
         exported is the mean of both ends.
:adapt_gpu  the same on one GPU: 224 px, batch 256, 10,000 steps (not run here: no GPU).
:cpu     your own images on two CPU cores in minutes; expect what docs/results/objectives.md shows.
A dataset in which no study has two images is refused; `--config.data.pairs=patient` pairs images
of a patient instead.
"""

from ml_collections import ConfigDict

from configs import common, moco


def get_config(preset: str = ""):
    config = moco.get_config()
    config.objective.name = "medaug"
    config.data.pairs = "study"
    if not preset:
        common.moco_cxr(config)
    presets = {"small": moco.small, "cpu": cpu} | common.adapted(adapt)
    return common.choose(config, preset, presets)


def adapt(config: ConfigDict) -> None:
    moco.adapt(config)
    config.objective.queue_size = 1024  # as in cpu below: few images have partners


def cpu(config: ConfigDict) -> None:
    moco.cpu(config)
    # Few images have partners: of 3,745 a queue of 2,048 held most patients of a batch as
    # negatives, and the embeddings shrank to one direction.
    config.objective.queue_size = 512
