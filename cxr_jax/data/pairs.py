"""Films with another film of the same patient and study, for MedAug (arXiv:2102.10663).

What `pipeline.batches` and `pipeline.row_batches` give, with a partner for every film: drawn anew
each time the film comes up, the film itself where its study has no other.
"""

from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Int

from cxr_jax.data import images
from cxr_jax.data.source import ChosenRecords, Source
from data_builders.built import read_columns


class Partners:
    """The films of a source by study; a film whose patient or study is unknown has none."""

    def __init__(self, patients: list[str], studies: list[str]):
        keys = list(zip(patients, studies))
        self._of_study: dict[tuple[str, str], list[int]] = {}
        for row, key in enumerate(keys):
            if all(key):
                self._of_study.setdefault(key, []).append(row)
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def others(self, row: int) -> list[int]:
        """The other films of the film's study, by their rows in the source."""
        return [other for other in self._of_study.get(self._keys[row], ()) if other != row]

    def has_other(self) -> Bool[np.ndarray, "n"]:
        """Which films have one."""
        return np.array([bool(self.others(row)) for row in range(len(self._keys))])


def find_partners(source: Source) -> Partners:
    """Read from the dataset's metadata.

    Raises:
      ValueError: no study of the source has two films, so that there would be no pair at all.
    """
    builder = tfds.builder_from_directory(source.folder)
    columns = read_columns(builder, source.split, ("patient_id", "study_id"))
    if isinstance(source.records, ChosenRecords):
        columns = {
            name: [column[i] for i in source.records.rows] for name, column in columns.items()
        }
    found = Partners(columns["patient_id"], columns["study_id"])
    if not found.has_other().any():
        raise ValueError(
            f"no study of {source.name} {source.split!r} has two films (or studies are not "
            "known): there is no other film to pair one with; use config.objective.name='moco'"
        )
    return found


class _Draw(grain.transforms.RandomMap):
    def __init__(self, partners: Partners):
        self._partners = partners

    def random_map(self, row: Any, rng: np.random.Generator) -> dict[str, Int[np.ndarray, ""]]:
        others = self._partners.others(int(row))
        pair = rng.choice(others) if others else row
        return {"row": np.asarray(row, np.int32), "pair": np.asarray(pair, np.int32)}


class _Read(grain.transforms.Map):
    def __init__(self, source: Source, image_size: int):
        self._records, self._image_size = source.records, image_size

    def map(self, rows: dict[str, Any]) -> dict[str, Any]:
        film, pair = (self._decode(rows[name]) for name in ("row", "pair"))
        return {"image": film, "pair": pair, "paired": rows["row"] != rows["pair"]}

    def _decode(self, row: Any) -> np.ndarray:
        return images.decode_square(self._records[int(row)]["image"], self._image_size)


def row_pairs(
    partners: Partners, seed: int, host_index: int = 0, host_count: int = 1
) -> grain.MapDataset:
    """Endless {"row", "pair"}, int32: places in the source, in the order of pipeline.row_batches.

    The partners too are the same whatever the number of hosts.
    """
    rows = np.arange(len(partners), dtype=np.int32)
    dataset = grain.MapDataset.source(rows).seed(seed).shuffle().repeat()
    return dataset.random_map(_Draw(partners))[host_index::host_count]


def film_pairs(
    source: Source,
    partners: Partners,
    image_size: int,
    seed: int,
    host_index: int = 0,
    host_count: int = 1,
) -> grain.MapDataset:
    """Endless {"image", "pair": uint8 [image_size image_size 1], "paired": bool}, read and decoded.

    "paired" says whether the pair is another film.
    """
    rows = row_pairs(partners, seed, host_index, host_count)
    return rows.map(_Read(source, image_size))
