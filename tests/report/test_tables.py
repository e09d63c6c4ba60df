"""Numbers as they are printed, and the tables they stand in."""

import pytest

from cxr_jax.report import tables
from cxr_jax.report.blocks import markdown_table


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9124, ".912"), (0.9996, "1.000"), (1.0, "1.000"), (0.0, ".000"), (None, "–")],
)
def test_number(value, text):
    assert tables.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.069, "+.069"), (-0.0124, "−.012"), (-0.0004, "−.000"), (1.0, "+1.000"), (None, "–")],
)
def test_signed(value, text):
    assert tables.signed(value) == text


def row(label, auroc, low=None, high=None, n_pos=3, n_neg=1234):
    return dict(label=label, auroc=auroc, low=low, high=high, n_pos=n_pos, n_neg=n_neg)


def cells(table):
    return [list(table.header), *([cell.replace("\n", " ") for cell in row] for row in table.rows)]


def test_auroc_table_has_labels_by_runs():
    ours = [row("mass", 0.9, 0.85, 0.95), row("hernia", None), row("macro", 0.9, 0.85, 0.95)]
    theirs = [row("mass", 0.8), row("hernia", None), row("macro", 0.8)]
    assert cells(tables.auroc_table([("ours", ours), ("theirs", theirs)])) == [
        ["label", "positive", "negative", "ours", "theirs"],
        ["mass", "3", "1,234", ".900 [.850, .950]", ".800"],
        ["hernia", "3", "1,234", "–", "–"],
        ["**mean (macro)**", "", "", ".900 [.850, .950]", ".800"],
    ]


def test_mean_of_one_label_is_not_repeated():
    rows = [row("mass", 0.9, 0.85, 0.95), row("macro", 0.9, 0.85, 0.95)]
    assert len(cells(tables.auroc_table([("ours", rows)]))) == 2


def comparison(b, *labels):
    numbers = dict(auroc_a=0.9, auroc_b=0.8, difference=0.1, low=-0.02, high=0.2)
    numbers |= dict(verdict="inconclusive", detectable=0.157)
    per_label = [{"label": label, **numbers} for label in labels]
    return dict(a="ours", b=b, **numbers, labels=per_label)


def test_comparison_tables():
    both = [comparison("random", "mass", "hernia"), comparison("a|b", "mass")]
    table = tables.comparison_table(both)
    assert "a\\|b" in markdown_table(table.header, table.rows)
    assert cells(table)[1] == [
        "ours",
        "random",
        ".900",
        ".800",
        "+.100 [−.020, +.200]",
        "inconclusive",
        ".157",
    ]
    differences = tables.difference_table(
        [comparison("x", "mass", "hernia"), comparison("y", "mass")]
    )
    assert cells(differences) == [
        ["label", "less x", "less y"],
        ["mass", "+.100 [−.020, +.200]", "+.100 [−.020, +.200]"],
        ["hernia", "+.100 [−.020, +.200]", "–"],
    ]
