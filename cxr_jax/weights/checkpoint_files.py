"""A checkpoint file (.npz, .safetensors, .pth) as one flat dict of arrays, as they were saved."""

import zipfile
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load_file

from cxr_jax.weights.torch_zip import read_torch_zip


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays by key.

    Raises FileNotFoundError; ValueError for a suffix that is none of the three, a damaged file, or
    a .pth that holds anything but arrays by name at its top level.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors, ".pth": _read_pth}
    if path.suffix not in readers:
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; read are {', '.join(readers)}")
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    return readers[path.suffix](path)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a sound .npz of plain arrays (it is no zip archive)")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    # ValueError: object arrays or no npz at all. AttributeError: a lone .npy under that suffix.
    except (zipfile.BadZipFile, EOFError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: not a sound .npz of plain arrays ({error})") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"{path}: not a sound .safetensors ({error})") from error


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    saved = read_torch_zip(path)
    if not isinstance(saved, dict):
        raise ValueError(f"{path}: holds a {type(saved).__name__}, not a state_dict")
    nested = [
        str(key)
        for key, value in saved.items()
        if isinstance(value, dict) and any(isinstance(item, np.ndarray) for item in value.values())
    ]
    if nested:
        raise ValueError(
            f"{path}: the weights are nested under {' and '.join(map(repr, nested))}; save the one "
            f"you mean by itself, e.g. torch.save(checkpoint[{nested[0]!r}], 'weights.pth')"
        )
    others = [repr(key) for key, value in saved.items() if not isinstance(value, np.ndarray)]
    if others:
        raise ValueError(f"{path}: {', '.join(others[:5])} is no tensor; save the bare state_dict")
    return saved
