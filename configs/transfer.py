"""Transfer: one encoder, one labelled dataset, one protocol, against baselines.

python run.py --config=configs/transfer.py --config.encoder=WORKDIR --config.dataset=phantom

--config.protocol=linear    logistic regression on frozen features (the default)
                            Cost: one pass of every encoder over the dataset (ResNet-50 at 224 px:
                            about 25 images/s on two CPU cores; no GPU tried), then seconds.
                 =knn       nearest training images. Cost: the same pass.
                 =attentive  a learned query per label over frozen maps. Cost: the same pass, maps
                            on disk (said before), then seconds to minutes (docs/dense.md).
                 =segmentation, =localisation  where findings are: docs/dense.md.
                 =finetune  the whole encoder. Cost: (learning rates) x (epochs) passes with
                            gradients; meant for one GPU (not run here: no GPU).
                 =zero_shot sentences, of encoders with a text tower (docs/text.md): one pass.
:cpu  fine-tunes the small encoder on two CPU cores: pediatric pneumonia took 48 s per encoder with
      1 % of its labels and 3.5 minutes with all, on cores shared with other work. Test AUROC .957
      and .984 from random, .968 and .992 from six minutes of SimCLR (configs/simclr.py:cpu), by
      the best moment on validation, where since 2026-12-01 the end counts.
:zero_shot  that protocol without a baseline: a random encoder has no text tower.
Expect of the linear probe: docs/results/first_images.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(preset: str = ""):
    return common.choose(common.transfer(), preset, {"cpu": cpu, "zero_shot": zero_shot})


def cpu(config: ConfigDict) -> None:
    config.model = common.small_encoder()
    config.image_size = 96
    config.finetune.update(
        learning_rates=(3e-4, 1e-3, 3e-3),
        epochs=3.0,
        min_steps=100,
        max_steps=500,
        evaluations=5,
        batch_size=32,
        dtype="float32",
        num_workers=0,
    )
    config.finetune.view.rotate = 0.0  # on a CPU it costs more than all else in a view


def zero_shot(config: ConfigDict) -> None:
    config.update(protocol="zero_shot", baselines="")
