"""Built datasets: where they stand (data_dir/name/config/version) and their examples."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from data_builders.near_words import did_you_mean
from data_builders.records import AlreadyBuilt

_BLOCK = 1024  # examples read at a time


class Records:
    """Examples by position, parsed as far as `features` names them; images stay encoded bytes.

    `raw` gives serialised examples by position, as TFDS's ArrayRecord source does.
    """

    def __init__(self, raw: Any, features: tfds.features.FeaturesDict):
        self._raw, self._features = raw, features
        self._decoders = {"image": tfds.decode.SkipDecoding()} if "image" in features else None

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._features.deserialize_example_np(self._raw[index], decoders=self._decoders)

    def encoded(self, rows: Iterable[SupportsIndex]) -> list[bytes]:
        """The images' stored bytes alone, which TFDS would take three times as long to give."""
        read = self._raw.__getitems__([int(row) for row in rows])
        examples = map(tf_example_pb2.Example.FromString, read)
        return [example.features.feature["image"].bytes_list.value[0] for example in examples]


def open_records(
    builder: tfds.core.DatasetBuilder, split: str, fields: Sequence[str] | None = None
) -> Records:
    """The examples of a split; `fields` limits what is parsed of each (all if None)."""
    stored = builder.info.features
    chosen = tfds.features.FeaturesDict({key: stored[key] for key in fields or stored.keys()})
    return Records(builder.as_data_source(split=split).data_source, chosen)


def read_columns(
    builder: tfds.core.DatasetBuilder, split: str, names: Sequence[str]
) -> dict[str, list[Any]]:
    """Fields of every example of a split: name -> one value an example, in their order.

    TFDS makes an array of every field of every example; here the wanted ones alone are looked at,
    which reads the labels of 100,000 films in seconds.

    Args:
      names: of text and numbers, also within a dict ("labels/Edema") or a sequence of dicts
        ("boxes/label"); sequences come as lists.
    """
    raw = builder.as_data_source(split=split).data_source
    sequences = {name: _is_sequence(builder.info.features, name) for name in names}
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for start in range(0, len(raw), _BLOCK):
        for serialized in raw.__getitems__(range(start, min(start + _BLOCK, len(raw)))):
            fields = tf_example_pb2.Example.FromString(serialized).features.feature
            for name, column in columns.items():
                values = _values(fields[name])
                column.append(values if sequences[name] else values[0])
    return columns


def _is_sequence(features: tfds.features.FeaturesDict, name: str) -> bool:
    # A label's own name may hold a slash ("labels/Nodule/Mass").
    outer, _, inner = name.partition("/")
    if isinstance(features[outer], tfds.features.Sequence):
        return True
    return bool(inner) and isinstance(features[outer][inner], tfds.features.Sequence)


def _values(feature: Any) -> list[Any]:
    kind = feature.WhichOneof("kind")
    if kind == "bytes_list":
        return [value.decode() for value in feature.bytes_list.value]
    return list(getattr(feature, kind).value) if kind else []


def find_folder(name: str, data_dir: str) -> Path:
    """The version folder of dataset `name` ("nih_chestxray14" or "nih_chestxray14/512").

    Datasets that need no download (the phantom) are drawn on first use.

    Raises:
      FileNotFoundError: not built; the message gives the command.
      ValueError: several configs are built and `name` does not choose one.
    """
    if not re.fullmatch(r"\w+(/[\w.-]+)?", name):
        raise ValueError(
            f"{name!r} is not a dataset's name, such as nih_chestxray14 or nih_chestxray14/512; "
            "the folder that holds it goes into config.data.dir"
        )
    root = Path(data_dir).expanduser()
    dataset, _, config = name.partition("/")
    built = _built(root, dataset, config)
    if not built and dataset == "phantom":
        from data_builders.build import build

        with contextlib.suppress(AlreadyBuilt):  # by another process meanwhile
            build("phantom", data_dir=str(root), config_name=config or None)
        built = _built(root, dataset, config)
    if not built:
        from data_builders.build import builder_names

        others = sorted({folder.parts[-3] for folder in _built(root, "*", "")})
        where = f"{root.resolve()} (there: {', '.join(others) or 'nothing'})"
        if dataset not in builder_names():
            hint = did_you_mean(dataset, {*others, *builder_names()})
            raise FileNotFoundError(
                f"dataset {name!r} is not built under {where}, and has no builder.{hint} There "
                f"are builders for {', '.join(builder_names())}."
            )
        size = f" --resolution={config}" if config else ""
        raise FileNotFoundError(
            f"dataset {name!r} is not built under {where}. Build it:\n"
            f"  python -m data_builders.build {dataset} --manual_dir=<its files> "
            f"--data_dir={root}{size}\n"
            "or point config.data.dir at the folder that holds it."
        )
    configs = sorted({folder.parent.name for folder in built})
    if len(configs) > 1:
        choices = ", ".join(f"{dataset}/{c}" for c in configs)
        raise ValueError(f"dataset {dataset!r} is built in several forms; choose one of: {choices}")
    return max(built, key=lambda folder: [int(part) for part in folder.name.split(".")])


def _built(root: Path, dataset: str, config: str) -> list[Path]:
    infos = root.glob(f"{dataset}/{config or '*'}/*.*.*/dataset_info.json")
    return [info.parent for info in infos if "incomplete" not in info.parent.name]
