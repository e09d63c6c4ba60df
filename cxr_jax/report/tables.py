"""Numbers in words, and the tables that several reports share."""

import datetime
import importlib.metadata
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cxr_jax.io import COMMAND
from cxr_jax.io.json import read_json
from cxr_jax.report.blocks import Table, Text
from cxr_jax.stats.bootstrap import fold_variance
from cxr_jax.stats.clusters import MINIMUM

RANDOM = "random"  # the name of the encoder that was not pretrained

AUROC = (
    "AUROC is the chance that an image with the finding scores higher than one without it: 1 is "
    "perfect, .5 is guessing. Macro AUROC is its mean over findings."
)

# What is measured, by its name, to a reader.
MEANINGS = {
    "AUROC": AUROC,
    "Dice": (
        "Dice is twice the pixels that are both marked and within the true mask, over the sum of "
        "both: 1 is perfect, 0 no overlap. It is the mean over images on which something is to be "
        "found; macro Dice is its mean over masks."
    ),
    "pointing game": (
        "Pointing game: the share of images with a box of the label on which the label's map is "
        "highest within a box. Macro is its mean over labels."
    ),
    "box IoU": (
        "Box IoU is the intersection of the map's box and the dataset's over their union: 1 is "
        "perfect. It is the mean over images with a box of the label; macro is that over labels."
    ),
}

MINIMUM_SAID = (
    f"A label with fewer than {MINIMUM} test patients that have it, or that do not, is not "
    "estimable: simulated intervals of so few were wrong too often."
)


def minimum_said(what: str) -> str:
    """Says which labels are not estimable, of AUROC or of another measure."""
    if what == "AUROC":
        return MINIMUM_SAID
    return f"A label whose images that count are of fewer than {MINIMUM} patients is not estimable."


Rows = Sequence[Mapping[str, Any]]  # of metrics.json


def within(folds: int) -> str:
    """Returns what AUROC and its interval are of a cross-validation."""
    return (
        "AUROC is of pairs within folds, which one model scored. Folds are not independent tests, "
        "because each trains the models of others: intervals and p-values hold "
        f"{fold_variance(folds):.2f} times the variance that resampled patients show "
        "(docs/statistics.md)."
    )


def absent(value: float | None) -> bool:
    """Returns True for None and NaN."""
    return value is None or math.isnan(value)


def number(value: float | None) -> str:
    """Returns three decimals without the leading zero, as AUROC is printed; a dash where absent.

    >>> number(0.9124), number(1.0), number(None)
    ('.912', '1.000', '–')
    """
    if absent(value):
        return "–"
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0") else text


def signed(value: float | None) -> str:
    """Returns `number` with its sign; a value that rounds to zero keeps its sign.

    >>> signed(0.069), signed(-0.0004)
    ('+.069', '−.000')
    """
    if absent(value):
        return "–"
    return ("+" if value >= 0 else "−") + number(abs(value))


def measure(row: Mapping[str, Any]) -> str:
    """Returns what a row or a comparison is of: "AUROC", or the name of another measure."""
    return row.get("measure", "AUROC")


def key(row: Mapping[str, Any]) -> str:
    """Returns the field of a metric row that holds its number: "auroc", or "mean" of others."""
    return "auroc" if measure(row) == "AUROC" else "mean"


def value(row: Mapping[str, Any], whose: str = "") -> float | None:
    """Returns a metric row's number; of a comparison that of `whose`, "_a" or "_b"."""
    return row[key(row) + whose]


def with_interval(row: Mapping[str, Any], field: str = "") -> str:
    """Returns a number of a row with its limits, alone where it has none; differences are signed.

    The number is the measure's, or `field`.

    >>> with_interval(dict(auroc=0.912, low=0.889, high=0.931))
    '.912 [.889, .931]'
    >>> with_interval(dict(difference=0.069, low=0.051, high=0.088), "difference")
    '+.069 [+.051, +.088]'
    """
    words, field = signed if field == "difference" else number, field or key(row)
    if absent(row[field]) or absent(row["low"]):
        return words(row[field])
    return f"{words(row[field])} [{words(row['low'])}, {words(row['high'])}]"


def two_lines(text: str) -> str:
    """Puts the interval on a second line, which tables set small."""
    return text.replace(" [", "\n[")


class Value(NamedTuple):
    """AUROC and its 95 % limits; None where there is no such number."""

    auroc: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def words(self) -> str:
        """The number, the interval on a second line."""
        return two_lines(with_interval(self._asdict()))


def shown(rows: Sequence[Any]) -> Sequence[Any]:
    """Returns the rows to show: the mean of a single label would only repeat it."""
    return rows[:-1] if len(rows) == 2 else rows


def auroc_table(runs: Sequence[tuple[str, Rows]]) -> Table:
    """Returns labels by runs, which are (name, metric rows); counts are those of the first run."""
    by_name = [{row["label"]: _auroc_cell(row) for row in rows} for _, rows in runs]
    body = []
    for row in shown(runs[0][1]):
        # Sums over labels would look like a number of images.
        counts = ["", ""]
        if row["label"] != "macro":
            counts = ["–" if row[n] is None else f"{row[n]:,}" for n in ("n_pos", "n_neg")]
        body.append([_label(row), *counts, *(rows.get(row["label"], "–") for rows in by_name)])
    return Table(["label", "positive", "negative", *(name for name, _ in runs)], body)


def _auroc_cell(row: Mapping[str, Any]) -> str:
    return "not estimable" if is_few(row) else two_lines(with_interval(row))


def is_few(row: Mapping[str, Any]) -> bool:
    """Returns True for a row without a number because its patients are too few."""
    return value(row) is None and row.get("note", "").startswith("not estimable")


def precision_table(runs: Sequence[tuple[str, Rows]]) -> Table | None:
    """Returns average precision, labels by runs; None where no run has it."""
    if measure(runs[0][1][-1]) != "AUROC":
        return _iou_table(runs)
    by_name = [{row["label"]: row.get("average_precision") for row in rows} for _, rows in runs]
    body = []
    for row in shown(runs[0][1]):
        if row["auroc"] is not None and any(rows.get(row["label"]) for rows in by_name):
            share = "" if row["label"] == "macro" else row["n_pos"] / (row["n_pos"] + row["n_neg"])
            cells = [number(rows.get(row["label"])) for rows in by_name]
            body.append([_label(row), number(share) if share else "", *cells])
    header = ["label", "share positive", *(name for name, _ in runs)]
    return Table(header, body, _PRECISION) if body else None


def _iou_table(runs: Sequence[tuple[str, Rows]]) -> Table | None:
    """Returns IoU beside Dice, labels by runs; None of other measures."""
    if "iou" not in runs[0][1][-1]:
        return None

    def cell(row: Mapping[str, Any]) -> str:
        limits = {"low": row["iou_low"], "high": row["iou_high"]}
        return two_lines(with_interval({"iou": row["iou"], **limits}, "iou"))

    by_name = [{row["label"]: cell(row) for row in rows} for _, rows in runs]
    body = [
        [_label(row), *(rows.get(row["label"], "–") for rows in by_name)]
        for row in shown(runs[0][1])
        if value(row) is not None
    ]
    said = "IoU (intersection over union) of the same images, with 95 % intervals."
    return Table(["label", *(name for name, _ in runs)], body, said) if body else None


_PRECISION = (
    "Average precision, the mean of precision over all levels of sensitivity. A model that guesses "
    "has the share of positive images; unlike AUROC it is lower for rarer findings."
)


def _label(row: Mapping[str, Any]) -> str:
    return "**mean (macro)**" if row["label"] == "macro" else row["label"]


def comparison_table(comparisons: Sequence[Mapping[str, Any]]) -> Table:
    """Returns each comparison's mean AUROCs, the paired difference A − B, and the verdict on A."""
    what = measure(comparisons[0])
    header = ["A", "B", f"{what} of A", f"{what} of B", "A − B [95 % interval]", "verdict on A"]
    body = [
        [
            *(row["a"], row["b"], number(value(row, "_a")), number(value(row, "_b"))),
            *(_with_p(row), row["verdict"], number(row["detectable"])),
        ]
        for row in comparisons
    ]
    return Table([*header, "minimum detectable difference"], body)


def difference_table(comparisons: Sequence[Mapping[str, Any]]) -> Table:
    """Returns differences label by label, a column for each comparison (all of the same A)."""
    by_comparison = [{row["label"]: row for row in c["labels"]} for c in comparisons]
    body = [
        [label, *(_with_p(rows[label]) if label in rows else "–" for rows in by_comparison)]
        for label in (row["label"] for row in comparisons[0]["labels"])
    ]
    return Table(["label", *(f"less {c['b']}" for c in comparisons)], body)


def _with_p(row: Mapping[str, Any]) -> str:
    """Returns a difference with its interval and, below, DeLong's p where there is one."""
    text, p_value = two_lines(with_interval(row, "difference")), row.get("delong_p")
    if p_value is None:
        return text
    return f"{text}\nDeLong's p {number(p_value) if p_value >= 0.0005 else '< .001'}"


def not_vouched(names: Sequence[str]) -> str:
    """Returns the sentence on encoders whose pretraining images are not known."""
    whom = "it" if len(names) == 1 else "them"
    return (
        f"What {', '.join(names)} saw is not known: these images may not have been new for {whom}."
    )


def made(command: str, workdir: Path | None = None) -> Text:
    """Returns when results and page were made, by what code, and the commands for both.

    `command` makes the page again; `workdir` holds the results, if they are ours.
    """
    start = _last_start(workdir) if workdir else {}
    version = _code(start["code"]) if start else f"cxr_jax {importlib.metadata.version('cxr_jax')}"
    packages = start.get("packages") or {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("numpy", "scipy")},
    }
    named = (f"{name} {number}" for name, number in packages.items() if name in _NAMED)
    day = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    text = f"{version}; {', '.join(named)}. Page of {day}: {command}"
    if start:
        again = f"{COMMAND} --reproduce={workdir} runs them again"
        text = f"Results of {start['time'][:10]} by {text} (results: {again})"
    return Text(text, "small")


_NAMED = ("python", "jax", "numpy", "scipy")


def _last_start(workdir: Path) -> dict[str, Any]:
    """Returns what provenance.json says of the last start, with "starts"; empty without the file.

    Raises ValueError for a damaged file.
    """
    path = workdir / "provenance.json"
    if not path.is_file():
        return {}
    held = read_json(path)
    try:
        starts = list(held["starts"])
        last = {**starts[-1], "starts": len(starts)}
        _code(last["code"]), dict(last["packages"]), str(last["time"])
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"{path} is damaged; move it away to report without it") from error
    return last


def provenance_rows(workdir: Path) -> dict[str, str]:
    """Returns what made the results, by the last start in provenance.json; empty without the file.

    Raises ValueError for a damaged file.
    """
    last, path = _last_start(workdir), workdir / "provenance.json"
    if not last:
        return {}
    try:
        found = {
            "code": _code(last["code"]),
            "versions": ", ".join(f"{name} {found}" for name, found in last["packages"].items()),
            "machine": f"{last['machine']['processor']}; {last['machine']['devices']}",
            "fingerprints of the images": ", ".join(
                f"{split} {mark or 'unknown'}" for split, mark in last["dataset"].items()
            ),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged; move it away to report without it") from error
    if last["starts"] > 1:
        found["starts"] = f"{last['starts']} that differ; this is the last ({path.name} has all)"
    return found


def _code(code: dict) -> str:
    if "commit" not in code:
        return f"cxr_jax {code['version']}, sources {code['sources']}"
    changes = " with changes that are not committed" if code["changed"] else ""
    return f"cxr_jax {code['version']}, commit {code['commit'][:12]}{changes}"
