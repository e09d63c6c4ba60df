"""Builds a fake with the real builder and reads it back, as users do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_builders import build


def build_and_read(name: str, data_dir: Path, **settings: Any) -> tuple[Path, dict[str, list]]:
    """Returns the version folder and split -> examples, read through TFDS's own reader."""
    settings = {"num_workers": 0, "progress": False, "max_skipped": 1.0, **settings}
    folder = build.build(name, data_dir, **settings)
    return folder, read(folder)


def read(folder: Path) -> dict[str, list]:
    """Split -> decoded examples, text as str."""
    sources = tfds.builder_from_directory(folder).as_data_source()
    return {split: [_text(example) for example in source] for split, source in sources.items()}


def by_image(splits: Mapping[str, list]) -> dict[str, dict[str, Any]]:
    """image_id -> example with its split."""
    return {
        example["image_id"]: {**example, "split": split}
        for split, examples in splits.items()
        for example in examples
    }


def _text(example: dict[str, Any]) -> dict[str, Any]:
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in example.items()}
