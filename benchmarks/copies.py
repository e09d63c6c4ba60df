"""Which copies of an image the overlap finds: python -m benchmarks.copies --images=FOLDER

Every image is changed in one way and compared with itself, by the limits that overlap.py and the
ledgers use.
"""

from __future__ import annotations

import argparse
import functools
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from cxr_jax.data import copies, seen_images
from cxr_jax.io import image_io
from data_builders.base import folders
from data_builders.base.parallel import phash

Change = Callable[[Image.Image], Image.Image]


def recompress(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def crop(image: Image.Image, share: float) -> Image.Image:
    """Cuts `share` of the image off each of its sides."""
    x, y = share * image.width, share * image.height
    return image.crop((round(x), round(y), round(image.width - x), round(image.height - y)))


CHANGES: dict[str, Change] = {
    "recompressed, JPEG quality 30": functools.partial(recompress, quality=30),
    "reduced to 96 x 96": lambda image: image.resize((96, 96)),
    "reshaped to 256 x 200": lambda image: image.resize((256, 200)),
    "contrast x 1.3": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "gamma 0.7": lambda image: image.point(lambda value: int(255 * (value / 255) ** 0.7)),
    "1 % cut off each side": functools.partial(crop, share=0.01),
    "2 % cut off each side": functools.partial(crop, share=0.02),
    "histogram equalised": ImageOps.equalize,
    "inverted": ImageOps.invert,
    "mirrored": ImageOps.mirror,
}


def found(image: Image.Image, change: Change) -> tuple[bool, bool]:
    """Whether a changed copy is found by hash and pixels, and by the hash alone."""
    pair = (image, change(image))
    hashes = [int(phash(np.asarray(one)[..., None]), 16) for one in pair]
    bits = (hashes[0] ^ hashes[1]).bit_count()
    alike = float(np.dot(*(copies.thumbnail(one) for one in pair)))
    both = bits <= copies.MAX_DISTANCE and alike >= copies.MIN_CORRELATION
    return both, bits <= seen_images.MAX_DISTANCE


def main() -> None:
    """Prints the share of images whose copies are found, one line a change."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.copies")
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--count", type=int, default=400, help="images to try (default: 400)")
    args = parser.parse_args()
    paths = [
        path for path in folders.files_below(Path(args.images)) if path.suffix in image_io.SUFFIXES
    ][: args.count]
    pictures = [Image.fromarray(image_io.read_image(path)[..., 0]) for path in paths]
    print(f"{len(pictures)} images\n\n| copy | found | by the hash alone |\n| --- | --- | --- |")
    for name, change in CHANGES.items():
        shares = np.mean([found(picture, change) for picture in pictures], axis=0)
        print(f"| {name} | {shares[0]:.0%} | {shares[1]:.0%} |")


if __name__ == "__main__":
    main()
