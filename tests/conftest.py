"""Run-time checks of every jaxtyping annotation in the package, for the whole test run."""

from jaxtyping import install_import_hook

install_import_hook("cxr_jax", "beartype.beartype")
