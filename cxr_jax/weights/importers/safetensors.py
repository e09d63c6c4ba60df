"""Our own encoders as `python -m cxr_jax.weights.export --format=safetensors` writes them."""

from pathlib import Path

from cxr_jax.io.text import plain
from cxr_jax.weights.arrays import read_arrays, read_hub_folder
from cxr_jax.weights.convert import Source, errors_naming, fill, to_torch
from cxr_jax.weights.encoder import Encoder, check_facts


def load(path: str | Path) -> Encoder:
    """Reads the encoder in the folder, which holds model.safetensors and cxr_jax.json."""
    file, facts = read_hub_folder(path, "cxr_jax.json")
    arrays = read_arrays(file)
    with errors_naming(file):
        if not {"name", "model", "image_size"} <= set(facts):
            raise ValueError("no cxr_jax.json beside it that says what the model is")
        model = facts["model"]
        check_facts(Path("cxr_jax.json"), model, facts["image_size"])
        variables = fill(model, arrays, _source, f"its {model.get('name')}")
    return Encoder(plain(str(facts["name"])), model, variables, facts["image_size"])


def _source(path: tuple[str, ...]) -> Source:
    key = ".".join(path)
    # `fill` turns kernels from PyTorch's axis order into ours, which these have.
    return Source((key,), to_torch) if path[-1] == "kernel" else Source((key,))
