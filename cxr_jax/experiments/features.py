"""Frozen features of a labelled split, image by image in the split's order."""

import hashlib
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from cxr_jax.data.source import fingerprint_build
from cxr_jax.data.splits import LabelledSplit, image_batches
from cxr_jax.weights.encoder import Encoder, features

_QUIET_SECONDS = 5.0


def extract(
    encoder: Encoder, split: LabelledSplit, batch_size: int, name: str
) -> Float[np.ndarray, "n d"]:
    """One row per image; `name` is what the progress lines call the split.

    Evaluation mode: an image's features do not depend on which images stand beside it. A short last
    batch is padded to a power of two and cut, so that few programs serve and little is wasted.
    """
    apply = features(encoder)
    rows, done, total = [], 0, len(split.rows)
    start = reported = time.monotonic()
    for images in image_batches(split, batch_size, encoder.image_size):
        full = min(batch_size, 1 << (len(images) - 1).bit_length())
        padded = np.pad(images, ((0, full - len(images)), (0, 0), (0, 0), (0, 0)))
        rows.append(np.asarray(apply(padded / np.float32(255)))[: len(images)])
        done += len(images)
        now = time.monotonic()
        if now - reported > _QUIET_SECONDS and done < total:
            rate = done / (now - start)
            print(
                f"  {encoder.name}, {name}: {done:,} of {total:,} images  {rate:,.1f} images/s  "
                f"{(total - done) / rate:.0f} s left",
                flush=True,
            )
            reported = now
    return np.concatenate(rows)


def extract_once(
    encoder: Encoder, split: LabelledSplit, batch_size: int, name: str, cache: Path
) -> Float[np.ndarray, "n d"]:
    """As `extract`, of a file below `cache` that holds the features of every image of the split.

    The file is named after weights, dataset and split, so that a change of any makes another.
    Many label fractions and seeds then cost one pass over the images.
    """
    path = cache / f"{feature_key(encoder, split)}.npy"
    if not _readable(path):
        whole = split._replace(rows=np.arange(len(split.source)))
        values = extract(encoder, whole, batch_size, name)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, suffix=".tmp", delete=False) as file:
            np.save(file, values)  # of its own name: other processes may write the same
        Path(file.name).replace(path)
    return np.load(path, mmap_mode="r")[split.rows]


def _readable(path: Path) -> bool:
    try:
        np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):  # not there, or cut short by a full disk
        return False
    return True


def feature_key(encoder: Encoder, split: LabelledSplit) -> str:
    """Hex digits of weights and images: features are taken up again only if neither changed."""
    digest = hashlib.sha256(repr((encoder.model, encoder.image_size)).encode())
    for leaf in jax.tree.leaves(encoder.variables):
        digest.update(np.asarray(leaf).tobytes())
    digest.update(fingerprint_build(split.source.folder).encode())
    digest.update(split.source.split.encode())
    return digest.hexdigest()[:32]
