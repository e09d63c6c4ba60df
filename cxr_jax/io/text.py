"""What a stranger's file says, made fit to be shown: a name in it may hold anything."""

_HALF = 900


def plain(text: str) -> str:
    """`text` with what would move a terminal's cursor escaped, and the middle of pages left out."""
    if len(text) > 2 * _HALF:
        text = f"{text[:_HALF]} … {text[-_HALF:]}"
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in text)
