"""The notebooks of examples/ run from their first cell to their last, on few drawn images."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

_ROOT = Path(__file__).parents[1]
_TINY = (
    "--config.num_train_steps=4 --config.checkpoint_every_steps=4 --config.log_every_steps=1 "
    "--config.batch_size=16 --config.data.image_size=40 --config.image_size=32 "
    "--config.views.a.size=32 --config.views.b.size=32 --config.optimizer.warmup=1"
)
# In place of what the cell tagged "parameters" says, as papermill does it.
PARAMETERS = {
    "quickstart": {"dataset": "phantom/tiny", "changes": _TINY},
    "own_folder": {"count": 120, "changes": _TINY},
    "compare_predictions": {"patients": 200},
    "augmentations": {"size": 64},
    "neighbours": {"dataset": "phantom/tiny", "most": 40},
}


def test_every_notebook_is_run_here():
    assert {path.stem for path in (_ROOT / "examples").glob("*.ipynb")} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(_ROOT))
    book = nbformat.read(_ROOT / f"examples/{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells), "clear its outputs"
    (place,) = (k for k, c in enumerate(book.cells) if "parameters" in c.metadata.get("tags", ()))
    given = "\n".join(f"{key} = {value!r}" for key, value in PARAMETERS[name].items())
    book.cells.insert(place + 1, nbformat.v4.new_code_cell(given))
    run = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=900, kernel_name="python3", resources=run).execute()
    said = "".join(
        output.get("text", "") for cell in book.cells for output in cell.get("outputs", ())
    )
    assert not re.search(r"Traceback|^error:", said, re.MULTILINE), said  # of lines with "!"


def test_the_script_trains(capsys):
    main = runpy.run_path(str(_ROOT / "examples/pretrain.py"))["main"]
    encoder = main(steps=2, batch_size=8)
    assert encoder(np.zeros((2, 96, 96), np.uint8)).shape == (2, 128)
    assert capsys.readouterr().out.count("loss") == 2
