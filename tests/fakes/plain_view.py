"""A view that changes nothing but the size: tests switch on what they are about."""

PLAIN = dict(
    size=32,
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    flip=0.0,
    rotate=0.0,
    brightness=0.0,
    contrast=0.0,
    gamma=0.0,
    jitter_prob=0.0,
    blur_prob=0.0,
    blur_sigma=(0.1, 2.0),
    noise=0.0,
    solarise_prob=0.0,
)
