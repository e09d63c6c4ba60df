"""The formats in which encoders are exported, one per file: `export(encoder) -> Exported`.

`export` raises ValueError for an encoder that the tool has no module for, and names a format that
takes it.
"""

from typing import Any, NamedTuple

import numpy as np


class Exported(NamedTuple):
    """An encoder in the form of another tool.

    Attributes:
      tensors: the contents of model.safetensors, by key; {}: no such file.
      files: other files by name, as JSON or bytes.
      usage: the lines of Python that load it.
      library: the name of the tool, where Hugging Face's hub knows it.
      normalises: whether it takes pixels in [0, 1] and normalises them itself.
    """

    tensors: dict[str, np.ndarray]
    files: dict[str, Any]
    usage: str
    library: str = ""
    normalises: bool = False
