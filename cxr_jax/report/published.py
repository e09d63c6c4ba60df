"""Figures of the published study beside ours: its Tables 4 (fine-tuning) and 5 (linear probing).

Iyer et al., "Self-Supervised Pretraining Enables High-Performance Chest X-Ray Interpretation Across
Clinical Distributions", medRxiv 2022.11.19.22282519. published.csv holds them as printed: mean
AUROC over labels with a 95 % interval, and under the dataset "average" the row averages. The study
has no linear probe of ImageNet: in Table 5 that column is the fine-tuned model again.
"""

import csv
import functools
from importlib import resources

from cxr_jax.report.tables import Value

# Where our protocol is one of the study's tables.
TABLES = {"finetune": "Table 4", "linear": "Table 5"}
CITATION = (
    "Iyer et al., Self-Supervised Pretraining Enables High-Performance Chest X-Ray Interpretation "
    "Across Clinical Distributions, medRxiv 2022.11.19.22282519"
)


@functools.cache
def tables() -> dict[tuple[str, str], dict[str, Value]]:
    """Returns (protocol, encoder) -> dataset -> what the study prints; "average" is a dataset here.

    >>> tables()["linear", "REFERS"]["nih_chestxray14"].auroc
    0.797
    """
    found: dict[tuple[str, str], dict[str, Value]] = {}
    text = (resources.files("cxr_jax.report") / "published.csv").read_text()
    for row in csv.DictReader(text.splitlines()):
        limits = (float(row[end]) if row[end] else None for end in ("low", "high"))
        encoder = found.setdefault((row["protocol"], row["encoder"]), {})
        encoder[row["dataset"]] = Value(float(row["auroc"]), *limits)
    return found


def beside(protocol: str, datasets: list[str]) -> dict[str, dict[str, Value]]:
    """Returns encoder of the study -> our name of a dataset -> its figure; empty where it has none.

    A dataset of ours is known by the name of its builder, "nih_chestxray14/256" too; a task other
    than its default ("nih_chestxray14 (any_finding)") is not the study's. The encoder says so where
    the study's linear table repeats fine-tuning.
    """
    found = {}
    for (table, encoder), figures in tables().items():
        own = {name: figures.get(name.split("/")[0]) for name in datasets}
        row = {name: figure for name, figure in own.items() if figure}
        if table == protocol and row:
            tuned = " (fine-tuned)" if (table, encoder) == ("linear", "ImageNet") else ""
            found[f"{encoder}{tuned}, study"] = row
    return found
