"""Features of labelled images in a file, for other software: NumPy's .npz or Parquet.

One row per image, splits one after the other, images in the split's order; ids hashed.

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
from jaxtyping import Float, Shaped

from cxr_jax.data.splits import LabelledSplit
from cxr_jax.io.atomic import atomic_write


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
    """All splits, one after the other; extract gives the features of the split of that name."""
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
