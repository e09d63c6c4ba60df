"""CLIP on X-rays: images and reports attract each other, and text is kept (arXiv:2103.00020).

python run.py --config=configs/clip.py --config.data.name=mimic_cxr --config.data.dir=… \
  --config.init=clip:/weights/clip.pt --config.objective.text.weights=/weights/clip.pt \
  --config.data.reports.tokenizer=/weights/clip

Needs the extra text (pip install -e '.[text]') and a dataset with reports: mimic_cxr,
indiana_university, padchest (with --config.data.reports.sections='()'), the drawn one, or your own
(image_folder with --report_column). What it learned answers words: docs/text.md.

Default  CheXzero's recipe, by its code: both towers of OpenAI's ViT-B/32, 224 px, impressions, SGD
         at 1e-4, batch 16, 4 epochs of MIMIC-CXR, no augmentation; of images that are no squares
         the centre, where its code adds black borders. It starts from CLIP's file (docs/weights.md)
         and its tokenizer, a folder with vocab.json and merges.txt; without them from random
         numbers. --config.init=chexzero:/weights/clip.pt reads that file with the pixels' mean and
         deviation of CheXzero's code in place of CLIP's (not run here: no GPU).
:small   the same towers from random numbers, with a tokenizer made of the reports, batch 256 and
         AdamW, meant for one GPU and an afternoon (not run here: no GPU).
:cpu     a ResNet and a small text tower on your own images and reports, on two CPU cores in
         minutes.
:demo    drawn images with drawn reports on two CPU cores (15 minutes beside much other work), no
         download; ends with a linear probe's report: expect macro AUROC .83 against .59 from random
         initialisation, and .63 zero-shot (docs/text.md).
"""

from ml_collections.config_dict import ConfigDict, create

from configs import _reports, common


def get_config(preset: str = ""):
    config = common.pretrain()
    config.batch_size = 16
    config.num_train_steps = 94_000
    config.checkpoint_every_steps = 5000
    config.model = common.vit("B", patch=32, pre_norm=True, projection=512)
    config.model.update(activation="quick_gelu", epsilon=1e-5)
    config.data.reports = create(
        sections=("impression",), whole=True, max_tokens=77, tokenizer="", vocabulary=49_408
    )
    config.objective = create(
        name="clip",
        temperature=0.01,  # OpenAI's file has come there; .07 from random numbers
        hidden=(),
        out=0,
        head_bn=False,
        text=dict(
            vocabulary=config.data.reports.get_ref("vocabulary"),
            width=512,
            num_blocks=12,
            positions=77,
            kind="clip",
            activation="quick_gelu",
            pooling="last",
            projection=512,
            dtype="bfloat16",
            weights="",
            frozen_layers=0,
        ),
    )
    whole = common.view(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, jitter_prob=0.0)
    whole.blur_prob = 0.0
    config.views = create(a=whole)
    config.optimizer = create(name="sgd", learning_rate=1e-4, schedule="constant", momentum=0.9)
    return common.choose(config, preset, {"small": small, "cpu": cpu, "demo": demo})


def small(config: ConfigDict) -> None:
    common.small(config)
    config.data.reports.vocabulary = 8192
    config.objective.temperature = 0.07
    config.views.a.update(crop_scale=(0.6, 1.0), crop_ratio=(0.8, 1.25), jitter_prob=0.8)
    config.views.a.update(brightness=0.4, contrast=0.4)
    common.adamw(config, 5e-4)
    config.optimizer.schedule = "cosine"


def cpu(config: ConfigDict) -> None:
    common.for_minutes(config)
    config.data.reports.update(vocabulary=2048, max_tokens=48)
    # ConVIRT's small towers, which 800 steps teach more than CLIP's causal one and linear heads.
    config.objective.update(temperature=0.07, hidden=(256,), out=128, head_bn=True)
    config.objective.text.update(width=128, num_blocks=2, projection=0, dtype="float32")
    config.objective.text.update(kind="bert", activation="gelu", pooling="max")
    config.views.a.update(crop_scale=(0.6, 1.0), crop_ratio=(0.8, 1.25), jitter_prob=1.0)
    config.views.a.blur_prob = 0.5
    _reports.slower_text(config)


def demo(config: ConfigDict) -> None:
    cpu(config)
    _reports.demo(config, 64)
