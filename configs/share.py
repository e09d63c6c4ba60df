"""Share: how much of the weights it started from an encoder should keep, asked of validation.

python run.py --config=configs/share.py --config.encoder=WORKDIR --workdir=runs/share \
  --config.datasets=pediatric_pneumonia,nih_chestxray14

WORKDIR is that of a pretraining that started from another encoder (configs/moco.py:adapt). For
every share a linear probe of the mean of both ends (WiSE-FT, arXiv:2109.01903) is trained on the
training images and scored on the validation images; no test image is read. Writes share.csv,
share.png, and encoder/, the mean with the best AUROC: --config.encoder=runs/share/encoder.

Few validation images? --config.transfer.folds=5 --config.transfer.folds_of=train+validation scores
every training and validation image by a model that has not seen its patient.

Cost: a pass over the training and validation images per share (ResNet-50 at 224 px: about 25
images/s on two CPU cores). Resumed, it reads only what features/ lacks.
Expect: a curve with its best between the ends (docs/results); the best share scored on the images
that chose it is a little too good, so say what a transfer says of the test images.
"""

from ml_collections.config_dict import create

from configs import common


def get_config(preset: str = ""):
    config = create(
        experiment="share",  # what the config is for
        encoder="",  # the workdir of a pretraining with config.init
        datasets="",  # NAME or NAME:TASK by commas, as in configs/benchmark.py
        shares=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),  # of the start
        data=dict(
            dir="data",  # folder that holds the built datasets
        ),
        transfer=common.transfer(),  # everything else of every probe
    )
    config.transfer.data.dir = config.data.get_ref("dir")
    return common.choose(config, preset, {})
