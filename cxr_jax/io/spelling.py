"""Which word was meant, for messages about one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" with the known word that is nearest or begins alike, else ""."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    close += [other for other in known if len(word) > 2 and other.startswith(word)]
    return f" Did you mean {close[0]!r}?" if close else ""
