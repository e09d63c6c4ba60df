"""Augmentation of one image [h w 1], float32 in [0, 1]: geometry as matrices, then photometry.

Crop, antialiased resize, horizontal flip and Gaussian blur are linear and separable, so a view is
`A_y @ image @ A_x^T` with one small matrix per axis. Positions are in pixels, pixel j covering
[j, j + 1); boxes need not fall on whole pixels. The products run in JAX's default precision: tf32
on recent GPUs, where a view is then off by up to 1e-3, a quarter of a grey level.

A deterministic function (`adjust_contrast`) holds each photometric change; the op of the same name
draws its strength from a key. Both clip to [0, 1].
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

EncodedImage = Float[Array, "h w 1"]
Scalar = Float[Array, ""] | float | int


def crop_box(
    key: PRNGKeyArray,
    height: int,
    width: int,
    scale: tuple[Scalar, Scalar],
    ratio: tuple[Scalar, Scalar],
) -> Float[Array, "4"]:
    """Draws a random box (top, left, height, width) inside the image: "random resized crop".

    The share of the image's area is uniform in `scale`. The aspect (width / height) is log-uniform
    in the part of `ratio` that fits inside the image at that area, or the nearest aspect that fits
    where none of `ratio` does. Published code instead draws until a box fits, which makes large
    areas rarer than small ones; this needs no loop and keeps the area exactly uniform.
    """
    # One draw of four: each draw costs compile time.
    area_draw, aspect_draw, top_draw, left_draw = jax.random.uniform(key, (4,))
    area = scale[0] + (scale[1] - scale[0]) * area_draw
    widest, narrowest = width / (area * height), area * width / height
    low, high = (jnp.log(jnp.clip(edge, narrowest, widest)) for edge in ratio)
    aspect = jnp.exp(low + (high - low) * aspect_draw)
    box_height = jnp.minimum(jnp.sqrt(area * height * width / aspect), height)
    box_width = jnp.minimum(jnp.sqrt(area * height * width * aspect), width)
    top = (height - box_height) * top_draw
    left = (width - box_width) * left_draw
    return jnp.stack([top, left, box_height, box_width])


def resize_matrix(
    start: Scalar,
    length: Scalar,
    in_size: int,
    out_size: int,
    flip: Bool[Array, ""] | bool = False,
) -> Float[Array, "{out_size} {in_size}"]:
    """Maps in_size pixels to out_size pixels that cover [start, start + length).

    Pillow's BILINEAR resample with a box: a triangle filter, widened by the shrink factor when
    shrinking (antialiasing), two taps when enlarging; weights renormalised at the image's edge.
    `flip` reverses the output.
    """
    step = length / out_size
    index = jnp.arange(out_size)
    index = jnp.where(flip, out_size - 1 - index, index)
    centre = start + (index + 0.5) * step
    distance = jnp.abs(jnp.arange(in_size) + 0.5 - centre[:, None]) / jnp.maximum(step, 1)
    inside = distance < 1
    weights = jnp.where(inside, 1 - distance, 0)
    # The second select changes no value. XLA's CPU backend does not fuse a select into the matrix
    # product that follows; what it does fuse it computes again and again (three times slower).
    return jnp.where(inside, weights / weights.sum(axis=1, keepdims=True), 0)


def blur_matrix(sigma: Scalar, size: int) -> Float[Array, "{size} {size}"]:
    """Gaussian blur of `size` pixels with standard deviation `sigma` in pixels; 0 blurs nothing.

    At the edge the weights that fall inside are renormalised: no dark frame (zero padding), no
    mirrored anatomy. The kernel is not truncated (SimCLR cuts it at H/20, beyond 5 sigma).
    """
    distance = jnp.abs(jnp.arange(size)[:, None] - jnp.arange(size)).astype(jnp.float32)
    # The floor of 0.05 px has neighbours of weight exp(-200), zero in float32: the identity.
    weights = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 0.05)) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)


def resample(
    image: EncodedImage, rows: Float[Array, "i h"], columns: Float[Array, "j w"]
) -> Float[Array, "i j 1"]:
    """Returns `rows @ image @ columns^T`: [h w 1] -> [i j 1]."""
    return (rows @ image[..., 0] @ columns.T)[..., None]


def rotate(image: EncodedImage, degrees: Scalar) -> EncodedImage:
    """Rotates counter-clockwise about the centre, same size; edge pixels are repeated outwards.

    Bilinear, four gathers per pixel: it is not separable, so it costs more than all other ops
    together on a CPU and views with no rotation must not call it.
    """
    height, width, _ = image.shape
    angle = jnp.deg2rad(degrees)
    y, x = jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2
    source_y = jnp.cos(angle) * y[:, None] + jnp.sin(angle) * x + (height - 1) / 2
    source_x = jnp.cos(angle) * x - jnp.sin(angle) * y[:, None] + (width - 1) / 2
    source_y, source_x = jnp.clip(source_y, 0, height - 1), jnp.clip(source_x, 0, width - 1)
    row = jnp.clip(jnp.floor(source_y), 0, height - 2)
    column = jnp.clip(jnp.floor(source_x), 0, width - 2)
    below, right = source_y - row, source_x - column
    corner = (row * width + column).astype(jnp.int32)

    def pixels(offset: int) -> Float[Array, "h w"]:
        # All four neighbours lie inside, so the bounds check would only cost time.
        return image.reshape(-1).at[corner + offset].get(mode="promise_in_bounds")

    upper = pixels(0) * (1 - right) + pixels(1) * right
    lower = pixels(width) * (1 - right) + pixels(width + 1) * right
    return (upper * (1 - below) + lower * below)[..., None]


def adjust_brightness(image: EncodedImage, factor: Scalar) -> EncodedImage:
    """Multiplies by `factor`.

    >>> adjust_brightness(jnp.array([[[0.5]], [[0.9]]]), 1.5).ravel().tolist()
    [0.75, 1.0]
    """
    return _clip(image * factor)


def adjust_contrast(image: EncodedImage, factor: Scalar) -> EncodedImage:
    """Scales the distance to the image's mean by `factor`."""
    mean = image.mean()
    return _clip(mean + (image - mean) * factor)


def adjust_gamma(image: EncodedImage, exponent: Scalar) -> EncodedImage:
    """Returns image ** exponent."""
    return _clip(image**exponent)


def invert_bright(image: EncodedImage, threshold: Scalar = 0.5) -> EncodedImage:
    """Solarises: pixels at or above `threshold` become 1 - pixel.

    >>> invert_bright(jnp.array([[[0.25], [0.75]]])).ravel().tolist()
    [0.25, 0.25]
    """
    return jnp.where(image >= threshold, 1 - image, image)


def brightness(key: PRNGKeyArray, image: EncodedImage, strength: float) -> EncodedImage:
    """Adjusts by a factor uniform in [max(0, 1 - strength), 1 + strength]."""
    return adjust_brightness(image, _factor(key, strength))


def contrast(key: PRNGKeyArray, image: EncodedImage, strength: float) -> EncodedImage:
    """Adjusts by a factor uniform in [max(0, 1 - strength), 1 + strength]."""
    return adjust_contrast(image, _factor(key, strength))


def gamma(key: PRNGKeyArray, image: EncodedImage, strength: float) -> EncodedImage:
    """Takes an exponent log-uniform in [1 / (1 + strength), 1 + strength]: darker or brighter."""
    log_range = jnp.log1p(strength)
    exponent = jnp.exp(jax.random.uniform(key, minval=-log_range, maxval=log_range))
    return adjust_gamma(image, exponent)


def solarise(key: PRNGKeyArray, image: EncodedImage, prob: float) -> EncodedImage:
    """Inverts the brighter half of the grey scale, with probability `prob`."""
    return jnp.where(jax.random.bernoulli(key, prob), invert_bright(image), image)


def noise(key: PRNGKeyArray, image: EncodedImage, max_std: float) -> EncodedImage:
    """Adds white Gaussian noise whose standard deviation is uniform in [0, max_std]."""
    std_key, pixel_key = jax.random.split(key)
    std = jax.random.uniform(std_key, maxval=max_std)
    return _clip(image + std * jax.random.normal(pixel_key, image.shape))


def _factor(key: PRNGKeyArray, strength: float) -> Float[Array, ""]:
    return jax.random.uniform(key, minval=max(0.0, 1 - strength), maxval=1 + strength)


def _clip(image: EncodedImage) -> EncodedImage:
    return jnp.clip(image, 0, 1)
