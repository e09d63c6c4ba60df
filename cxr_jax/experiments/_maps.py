"""Frozen maps of images, in float16 on disk: they are tens to hundreds of times their features."""

import contextlib
import functools
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ml_collections
import numpy as np

from cxr_jax.data.splits import LabelledSplit
from cxr_jax.experiments import _transfer_inputs
from cxr_jax.transfer._protocol import Maps, Splits
from cxr_jax.weights.encoder import Encoder, maps

_SPARE = 1 << 30  # bytes that must stay free on the disk
_STALE = 86400  # seconds without a write, after which a file is of a run that was killed


def frozen_maps(
    config: ml_collections.ConfigDict, encoder: Encoder, splits: Splits, folder: Path
) -> Callable[[str], Maps]:
    """Returns split name -> frozen maps, computed once however often they are asked for.

    They lie in config.feature_cache, of whole splits, or else in `folder`, of these images alone.
    """

    @functools.cache
    def of_split(name: str) -> Maps:
        split, cache = getattr(splits, name), config.feature_cache
        if cache:
            whole = split._replace(rows=np.arange(len(split.source)))
            path = Path(cache).expanduser()
            return Maps(_stored(encoder, whole, config.batch_size, name, path), split.rows)
        stored = _stored(encoder, split, config.batch_size, name, folder)
        return Maps(stored, np.arange(len(split.rows)))

    return of_split


def _stored(
    encoder: Encoder, split: LabelledSplit, batch_size: int, name: str, folder: Path
) -> np.ndarray:
    """Opens the maps of a split, made if they are not there. Says before what they take.

    Raises ValueError where the disk has no room for them, or they are not finite in float16.
    """
    key = _transfer_inputs.feature_key(encoder, split.source.folder, split.source.split)
    digest = hashlib.sha256(key.encode())
    digest.update(np.asarray(split.rows, np.int64).tobytes())
    path = folder / f"maps-{digest.hexdigest()[:32]}.npy"
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):  # not there, or cut short
        pass
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("maps-*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # another process was first
            if time.time() - left.stat().st_mtime > _STALE:
                left.unlink()
    unfinished = dict(prefix="maps-", suffix=".tmp", delete=False)
    with tempfile.NamedTemporaryFile(dir=folder, **unfinished) as file:
        whole = Path(file.name)
    stored, done = None, 0
    for part in _transfer_inputs.each_batch(encoder, split, batch_size, name, maps(encoder)):
        if stored is None:
            shape = (len(split.rows), *part.shape[1:])
            _announce(encoder, name, shape, folder)
            stored = np.lib.format.open_memmap(whole, "w+", np.float16, shape)
        with np.errstate(over="ignore"):
            stored[done : done + len(part)] = part
        if not np.isfinite(stored[done : done + len(part)]).all():
            whole.unlink()
            raise ValueError(
                f"{encoder.name}: maps of {name} images are not finite in float16: its weights "
                f"are not, or {encoder.image_size} px are too few for it (config.read_size)"
            )
        done += len(part)
    stored.flush()
    whole.replace(path)
    return np.load(path, mmap_mode="r")


def _announce(encoder: Encoder, name: str, shape: tuple[int, ...], folder: Path) -> None:
    """Says what maps take, before they are written; ValueError where there is no room for them."""
    needed = 2 * int(np.prod(shape, dtype=np.int64))
    print(
        f"{encoder.name}: maps of {shape[0]:,} {name} images, {' x '.join(map(str, shape[1:]))} "
        f"in float16, take {needed / 1e6:,.0f} MB in {folder}",
        flush=True,
    )
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise ValueError(
            f"{folder} has {free / 1e9:,.1f} GB free, too few for maps of {needed / 1e9:,.1f} GB. "
            "Take fewer images (config.label_fraction), a smaller config.read_size, or a folder "
            "on another disk (config.feature_cache)"
        )
