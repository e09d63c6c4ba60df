"""Text that a stranger may have written: read within bounds, and made fit to be shown."""

import difflib
import unicodedata
from collections.abc import Iterable
from pathlib import Path

# The longest small text file that is read whole, NIH's list of images, has 2 MB.
MAX_BYTES = 50_000_000
_HALF = 900


def plain(text: str) -> str:
    """Escapes what would move a terminal's cursor, and leaves out the middle of pages.

    >>> print(plain("a name\\x1b[2J"))
    a name\\x1b[2J
    """
    if len(text) > 2 * _HALF:
        text = f"{text[:_HALF]} … {text[-_HALF:]}"
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in text)


def composed(text: str) -> str:
    """Returns text in Unicode's composed form (NFC), for names that must match.

    macOS, zip archives and tables write "é" as one character or as "e" and an accent.

    >>> len("e\u0301"), len(composed("e\u0301"))
    (2, 1)
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def in_words(error: Exception) -> str:
    """Returns an error's message; of one of the system's, what is wrong and of which file.

    >>> in_words(FileNotFoundError(2, "No such file", "a.png")), in_words(ValueError("no label"))
    ('No such file: a.png', 'no label')
    """
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return str(error)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns a hint at the known word that is nearest to `word` or begins alike, else "".

    >>> did_you_mean("simclar", ["simclr", "byol"]), did_you_mean("vit", ["simclr", "byol"])
    (" Did you mean 'simclr'?", '')
    """
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    close += [other for other in known if len(word) > 2 and other.startswith(word)]
    return f" Did you mean {close[0]!r}?" if close else ""


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """Reads a small file whole; raises ValueError if it is longer than `most` bytes, or OSError."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} is longer than {most:,} bytes. Restore the owner's file.")
    return content
