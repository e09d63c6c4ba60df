"""Checks of the fields that one section of a config holds."""

import difflib
from collections.abc import Iterable, Mapping

from ml_collections import ConfigDict

Section = Mapping | ConfigDict


def check_fields(
    section: Section, where: str, required: Iterable[str], optional: Iterable[str] = ()
) -> None:
    """Raises ValueError for the first field of `section` that is unknown, or required and absent.

    `where` is the section's name in messages, e.g. "config.optimizer". An unknown field is named
    with the closest known one, because most are misspelt.
    """
    required = tuple(required)
    known = (*required, *optional)
    for name in section.keys():  # noqa: SIM118 (iterating a ConfigDict is not iterating its keys)
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"{where} has no field {name!r}; {hint}its fields are {_list(known)}")
    missing = [name for name in required if name not in section]
    if missing:
        raise ValueError(f"{where} lacks {_list(missing)}; it needs {_list(required)}")


def check_positive(config: Section, names: Iterable[str]) -> None:
    """Raises ValueError for the first of the dotted fields `names` that is not above zero."""
    for name in names:
        value: Any = config
        for part in name.split("."):
            value = value[part]
        if value <= 0:
            raise ValueError(f"config.{name}={value} must be at least 1")


def _list(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
