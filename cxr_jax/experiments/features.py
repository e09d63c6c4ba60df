"""Frozen features of a labelled split, film by film in the split's order."""

import time

import numpy as np
from jaxtyping import Float

from cxr_jax.data.labelled import LabelledSplit, image_batches
from cxr_jax.weights.encoder import Encoder, features

_QUIET_SECONDS = 5.0


def extract(encoder: Encoder, split: LabelledSplit, batch_size: int) -> Float[np.ndarray, "n d"]:
    """One row per film. The last batch is padded to full size and cut, so that one program serves.

    Evaluation mode: a film's features do not depend on which films stand beside it.
    """
    apply = features(encoder)
    rows, done, total = [], 0, len(split.rows)
    start = reported = time.monotonic()
    for images in image_batches(split, batch_size, encoder.image_size):
        missing = batch_size - len(images)
        padded = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        rows.append(np.asarray(apply(padded / np.float32(255)))[: len(images)])
        done += len(images)
        now = time.monotonic()
        if now - reported > _QUIET_SECONDS:
            rate = done / (now - start)
            print(
                f"  {encoder.name}: {done}/{total} films  {rate:,.0f} images/s  "
                f"{(total - done) / rate:.0f} s left",
                flush=True,
            )
            reported = now
    return np.concatenate(rows)
