"""A small JSON file that may be damaged, or a stranger's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_builders import text_file
from data_builders.plain_text import plain


def read(path: Path, kind: type = dict) -> Any:
    """What it holds: a `kind`, dict or list.

    Raises:
      ValueError: it is no JSON, or another kind; names the file.
      OSError: it cannot be read.
    """
    try:
        found = json.loads(text_file.read(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON ({plain(str(error))})") from error
    if not isinstance(found, kind):
        word = {dict: "object", list: "list"}[kind]
        raise ValueError(f"{path} is damaged: it holds no JSON {word}")
    return found
