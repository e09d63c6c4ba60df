"""A project's secret, with which ids are hashed where they leave the built datasets.

It stands beside them, in data_dir/.salt, and is made when it is first needed. With one secret,
equal ids give equal hashes in every encoder's, dataset's and run's results; without it nobody finds
an id by hashing all that there could be, as of record numbers anybody can.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import os
import secrets
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

FILE = ".salt"
_LENGTH = 64  # hex digits


def read(data_dir: Path) -> bytes:
    """The secret of the datasets in `data_dir`, which is made if there is none.

    Raises:
      OSError: it cannot be made or read; says what to do.
      ValueError: the file holds something else.
    """
    path = data_dir / FILE
    try:
        if not path.exists():
            _make(path)
        text = _whole(path)
    except OSError as error:
        raise type(error)(
            f"{path}: {error.strerror}. It holds the secret with which ids in results are hashed; "
            "whoever owns the folder makes it once (python -m cxr_jax.data.ids NAME --data_dir="
            f"{data_dir}) and lets its group read it (chmod 640)"
        ) from error
    if len(text) < _LENGTH:
        raise ValueError(
            f"{path} is no secret of {_LENGTH} hex digits: put the project's own back. With "
            "another one, ids of new results match none of those before; where there are none yet, "
            "remove the file."
        )
    return text.encode()


def hashed(key: bytes, what: str, owner: str, ids: Iterable[str]) -> tuple[str, ...]:
    """Each id as the first letter of `what` and 16 hex digits of its HMAC-SHA256.

    Args:
      what: "image", "patient" or "study"; an image and a patient of one number differ.
      owner: whose numbers they are: equal for datasets that share them.
    """
    start = f"{what}/{owner}/"
    digests = (hmac.digest(key, f"{start}{one}".encode(), "sha256") for one in ids)
    return tuple(what[0] + digest.hex()[:16] for digest in digests)


def _make(path: Path) -> None:
    """Makes the file, whole or not at all; where another process is faster, its secret stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = secrets.token_hex(_LENGTH // 2) + "\n"
    descriptor, name = tempfile.mkstemp(prefix=f"{FILE}.", dir=path.parent)  # of mode 600
    try:
        with open(descriptor, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            _name(Path(name), path)
    finally:
        os.unlink(name)


def _name(made: Path, path: Path) -> None:
    """Gives a file a second name; FileExistsError where that is taken."""
    try:
        os.link(made, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        # A file system without links, of a memory card for one.
        with open(path, "x", opener=lambda *args: os.open(*args, mode=0o600)) as stream:
            stream.write(made.read_text())


def _whole(path: Path) -> str:
    """The file's text; waits for a process that has made it and not yet written it."""
    deadline = time.monotonic() + 2
    while len(text := path.read_text(encoding="ascii", errors="replace").strip()) < _LENGTH:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return text
