"""Retrieval: how often an image finds its own report among other patients', and a report its image.

python run.py --config=configs/retrieval.py --config.encoder=WORKDIR --config.dataset=phantom

For encoders with a text tower (docs/text.md) and datasets with reports. Cost: one pass of the
encoder over the split. Expect: docs/text.md.
"""

from ml_collections.config_dict import create

from configs import common


def get_config(preset: str = ""):
    config = create(
        experiment="retrieval",  # what the config is for
        seed=0,  # of the resamples
        encoder="",  # a pretraining's workdir, or SOURCE:PATH (docs/weights.md)
        dataset="",  # with reports
        data=dict(dir="data"),  # the folder of built datasets
        split="test",  # of the dataset
        # Names that a section's heading must contain for its text to count; (): whole reports.
        sections=("impression",),
        batch_size=64,  # of images: speed and memory alone
        num_resamples=1000,  # of the patients, for intervals
    )
    return common.choose(config, preset, {})
