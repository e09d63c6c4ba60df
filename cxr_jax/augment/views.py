"""Views: the ops that make one, in their order. The numbers are the configs'.

Fields of config.views.* and config.finetune.view, all required:

size          pixels per side of the view
crop_scale    (min, max) share of the image's area in the crop
crop_ratio    (min, max) width / height of the crop
flip          probability of a horizontal flip. A flipped chest image shows dextrocardia, which
              anatomy hardly ever does; the published recipes flip with 0.5 all the same
rotate        rotation before the crop, degrees uniform in [-rotate, rotate]; 0 costs nothing
brightness, contrast, gamma
              strengths (see cxr_jax.augment.ops), applied together, in this order
jitter_prob   probability of brightness, contrast and gamma
blur_prob     probability of the Gaussian blur
blur_sigma    (min, max) standard deviation, uniform, in pixels of the view
solarise_prob probability that grey values of one half and more are inverted
noise         largest standard deviation of white noise in grey values of [0, 1]; drawn per view

The papers' views, on a grey image (saturation, hue and greyscale have no meaning there):

                 SimCLR        BYOL view 1   BYOL view 2
crop_scale       .08, 1        .08, 1        .08, 1
crop_ratio       3/4, 4/3      3/4, 4/3      3/4, 4/3
flip             .5            .5            .5
brightness       .8            .4            .4
contrast         .8            .4            .4
jitter_prob      .8            .8            .8
blur_prob        .5            1.0           .1
blur_sigma       .1, 2         .1, 2         .1, 2     at 224 px: scale with size / 224
solarise_prob    0             0             .2
rotate, gamma, noise are 0.

(SimCLR: arXiv:2002.05709, appendix A; BYOL: arXiv:2006.07733, table 6.) Two departures: the blur is
part of the geometry, so it comes before brightness and contrast, with which it commutes except
where they clip; and BYOL's brightness, there an addition, is a multiplication here as in SimCLR.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from cxr_jax.augment import geometry, ops
from cxr_jax.config import Section, check_fields, check_values

_PROBABILITIES = ("flip", "jitter_prob", "blur_prob", "solarise_prob")
_STRENGTHS = ("rotate", "brightness", "contrast", "gamma", "noise")
_RANGES = ("crop_scale", "crop_ratio", "blur_sigma")
FIELDS = ("size", *_RANGES, *_PROBABILITIES, *_STRENGTHS)

Images = UInt8[Array | np.ndarray, "b h w 1"]


def check_view(view: Section, where: str = "view") -> None:
    """Raises ValueError for a missing, unknown or impossible field; `where` names the section."""
    check_fields(view, where, required=FIELDS)
    scale = view["crop_scale"]
    check_values(
        *(view, where),
        ("size", view["size"] > 0, "a positive number of pixels"),
        *((name, 0 <= view[name] <= 1, "between 0 and 1") for name in _PROBABILITIES),
        *((name, view[name] >= 0, "0 or more") for name in _STRENGTHS),
        *((name, _is_range(view[name]), "(min, max), 0 <= min <= max") for name in _RANGES),
        ("crop_scale", min(scale, default=0) > 0 and max(scale) <= 1, "in (0, 1]"),
        ("crop_ratio", min(view["crop_ratio"], default=0) > 0, "above 0"),
    )


def _is_range(ends: Sequence[float]) -> bool:
    return len(ends) == 2 and 0 <= ends[0] <= ends[1]


@jax.named_scope("augment")
def augment_view(key: PRNGKeyArray, images: Images, view: Section) -> Float[Array, "b s s 1"]:
    """Returns a random view of each image, float32 in [0, 1]; every image draws from its own key.

    Raises ValueError for a view that `check_view` refuses.
    """
    check_view(view)
    keys = jax.random.split(key, images.shape[0])
    return jax.vmap(partial(_augment_one, view=view))(keys, images)


def view_geometry(
    key: PRNGKeyArray, count: int, height: int, width: int, view: Section
) -> geometry.Geometry:
    """Returns the geometry that `augment_view` draws for `count` images of height x width."""
    keys = jax.random.split(key, count)
    return jax.vmap(lambda k: geometry.draw(_streams(k)["geometry"], height, width, view))(keys)


def _streams(key: PRNGKeyArray) -> dict[str, PRNGKeyArray]:
    return dict(zip(("geometry", "jitter", "solarise", "noise"), jax.random.split(key, 4)))


def _augment_one(
    key: PRNGKeyArray, image: UInt8[Array, "h w 1"], view: Section
) -> Float[Array, "s s 1"]:
    # Branches on `view` are Python's: an op that a config switches off is not compiled at all.
    keys = _streams(key)
    height, width, _ = image.shape
    where = geometry.draw(keys["geometry"], height, width, view)
    out = _jitter(keys["jitter"], _take(image.astype(jnp.float32) / 255, where, view), view)
    if view["solarise_prob"] > 0:
        out = ops.solarise(keys["solarise"], out, view["solarise_prob"])
    if view["noise"] > 0:
        out = ops.noise(keys["noise"], out, view["noise"])
    return out


def _take(
    image: Float[Array, "h w 1"], where: geometry.Geometry, view: Section
) -> Float[Array, "s s 1"]:
    height, width, _ = image.shape
    if view["rotate"] > 0:
        image = ops.rotate(image, where.degrees)
    top, left, box_height, box_width = where.crop
    rows = ops.resize_matrix(top, box_height, height, view["size"])
    columns = ops.resize_matrix(left, box_width, width, view["size"], where.flip)
    if view["blur_prob"] > 0:
        blur = ops.blur_matrix(where.blur, view["size"])
        rows, columns = blur @ rows, blur @ columns
    # Weights that sum to one only to rounding could leave [0, 1].
    return jnp.clip(ops.resample(image, rows, columns), 0, 1)


def _jitter(
    key: PRNGKeyArray, image: Float[Array, "s s 1"], view: Section
) -> Float[Array, "s s 1"]:
    used = [op for op in (ops.brightness, ops.contrast, ops.gamma) if view[op.__name__] > 0]
    if not used or view["jitter_prob"] == 0:
        return image
    prob_key, *op_keys = jax.random.split(key, 1 + len(used))
    out = image
    for op_key, op in zip(op_keys, used):
        out = op(op_key, out, view[op.__name__])
    return jnp.where(jax.random.bernoulli(prob_key, view["jitter_prob"]), out, image)
