"""Built datasets: where they stand (data_dir/name/config/version) and their examples."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from cxr_jax.data.record_files import RESTORE, RecordFiles
from cxr_jax.io.text import did_you_mean

_BLOCK = 1024  # examples read at a time
_VERSION = r"\d+\.\d+\.\d+"
BUILDER_FILE = "_dataset_builder.py"  # of data_builders/<name>/<name>_dataset_builder.py


class Records:
    """Examples by position, parsed as far as `features` names them; images stay encoded bytes.

    An example that is not as the features say raises ValueError with its file and number.
    """

    def __init__(self, raw: RecordFiles, features: tfds.features.FeaturesDict):
        self._raw, self._features = raw, features
        self._decoders = {"image": tfds.decode.SkipDecoding()} if "image" in features else None

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, index: int) -> dict[str, Any]:
        serialized = self._raw[index]
        try:
            return self._features.deserialize_example_np(serialized, decoders=self._decoders)
        except MemoryError:
            raise
        except Exception as error:  # TFDS and protobuf raise many kinds
            raise _no_example(self._raw, index) from error

    @property
    def first_rows(self) -> list[int]:
        """The rows with which record files begin."""
        return self._raw.first_rows

    def place(self, row: int) -> str:
        """Where a row stands: its file and its number there."""
        return self._raw.place(row)

    def hashes(self, rows: Sequence[int]) -> list[int | None]:
        """The images' perceptual hashes; None in datasets of before they were kept."""
        found = []
        for row, serialized in zip(rows, self._raw.__getitems__(rows), strict=True):
            values = _values(_fields(self._raw, row, serialized)["phash"], "bytes_list")
            if values is None or not all(re.fullmatch("[0-9a-f]{16}", value) for value in values):
                raise _no_example(self._raw, row)
            found.append(int(values[0], 16) if values else None)
        return found

    def encoded(self, rows: Iterable[SupportsIndex]) -> list[bytes]:
        """The images' stored bytes alone, which TFDS would take three times as long to give."""
        wanted = [int(row) for row in rows]
        images = []
        for row, serialized in zip(wanted, self._raw.__getitems__(wanted), strict=True):
            found = _fields(self._raw, row, serialized)["image"].bytes_list.value
            if len(found) != 1:
                raise _no_example(self._raw, row)
            images.append(found[0])
        return images


def open_records(
    builder: tfds.core.DatasetBuilder, split: str, fields: Sequence[str] | None = None
) -> Records:
    """The examples of a split; `fields` limits what is parsed of each (all if None)."""
    stored = builder.info.features
    chosen = tfds.features.FeaturesDict({key: stored[key] for key in fields or stored.keys()})
    return Records(_files(builder, split), chosen)


def read_columns(
    builder: tfds.core.DatasetBuilder, split: str, names: Sequence[str]
) -> dict[str, list[Any]]:
    """Fields of every example of a split: name -> one value an example, in their order.

    TFDS makes an array of every field of every example; here the wanted ones alone are looked at,
    which reads the labels of 100,000 images in seconds.

    Args:
      names: of text and numbers, also within a dict ("labels/Edema") or a sequence of dicts
        ("boxes/label"); sequences come as lists.

    Raises:
      FileNotFoundError, ValueError: a record file is missing or damaged; names it.
    """
    raw = _files(builder, split)
    stored = builder.info.features
    sequences = {name: _is_sequence(stored, name) for name in names}
    kinds = {name: _kind(stored, name) for name in names}
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for start in range(0, len(raw), _BLOCK):
        rows = range(start, min(start + _BLOCK, len(raw)))
        for row, serialized in zip(rows, raw.__getitems__(rows), strict=True):
            fields = _fields(raw, row, serialized)
            for name, column in columns.items():
                values = _values(fields[name], kinds[name])
                if values is None or not (sequences[name] or len(values) == 1):
                    raise _no_example(raw, row)
                column.append(values if sequences[name] else values[0])
    return columns


def _files(builder: tfds.core.DatasetBuilder, split: str) -> RecordFiles:
    return RecordFiles(builder.info.splits[split].file_instructions, Path(builder.data_dir))


def _fields(raw: RecordFiles, row: int, serialized: bytes) -> Any:
    try:
        return tf_example_pb2.Example.FromString(serialized).features.feature
    except DecodeError as error:
        raise _no_example(raw, row) from error


def _no_example(raw: RecordFiles, row: int) -> ValueError:
    return ValueError(f"{raw.place(row)} is no example as features.json says. {RESTORE}")


def _is_sequence(features: tfds.features.FeaturesDict, name: str) -> bool:
    # A label's own name may hold a slash ("labels/Nodule/Mass").
    outer, _, inner = name.partition("/")
    if isinstance(features[outer], tfds.features.Sequence):
        return True
    return bool(inner) and isinstance(features[outer][inner], tfds.features.Sequence)


def _kind(features: tfds.features.FeaturesDict, name: str) -> str:
    outer, _, inner = name.partition("/")
    info = features.get_tensor_info()[outer]
    text = np.dtype((info[inner] if inner else info).np_dtype).kind not in "fiu"
    return "bytes_list" if text else "float_list"


def _values(feature: Any, kind: str) -> list[Any] | None:
    """The values; [] where there are none, None where they are of another kind."""
    found = feature.WhichOneof("kind")
    if found not in (kind, None):
        return None
    if kind == "float_list":
        return list(feature.float_list.value)
    try:
        return [value.decode() for value in feature.bytes_list.value]
    except UnicodeDecodeError:
        return None


def find_folder(name: str, data_dir: str) -> Path:
    """Finds the version folder of dataset `name` ("nih_chestxray14" or "nih_chestxray14/512").

    Raises:
      FileNotFoundError: not built; the message gives the command.
      ValueError: several resolutions are built and `name` does not choose one.
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
    sizes = [name for name in configs if re.fullmatch(r"\d+|full", name)]
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
    message = f"dataset {name!r} is not built under {root} (there: {', '.join(there) or 'nothing'})"
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
