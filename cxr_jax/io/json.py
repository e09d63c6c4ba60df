"""Small JSON files, which may be damaged or a stranger's: read within bounds."""

import json
from pathlib import Path
from typing import Any

from cxr_jax.io.text import plain, read_bytes

# Empty objects take 25 times as much memory as text. Those of metrics, curves, counts of a
# thousand labels or ImageNet's names are shorter than 1 MB.
MAX_BYTES = 5_000_000


def read_json(path: Path, kind: type = dict, most: int = MAX_BYTES) -> Any:
    """Reads a JSON file that holds a `kind`, dict or list.

    Raises:
      ValueError: not JSON, of another kind, or longer than `most` bytes; names the file.
      OSError: it cannot be read.
    """
    text = read_bytes(path, most)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is not JSON ({plain(str(error))})") from error
    if not isinstance(found, kind):
        word = {dict: "object", list: "list"}[kind]
        raise ValueError(f"{path} is damaged: it does not hold a JSON {word}")
    return found
