"""Zero-shot: sentences that say a finding, and that deny it, score images without any training.

For encoders with a text tower (docs/text.md). An image's score for a label is the cosine to its
positive prompts less that to its negative ones, times the scale that the towers were trained with:
the log-odds of a softmax over the two (CheXzero, Tiu et al., Nature Biomedical Engineering 2022).
Several prompts are one by the mean of their unit vectors (CLIP, arXiv:2103.00020, section 3.1.4).
Exclusive classes compare their positive prompts with each other.

Fields of config.zero_shot:

prompts  a file of prompts by label: JSON, {"Effusion": {"positive": ["pleural effusion"],
         "negative": ["no pleural effusion"]}}, or a CSV with the columns label, positive and
         negative, a label on as many rows as it has prompts; "": cxr_jax/transfer/prompts.json.
         Labels match whatever their case, spaces and marks. The result's workdir keeps them
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float

from cxr_jax.config import Section, check_fields
from cxr_jax.io.json import read_json
from cxr_jax.io.text import plain, read_bytes
from cxr_jax.stats.auroc import binary_rows
from cxr_jax.transfer._protocol import Protocol, Result, Splits, Tools, against
from cxr_jax.weights.convert import list_first
from cxr_jax.weights.encoder import Encoder, text_encoder

FILE = "prompts.json"  # in the result's workdir
_DEFAULT = Path(__file__).with_name(FILE)
_KINDS = ("positive", "negative")

Prompts = dict[str, dict[str, list[str]]]  # label -> "positive", "negative" -> sentences


def make(config: Section) -> Protocol:
    """Returns the protocol "zero_shot"; of the config it reads `zero_shot`.

    Raises ValueError or FileNotFoundError for a file of prompts that cannot be read.
    """
    check_fields(config["zero_shot"], "config.zero_shot", ("prompts",))
    given = config["zero_shot"]["prompts"]
    path = Path(given).expanduser() if given else _DEFAULT
    prompts = read_prompts(path)

    def run(encoder: Encoder, splits: Splits, tools: Tools) -> Result:
        names, exclusive = splits.test.label_names, splits.test.task.exclusive
        chosen, unused = of_labels(prompts, names, path)
        if not exclusive and (one := [n for n in names if not all(chosen[n].values())]):
            raise ValueError(
                f"{path}: positive and negative prompts are compared, and {', '.join(one)} has "
                "none of one kind"
            )
        tower = text_encoder(encoder)
        for label, by_kind in chosen.items():
            for kind, said in by_kind.items():
                tower.check(said, f"{path}: {label}, {kind} prompt")
        vectors = {
            kind: np.stack([_mean(tower(chosen[n][kind])) for n in names])
            for kind in (_KINDS[:1] if exclusive else _KINDS)
        }
        images, scale = tower.images(tools.extract("test")), tower.text.scale
        scores = zero_shot_scores(images, vectors["positive"], vectors.get("negative"), scale)
        for k, targets in enumerate(splits.test.targets.T):
            try:
                binary_rows(targets, scores[:, k])
            except ValueError as error:
                raise ValueError(f"test targets, label {k}: {error}") from error
        remarks = []
        if given and unused:
            remarks = [f"Prompts of labels that are not scored here: {list_first(unused, 20)}."]
            tools.say(remarks[0])
        counts = {n: {kind: len(said) for kind, said in chosen[n].items()} for n in names}
        told = (f"{n} {c['positive']} and {c['negative']}" for n, c in counts.items())
        return Result(
            scores=scores,
            not_scored={},
            summary=f"prompts, positive and negative: {', '.join(told)}; logit scale {scale:.3g}",
            facts={"prompts": counts, "scale": scale, "width": vectors["positive"].shape[1]},
            score_kind="log-probability" if exclusive else "log-odds",
            remarks=tuple(remarks),
        )

    def method(exclusive: bool) -> tuple[str, ...]:
        what = "the softmax over the classes' positive prompts"
        if not exclusive:
            what = "the softmax over a label's positive and negative prompts"
        return (
            f"Zero-shot: no label was learned from. The score is {what}, each the mean of unit "
            f"vectors, at the towers' own logit scale; {FILE} has all prompts.",
            *against(exclusive),
        )

    held = json.dumps(prompts, indent=1, ensure_ascii=False) + "\n"
    return Protocol(
        *("Zero-shot", method, {"prompts": prompts}, run),
        reads=_read_tower,
        files={FILE: held},
        learns=False,
    )


def zero_shot_scores(
    images: Float[np.ndarray, "n d"],
    positive: Float[np.ndarray, "k d"],
    negative: Float[np.ndarray, "k d"] | None,
    scale: float,
) -> Float[np.ndarray, "n k"]:
    """Returns log-odds of each label, or, without `negative`, log-probabilities of classes.

    All are unit vectors; logits are cosines times `scale`.

    >>> one = np.array([[1.0, 0.0]])
    >>> zero_shot_scores(one, one, np.array([[0.0, 1.0]]), 5.0).tolist()
    [[5.0]]
    """
    images = np.asarray(images, np.float64)
    if negative is not None:
        return scale * images @ (positive - negative).T.astype(np.float64)
    return scipy.special.log_softmax(scale * images @ positive.T.astype(np.float64), axis=1)


def read_prompts(path: Path) -> Prompts:
    """Reads a file of prompts. Raises FileNotFoundError; ValueError, naming file and place."""
    if not path.is_file():
        raise FileNotFoundError(f"config.zero_shot.prompts: there is no file {path}")
    found = _read_csv(path) if path.suffix.lower() == ".csv" else read_json(path)
    for label, by_kind in found.items():
        where = f"{path}: {plain(label)}"
        if not isinstance(by_kind, dict) or not by_kind or set(by_kind) - set(_KINDS):
            raise ValueError(f"{where}: give lists of 'positive' and 'negative' prompts")
        for kind, said in by_kind.items():
            texts = isinstance(said, list) and all(isinstance(s, str) and s.strip() for s in said)
            if not texts or (kind == "positive" and not said):
                raise ValueError(f"{where}: its {kind} prompts are no list of sentences")
    prompts = {name: {kind: by.get(kind, []) for kind in _KINDS} for name, by in found.items()}
    if alike := [one for one in prompts if [_key(n) for n in prompts].count(_key(one)) > 1]:
        raise ValueError(f"{path}: the labels {', '.join(map(plain, alike))} are one to us")
    return prompts


def _read_csv(path: Path) -> Prompts:
    try:
        rows = list(csv.DictReader(io.StringIO(read_bytes(path).decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV in UTF-8: {plain(str(error))}") from error
    columns = ("label", *_KINDS)
    if not rows or set(columns) - set(rows[0]):
        raise ValueError(f"{path} needs the columns {', '.join(columns)}, and a row of each prompt")
    found: Prompts = {}
    for number, row in enumerate(rows, start=2):
        if None in row or not (row["label"] or "").strip():
            raise ValueError(f"{path}, row {number}: no label, or more cells than columns")
        by_kind = found.setdefault(row["label"].strip(), {kind: [] for kind in _KINDS})
        for kind in _KINDS:
            by_kind[kind] += [text] if (text := (row[kind] or "").strip()) else []
    return found


def of_labels(
    prompts: Mapping[str, Any], names: Sequence[str], path: Path
) -> tuple[Prompts, list[str]]:
    """Returns the prompts of these labels, and the labels of the others.

    Raises ValueError, naming them, for labels without prompts, or that only marks tell apart.
    """
    keys = [_key(name) for name in names]
    if alike := [name for name, key in zip(names, keys) if keys.count(key) > 1]:
        raise ValueError(
            f"the dataset's labels {', '.join(alike)} would have the same prompts of {path}: case, "
            "spaces and marks do not tell labels apart. Name one of them in config.task"
        )
    by_key = {_key(label): label for label in prompts}
    missing = [name for name in names if _key(name) not in by_key]
    if missing:
        raise ValueError(
            f"{path} has no prompts for {', '.join(missing)}. Name a file that has "
            "(config.zero_shot.prompts; docs/text.md), or the other labels in config.task"
        )
    chosen = {name: prompts[by_key[_key(name)]] for name in names}
    return chosen, [label for key, label in by_key.items() if key not in keys]


def _key(label: str) -> str:
    return re.sub(r"[\W_]+", "", label.casefold())


def _mean(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
    mean = vectors.mean(axis=0)
    return mean / max(np.linalg.norm(mean), 1e-12)


def _read_tower(encoder: Encoder) -> list[np.ndarray]:
    """Returns what the encoder's text tower is made of. Raises ValueError for none."""
    if encoder.text is None:
        raise ValueError(
            f"config.protocol=zero_shot needs a text tower, and {encoder.name} has none: score "
            "encoders that were trained with reports (docs/text.md), and leave the others out of "
            "config.baselines"
        )
    return encoder.text().reads()
