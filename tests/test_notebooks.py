"""The notebooks of examples/ run from their first cell to their last, on few drawn images."""

import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

import cxr_jax
from tests.fakes.tiny_config import LEFT_OUT

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


@pytest.mark.parametrize("name", ["custom_objective", "custom_dataset", "custom_augmentation"])
def test_script_trains_and_saves_an_encoder(name, tmp_path, capsys):
    script = runpy.run_path(str(_ROOT / f"examples/{name}.py"))
    plain = [f"--config.views.{view}.{part}=0" for view in "ab" for part in LEFT_OUT]
    changes = [*_TINY.split(), *plain, "--config.num_train_steps=2", "--config.batch_size=8"]
    script["main"](changes, tmp_path)
    said = capsys.readouterr().out
    assert said.count("loss") == 2 and f"--config.encoder={tmp_path}" in said
    features = cxr_jax.load_encoder(str(tmp_path))(np.zeros((2, 96, 96), np.uint8))
    assert features.shape == (2, 128)
    if name == "custom_dataset":  # every image once an epoch, each epoch in another order
        stored = np.eye(6, dtype=np.uint16).reshape(6, 2, 3).repeat(4, 1).repeat(4, 2) * 4095
        np.save(tmp_path / "scans.npy", stored)
        feed = script["batches"](script["Scans"](tmp_path / "scans.npy", 8), 3, seed=0)
        taken = np.concatenate([next(feed)["image"] for _ in range(4)])
        expected = stored[:, :, 2:10, None] // 4095 * 255  # the central square
        which = [np.flatnonzero((expected == one).all(axis=(1, 2, 3))).item() for one in taken]
        assert sorted(which[:6]) == sorted(which[6:]) == list(range(6)) and which[:6] != which[6:]
    if name == "custom_augmentation":  # one square an image, and nothing else
        images = np.zeros((5, 40, 40, 1), np.uint8)
        covered = np.asarray(script["cover"](jax.random.key(1), images))
        for white in covered[..., 0] == 255:
            rows, columns = np.nonzero(white.any(axis=1))[0], np.nonzero(white.any(axis=0))[0]
            assert len(rows) == len(columns) == 10 and white.sum() == 100
            assert np.ptp(rows) == np.ptp(columns) == 9
