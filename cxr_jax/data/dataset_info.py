"""The JSON of a built dataset, checked: it may be damaged, or a stranger's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from cxr_jax.data.record_files import RESTORE
from cxr_jax.data.schema import make_features
from cxr_jax.io.json import read_json
from cxr_jax.io.text import plain

LABEL_SCALES = ("presence", "certainty", "grade")
# Of features.json: TFDS imports what it names, which may be any module, and TensorFlow for a dtype
# that it does not know.
_CLASS = r"tensorflow_datasets\.core\.features\.\w+\.\w+"
_DEEPEST = 4
_NAME = "[A-Za-z0-9_]{1,99}"
_TEMPLATES = (None, "", "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}")
_OPTIONAL = {"phash"}  # the first datasets that were built have none


def open_built(folder: Path) -> tfds.core.DatasetBuilder:
    """TFDS's builder of a version folder, whose info says what our builders write.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: one is damaged, or of other software; names it.
    """
    metadata = read_metadata(folder)
    read_info(folder / "dataset_info.json")
    if not _is_feature(read_info(folder / "features.json")):
        raise ValueError(f"{folder}/features.json is not what our builders write. {RESTORE}")
    try:
        builder = tfds.builder_from_directory(epath.Path(folder))
        features, splits = builder.info.features, dict(builder.info.splits.items())
        stored = features.get_tensor_info()
    except MemoryError:
        raise
    except Exception as error:  # TFDS and protobuf raise many kinds
        raise ValueError(
            f"{folder}: dataset_info.json or features.json is damaged ({plain(str(error))}). {RESTORE}"
        ) from error
    _check_features(folder / "features.json", stored, metadata["label_names"])
    if not re.fullmatch(_NAME, builder.name):
        raise ValueError(f"{folder}/dataset_info.json says no dataset's name. {RESTORE}")
    for split, info in splits.items():
        known = info.filename_template.template in _TEMPLATES and re.fullmatch(_NAME, split)
        if not known or min(info.shard_lengths, default=0) < 1:
            raise ValueError(
                f"{folder}/dataset_info.json says of {plain(repr(split))} what our builders do not "
                f"write. {RESTORE}"
            )
    return builder


def projection_field(builder: tfds.core.DatasetBuilder) -> str:
    """Returns the name under which examples store the projection: older datasets have `view`."""
    return "projection" if "projection" in builder.info.features else "view"


def read_metadata(folder: Path) -> dict[str, Any]:
    """metadata.json of a version folder; raises as `open_built`."""
    path = folder / "metadata.json"
    metadata = read_info(path)
    names = metadata.get("label_names")
    if not (
        isinstance(names, list)
        and all(isinstance(name, str) and name for name in names)
        and len(set(names)) == len(names)
        and metadata.get("label_scale", "presence") in LABEL_SCALES
        and all(isinstance(metadata.get(field), str) for field in ("parent", "licence"))
        and isinstance(metadata.get("split_rule"), str)
        and isinstance(metadata.get("counts"), dict)
        and isinstance(metadata.get("skipped"), int)
    ):
        raise ValueError(f"{path} is not what our builders write. {RESTORE}")
    return metadata


def read_info(path: Path) -> dict[str, Any]:
    """A small file with a JSON object; raises as `open_built`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the dataset is not whole. {RESTORE}")
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}. {RESTORE}") from error


def _is_feature(node: Any, depth: int = 0) -> bool:
    """Whether TFDS can make a feature of a part of features.json without importing anything."""
    match node:
        case {"featuresDict": {"features": dict(inner)}}:
            known = all(_is_feature(feature, depth + 1) for feature in inner.values())
        case {"sequence": {"feature": inner}}:
            known = _is_feature(inner, depth + 1)
        case {"tensor": {"dtype": "float32"}} | {"image": {"dtype": "uint8"}}:
            known = True
        case {"text": dict()}:
            known = True
        case _:
            return False
    name = node.get("pythonClassName")
    named = isinstance(name, str) and re.fullmatch(_CLASS, name)
    return bool(known and named and len(node) == 2 and depth < _DEEPEST)


def _check_features(path: Path, stored: Any, label_names: list[str]) -> None:
    """Refuses features other than those that schema.make_features gives."""
    if not isinstance(stored, dict):
        raise ValueError(f"{path} is not what our builders write. {RESTORE}")
    has = [name in stored for name in ("readers", "boxes", "report")]
    expected = make_features(label_names, *has, "png").get_tensor_info()
    if "projection" not in stored:  # its name in older datasets
        expected["view"] = expected.pop("projection")
    for name in expected.keys() | stored.keys():
        if name in _OPTIONAL and name not in stored:
            continue
        if name not in stored or name not in expected or not _alike(stored[name], expected[name]):
            raise ValueError(
                f"{path}: {plain(name)} is not as our builders write it, or as metadata.json says. {RESTORE}"
            )


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, dict) or isinstance(b, dict):
        return False
    return a.shape == b.shape and np.dtype(a.np_dtype) == np.dtype(b.np_dtype)
