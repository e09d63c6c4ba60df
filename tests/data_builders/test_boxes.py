"""Boxes on their images."""

import pytest

from data_builders.base import boxes
from data_builders.base.boxes import BoxRow
from data_builders.base.records import Box, BuildError, Skipped

CORNERS = (1.0, 2.0, 3.0, 4.0)


def check(answers: list[bool | None]) -> list[Skipped]:
    rows = [BoxRow(f"image{i}", "Mass", CORNERS, f"b.csv, row {i}") for i in range(len(answers))]
    return list(boxes.check_rows(rows, lambda row: answers[rows.index(row)], "b.csv"))


def test_a_few_boxes_that_do_not_fit_are_listed():
    assert check([]) == check([True, True]) == []
    assert check([True, None]) == [
        Skipped("b.csv, row 1", "a box on an image that is in no table of images")
    ]
    (told,) = check([True, True, False, True, True])
    assert told.expected and told.file == "b.csv"
    assert "1 of its 5 boxes" in told.reason and "first in b.csv, row 2" in told.reason


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([True, None, None], r"2 of the 3 boxes of b.csv .* first is b.csv, row 1\."),
        ([True] * 7 + [False] * 2, r"2 of the 9 boxes .* first is b.csv, row 7\."),
        # Unknown images say nothing of the others.
        ([None] * 3 + [True] * 3 + [False], "1 of the 7 boxes"),
    ],
)
def test_lists_that_have_slid_are_refused(answers, message):
    with pytest.raises(BuildError, match=message):
        check(answers)


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ((-4.0, 8.0, 32.0, 40.0), Box("Mass", y0=0.25, x0=0.0, y1=1.0, x1=0.5)),
        ((0.0, 0.0, float("nan"), 4.0), None),
        ((0.0, 0.0, float("inf"), 4.0), None),
        ((9.0, 0.0, 8.0, 4.0), None),
    ],
)
def test_boxes_are_clipped_and_no_boxes_refused(corners, expected):
    if expected:
        assert boxes.from_pixels("Mass", corners, (32, 64), "b.csv, row 2") == expected
        return
    with pytest.raises(BuildError, match=r"b.csv, row 2: .* are not a box's x0"):
        boxes.from_pixels("Mass", corners, (32, 64), "b.csv, row 2")
