"""REFERS: a study's images, fused, find its report, and a decoder writes it (Nature MI 2022).

python run.py --config=configs/refers.py --config.data.name=mimic_cxr --config.data.dir=… \
  --config.init=… --config.objective.text.weights=… --config.data.reports.tokenizer=…

Needs the extra text (pip install -e '.[text]') and a dataset with reports: mimic_cxr,
indiana_university, padchest (with --config.data.reports.sections='()'), the drawn one, whose
studies have one image, or your own (image_folder with --report_column).

Default  the paper's recipe, by its code: ViT-B/16 at 224 px from ImageNet, three images of a study,
         BERT's base from BioClinicalBERT with its embeddings and lower six layers frozen, SGD,
         400,000 steps, without lookahead. It needs BERT's file, its tokenizer and a GPU (not run
         here).
:small   ViT-S/16, and a BERT of four blocks trained from random numbers with a vocabulary made of
         the reports, meant for one GPU and a day (not run here: no GPU).
:cpu     your own images and reports on two CPU cores (score: not run here).
:demo    drawn images with drawn reports on two CPU cores, no download; ends with a transfer report.
         From random numbers its ViT learned nothing in 126 steps. Start it from another, as the
         paper does, --config.init=runs/mae of configs/mae.py:demo --config.model.pooling=class:
         after 256 steps .630, .577 before, random weights .549 (docs/results/objectives.md).
"""

from ml_collections.config_dict import ConfigDict, create

from configs import _reports, common


def get_config(preset: str = ""):
    config = common.pretrain()
    config.batch_size = 32
    config.num_train_steps = 400_000
    config.checkpoint_every_steps = 5000
    config.model = common.vit("B")
    text = _reports.bioclinicalbert(config, 100) | dict(pooling="first", frozen_layers=6)
    config.data.reports.whole = True
    config.objective = create(
        name="refers",
        views=3,
        temperature=0.1,
        image_weight=0.75,
        head_bn=False,
        decoder_width=1024,
        decoder_blocks=1,
        decoder_heads=16,
        text=text,
    )
    jitter = dict(brightness=0.4, contrast=0.4, blur_prob=0.0)
    crop = dict(crop_scale=(0.05, 1.0), crop_ratio=(0.6, 1.0))
    config.views = create(a=common.view(**crop, **jitter))
    config.optimizer = create(
        name="sgd",
        learning_rate=3e-3,
        momentum=0.9,
        weight_decay=1e-4,
        clip=10.0,
        clip_by="all",
        warmup=10_000,
        groups=dict(text=dict(match=("^text/", "^text_projector/"), learning_rate=3e-4)),
    )
    return common.choose(config, preset, {"small": small, "cpu": cpu, "demo": demo})


def own_words(config: ConfigDict, vocabulary: int, width: int, num_blocks: int) -> None:
    _reports.own_words(config, vocabulary, width, num_blocks)
    config.objective.text.pooling = "max"
    config.objective.head_bn = True


def small(config: ConfigDict) -> None:
    own_words(config, 8192, 384, 4)
    config.model = common.vit("S")
    config.batch_size = 64
    config.num_train_steps = 100_000
    config.checkpoint_every_steps = 500
    config.objective.update(decoder_width=512, decoder_heads=8)
    common.adamw(config, 3e-4)


def cpu(config: ConfigDict) -> None:
    _reports.for_minutes(config, 64)
    own_words(config, 2048, 128, 2)
    config.batch_size = 64
    config.model = common.small_vit()
    config.image_size = 64
    config.objective.update(decoder_width=128, decoder_heads=4)
    config.optimizer.update(learning_rate=3e-4, weight_decay=0.05)
    del config.optimizer.clip_by  # as it was run (docs/results/objectives.md)
    config.views.a.update(crop_scale=(0.6, 1.0), crop_ratio=(3 / 4, 4 / 3))


def demo(config: ConfigDict) -> None:
    cpu(config)
    _reports.demo(config, 40)  # the longest has 37
    config.objective.views = 1  # drawn studies have one image
    config.optimizer.learning_rate = 3e-4  # 1e-3 left the class tokens half of their directions
