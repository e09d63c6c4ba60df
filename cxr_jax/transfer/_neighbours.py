"""The training images that an encoder finds most like an image."""

import numpy as np
from jaxtyping import Float, Int, Shaped

from cxr_jax.transfer.knn import normalised


def nearest(
    train_features: Shaped[np.ndarray, "n d"], features: Shaped[np.ndarray, "m d"], k: int
) -> tuple[Int[np.ndarray, "m j"], Float[np.ndarray, "m j"]]:
    """Rows of the k training images nearest by cosine, the nearest first, and their cosines.

    The images that `knn_scores` lets vote. Fewer where there are fewer; ties go to the earlier row.
    """
    if k < 1:
        raise ValueError(f"k is {k}: at least 1 is needed")
    cosine = normalised(features) @ normalised(train_features).T
    rows = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(cosine, rows, axis=1)
