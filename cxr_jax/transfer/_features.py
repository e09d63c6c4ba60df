"""What is made of frozen features beside a score: a file of them, neighbours, a map for the eye.

The file is for other software, NumPy's .npz or Parquet. One row per image, splits one after the
other, images in the split's order; ids hashed.

.npz      arrays image_id, patient_id and split [n] (strings), features [n d] (float32), targets
          [n k] (float32, NaN: missing), label_names [k]
.parquet  columns image_id, patient_id, split, features (a list of d float32 per row) and
          target/<label> (float32, null: missing)
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int, Shaped

from cxr_jax.data.splits import LabelledSplit
from cxr_jax.io.atomic import atomic_write
from cxr_jax.transfer.knn import normalised

# Van der Maaten and Hinton (2008) bring data down to 30 components before t-SNE; 50 is customary.
_COMPONENTS = 50


class Features(NamedTuple):
    """Row i of every array belongs to one image."""

    image_id: Shaped[np.ndarray, " n"]
    patient_id: Shaped[np.ndarray, " n"]
    split: Shaped[np.ndarray, " n"]
    features: Float[np.ndarray, "n d"]
    targets: Float[np.ndarray, "n k"]
    label_names: tuple[str, ...]


def check_path(path: Path, field: str) -> None:
    """Raises ValueError, naming the config's field, for a file that would be neither format."""
    if path.suffix not in (".npz", ".parquet"):
        raise ValueError(f"{field}={path} must end in .npz or .parquet")


def of_splits(
    splits: Mapping[str, LabelledSplit], extract: Callable[[str], Float[np.ndarray, "n d"]]
) -> Features:
    """Joins all splits, one after the other; extract gives the features of the split it names."""
    sizes = [len(split.rows) for split in splits.values()]
    images, patients = zip(*(split.hashed_ids() for split in splits.values()))
    return Features(
        image_id=np.concatenate(images),
        patient_id=np.concatenate(patients),
        split=np.repeat(list(splits), sizes),
        features=np.concatenate([extract(name) for name in splits]).astype(np.float32),
        targets=np.concatenate([split.targets for split in splits.values()]).astype(np.float32),
        label_names=next(iter(splits.values())).label_names,
    )


def write(path: Path, table: Features) -> None:
    """Writes the file in the format that its name ends with; it is there whole or not at all."""
    check_path(path, "path")
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".npz":
            np.savez(file, **table._asdict())
        else:
            pq.write_table(_columns(table), file)


def _columns(table: Features) -> pa.Table:
    flat = pa.array(table.features.ravel())
    columns = {
        "image_id": table.image_id,
        "patient_id": table.patient_id,
        "split": table.split,
        "features": pa.FixedSizeListArray.from_arrays(flat, table.features.shape[1]),
    }
    for name, target in zip(table.label_names, table.targets.T):
        # from_pandas makes NaN null.
        columns[f"target/{name}"] = pa.array(target, pa.float32(), from_pandas=True)
    return pa.table(columns)


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
