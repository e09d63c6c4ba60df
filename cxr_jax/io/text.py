"""What a stranger's file says, made fit to be shown: a name in it may hold anything."""

from pathlib import Path

_HALF = 900
# The longest small text file that is read whole, NIH's list of images, has 2 MB.
MAX_BYTES = 50_000_000


def plain(text: str) -> str:
    """`text` with what would move a terminal's cursor escaped, and the middle of pages left out."""
    if len(text) > 2 * _HALF:
        text = f"{text[:_HALF]} … {text[-_HALF:]}"
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in text)


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """Reads a small file whole.

    Raises:
      ValueError: longer than `most` bytes.
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} is longer than {most:,} bytes. Restore the owner's file.")
    return content
