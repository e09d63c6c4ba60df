"""The room stands alone: statistics need neither JAX nor a model."""

import ast
from pathlib import Path

import pytest

import cxr_jax.stats

FILES = sorted(Path(cxr_jax.stats.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_numpy_scipy_and_the_room_itself_are_imported(path):
    """At the top of a file; the benchmark imports its rival where it uses it."""
    imported = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    standard = {"collections.abc", "math", "os", "time", "typing"}
    for module in imported - standard:
        assert module.startswith(("numpy", "scipy", "jaxtyping", "cxr_jax.stats.")), module
