"""What a dataset holds, in words: printed when it is built or checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_builders.base import contact_sheet
from data_builders.base.counts import owner_lines


def counts_table(counts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Images, patients and positives of every split, splits side by side."""
    rows = [("", *counts)]
    for word, key in (("images", "images"), ("patients", "patients"), ("studies", "studies")):
        if any(of[key] for of in counts.values()):
            rows.append((word, *(f"{of[key]:,}" for of in counts.values())))
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


def of_dataset(folder: Path) -> str:
    """What stands in a version folder, and the command that uses it."""
    import tensorflow_datasets as tfds

    metadata = tfds.builder_from_directory(folder).info.metadata
    config, name, data_dir = folder.parent.name, folder.parents[1].name, folder.parents[2]
    lines = [f"{name}: wrote {folder}", *counts_table(metadata["counts"])]
    lines += notes(metadata["counts"], metadata["owner_counts"])
    lines += [
        f"  skipped: {metadata['skipped']:,} (listed in skipped.csv there)",
        f"  splits: {metadata['split_rule']}",
        "",
        "Look at some of its images, for polarity and windowing:",
        f"  {folder / contact_sheet.FILE}",
        "Next:",
        f"  {_next_command(folder, name, config, data_dir, metadata)}",
    ]
    return "\n".join(lines)


def of_listing(
    name: str,
    counts: Mapping[str, Mapping[str, Any]],
    owner_counts: Mapping[str, Sequence[int]],
    skipped: Sequence[str],
    missing: Sequence[str],
    split_rule: str,
) -> str:
    """What a raw dataset lists, before anything is built.

    Args:
      skipped: "file (reason)" of what gives no image; missing: listed images that are not there.
    """
    lines = [f"{name}: what its tables list", *counts_table(counts)]
    lines += notes(counts, owner_counts)
    lines.append(f"  splits: {split_rule}")
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


def notes(
    counts: Mapping[str, Mapping[str, Any]], owner_counts: Mapping[str, Sequence[int]]
) -> list[str]:
    """The owner's counts beside ours, and whether patients are known."""
    lines = [f"  {line}" for line in owner_lines(owner_counts)]
    if all(of["patients"] == of["images"] for of in counts.values()):
        lines.append("  as many patients as images: each image counts as a patient of its own")
    return lines


def _next_command(
    folder: Path, name: str, config: str, data_dir: Path, metadata: Mapping[str, Any]
) -> str:
    # Readers take the only config that is built unasked, and ask where there are several.
    if len(list(folder.parents[1].glob("*/*/dataset_info.json"))) > 1:
        name = f"{name}/{config}"
    if metadata["label_names"] and {"train", "validation", "test"} <= metadata["counts"].keys():
        return (
            f"python run.py --config=configs/transfer.py --config.dataset={name} "
            f"--config.data.dir={data_dir} --config.encoder=<workdir, weights file or random>"
        )
    return (
        f"python run.py --config=configs/simclr.py:small --config.data.name={name} "
        f"--config.data.dir={data_dir}"
    )
