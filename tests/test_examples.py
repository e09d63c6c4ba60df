"""The examples in docstrings run and give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# As in tests/data_builders: an example must not depend on which tests ran before it.
install_import_hook("data_builders", "beartype.beartype")

_ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("cxr_jax", "data_builders", "benchmarks")
    for path in (_ROOT / package).rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted and not result.failed
