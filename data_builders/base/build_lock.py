"""Lets one build at a time into a dataset's folder, and loses nothing if it is killed."""

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from data_builders.base.records import AlreadyBuilt, BuildError

_TRIES = 3


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other builds from a dataset's place; waits for one that is under way there.

    The system lets go of it however the process ends. `folder` as for `claimed`.
    """
    place = folder.parent
    with contextlib.ExitStack() as stack:
        # Again if a build that was refused meanwhile took the folder away; not for ever, because
        # some file systems give a folder another number each time.
        for _ in range(_TRIES):
            place.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(place, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            _lock(place, descriptor)
            if place.exists() and os.path.samestat(os.fstat(descriptor), place.stat()):
                break
        yield


@contextlib.contextmanager
def claimed(folder: Path, overwrite: bool) -> Iterator[None]:
    """Frees a dataset's place while it is built; only while it is `locked`.

    What a killed build left is cleared away first. With `overwrite` the present dataset moves
    aside; it comes back if the new build fails, or when the next one starts if it is killed.

    `folder` is the version folder, data_dir/name/config/version. Raises AlreadyBuilt if a finished
    dataset is there and `overwrite` is not wanted, BuildError if something else is there.
    """
    # Without dots, so that no reader takes it for a version.
    aside = folder.with_name("replaced")
    if _is_whole(aside) and not _is_whole(folder):
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(aside, folder)
    for left in (aside, *folder.parent.glob(f"incomplete.*_{folder.name}")):
        shutil.rmtree(left, ignore_errors=True)
    if folder.exists():
        if not overwrite and _is_whole(folder):
            raise AlreadyBuilt(f"{folder} is built already. To build it again: --overwrite.")
        if not overwrite:
            raise BuildError(
                f"{folder} exists but is not a finished dataset (dataset_info.json is missing). "
                "Remove it, or build it again with --overwrite."
            )
        os.rename(folder, aside)
    try:
        yield
    except BaseException:
        if aside.exists():
            os.rename(aside, folder)
        with contextlib.suppress(OSError):  # another config or a version stands there
            folder.parent.rmdir()
            folder.parents[1].rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    return (folder / "dataset_info.json").exists()


def _lock(folder: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Waiting for another build in {folder} …", file=sys.stderr)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:  # some network file systems lock no folders
        print(f"{folder} cannot be locked ({error}): start no second build.", file=sys.stderr)
