"""Presets that objectives share, and their optimizers; configs call them by configs/common.py."""

from collections.abc import Callable, Mapping

from ml_collections.config_dict import ConfigDict, create

from cxr_jax.io.text import did_you_mean

Preset = Callable[[ConfigDict], None]


def choose(config: ConfigDict, preset: str, of: Mapping[str, Preset]) -> ConfigDict:
    """Applies the preset named after the colon; none is the paper's recipe."""
    if preset:
        if preset not in of:
            known = ", ".join(of) or "none"
            hint = did_you_mean(preset, of).lower()
            raise ValueError(f"no preset {preset!r};{hint} this config has: {known}")
        of[preset](config)
    return config


def presets(cpu: Preset, own: Preset = lambda config: None) -> dict[str, Preset]:
    """Those of an objective whose demo is `cpu` on the drawn images; `own` as in `adapted`."""

    def of_demo(config: ConfigDict) -> None:
        cpu(config)
        demo(config)

    return {"small": small, "cpu": cpu, "demo": of_demo} | adapted(own)


def adapted(own: Preset) -> dict[str, Preset]:
    """The presets adapt and adapt_gpu of an objective, which `own` fits to small batches."""

    def on(machine: Preset) -> Preset:
        def preset(config: ConfigDict) -> None:
            machine(config)
            own(config)

        return preset

    return {"adapt": on(adapt), "adapt_gpu": on(adapt_gpu)}


def small(config: ConfigDict) -> None:
    """The preset small: one GPU and an afternoon."""
    config.batch_size = 256
    config.num_train_steps = 20_000


def for_minutes(config: ConfigDict) -> None:
    """The preset cpu: on_cpu, in a few minutes."""
    on_cpu(config)
    config.num_train_steps = 1000
    config.checkpoint_every_steps = 250
    adamw(config, 1e-3)


def on_cpu(config: ConfigDict) -> None:
    """A small encoder at 64 px and one process, for two cores."""
    config.model = small_encoder()
    config.data.image_size = 96
    # Crops show organs larger than whole images do, so these are read larger (Touvron et al.,
    # arXiv:1906.06423). Validation AUROC on ../shared/realdata is higher than at 64 px.
    config.image_size = 96
    config.batch_size = 128
    config.log_every_steps = 50
    for view_config in config.views.values():
        view_config.size = 64
        view_config.crop_scale = (0.2, 1.0)
        view_config.brightness = view_config.contrast = 0.4  # .8 turns many a grey image all white
        view_config.blur_sigma = (0.1, 0.8)


def small_encoder() -> ConfigDict:
    """The ResNet for CPUs."""
    # Residual branches count from the start: a run of minutes has no time to wake them from zero.
    return create(
        name="resnet", variant="small", dtype="float32", remat=False, zero_init_residual=False
    )


def demo(config: ConfigDict) -> None:
    """The preset demo, on top of cpu."""
    on_phantom(config)
    config.num_train_steps = 800
    config.checkpoint_every_steps = 200


def on_phantom(config: ConfigDict) -> None:
    """The drawn images, and a transfer to their labels at the end."""
    config.data.name = "phantom"
    config.transfer.dataset = "phantom"
    config.batch_size = 64  # more steps from few images
    config.optimizer.learning_rate = 2e-3
    for view_config in config.views.values():
        # The findings are drawn small: a smaller crop mostly loses them.
        view_config.crop_scale, view_config.crop_ratio = (0.55, 1.0), (0.8, 1.25)
        view_config.update(rotate=10.0, brightness=0.5, contrast=0.5, gamma=0.5, noise=0.05)


def adapt(config: ConfigDict) -> None:
    """The preset adapt: the encoder config.init goes on, for half an hour on two cores."""
    config.start_share = 0.5
    config.model.dtype = "float32"
    config.batch_size = 64
    config.data.image_size = 128
    # Twice as many gained SimCLR nothing (docs/results/study_trials.md).
    config.num_train_steps = 480
    config.checkpoint_every_steps = 60
    adamw(config, 3e-4)
    for view_config in config.views.values():
        view_config.update(size=96, crop_scale=(0.3, 1.0))


def adapt_gpu(config: ConfigDict) -> None:
    """The preset adapt_gpu: the same on one GPU, at 224 px and on ten steps for one."""
    adapt(config)
    config.model.dtype = "bfloat16"
    config.batch_size = 256
    config.data.image_size = 256
    config.num_train_steps = 10_000
    config.checkpoint_every_steps = 500
    for view_config in config.views.values():
        view_config.size = 224


def adapt_vit(config: ConfigDict, variant: str) -> None:
    """Makes the model of adapt a ViT, of which the weights say the rest: patches, tokens."""
    config.model = create(name="vit", variant=variant, dtype=config.model.dtype, remat=False)
    config.optimizer.update(learning_rate=1e-4, weight_decay=0.05)


def adamw(config: ConfigDict, learning_rate: float) -> None:
    """AdamW in place of the recipe's LARS or SGD: small batches bear it better."""
    config.optimizer.update(
        name="adamw",
        learning_rate=learning_rate,
        scaling="none",
        weight_decay=1e-4,
        warmup=50,
        warmup_unit="steps",
    )


def lars(learning_rate: float, **changes) -> ConfigDict:
    """BYOL's optimizer (arXiv:2006.07733), which Barlow Twins and VICReg use as well."""
    fields = dict(
        name="lars",
        learning_rate=learning_rate,
        scaling="linear",
        rate_inside_momentum=False,
        momentum=0.9,
        weight_decay=1e-6,
        warmup=10,
        warmup_unit="epochs",
    )
    return ConfigDict(fields | changes)


def moco_cxr(config: ConfigDict) -> None:
    """MoCo-CXR's recipe (arXiv:2010.05352), which MedAug shares, on top of MoCo's."""
    config.image_size = config.data.image_size = 320
    config.batch_size = 16
    config.num_train_steps = 240_000  # 20 epochs of CheXpert's 191,000 frontal images
    config.checkpoint_every_steps = 5000
    # The paper does not say how its 16 images were split; two groups are the fewest there can be.
    config.objective.update(queue_size=24_576, bn_group=8)
    for view_config in config.views.values():
        view_config.update(size=320, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), rotate=10.0)
        view_config.update(jitter_prob=0.0, blur_prob=0.0)
    config.optimizer.update(name="adam", learning_rate=1e-4)
    config.optimizer.schedule = "step"
    config.optimizer.milestones = (0.6, 0.9)  # epochs 12 and 18 of 20
