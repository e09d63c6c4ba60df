"""What a zip file of weights may unpack to: told by its directory, before anything is unpacked."""

import errno
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Weights hardly compress; what does so better than this is made to exhaust memory.
MAX_RATIO = 20
# Of a small file, which may hold little but zeros.
LEAST_BYTES = 64 << 20
_PACKED_AS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def most_bytes(path: Path) -> int:
    """How many bytes of arrays a file may give."""
    return max(LEAST_BYTES, MAX_RATIO * path.stat().st_size)


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever is found damaged while it is open is a ValueError.

    Raises ValueError for damage, a member twice or packed in an unusual way, and where all members
    together would unpack to more than 20 times the file (or 64 MiB).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check(archive, most_bytes(path), path.stat().st_size)
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        what = str(error) or "it ends too early"
        raise ValueError(f"damaged archive ({what}); copy the file again") from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise  # the disk's, not the file's, whose places may lie before its start
        raise ValueError(f"damaged archive ({error}); copy the file again") from error


def _check(archive: zipfile.ZipFile, most: int, num_bytes: int) -> None:
    entries = archive.infolist()
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("an archive with two members of one name")
    for entry in entries:
        if entry.compress_type not in _PACKED_AS:
            raise ValueError(f"member {entry.filename!r} is packed in a way that is not read here")
        if entry.compress_size > num_bytes:  # Python would make room for it
            raise ValueError(f"member {entry.filename!r} claims {entry.compress_size:,} bytes")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > most:
        raise ValueError(
            f"unpacks to {unpacked:,} bytes, more than the {most:,} that weights in a file of its "
            "size take: made to exhaust memory"
        )
