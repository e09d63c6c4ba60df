"""Imports run one way between packages and rooms, and never to JAX where it is not allowed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = {"io", "config", "plugins", "xla"}  # that every room but stats may use

# Room -> the rooms of cxr_jax that it may import, besides TOOLS.
ARROWS = {
    "io": set(),
    "stats": set(),
    "data": set(),
    "models": set(),
    "augment": {"data", "report"},  # both for its audit, a command
    "objectives": {"models", "augment", "data"},  # data: what its batches hold beside images
    "training": {"objectives"},  # for the type Objective
    "weights": {"models", "training", "data"},
    "transfer": {"objectives", "models", "augment", "training", "data", "weights", "stats"},
    "report": {"transfer", "stats", "data"},  # data: for its film browser, a command
    "experiments": {
        *("objectives", "models", "augment", "training", "data", "weights", "transfer", "stats"),
        "report",
    },
}
# Modules that may be read where JAX is not installed, or in processes that must stay small.
WITHOUT_JAX = (
    "cxr_jax.stats.auroc, cxr_jax.stats.bootstrap",
    "cxr_jax.report.__main__, cxr_jax.report.benchmark",
    "cxr_jax.transfer.predictions, cxr_jax.transfer.image_table, cxr_jax.transfer.metrics",
    "data_builders.build, data_builders.base.parallel, data_builders.phantom.drawing",
    "cxr_jax.data.tasks, cxr_jax.data.pseudonyms",
)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_package_does_not_import_the_builders():
    # The command line is above both: it draws the phantom before an experiment reads it.
    for path in set(modules("cxr_jax")) - {ROOT / "cxr_jax/__main__.py"}:
        assert not [name for name in imported(path) if name.startswith("data_builders")], path


def test_builders_import_the_rooms_data_and_io_alone():
    for path in modules("data_builders"):
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("cxr_jax.")}
        assert rooms <= {"data", "io"}, path


def test_benchmarks_and_configs_are_imported_by_no_room():
    for path in [*modules("cxr_jax"), *modules("data_builders")]:
        names = {name.split(".")[0] for name in imported(path)}
        assert names.isdisjoint({"benchmarks", "configs", "tests", "run"}), path


@pytest.mark.parametrize("room", sorted(ARROWS))
def test_room_imports_the_rooms_below_it_alone(room):
    allowed = ARROWS[room] | TOOLS | {room}
    for path in modules(f"cxr_jax/{room}"):
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("cxr_jax.")}
        assert rooms <= allowed, path


def test_every_room_has_its_arrows():
    folders = {
        path.name for path in (ROOT / "cxr_jax").iterdir() if (path / "__init__.py").exists()
    }
    assert folders == set(ARROWS)


def test_statistics_import_numpy_and_scipy_alone():
    allowed = {*sys.stdlib_module_names, "numpy", "scipy", "jaxtyping"}
    for path in modules("cxr_jax/stats"):
        names = {name for name in imported(path) if not name.startswith("cxr_jax.stats")}
        assert {name.split(".")[0] for name in names} <= allowed, path


@pytest.mark.parametrize("names", WITHOUT_JAX)
def test_jax_is_not_loaded(names):
    program = f"import sys, {names}; print([n for n in ('jax', 'tensorflow') if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == "[]\n", ran.stderr
