"""Transfer: one encoder, one labelled dataset, one protocol, against baselines.

python run.py --config=configs/transfer.py --config.encoder=WORKDIR --config.dataset=phantom

Cost: one pass of every encoder over the dataset (ResNet-50 at 224 px: about 11 films/s on two CPU
cores; not measured on a GPU), then seconds for the probe.
Expect: docs/results/first_films.md.
"""

from configs import common


def get_config(preset: str = ""):
    return common.choose(common.transfer(), preset, {})
