"""Makes Markdown of the docstrings on reference/api.md; mkdocs.yml names this file."""

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Fences examples, and keeps "<source>" from being taken for HTML."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Changes the docstring of everything that is read."""
        if obj.docstring:
            parts = obj.docstring.value.split("\n\n")
            obj.docstring.value = "\n\n".join(map(_markdown, parts))


def _markdown(part: str) -> str:
    if part.startswith(">>>"):
        return f"```pycon\n{part}\n```"
    return re.sub(r"`[^`]*`|<", lambda found: "&lt;" if found[0] == "<" else found[0], part)
