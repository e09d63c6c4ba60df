"""A benchmark's workdir as the experiment leaves it, with invented predictions."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cxr_jax.transfer import image_table
from cxr_jax.transfer.image_table import ImageTable
from cxr_jax.transfer.predictions import Predictions, write_parquet

ERROR = "ValueError: image 'secret-image-7' has no row for label 'Mass'\nsecond line"


def predictions(
    signal: float, seed: int, dataset: str, labels: Sequence[str] = ("Mass", "Nodule"), n: int = 80
) -> Predictions:
    """Two images a patient; targets depend on the dataset alone, scores on all."""
    rng = np.random.default_rng(zlib.crc32(dataset.encode()))
    targets = (rng.random((n, len(labels))) < 0.4).astype(np.float32)
    noise = np.random.default_rng(seed).normal(size=targets.shape)
    return Predictions(
        np.array([f"secret-image-{i}" for i in range(n)]),
        np.array([f"secret-person-{i // 2}" for i in range(n)]),
        tuple(labels),
        targets,
        signal * targets + noise,
    )


def grid(
    workdir: Path,
    signals: Mapping[str, float],
    datasets: Sequence[str] = ("pediatric_pneumonia", "phantom"),
    protocols: Sequence[str] = ("linear",),
    fractions: Sequence[float] = (0.1, 1.0),
    seeds: Sequence[int] = (0, 1),
    n: int = 80,
    score_kind: str = "",
) -> list[dict]:
    """Writes predictions of every cell; scores grow better with the fraction. Returns the cells."""
    cells = []
    for dataset in datasets:
        for protocol in protocols:
            for fraction in fractions:
                for seed in seeds:
                    for place, (encoder, signal) in enumerate(signals.items()):
                        folder = f"cells/{dataset}/{protocol}/{fraction:g}/{seed}/{encoder}"
                        (workdir / folder).mkdir(parents=True)
                        strength = signal * (1 + np.log10(fraction) / 4)
                        noise = 1000 * place + 10 * seed + round(7 * fraction)
                        given = predictions(strength, noise, dataset, n=n)
                        given = given._replace(score_kind=score_kind)
                        write_parquet(given, workdir / folder / "predictions.parquet")
                        cells.append(
                            dict(encoder=encoder, dataset=dataset, task="", protocol=protocol)
                            | dict(fraction=fraction, seed=seed, folder=folder, state="done")
                            | dict(num_images=round(1000 * fraction) + seed, error="")
                            | dict(seen=dict(patients=4, images=2, test_images=n))
                        )
    return cells


def draw_images(n: int = 80) -> ImageTable:
    """Of the images of `predictions`, in another order; an age and a projection are unknown."""
    rng = np.random.default_rng(7)
    table = ImageTable(
        np.array([f"secret-image-{i}" for i in range(n)]),
        np.where(np.arange(n) % 4 < 2, "F", "M"),
        np.where(np.arange(n) == 5, np.nan, 20.0 + np.arange(n) % 50).astype(np.float32),
        np.where(np.arange(n) == 6, "", np.where(np.arange(n) % 3 == 0, "AP", "PA")),
    )
    return image_table.in_order(table, rng.permutation(table.image_id))


def write_images(
    workdir: Path, cells: Sequence[dict], seen: Mapping[str, Sequence[int]], n: int = 80
) -> None:
    """films.parquet of every cell: `seen` has the images, by number, that an encoder had seen.

    Of encoders that are not in it nothing is known.
    """
    for cell in cells:
        table = draw_images(n)
        if cell["encoder"] in seen:
            names = [f"secret-image-{i}" for i in seen[cell["encoder"]]]
            flags = np.isin(table.image_id, names)
            table = table._replace(seen_film=flags, seen_patient=np.zeros(n, bool))
        image_table.write_parquet(table, workdir / cell["folder"] / "films.parquet")


def write_cells(workdir: Path, cells: Sequence[dict], reference: str = "imagenet") -> None:
    (workdir / "cells.json").write_text(
        json.dumps({"reference": reference, "cells": list(cells)}, indent=1)
    )
