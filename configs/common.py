"""Fields that experiments share, and the presets after the colon (`configs/byol.py:demo`)."""

from ml_collections.config_dict import ConfigDict, create

from configs._presets import (  # noqa: F401 (configs say common.adamw)
    adamw,
    adapt,
    adapt_gpu,
    adapt_vit,
    adapted,
    choose,
    demo,
    for_minutes,
    lars,
    moco_cxr,
    on_cpu,
    on_phantom,
    presets,
    small,
    small_encoder,
)
from cxr_jax.config import DENSE


def transfer() -> ConfigDict:
    """Returns the config of a transfer, which a pretraining may also run at its end."""
    return create(
        experiment="transfer",  # what the config is for
        seed=0,  # of the label fraction's patients, resamples and random encoders
        # A pretraining workdir, a weights file as SOURCE:PATH (docs/weights.md), random; several
        # pretrainings of one recipe with different seeds as runs/a+runs/b+runs/c.
        encoder="random",
        # Encoders to compare with, same format, separated by commas.
        baselines="random",
        dataset="",  # the labelled dataset: NAME or NAME/RESOLUTION
        data=dict(
            dir="data",  # folder that holds the built datasets
        ),
        # A named task of the dataset, or labels by commas; "" is its default: every label.
        task="",
        uncertain_as="",  # -1 counts as: zeros, ones, ignore; "": as the task says
        missing_as="",  # a blank counts as: zeros, ones, ignore; "": as the task says
        readers="",  # of several readers: majority, any, all; "": as the task says
        certainty=0.0,  # certainties from here on count as present; 0: as the task says
        projections="",  # images that take part: PA,AP or any; "": as the task says
        exclusive=False,  # the labels are classes of which every image has exactly one
        # Side of the square images that all encoders read; 0: each the one it was trained for.
        read_size=0,
        # A file of cxr_jax/transfer: linear, knn, finetune, zero_shot, attentive …
        protocol="linear",
        label_fraction=1.0,  # of the labelled training patients; the other splits stay whole
        # Cross-validation by patient over the labelled images of all splits: 3 folds or more;
        # 0: the dataset's own splits. The fraction is then one of each training part.
        folds=0,
        # Of which splits' images. train+validation: a recipe is chosen, no test image is read.
        folds_of="train+validation+test",
        C=tuple(10.0**power for power in range(-6, 5)),  # linear: the best on validation
        knn=dict(k=(5, 20, 100), temperature=(0.07,)),
        finetune=finetune(),
        zero_shot=dict(prompts=""),
        dense=dense(),
        # Only config.encoder's are drawn, not its baselines'.
        pictures=dict(
            draw=True,  # images in the report and in TensorBoard; False: in no file
            # Hashed image_ids of test images by commas (data_builders.reidentify); "" chooses,
            # label by label.
            images="",
        ),
        export_features="",  # a file: frozen features of config.encoder as .npz or .parquet
        batch_size=64,  # where nothing is trained: speed and memory alone
        num_resamples=1000,  # of the test patients, for intervals
        feature_cache="",  # folder of features that other transfers of these images share
        # Where results go besides the workdir, by commas: tensorboard, wandb, mlflow.
        loggers=("tensorboard",),
        # Used where a random encoder has no trained one beside it to copy its shape from.
        model=dict(name="resnet", variant="50"),
        image_size=224,  # of such a random encoder
    )


def finetune() -> ConfigDict:
    """A ResNet-50 at 224 px on one GPU; cxr_jax/transfer/finetune.py says what the fields mean."""
    fields = dict(
        learning_rates=(3e-5, 1e-4, 3e-4),
        optimizer="adamw",
        weight_decay=0.05,
        warmup=0.1,
        norm_eval=False,
        layer_decay=1.0,
        lora=dict(rank=0, alpha=16.0),
        epochs=20.0,
        min_steps=200,
        max_steps=20_000,
        evaluations=20,
        batch_size=64,
        dtype="bfloat16",
        # Images outside the label fraction take part without their labels: S2MTS2's second stage.
        mean_teacher=dict(weight=0.0, decay=0.999, ramp_up=0.3, unlabelled_batch_size=64),
        num_workers=0,
        # Milder than in pretraining: the label must still be true of what is left of the image.
        view=view(
            crop_scale=(0.6, 1.0),
            crop_ratio=(0.9, 1.1),
            rotate=10.0,
            brightness=0.2,
            contrast=0.2,
            blur_prob=0.0,
        ),
    )
    del fields["view"].size  # that of the images which the encoder reads
    return ConfigDict(fields)


def dense() -> ConfigDict:
    """Of protocols on maps; cxr_jax/transfer/_heads.py says what the fields mean."""
    return ConfigDict(DENSE)


def pretrain() -> ConfigDict:
    """Pretraining of a ResNet-50 at 224 px; the objective and its recipe come on top."""
    config = create(
        experiment="pretrain",  # what the config is for
        seed=0,  # of weights, order and views
        # An encoder to start from, named as transfers name it (a workdir, SOURCE:PATH): its
        # weights, and the pixels' mean and std that go with them. "": random weights.
        init="",
        # Share of config.init's weights in the encoder that is exported, monitored and
        # transferred: the rest is what training made of them. 0: what it made of them alone.
        start_share=0.0,
        # The stem of config.init's encoder and so many stages (transformers and ConvNeXt: blocks)
        # stay as they are, and the statistics of all its batch norms. 0: the stem and they alone;
        # -1: all of it is trained.
        frozen_stages=-1,
        lora=dict(rank=0, alpha=16.0),
        batch_size=4096,  # images a step, over all devices
        # Images that go through the encoder at a time; 0: the whole batch. The gradient stays
        # that of the whole batch's loss, for a second forward pass; batch norm sees a part.
        microbatch_size=0,
        mesh=dict(
            # Devices that share an image's computation, wide layers split over them; the others
            # split the batch.
            model=1,
        ),
        # Parameters and optimizer state split over the devices instead of copied to each:
        # for models that do not fit otherwise.
        shard_state=False,
        image_size=224,  # at which the trained encoder reads whole images in transfers
        num_train_steps=10_000,  # updates
        checkpoint_every_steps=500,  # a killed run goes on from the last one
        keep_checkpoints=2,  # the last so many
        log_every_steps=20,  # a line of metrics.jsonl
        # Where the numbers go besides metrics.jsonl, by commas: tensorboard, wandb, mlflow.
        loggers=("tensorboard",),
        # So many steps may have a loss or gradient that is not finite, and are skipped: the
        # state stays as it was. 0: the first one ends the run. Images are listed either way.
        skip_nonfinite=0,
        data=dict(
            name="image_folder",  # the built dataset: NAME or NAME/RESOLUTION
            dir="data",  # folder that holds the built datasets
            split="train",  # of it
            # Datasets by commas: images of their patients, or that look like theirs, stay out.
            exclude="",
            image_size=256,  # the square that goes to the device, before cropping
            pairs="",  # study, patient: each image with another one of the same, for MedAug
            num_workers=0,  # decoding processes; 0 decodes in threads, on all cores
            # host, device: all images decoded at the start and kept in memory, or on every
            # device; 100,000 of 256 px are 6.6 GB. none: read anew each time.
            cache="none",
        ),
        model=dict(name="resnet", variant="50", dtype="bfloat16", remat=False),
        # Nearest neighbours of a labelled dataset, a monitor while it trains.
        online_knn=dict(
            dataset="",  # whose validation images are scored; "": no monitor
            task="",  # of the dataset; "": its default
            every_steps=500,  # how often
        ),
        transfer=transfer(),  # runs at the end if transfer.dataset is set
    )
    # As the pretraining's unless given. One way: the other would change the pretraining's.
    config.transfer.data.dir = config.data.get_oneway_ref("dir")
    config.transfer.seed = config.get_oneway_ref("seed")
    return config


def view(**changes) -> ConfigDict:
    """One augmented view: SimCLR's at 224 px (arXiv:2002.05709, appendix A), grey."""
    fields = dict(
        size=224,
        crop_scale=(0.08, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        flip=0.5,
        rotate=0.0,
        jitter_prob=0.8,
        brightness=0.8,
        contrast=0.8,
        gamma=0.0,
        blur_prob=0.5,
        blur_sigma=(0.1, 2.0),
        noise=0.0,
        solarise_prob=0.0,
    )
    return ConfigDict(fields | changes)


def byol_views() -> ConfigDict:
    """BYOL's two views (arXiv:2006.07733, table 6), which Barlow Twins and VICReg use as well."""
    jitter = dict(brightness=0.4, contrast=0.4)
    return create(
        a=view(**jitter, blur_prob=1.0),
        b=view(**jitter, blur_prob=0.1, solarise_prob=0.2),
    )


def moco_views() -> ConfigDict:
    """MoCo v2's two views (arXiv:2003.04297), which SimSiam uses as well."""
    fields = dict(crop_scale=(0.2, 1.0), brightness=0.4, contrast=0.4)
    return create(a=view(**fields), b=view(**fields))


def multicrop_views(large: tuple[float, float], few: tuple[float, float], size: int) -> ConfigDict:
    """DINO's (arXiv:2104.14294): two views of `large` crops, and small ones of `size` px."""
    jitter = dict(brightness=0.4, contrast=0.4)
    return create(
        a=view(**jitter, crop_scale=large, blur_prob=1.0),
        b=view(**jitter, crop_scale=large, blur_prob=0.1, solarise_prob=0.2),
        local=view(**jitter, crop_scale=few, size=size),
    )


def vit(variant: str, **changes) -> ConfigDict:
    """A ViT at 224 px with patches of 16, for accelerators."""
    fields = dict(name="vit", variant=variant, patch=16, image_size=224, pooling="class")
    return ConfigDict(fields | dict(dtype="bfloat16", remat=False) | changes)


def small_vit(**changes) -> ConfigDict:
    """The ViT for CPUs: 64 patches of a view of 64 px, .8 million parameters."""
    return vit("128x4", **(dict(patch=8, image_size=64, dtype="float32") | changes))
