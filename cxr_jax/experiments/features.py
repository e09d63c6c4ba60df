"""Frozen features of a labelled split, film by film in the split's order."""

import time

import numpy as np
from jaxtyping import Float

from cxr_jax.data.labelled import LabelledSplit, image_batches
from cxr_jax.weights.encoder import Encoder, features

_QUIET_SECONDS = 5.0


def extract(
    encoder: Encoder, split: LabelledSplit, batch_size: int, name: str
) -> Float[np.ndarray, "n d"]:
    """One row per film; `name` is what the progress lines call the split.

    Evaluation mode: a film's features do not depend on which films stand beside it. A short last
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
                f"  {encoder.name}, {name}: {done:,} of {total:,} films  {rate:,.1f} images/s  "
                f"{(total - done) / rate:.0f} s left",
                flush=True,
            )
            reported = now
    return np.concatenate(rows)
