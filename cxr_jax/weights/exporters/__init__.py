"""What an encoder goes out as, one format per file: `export(encoder) -> Exported`.

`export` raises ValueError for an encoder that the tool has no module for, saying what keeps it.
"""

from typing import Any, NamedTuple

import numpy as np


class Exported(NamedTuple):
    """An encoder in the form of another tool.

    tensors: what goes into model.safetensors, by key; none, no such file.
    files: by name, JSON or the bytes of a file.
    usage: the lines of Python that load it.
    normalises: whether it takes pixels in [0, 1] and normalises them itself.
    """

    tensors: dict[str, np.ndarray]
    files: dict[str, Any]
    usage: str
    normalises: bool = False
