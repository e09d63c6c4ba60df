"""Built datasets: their folders (data_dir/name/config/version), their JSON and their features.

The JSON is checked before use: it may be damaged, or a stranger's.
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from cxr_jax.io.json import read_json
from cxr_jax.io.text import did_you_mean, plain

# What to do about a built dataset that is damaged; ends many messages.
RESTORE = "Restore the dataset's folder, or build it again (--overwrite)."
BUILDER_FILE = "_dataset_builder.py"  # of data_builders/<name>/<name>_dataset_builder.py
# Of a dataset or a pretraining's workdir; the second is its name in older ones.
SEEN_IMAGES = ("seen_images.parquet", "exposure.parquet")
LABEL_SCALES = ("presence", "certainty", "grade")
# Of features.json: TFDS imports what it names, which may be any module, and TensorFlow for a dtype
# that it does not know.
_CLASS = r"tensorflow_datasets\.core\.features\.\w+\.\w+"
_DEEPEST = 4
_NAME = "[A-Za-z0-9_]{1,99}"
_VERSION = r"\d+\.\d+\.\d+"
_TEMPLATES = (None, "", "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}")


def find_folder(name: str, data_dir: str) -> Path:
    """Finds the version folder of dataset `name` ("nih_chestxray14" or "nih_chestxray14/512").

    Raises FileNotFoundError, with the command, if it is not built; ValueError if several
    resolutions are and `name` does not choose one, or it is no name.
    """
    if not re.fullmatch(r"\w+(/[\w.-]+)?", name):
        raise ValueError(
            f"{name!r} is not a dataset's name, such as nih_chestxray14 or nih_chestxray14/512; "
            "the folder that holds it goes into config.data.dir"
        )
    root = Path(data_dir).expanduser()
    dataset, _, config = name.partition("/")
    built = _built(root, dataset, config)
    if not built:
        raise FileNotFoundError(_not_built(name, root))
    configs = sorted({folder.parent.name for folder in built})
    sizes = [form for form in configs if re.fullmatch(r"\d+|full", form)]
    if len(sizes) == 1:  # beside folders that older versions put there by name
        configs = sizes
        built = [folder for folder in built if folder.parent.name == sizes[0]]
    if len(configs) > 1:
        choices = ", ".join(f"{dataset}/{c}" for c in configs)
        raise ValueError(f"dataset {dataset!r} is built in several forms; choose one of: {choices}")
    return max(built, key=lambda folder: [int(part) for part in folder.name.split(".")])


def _not_built(name: str, root: Path) -> str:
    """Says that a dataset is not there, what is, and how to get it."""
    dataset, _, config = name.partition("/")
    known = dataset_names()
    there = sorted({folder.parts[-3] for folder in _built(root, "*", "")})
    found = f"there: {', '.join(there) or 'nothing'}" if root.is_dir() else "no such folder"
    message = f"dataset {name!r} is not built under {root} ({found})"
    build = "python -m data_builders.build"
    if older := _built(root, "*", dataset):  # where older versions put folders with a name
        return f"{message}; did you mean '{older[0].parts[-3]}/{dataset}'?"
    if dataset not in known:
        return (
            f"{message}, and has no builder.{did_you_mean(dataset, {*there, *known})} There are "
            f"builders for {', '.join(known)}. A folder of your own:\n"
            f"  {build} image_folder --name={dataset} --manual_dir=<your images> --data_dir={root}"
        )
    files = "" if dataset == "phantom" else " --manual_dir=<its files>"
    size = f" --resolution={config}" if config else ""
    return (
        f"{message}. Build it:\n  {build} {dataset}{files} --data_dir={root}{size}\n"
        "or point config.data.dir at the folder that holds it."
    )


def dataset_names() -> list[str]:
    """Lists the datasets that can be built: the folders of data_builders, which is not imported."""
    spec = importlib.util.find_spec("data_builders")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    return sorted(path.parent.name for root in folders for path in root.glob(f"*/*{BUILDER_FILE}"))


def _built(root: Path, dataset: str, config: str) -> list[Path]:
    infos = root.glob(f"{dataset}/{config or '*'}/*/dataset_info.json")
    return [info.parent for info in infos if re.fullmatch(_VERSION, info.parent.name)]


def open_built(folder: Path) -> tfds.core.DatasetBuilder:
    """Opens a version folder, checks its JSON and returns TFDS's builder of it.

    Raises FileNotFoundError for a missing file, ValueError for one that is damaged or of other
    software; names it.
    """
    metadata = read_metadata(folder)
    _read_info(folder / "dataset_info.json")
    tree = _read_info(folder / "features.json")
    if "featuresDict" not in tree or not _is_feature(tree):
        raise ValueError(f"{folder}/features.json is not what our builders write. {RESTORE}")
    try:
        builder = tfds.builder_from_directory(epath.Path(folder))
        features, splits = builder.info.features, dict(builder.info.splits.items())
        stored = features.get_tensor_info()
    except MemoryError:
        raise
    except Exception as error:  # TFDS and protobuf raise many kinds
        raise ValueError(
            f"{folder}: dataset_info.json or features.json is damaged ({plain(str(error))}). "
            f"{RESTORE}"
        ) from error
    _check_features(folder / "features.json", stored, metadata["label_names"])
    if not re.fullmatch(_NAME, builder.name):
        raise ValueError(f"{folder}/dataset_info.json has no dataset's name. {RESTORE}")
    for split, info in splits.items():
        known = info.filename_template.template in _TEMPLATES and re.fullmatch(_NAME, split)
        if not known or min(info.shard_lengths, default=0) < 1:
            raise ValueError(
                f"{folder}/dataset_info.json describes split {plain(repr(split))} in a way that "
                f"our builders do not. {RESTORE}"
            )
    return builder


def read_metadata(folder: Path) -> dict[str, Any]:
    """Reads and checks metadata.json of a version folder; raises as `open_built`."""
    path = folder / "metadata.json"
    metadata = _read_info(path)
    names = metadata.get("label_names")
    if not (
        isinstance(names, list)
        and all(isinstance(name, str) and name for name in names)
        and len(set(names)) == len(names)
        and metadata.get("label_scale", "presence") in LABEL_SCALES
        and all(isinstance(metadata.get(field), str) for field in ("parent", "licence"))
        and isinstance(metadata.get("split_rule"), str)
        and all(isinstance(metadata.get(field, ""), str) for field in ("patient", "patient_note"))
        and isinstance(metadata.get("counts"), dict)
        and isinstance(metadata.get("skipped"), int)
    ):
        raise ValueError(f"{path} is not what our builders write. {RESTORE}")
    return metadata


def patient_note(metadata: Mapping[str, Any]) -> str:
    """Returns what a build says of images whose person is not known; "" where all are known."""
    if "patient_note" not in metadata and all(
        of["patients"] == of["images"] for of in metadata["counts"].values()
    ):  # built by an older version
        return (
            "each image counts as a patient of its own: if these are not persons, one person's "
            "images may be in train and in test, and scores too good. Build it again to know."
        )
    return metadata.get("patient_note", "")


def _read_info(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the dataset is not whole. {RESTORE}")
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}. {RESTORE}") from error


def _is_feature(node: Any, depth: int = 0) -> bool:
    """Returns whether TFDS makes this part of features.json without importing anything."""
    match node:
        case {"featuresDict": {"features": dict(inner)}}:
            known = all(_is_feature(feature, depth + 1) for feature in inner.values())
        case {"sequence": {"feature": inner}}:
            known = _is_feature(inner, depth + 1)
        case {"tensor": {"dtype": "float32"}} | {"image": {"dtype": "uint8"}} | {"text": dict()}:
            known = True
        case _:
            return False
    name = node.get("pythonClassName")
    named = isinstance(name, str) and re.fullmatch(_CLASS, name)
    return bool(known and named and len(node) == 2 and depth < _DEEPEST)


def find_seen_images(folder: Path) -> Path | None:
    """Finds seen_images.parquet in a folder, also by its older name; None if there is none."""
    return next((folder / name for name in SEEN_IMAGES if (folder / name).is_file()), None)


def make_features(
    label_names: Sequence[str],
    readers: bool,
    boxes: bool,
    masks: bool,
    reports: bool,
    encoding: str,
) -> tfds.features.FeaturesDict:
    """Returns the example that every dataset stores, as TFDS features.

    readers: each label holds one value a reader. encoding: of images, "jpeg" or "png".
    """
    text, number = tfds.features.Text(), tfds.features.Scalar(np.float32)
    features: dict[str, Any] = {
        "image": tfds.features.Image(
            shape=(None, None, 1), dtype=np.uint8, encoding_format=encoding
        ),
        "image_id": text,
        "patient_id": text,
        "study_id": text,
        "projection": text,
        "sex": text,
        "age": number,
        "phash": text,
    }
    if label_names:
        value = tfds.features.Sequence(number) if readers else number
        features["labels"] = tfds.features.FeaturesDict(dict.fromkeys(label_names, value))
    if readers:
        features["readers"] = tfds.features.Sequence(text)
    if boxes:
        corners = dict.fromkeys(("y0", "x0", "y1", "x1"), number)
        features["boxes"] = tfds.features.Sequence({"label": text, **corners})
    if masks:  # PNG of the image's size
        features["masks"] = tfds.features.Sequence({"label": text, "mask": text})
    if reports:
        features["report"] = text
    return tfds.features.FeaturesDict(features)


def _check_features(path: Path, stored: Any, label_names: list[str]) -> None:
    """Refuses features other than those of `make_features`; names `path` and the feature."""
    has = [name in stored for name in ("readers", "boxes", "masks", "report")]
    expected = make_features(label_names, *has, "png").get_tensor_info()
    if "projection" not in stored:  # its name in older datasets
        expected["view"] = expected.pop("projection")
    if "phash" not in stored:  # the first datasets have none
        del expected["phash"]
    found, wanted = _leaves(stored), _leaves(expected)
    for name in found.keys() | wanted.keys():
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{path}: {plain(name)} is not as our builders write it, or as metadata.json says. "
                f"{RESTORE}"
            )


def _leaves(info: Any, name: str = "") -> dict[str, Any]:
    """Returns "labels/Mass" -> shape and type, of every tensor within."""
    if not isinstance(info, dict):
        return {name: (info.shape, np.dtype(info.np_dtype))}
    inner = (_leaves(of, f"{name}/{key}".lstrip("/")) for key, of in info.items())
    return {name: leaf for leaves in inner for name, leaf in leaves.items()}
