"""The notebooks of examples/ run from their first cell to their last, on few drawn images."""

import re
import runpy
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from cxr_jax import config as configs
from cxr_jax import objectives, weights
from cxr_jax.training import optim
from cxr_jax.training.step import create_state, make_train_step
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


def _script(name):
    """The script's names, and its config, tiny."""
    small = ("--config.num_train_steps=2", "--config.batch_size=8")
    plain = [f"--config.views.{view}.{part}=0" for view in "ab" for part in LEFT_OUT]
    return runpy.run_path(str(_ROOT / f"examples/{name}.py")), [*_TINY.split(), *plain, *small]


def _traces(objective, changes):
    """Traces a training step, as the scripts make it; nothing is compiled."""
    config = configs.load("configs/simclr.py:demo", changes)
    optimizer, schedule = optim.make_optimizer(config.optimizer, 2, 8, 8)
    batch = {"image": jax.ShapeDtypeStruct((8, 40, 40, 1), np.uint8)}
    state = jax.eval_shape(partial(create_state, objective, optimizer, batch, 0))
    return jax.eval_shape(make_train_step(objective, optimizer, schedule), state, batch)[1]


def test_the_script_with_a_dataset_trains_and_saves_an_encoder(tmp_path, capsys):
    script, changes = _script("custom_dataset")
    script["main"](changes, tmp_path)
    said = capsys.readouterr().out
    assert said.count("loss") == 2 and f"--config.encoder={tmp_path}" in said
    saved = weights.load(str(tmp_path))
    assert saved.width == 128 and saved.image_size == 32
    # Its batches hold every image once an epoch, each epoch in another order.
    stored = np.eye(6, dtype=np.uint16).reshape(6, 2, 3).repeat(4, 1).repeat(4, 2) * 4095
    np.save(tmp_path / "scans.npy", stored)
    feed = script["batches"](script["Scans"](tmp_path / "scans.npy", 8), 3, seed=0)
    taken = np.concatenate([next(feed)["image"] for _ in range(4)])
    expected = stored[:, :, 2:10, None] // 4095 * 255  # the central square
    which = [np.flatnonzero((expected == one).all(axis=(1, 2, 3))).item() for one in taken]
    assert sorted(which[:6]) == sorted(which[6:]) == list(range(6)) and which[:6] != which[6:]


def test_the_script_with_an_objective_has_the_papers_loss():
    script, changes = _script("custom_objective")
    objective = script["make"](configs.load("configs/simclr.py:demo", changes))
    assert {"align", "uniform"} <= set(_traces(objective, changes))
    a, b = jax.random.normal(jax.random.key(0), (2, 5, 3))
    outputs = {"a": {"projector": a}, "b": {"projector": b}}
    found, (_, metrics) = script["align_and_spread"](outputs, {})
    a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (a, b))
    pairs = [np.exp(-2 * np.sum((a[i] - a[j]) ** 2)) for i in range(5) for j in range(5) if i != j]
    expected = np.mean(np.sum((a - b) ** 2, axis=1)), np.log(np.mean(pairs))
    np.testing.assert_allclose((metrics["align"], metrics["uniform"]), expected, rtol=1e-5)
    np.testing.assert_allclose(found, sum(expected), rtol=1e-5)


def test_the_script_with_an_augmentation_covers_a_square_of_every_image():
    script, changes = _script("custom_augmentation")
    own = objectives.build(configs.load("configs/simclr.py:demo", changes))
    assert "loss" in _traces(script["augmented"](own), changes)
    images = np.zeros((5, 40, 40, 1), np.uint8)
    for white in np.asarray(script["cover"](jax.random.key(1), images))[..., 0] == 255:
        rows, columns = (np.flatnonzero(white.any(axis=axis)) for axis in (1, 0))
        assert len(rows) == len(columns) == 10 and white.sum() == 100
        assert np.ptp(rows) == np.ptp(columns) == 9
