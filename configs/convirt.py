"""ConVIRT: images and the sentences of their reports attract each other (arXiv:2010.00747).

python run.py --config=configs/convirt.py --config.data.name=mimic_cxr --config.data.dir=… \
  --config.objective.text.weights=… --config.data.reports.tokenizer=…

Needs the extra text (pip install -e '.[text]') and a dataset with reports: mimic_cxr,
indiana_university, padchest (with --config.data.reports.sections='()') or the drawn one.

Default  the paper's recipe: ResNet-50, 224 px, Adam, batch 32, and BERT's base with its embeddings
         and lower six layers frozen. It needs BERT's file and its tokenizer (BioClinicalBERT's,
         or the folder of either on the hub); the paper starts the ResNet-50 from ImageNet, too.
         5,000 steps are one of the paper's 200 rounds of training (not run here: no GPU).
:small   ResNet-50, and a BERT of four blocks trained from random numbers with a vocabulary made of
         the reports, meant for one GPU and an afternoon (not run here: no GPU).
:cpu     your own images and reports on two CPU cores in minutes (score: not run here).
:demo    drawn images with drawn reports, 10 minutes on two busy CPU cores, no download;
         ends with a transfer report: expect macro AUROC .86 against .59 from random
         initialisation. The loss stays at log 64 = 4.2 for the first 300 steps.
"""

from ml_collections.config_dict import ConfigDict, create

from configs import _reports, common


def get_config(preset: str = ""):
    config = common.pretrain()
    config.batch_size = 32
    config.num_train_steps = 100_000
    config.checkpoint_every_steps = 5000
    config.objective = create(
        name="convirt",
        temperature=0.1,
        image_weight=0.75,
        hidden=(512,),
        out=512,
        head_bn=False,
        text=_reports.bioclinicalbert(config, 64) | dict(pooling="max", frozen_layers=6),
    )
    # Besides, the paper moves images by up to a tenth and scales them by up to a twentieth, which
    # the crop does here.
    config.views = create(
        a=common.view(
            crop_scale=(0.6, 1.0),
            rotate=20.0,
            jitter_prob=1.0,
            brightness=0.4,
            contrast=0.4,
            blur_prob=1.0,
            blur_sigma=(0.1, 3.0),
        )
    )
    # The paper halves the rate whenever the loss on validation stops falling.
    config.optimizer = create(
        name="adam", learning_rate=1e-4, schedule="constant", weight_decay=1e-6
    )
    return common.choose(config, preset, {"small": small, "cpu": cpu, "demo": demo})


def own_words(config: ConfigDict, vocabulary: int, width: int, num_blocks: int) -> None:
    _reports.own_words(config, vocabulary, width, num_blocks)
    # Without it 120 steps of the demo made images, and texts, more alike and taught nothing.
    config.objective.head_bn = True


def small(config: ConfigDict) -> None:
    own_words(config, 8192, 384, 4)
    common.small(config)
    config.checkpoint_every_steps = 500


def cpu(config: ConfigDict) -> None:
    _reports.for_minutes(config, 48)
    own_words(config, 2048, 128, 2)
    config.objective.update(hidden=(256,), out=128)
    config.views.a.update(crop_scale=(0.6, 1.0), rotate=0.0, blur_prob=0.5)
    _reports.slower_text(config)


def demo(config: ConfigDict) -> None:
    cpu(config)
    _reports.demo(config, 32)
