"""A built dataset with one file damaged, exchanged, emptied or gone, read as runs read it."""

import functools
import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.faults import mutations, stored
from tests.faults.mutations import Broken

_SPLITS = ("train", "validation", "test")
_FILES = ("dataset_info.json", "features.json", "metadata.json", "seen_images.parquet")
_DISK_BLOCK = 512


class Sound(NamedTuple):
    """A small dataset as it was built.

    Attributes:
      folder: its version folder.
      files: name -> content.
      images: split -> what `_images` read of it.
    """

    folder: Path
    files: dict[str, bytes]
    images: dict[str, Any]


def read_dataset(folder: Path, data: bytes, index: int) -> str:
    """Reads a split of a dataset with one file damaged; `data` seeds the damage.

    What is read must be what was built, image for image, unless a record file was written anew.
    """
    sound = _sound(folder)
    rng = random.Random(data)
    split = rng.choice(_SPLITS)
    shards = [name for name in sound.files if f"-{split}." in name]
    # Of all files of the other splits only those are read that all splits share.
    name = rng.choice((*_FILES, rng.choice(shards), rng.choice(shards)))
    content, anew = _damaged(rng, name, sound.files)
    path = sound.folder / name
    try:
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        images = _images(sound.folder.parents[2], split)
    finally:
        path.write_bytes(sound.files[name])
    if not anew:
        _compare(images, sound.images[split])
    return "read"


def _damaged(rng: random.Random, name: str, files: dict[str, bytes]) -> tuple[bytes | None, bool]:
    """Returns a file's new content (None: gone), and whether a program may have written it."""
    content = files[name]
    others = [files[other] for other in files if Path(other).suffix[:6] == Path(name).suffix[:6]]
    match rng.randrange(20):
        case 0:
            return None, False
        case 1:
            return b"", False
        case 2:
            return rng.choice(others), False
        case 3:  # what a disk lost
            at = rng.randrange(len(content)) // _DISK_BLOCK * _DISK_BLOCK
            length = _DISK_BLOCK * rng.choice((1, 8, 128))
            return content[:at] + bytes(len(content[at : at + length])) + content[
                at + length :
            ], False
        case 4:
            return content[: rng.randrange(len(content))], False
        case 5 | 6 | 7 | 8:
            return mutations.mutated(rng, content, others), False
        case 9 | 10 | 11 if name.endswith(".json"):
            return mutations.mutated_text(rng, content, others), False
        case _ if name.endswith(".json"):
            return stored.json_tree(rng, content, others), False
        case _ if name.endswith(".parquet"):
            return stored.parquet(rng, content, others), True
    return stored.array_record(rng, content, others), True


@functools.lru_cache(maxsize=1)
def _sound(folder: Path) -> Sound:
    """Eight images of 32 pixels with labels, boxes and reports, in several record files a split."""
    from data_builders.base import builder as cxr_builder
    from data_builders.base import write as shards
    from data_builders.phantom import phantom_dataset_builder as phantom

    config = phantom.PhantomConfig(
        name="few",
        resolution=32,
        patients=(("train", 3), ("validation", 2), ("test", 2)),
        images_per_patient=2,
    )
    builder = phantom.Builder(data_dir=folder / "built", config=config)
    builder.settings = cxr_builder.BuildSettings(num_workers=0, progress=False)
    usual, shards.SHARD_BYTES = shards.SHARD_BYTES, 1500  # two images a file
    try:
        builder.download_and_prepare(file_format="array_record")
    finally:
        shards.SHARD_BYTES = usual
    # Not as "phantom", which would be drawn again where it is missing.
    version = folder / "data" / "images" / "few" / "1.2.0"
    shutil.copytree(builder.data_path, version)
    shutil.rmtree(folder / "built")
    files = {path.name: path.read_bytes() for path in version.iterdir()}
    images = {split: _images(folder / "data", split) for split in _SPLITS}
    return Sound(
        version, {n: c for n, c in files.items() if "png" not in n and "csv" not in n}, images
    )


def _images(data_dir: Path, split: str) -> dict[str, Any]:
    """Returns all that runs read of a split, by image."""
    from cxr_jax.data import dataset_info, images, reader, seen_images
    from cxr_jax.data.source import load_source
    from cxr_jax.data.splits import load_boxes, load_split

    source = load_source("images", str(data_dir), split)
    records = [source.records[row] for row in range(len(source))]
    encoded = source.encoded(range(len(source)))
    columns = reader.read_columns(
        dataset_info.open_built(source.folder),
        split,
        ("image_id", *(f"labels/{name}" for name in source.label_names)),
    )
    reports = None  # without them a run on reports is refused
    if "report" in source.fields:
        builder = dataset_info.open_built(source.folder)
        reports = reader.read_columns(builder, split, ("report",))["report"]
    labelled = load_split("images", str(data_dir), split)
    try:
        boxes = load_boxes("images", str(data_dir), split)
        corners, places = np.round(boxes.boxes, 5).tolist(), boxes.images.tolist()
    except ValueError as error:
        if "no image of" not in str(error):
            raise
        corners = places = []
    for record, image in zip(records, encoded, strict=True):
        if record["image"] != image:
            raise Broken("two ways of reading give two images")
        images.decode_square(image, 16)
    seen = seen_images.list_images(source)
    return {
        "images": encoded,
        "ids": [record["image_id"].decode() for record in records],
        "read ids": columns.pop("image_id"),
        "labelled ids": list(labelled.image_ids),
        "columns": columns,
        "reports": reports,
        "targets": dict(zip(labelled.label_names, labelled.targets.T.tolist())),
        "boxes": sorted(zip(places, corners, boxes.labels if places else [])),
        "seen": [column.tolist() for column in seen],
    }


def _compare(images: dict[str, Any], sound: dict[str, Any]) -> None:
    for what, value in images.items():
        if value is not None and repr(value) != repr(sound[what]):
            raise Broken(f"{what}: {value!r:.300}, not {sound[what]!r:.300}")
