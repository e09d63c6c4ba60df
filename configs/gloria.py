"""GLoRIA: images and reports attract each other, words and regions too (ICCV 2021).

python run.py --config=configs/gloria.py --config.data.name=mimic_cxr --config.data.dir=… \
  --config.init=torchvision:/weights/resnet50.pth \
  --config.objective.text.weights=… --config.data.reports.tokenizer=…

Needs the extra text (pip install -e '.[text]') and a dataset with reports: mimic_cxr,
indiana_university, padchest (with --config.data.reports.sections='()'), the drawn one, or your own
(image_folder with --report_column).

Default  the paper's recipe, by its code: ResNet-50 at 299 px from ImageNet, BERT's base from
         BioClinicalBERT, a sentence of the impression, Adam, batch 48, 50 epochs of CheXpert.
         Without these files it starts from random numbers. It needs a GPU (not run here).
:small   ResNet-50, and a BERT of four blocks trained from random numbers with a vocabulary made of
         the reports, meant for one GPU and an afternoon (not run here: no GPU).
:cpu     your own images and reports on two CPU cores in minutes (score: not run here).
:demo    drawn images with drawn reports, minutes on two CPU cores, no download; ends with a
         transfer report: .908, random weights .585; zero-shot .714 (docs/results/objectives.md).
"""

from ml_collections.config_dict import ConfigDict, create

from configs import _reports, common


def get_config(preset: str = ""):
    config = common.pretrain()
    config.batch_size = 48
    config.num_train_steps = 200_000
    config.checkpoint_every_steps = 5000
    config.image_size = 299
    text = _reports.bioclinicalbert(config, 97, ("impression",)) | dict(pooling="mean", last=4)
    config.objective = create(
        name="gloria",
        temperature=0.1,
        attention_temperature=0.25,
        word_temperature=0.2,
        global_weight=1.0,
        local_weight=1.0,
        text=text,
    )
    # The code crops 224 of 256 pixels and enlarges that to 299; nothing else is changed.
    share = (224 / 256) ** 2
    crop = common.view(size=299, crop_scale=(share, share), crop_ratio=(1.0, 1.0), flip=0.0)
    crop.update(jitter_prob=0.0, blur_prob=0.0)
    config.views = create(a=crop)
    # The code stops when the loss on validation no longer falls, and lowers the rate before.
    config.optimizer = create(
        name="adam",
        learning_rate=5e-5,
        schedule="constant",
        momentum=0.5,
        weight_decay=1e-6,
        clip=0.25,
        clip_by="all",
    )
    return common.choose(config, preset, {"small": small, "cpu": cpu, "demo": demo})


def own_words(config: ConfigDict, vocabulary: int, width: int, num_blocks: int) -> None:
    _reports.own_words(config, vocabulary, width, num_blocks)
    config.objective.text.last = min(4, num_blocks)


def small(config: ConfigDict) -> None:
    own_words(config, 8192, 384, 4)
    config.num_train_steps = 50_000
    config.checkpoint_every_steps = 500


def cpu(config: ConfigDict) -> None:
    _reports.for_minutes(config, 48)
    own_words(config, 2048, 128, 2)
    config.batch_size = 64
    del config.optimizer.clip_by, config.optimizer.momentum  # as it was run (docs/results)
    config.views.a.update(crop_scale=(0.6, 1.0), jitter_prob=0.8)
    _reports.slower_text(config)


def demo(config: ConfigDict) -> None:
    cpu(config)
    _reports.demo(config, 32)
