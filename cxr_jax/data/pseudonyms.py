"""Hashes ids with a project's secret before they leave the built datasets.

The secret is beside the datasets, in data_dir/.salt, and is made when it is first needed. With one
secret, equal ids give equal hashes in the results of every encoder, dataset and run. Without it
nobody finds an id by hashing all possible ones, which is easy with record numbers.
"""

import contextlib
import hmac
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

FILE = ".salt"
_LENGTH = 64  # hex digits


def read(data_dir: Path) -> bytes:
    """Reads the secret of the datasets in `data_dir`, and makes it first if there is none.

    Raises OSError if it cannot be made or read, ValueError if the file holds something else.
    """
    path = data_dir / FILE
    try:
        if not path.exists():
            _make(path)
        # A process that made the file may not have written it yet.
        deadline = time.monotonic() + 2
        while len(text := path.read_text("ascii", "replace").strip()) < _LENGTH:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
    except OSError as error:
        raise type(error)(
            f"{path}: {error.strerror}. It holds the secret with which ids in results are hashed; "
            "whoever owns the folder makes it once (python -m data_builders.reidentify NAME "
            f"--data_dir={data_dir}) and lets its group read it (chmod 640)"
        ) from error
    if len(text) < _LENGTH:
        raise ValueError(
            f"{path} is not a secret of {_LENGTH} hex digits: put the project's own back. With "
            "another secret, ids in new results match none in older results. If there are no "
            "results yet, remove the file."
        )
    return text.encode()


def owner(folder: Path, metadata: Mapping[str, Any]) -> str:
    """Returns the dataset whose ids a built one's are; all folders of a person's own are one."""
    return metadata["parent"] or metadata.get("builder") or folder.parents[1].name


def hashed(key: bytes, what: str, owner: str, ids: Iterable[str]) -> tuple[str, ...]:
    """Returns each id as the first letter of `what` and 16 hex digits of its HMAC-SHA256.

    >>> hashed(b"secret", "image", "jsrt", ["JPCLN001"])
    ('idd3a4bfe07550224',)

    `what` is "image", "patient" or "study": an image and a patient of one number differ. `owner` is
    whose numbers they are: equal for datasets that share them.
    """
    digests = (hmac.digest(key, f"{what}/{owner}/{one}".encode(), "sha256") for one in ids)
    return tuple(what[0] + digest.hex()[:16] for digest in digests)


def _make(path: Path) -> None:
    """Makes the file for its owner alone; if another process is faster, its secret stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        contextlib.suppress(FileExistsError),
        open(path, "xb", buffering=0, opener=partial(os.open, mode=0o600)) as stream,
    ):
        try:
            stream.write(secrets.token_hex(_LENGTH // 2).encode() + b"\n")
            os.fsync(stream.fileno())
        except OSError:
            path.unlink()
            raise
