"""Films with another film of the same patient and study, for MedAug (arXiv:2102.10663)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int

from cxr_jax.data import order
from cxr_jax.data.source import Source
from data_builders.built import read_columns


class Partners(NamedTuple):
    """The films of a source by study: those of film i's are the `size[i]` from `first[i]` on.

    Film i itself is number `place[i]` of them. Of a film whose patient or study is unknown it is
    the only one.
    """

    films: Int[np.ndarray, " n"]
    first: Int[np.ndarray, " n"]
    place: Int[np.ndarray, " n"]
    size: Int[np.ndarray, " n"]

    def draw(self, seed: int, start: int, stop: int) -> Int[np.ndarray, " b"]:
        """Partners of the films at the positions [start, stop) of order.rows.

        Each is drawn for its position from the other films of the study; a film without others is
        its own partner.
        """
        count = len(self.films)
        rows = order.rows(count, seed, start, stop)
        size = self.size[rows]
        # Round the study: from the next film to the one before.
        ahead = 1 + (order.numbers(count, seed, start, stop) * (size - 1)).astype(np.int32)
        return self.films[self.first[rows] + (self.place[rows] + ahead) % size]


def find_partners(source: Source) -> Partners:
    """Read from the dataset's examples, which all pass by for it.

    Raises:
      ValueError: no study of the source has two films, so that there would be no pair at all.
    """
    builder = tfds.builder_from_directory(source.folder)
    columns = read_columns(builder, source.split, ("patient_id", "study_id"))
    found = by_study(*([column[row] for row in source.rows] for column in columns.values()))
    if (found.size == 1).all():
        raise ValueError(
            f"no study of {source.name} {source.split!r} has two films (or studies are not "
            "known): there is no other film to pair one with; use config.objective.name='moco' "
            "without config.data.pairs"
        )
    return found


def by_study(patients: Sequence[str], studies: Sequence[str]) -> Partners:
    """Of the films' patients and studies, film by film; "" where unknown."""
    keys = [
        (patient, study) if patient and study else row
        for row, (patient, study) in enumerate(zip(patients, studies, strict=True))
    ]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    study = np.array([numbers[key] for key in keys], np.int32)
    films = np.argsort(study, kind="stable").astype(np.int32)
    sizes = np.bincount(study).astype(np.int32)
    first = (np.cumsum(sizes, dtype=np.int32) - sizes)[study]
    place = np.empty_like(films)
    place[films] = np.arange(len(films), dtype=np.int32)
    return Partners(films, first, place - first, sizes[study])
