"""A folder as Hugging Face's hub has it: model.safetensors with its facts beside it as JSON."""

from pathlib import Path
from typing import Any

from cxr_jax.io.json import read_json


def weights_and_facts(path: str | Path, facts_name: str) -> tuple[Path, dict[str, Any]]:
    """The file of weights, and what `facts_name` beside it says, {} if it is not there.

    `path` is the folder, or the file itself. Raises ValueError for a `facts_name` that is no JSON.
    """
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    facts = file.parent / facts_name
    if not facts.is_file():
        return file, {}
    return file, read_json(facts)
