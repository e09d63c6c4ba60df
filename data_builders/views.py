"""One word for a film's view, whatever the owner calls it."""

from __future__ import annotations

_WORDS = {
    "PA": {"PA", "P-A", "POSTEROANTERIOR", "POSTERO-ANTERIOR"},
    "AP": {"AP", "A-P", "ANTEROPOSTERIOR", "ANTERO-POSTERIOR", "AP_HORIZONTAL", "AP SUPINE"},
    "FRONTAL": {"FRONTAL"},
    "LATERAL": {
        "LATERAL",
        "LAT",
        "L",
        "LL",
        "RL",
        "LATERO-MEDIAL",
        "LEFT LATERAL",
        "RIGHT LATERAL",
    },
}
_STANDARD = {word: view for view, words in _WORDS.items() for word in words}


def standard(view: str) -> str:
    """ "PA", "AP", "FRONTAL" (one of the two), "LATERAL", "" (unknown), or the owner's own word."""
    word = " ".join(view.upper().split())
    return _STANDARD.get(word, word)
