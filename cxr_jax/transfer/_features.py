"""Features beside their scores: a file of them, nearest images, a plane of them, and Grad-CAM.

The file is for other software, NumPy's .npz or Parquet. One row per image, splits one after the
other, images in the split's order; ids hashed.

.npz      arrays image_id, patient_id and split [n] (strings), features [n d] (float32), targets
          [n k] (float32, NaN: missing), label_names [k]
.parquet  columns image_id, patient_id, split, features (a list of d float32 per row) and
          target/<label> (float32, null: missing)
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from flax import linen as nn
from jaxtyping import Array, Float, Int, Shaped, UInt8

from cxr_jax import models
from cxr_jax.data.splits import LabelledSplit
from cxr_jax.io.atomic import atomic_write
from cxr_jax.transfer._protocol import Head
from cxr_jax.transfer.knn import normalised

# Van der Maaten and Hinton (2008) bring data down to 30 components before t-SNE; 50 is customary.
_COMPONENTS = 50


def check_path(path: Path, field: str) -> None:
    """Raises ValueError, naming the config's field, for a file that would be neither format."""
    if path.suffix not in (".npz", ".parquet"):
        raise ValueError(f"{field}={path} must end in .npz or .parquet")


def write(
    path: Path,
    splits: Mapping[str, LabelledSplit],
    extract: Callable[[str], Float[np.ndarray, "n d"]],
) -> int:
    """Writes the file in the format that its name ends with and returns its number of images.

    `extract` gives the features of the split it names. The file is there whole or not at all.
    """
    images, patients = zip(*(split.hashed_ids() for split in splits.values()))
    columns = {
        "image_id": np.concatenate(images),
        "patient_id": np.concatenate(patients),
        "split": np.repeat(list(splits), [len(split.rows) for split in splits.values()]),
    }
    features = np.concatenate([extract(name) for name in splits]).astype(np.float32)
    targets = np.concatenate([s.targets for s in splits.values()]).astype(np.float32)
    names = next(iter(splits.values())).label_names
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".npz":
            np.savez(file, **columns, features=features, targets=targets, label_names=names)
        else:
            flat, width = pa.array(features.ravel()), features.shape[1]
            columns["features"] = pa.FixedSizeListArray.from_arrays(flat, width)
            for name, target in zip(names, targets.T):
                # from_pandas makes NaN null.
                columns[f"target/{name}"] = pa.array(target, pa.float32(), from_pandas=True)
            pq.write_table(pa.table(columns), file)
    return len(features)


def nearest(
    train_features: Shaped[np.ndarray, "n d"], features: Shaped[np.ndarray, "m d"], k: int
) -> tuple[Int[np.ndarray, "m j"], Float[np.ndarray, "m j"]]:
    """Finds the k training images nearest by cosine: their rows and cosines, the nearest first.

    They are the images that `knn_scores` lets vote. Fewer where there are fewer; ties go to the
    earlier row. Raises ValueError for k below 1.

    >>> nearest(np.eye(3), np.array([[0.0, 2.0, 1.0]]), 1)[0]
    array([[1]])
    """
    if k < 1:
        raise ValueError(f"k is {k}: at least 1 is needed")
    cosine = normalised(features) @ normalised(train_features).T
    rows = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(cosine, rows, axis=1)


def principal(features: Shaped[np.ndarray, "n d"]) -> Float[np.ndarray, "n p"]:
    """Returns at most 50 principal components; the first has a standard deviation of 1.

    Features that do not differ at all give zeros.
    """
    from sklearn.decomposition import PCA  # a second to import, which no other experiment needs

    features = np.asarray(features, np.float64)
    size = min(_COMPONENTS, *features.shape)
    components = PCA(size, random_state=0).fit_transform(features)
    spread = components[:, 0].std()
    rounding = 1e-9 * np.abs(features).max(initial=0)
    return components / spread if spread > rounding else np.zeros_like(components)


def tsne(components: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n 2"] | None:
    """Places images on a plane, like ones beside each other (van der Maaten and Hinton 2008).

    Equal input gives equal output. None for fewer than 10 images and for images that do not differ.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count = len(components)
    if count < 10 or components.shape[1] < 2 or not components.any():
        return None
    perplexity = min(30, (count - 1) / 3)
    # One thread: sums then have one order on every machine, and on cores that others use too its
    # threads wait for each other (minutes for seconds).
    with threadpool_limits(1):
        drawn = TSNE(perplexity=perplexity, init="pca", max_iter=750, random_state=0)
        return drawn.fit_transform(components)


def contributions(
    head: Head,
    images: UInt8[np.ndarray, "b h w 1"],
    label: int,
    average: Float[np.ndarray, " d"],
) -> Float[np.ndarray, "b i j"]:
    """Returns by how much each part of an image raises its logit (above 0) or lowers it.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) on the encoder's last feature map, of the
    features less `average`, the mean features of the training images: an image's sum is its logit
    less that of the average training image. Without it the map would mean little, because a probe
    of standardised features keeps their mean in its bias, which has no place on an image. Where
    features are the map's mean it equals CAM (Zhou et al. 2016, arXiv:1512.04150) of that
    difference.

    Images are as large as the head's encoder reads them. Raises ValueError for a label that was not
    scored, and for an encoder whose model gives no feature map.
    """
    if np.isnan(head.kernel[:, label]).any():
        raise ValueError(f"label {label} was not scored: the head has no weights for it")
    model = models.build(head.encoder.model)
    if not (hasattr(model, "maps") and hasattr(model, "pool")):
        raise ValueError(
            f"model {head.encoder.model['name']!r} gives no feature map: it needs the methods "
            "`maps` and `pool` (cxr_jax/models/__init__.py)"
        )
    kernel = head.kernel[:, label]
    maps, weights, logits = _maps_weights_logits(
        model, head.encoder.variables, jnp.asarray(kernel, jnp.float32), images / np.float32(255)
    )
    # Eq. 2 of Selvaraju et al. without ReLU. In doubles: it is a small difference of large sums.
    parts = np.einsum("bijc,bc->bij", np.float64(maps), np.float64(weights))
    # Of mean-pooled features parts sum to the logit. Of others, as a ViT's behind its last block,
    # they do not: what is over belongs to no place, and is spread over all.
    over = np.float64(logits) - parts.sum(axis=(1, 2)) - np.float64(average) @ np.float64(kernel)
    return parts + (over / parts[0].size)[:, None, None]


@partial(jax.jit, static_argnums=0)
def _maps_weights_logits(
    model: nn.Module,
    variables: dict[str, Any],
    kernel: Float[Array, " d"],
    images: Float[Array, "b h w 1"],
) -> tuple[Float[Array, "b i j c"], Float[Array, "b c"], Float[Array, "b"]]:
    def score(maps: Float[Array, "b i j c"]) -> tuple[Float[Array, ""], Float[Array, "b"]]:
        features = model.apply(variables, maps, method="pool")
        logits = jnp.matmul(features, kernel, precision="highest")
        return logits.sum(), logits

    maps = model.apply(variables, images, False, method="maps")
    gradient, logits = jax.grad(score, has_aux=True)(maps)
    return maps, gradient.mean(axis=(1, 2)), logits  # eq. 1 of Selvaraju et al.
