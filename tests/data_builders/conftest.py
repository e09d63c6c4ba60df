"""Run-time checks of the annotations of the builders too."""

from jaxtyping import install_import_hook

install_import_hook("data_builders", "beartype.beartype")
