"""Grids that are damaged, old or a stranger's, and ids in the errors of their cells."""

import pytest

from cxr_jax.report.benchmark.grid import read_grid, without_ids
from tests.fakes import benchmark as fake
from tests.report.benchmark.measured import DATASETS, SIGNALS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(state="lost"), "is 'lost', not done, failed, missing"),
        (dict(num_images=7), "trained on"),
        (dict(encoder="imagenet"), "is there twice"),
    ],
)
def test_grid_that_does_not_fit_is_refused(tmp_path, change, message):
    cells = fake.grid(tmp_path, SIGNALS, DATASETS[:1], fractions=(1.0,), seeds=(0,))
    cells[0].update(change)
    fake.write_cells(tmp_path, cells)
    with pytest.raises(ValueError, match=message):
        read_grid(tmp_path)
    del cells[0]["seed"]
    fake.write_cells(tmp_path, cells)
    with pytest.raises(ValueError, match="no field 'seed'"):
        read_grid(tmp_path)
    fake.write_cells(tmp_path, cells[1:], reference="elsewhere")
    with pytest.raises(ValueError, match="'elsewhere' is not the encoder of any cell"):
        read_grid(tmp_path)


def test_a_grid_of_before_the_renames_is_read(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, DATASETS[:1], fractions=(1.0,), seeds=(0,))
    fake.write_cells(tmp_path, cells)
    grid = read_grid(tmp_path)
    for cell in cells:
        seen = cell.pop("seen")
        cell["num_films"] = cell.pop("num_images")
        cell["exposure"] = {"patients": seen["patients"], "films": seen["images"]}
        cell["exposure"]["test_films"] = seen["test_images"]
    fake.write_cells(tmp_path, cells)
    assert read_grid(tmp_path) == grid and grid.cells[0].seen.images == 2


def test_a_dataset_is_named_with_its_folds_only_where_others_have_none(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, DATASETS[:2], fractions=(1.0,), seeds=(0,))
    for cell in cells:
        cell["task"] = "any@exclusive=True@folds=5@folds_of=train+validation"
    fake.write_cells(tmp_path, cells)
    named = [f"{name} (any, exclusive=True)" for name in DATASETS[:2]]
    assert read_grid(tmp_path).datasets == named
    for cell in cells:
        if cell["dataset"] == DATASETS[0]:
            cell["task"] = "any"
    fake.write_cells(tmp_path, cells)
    first, second = read_grid(tmp_path).datasets
    assert first == f"{DATASETS[0]} (any)"
    assert second.endswith("(any, exclusive=True, folds=5, folds_of=train+validation)")


STRANGE = {
    "outside": ({"folder": "../../other"}, "a cell's folder is not in the workdir"),
    "absolute": ({"folder": "/etc"}, "a cell's folder is not in the workdir"),
    "no text": ({"encoder": ["a"]}, "a cell's encoder is not text"),
    "a terminal's signs": ({"dataset": "a\x1b[2J"}, "a cell's dataset is not text"),
    "more than all": ({"fraction": 2.0}, r"a cell's fraction is not in \(0, 1\]"),
    "a number of nothing": ({"fraction": [1]}, r"cells\.json is damaged \(float"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_strangers_grid_is_refused(tmp_path, case):
    cells = fake.grid(tmp_path, SIGNALS, ("phantom",), fractions=(1.0,), seeds=(0,))
    change, message = STRANGE[case]
    fake.write_cells(tmp_path, [cells[0] | change, *cells[1:]])
    with pytest.raises(ValueError, match=message):
        read_grid(tmp_path)


def test_ids_are_taken_out_of_errors():
    message = "image 'a b.png' (row 3), label 'Mass': score is nan"
    assert without_ids(message) == "image '…' (row 3), label 'Mass': score is nan"
    message = "image 'x' belongs to patients 'p1' and 'p2' (see row 4)"
    assert without_ids(message) == "image '…' belongs to patients '…' and '…' (see row 4)"
    assert without_ids("image_id 'x' appears twice") == "image_id '…' appears twice"
    assert without_ids("KeyError: 'P1_0'") == "KeyError: '…'"
    assert without_ids("image P1_0 of label 'Mass'") == "image '…' of label 'Mass'"
    assert without_ids("image \"O'Neil\", images 'a', 'b'") == "image '…', images '…', '…'"
    assert without_ids("film P1_0") == "film '…'"  # as errors called images before
    assert without_ids("") == "" and len(without_ids("x" * 999)) == 300
    # Long ones are cut first, maybe through an id.
    assert without_ids(f"images '{'P1' * 900}', '{'P 2' * 900}'") == "images '…', '…'"
    assert without_ids(f"images '{'P1' * 990}', image {'P' * 900}2'") == "images '…', image"
    assert without_ids("'a" * 10**5) == ""
    assert len(without_ids("' a" * 10**5)) == 300
