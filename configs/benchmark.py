"""Benchmark: encoders x datasets x protocols x label fractions x seeds, and the study's tables.

python run.py --config=configs/benchmark.py --workdir=runs/benchmark \
  --config.encoders=random,imagenet=torchvision:resnet50.pth,simclr=runs/simclr \
  --config.reference=imagenet --config.datasets=pediatric_pneumonia,nih_chestxray14

Cost: --config.dry_run=True prints the grid. Every encoder reads every dataset once for all its
linear probes; every fine-tuning trains anew.
:cpu  fine-tunes small encoders on two CPU cores, as configs/transfer.py:cpu.
Expect: docs/results/benchmark.md.
"""

from ml_collections.config_dict import create

from configs import common, transfer


def get_config(preset: str = ""):
    config = create(
        experiment="benchmark",  # what the config is for
        # NAME=SPEC by commas, SPEC as for a transfer's encoder; "random" needs no SPEC and has
        # the shape of the first workdir among them. NAME=WORKDIR+WORKDIR+... are pretrainings
        # of one recipe with different seeds: one encoder, whose intervals hold their variance.
        encoders="random",
        reference="random",  # the one that the others are compared with
        # NAME or NAME:TASK by commas; behind it what this dataset alone is read by, as in
        # jsrt:nodule@folds=5,siim@exclusive=True (fields of configs/transfer.py;
        # docs/own_images.md has which).
        datasets="",
        protocols="linear",  # by commas
        fractions=(0.01, 0.1, 1.0),  # of the training patients, nested
        seeds=(0, 1, 2),  # which patients; of fine-tuning also its own randomness
        data=dict(
            dir="data",  # folder that holds the built datasets
        ),
        dry_run=False,  # print the grid and what it costs, run nothing
        transfer=common.transfer(),  # everything else of every cell
    )
    config.transfer.data.dir = config.data.get_ref("dir")
    return common.choose(config, preset, {"cpu": lambda config: transfer.cpu(config.transfer)})
