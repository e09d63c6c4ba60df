"""Published figures beside ours, with the split that each was made on.

published.csv holds them as printed: mean AUROC over labels, with a 95 % interval where there is
one. Those of the source "study" are its Tables 4 (fine-tuning) and 5 (linear probing): Iyer et al.,
"Self-Supervised Pretraining Enables High-Performance Chest X-Ray Interpretation Across Clinical
Distributions", medRxiv 2022.11.19.22282519; under the dataset "average" are the row averages. It
has no linear probe of ImageNet: in Table 5 that column is the fine-tuned model again. Its splits
are its own and not published (split "study"). The others are of the owner's
test list (split "owner").
"""

import csv
import functools
from collections.abc import Mapping
from importlib import resources

from cxr_jax.report.tables import Value

# Where our protocol is one of the study's tables.
TABLES = {"finetune": "Table 4", "linear": "Table 5"}
CITATION = (
    "Iyer et al., Self-Supervised Pretraining Enables High-Performance Chest X-Ray Interpretation "
    "Across Clinical Distributions, medRxiv 2022.11.19.22282519"
)
_SOURCES = {"Xiao": "Xiao et al., arXiv:2210.12843", "EVA-X": "Yao et al., arXiv:2405.05237"}
Figures = dict[str, dict[str, Value]]


@functools.cache
def _rows() -> tuple[dict[str, str], ...]:
    text = (resources.files("cxr_jax.report") / "published.csv").read_text()
    return tuple(csv.DictReader(text.splitlines()))


def _value(row: Mapping[str, str]) -> Value:
    return Value(float(row["auroc"]), *(float(row[e]) if row[e] else None for e in ("low", "high")))


@functools.cache
def tables() -> dict[tuple[str, str], dict[str, Value]]:
    """Returns (protocol, encoder) -> dataset -> what the study prints; "average" is a dataset here.

    >>> tables()["linear", "REFERS"]["nih_chestxray14"].auroc
    0.797
    """
    found: dict[tuple[str, str], dict[str, Value]] = {}
    for row in _rows():
        if row["source"] == "study":
            found.setdefault((row["protocol"], row["encoder"]), {})[row["dataset"]] = _value(row)
    return found


def beside(
    protocol: str, datasets: list[str], lists: Mapping[str, str] | None = None
) -> tuple[Figures, str]:
    """Returns encoder -> our name of a dataset -> its figure, and a sentence on their splits.

    A dataset of ours is known by the name of its builder, "nih_chestxray14/256" too; a task other
    than its default ("nih_chestxray14 (any_finding)") is not the published one. `lists` holds the
    datasets that are split by a list of others (--splits_csv) and its name: a figure of the owner's
    split does not stand beside them. The encoder says so where the study's linear table repeats
    fine-tuning.
    """
    found: Figures = {}
    left_out = {}
    for row in _rows():
        if row["protocol"] != protocol:
            continue
        tuned = " (fine-tuned)" if (protocol, row["encoder"]) == ("linear", "ImageNet") else ""
        tuned *= row["source"] == "study"
        for name in datasets:
            if name.split("/")[0] != row["dataset"]:
                continue
            if row["split"] == "owner" and (lists or {}).get(name):
                left_out[name] = lists[name]
                continue
            where = found.setdefault(f"{row['encoder']}{tuned}, {row['source']}", {})
            where[name] = _value(row)
    words = [
        f" Figures of the owner's test list of {name} are left out: it is split by {of}."
        for name, of in left_out.items()
    ]
    sources = {name.rpartition(", ")[2] for name in found} & set(_SOURCES)
    words += [f" {_SOURCES[one]}: on the owner's test list, as here." for one in sorted(sources)]
    if any(name.endswith(", study") for name in found):
        foreign = "".join(f" ({name}: {of})" for name, of in (lists or {}).items() if of)
        words.insert(
            0,
            f" Rows marked study: {TABLES[protocol]} of {CITATION}; made on splits of its own that "
            f"are not published, and with other label sets, not on those used here{foreign}: "
            "compare only roughly.",
        )
    return found, "".join(words)
