"""Counts what a dataset holds, compares it with the owner's counts, and says it in words."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr_jax.data import tasks
from cxr_jax.io import COMMAND
from data_builders.base.records import CONTACT_SHEET, SPLITS, Record

# From this value on a label counts as positive; grades are counted one by one.
POSITIVE_FROM = {"presence": 1.0, "certainty": 3.0}

_SHOWN = 4  # of the owner's counts, in words


def is_positive(value: float | tuple[float, ...], scale: str) -> bool:
    """Returns whether a raw value counts as positive, for more than half of the readers asked."""
    threshold = POSITIVE_FROM[scale]
    if isinstance(value, tuple):
        asked = [vote for vote in value if not np.isnan(vote)]
        return 2 * sum(vote >= threshold for vote in asked) > len(asked)
    return value >= threshold


def of_records(records: Iterable[Record], label_names: Iterable[str], scale: str) -> dict[str, Any]:
    """Returns {"images", "patients", "studies", "positives": {label: n}}.

    Where labels are grades, "positives" has an entry "<label> = <grade>" for every grade.
    """
    images, patients, studies = 0, set(), set()
    # Builders let rows with equal labels share them, so that most are looked at once.
    shared: dict[int, list[Any]] = {}
    for record in records:
        images += 1
        patients.add(record.patient_id)
        studies.add(record.study_id)
        shared.setdefault(id(record.labels), [record.labels, 0])[1] += 1
    positives: collections.Counter[str] = collections.Counter()
    if scale != "grade":
        positives.update(dict.fromkeys(label_names, 0))
    for labels, number in shared.values():
        for name, value in labels.items():
            if scale == "grade":
                if not np.isnan(value):
                    positives[f"{name} = {value:g}"] += number
            elif is_positive(value, scale):
                positives[name] += number
    ordered = positives if scale != "grade" else dict(sorted(positives.items()))
    return {
        "images": images,
        "patients": len(patients),
        "studies": len(studies - {""}),
        "positives": dict(ordered),
    }


def by_split(
    records: Sequence[Record], label_names: Iterable[str], scale: str
) -> dict[str, dict[str, Any]]:
    """Returns `of_records` of each split that has images."""
    parts = {name: [one for one in records if one.split == name] for name in SPLITS}
    return {name: of_records(part, label_names, scale) for name, part in parts.items() if part}


def against_owner(
    owner: Mapping[str, int], records: Sequence[Record], label_names: Iterable[str], scale: str
) -> dict[str, list[int]]:
    """Returns the owner's counts beside those of `records`: name -> [owner's, ours].

    `owner` is a builder's OWNER_COUNTS: "images", "patients", "studies", each also of a split
    ("train images") or several ("train+validation images"), or a label's positives.
    """
    compared = {}
    whole = of_records(records, label_names, scale)
    for name, number in owner.items():
        splits, _, word = name.rpartition(" ")
        if splits and word in ("images", "patients", "studies"):
            part = (record for record in records if record.split in splits.split("+"))
            here = of_records(part, label_names, scale)[word]
        else:
            here = whole[name] if name in whole else whole["positives"][name]
        compared[name] = [number, here]
    return compared


def patient_note(records: Sequence[Record], advice: str) -> str:
    """Says of how many images the person is unknown, and what follows; "" where of none."""
    unknown = sum(not record.patient_known for record in records)
    if not unknown or len({record.split for record in records}) < 2:
        return ""
    return (
        f"of {unknown:,} of the {len(records):,} images the person is not known: one person's "
        f"images may be in train and in test, and scores too good. {advice}"
    )


def label_note(records: Sequence[Record], task: tasks.Task, scale: str) -> str:
    """Says which labels of the task cannot be scored; "" where all can."""
    found = {}
    for split in ("validation", "test"):
        shown = [
            one.labels
            for one in records
            if one.split == split and (not task.projections or one.projection in task.projections)
        ]
        if shown:
            raw = {name: [labels[name] for labels in shown] for name in shown[0]}
            found[split] = tasks.targets(raw, task, scale)
    return tasks.one_sided(found, tuple(task.labels))


def _owner_lines(compared: Mapping[str, Sequence[int]]) -> list[str]:
    differing = {name: pair for name, pair in compared.items() if pair[0] != pair[1]}
    if not compared:
        return []
    if not differing:
        shown = [f"{here:,} {name}" for name, (_, here) in list(compared.items())[:_SHOWN]]
        words = ", ".join(shown) + (" …" if len(compared) > _SHOWN else "")
        return [f"the tables agree with the owner's {len(compared)} counts: {words}"]
    agreeing = len(compared) - len(differing)
    lines = [f"{agreeing} of the owner's {len(compared)} counts agree with the tables"]
    for name, (owner, here) in list(differing.items())[:_SHOWN]:
        lines.append(f"{name}: the owner has {owner:,}, here are {here:,}")
    if len(differing) > _SHOWN:
        lines.append(f"and {len(differing) - _SHOWN} more; this is not the owner's whole dataset")
    return lines


def counts_table(counts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tabulates images, patients and positives, splits side by side."""
    rows = [("", *counts)]
    for key in ("images", "patients", "studies"):
        if any(of[key] for of in counts.values()):
            rows.append((key, *(f"{of[key]:,}" for of in counts.values())))
    where = len(rows)
    labels = list(dict.fromkeys(label for of in counts.values() for label in of["positives"]))
    for label in labels:
        rows.append((label, *(f"{of['positives'].get(label, 0):,}" for of in counts.values())))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  " + "  ".join(cells).rstrip())
    if labels:
        lines.insert(where, "  positive for")
    return lines


def describe_dataset(folder: Path) -> str:
    """Says what a version folder holds, and the command that uses it."""
    import tensorflow_datasets as tfds

    metadata = tfds.builder_from_directory(folder).info.metadata
    config, name, data_dir = folder.parent.name, folder.parents[1].name, folder.parents[2]
    lines = [f"{name}: wrote {folder}", *counts_table(metadata["counts"]), *_notes(metadata)]
    refused = metadata.get("masks_refused", 0)
    lines += [
        f"  skipped: {metadata['skipped']:,} (listed in skipped.csv there)"
        + (f"; {refused:,} kept without their masks" if refused else ""),
        f"  splits: {metadata['split_rule']}",
        "",
        "Look at some of its images, for polarity and windowing:",
        f"  {folder / CONTACT_SHEET}",
        *_next_commands(folder, name, config, data_dir, metadata),
    ]
    return "\n".join(lines)


def describe_listing(
    name: str, summary: Mapping[str, Any], skipped: Sequence[str], missing: Sequence[str]
) -> str:
    """Says what a raw dataset lists, before anything is built.

    `summary` is its builder's; `skipped` holds "file (reason)" of what gives no image; `missing`
    are images not there.
    """
    lines = [f"{name}: what its tables list", *counts_table(summary["counts"]), *_notes(summary)]
    lines.append(f"  splits: {summary['split_rule']}")
    for entries, words in ((missing, "listed images are not there"), (skipped, "give no image")):
        if entries:
            more = ", …" if len(entries) > 3 else ""
            lines.append(f"  {len(entries):,} {words}: {', '.join(entries[:3])}{more}")
    if missing:
        lines += [
            "",
            "Next: get the images that are missing, then the same command without --check.",
        ]
    else:
        which = "every other listed image" if skipped else "every listed image"
        lines += [f"  {which} is there", "", "Next: the same command without --check."]
    return "\n".join(lines)


def _notes(summary: Mapping[str, Any]) -> list[str]:
    """Says how the owner's counts compare with ours, and what to know of patients and labels."""
    said = summary["patient_note"], summary["label_note"]
    return [f"  {line}" for line in (*_owner_lines(summary["owner_counts"]), *filter(None, said))]


def _next_commands(
    folder: Path, name: str, config: str, data_dir: Path, metadata: Mapping[str, Any]
) -> list[str]:
    # Readers take the only config that is built unasked, and ask where there are several.
    if len(list(folder.parents[1].glob("*/*/dataset_info.json"))) > 1:
        name = f"{name}/{config}"
    lines = [
        "Next, go on from ImageNet's ResNet-50 with its images (half an hour on two cores, or",
        ":adapt_gpu; without weights to start from, :cpu on two cores, :small on a GPU):",
        f"  {COMMAND} --config=configs/moco.py:adapt "
        f"--config.init=torchvision:/weights/resnet50.pth --config.data.name={name} "
        f"--config.data.dir={data_dir}",
    ]
    if metadata["label_names"] and {"train", "validation", "test"} <= metadata["counts"].keys():
        lines += [
            "or see what an encoder is worth on its labels:",
            f"  {COMMAND} --config=configs/transfer.py --config.dataset={name} "
            f"--config.data.dir={data_dir} --config.encoder=<workdir, weights file or random>",
        ]
    return lines
