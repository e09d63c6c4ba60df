"""One word for an image's view, whatever the owner calls it; nothing else leaves that field."""

from __future__ import annotations

_WORDS = {
    "PA": {"PA", "P-A", "POSTEROANTERIOR", "POSTERO-ANTERIOR"},
    "AP": {"AP", "A-P", "ANTEROPOSTERIOR", "ANTERO-POSTERIOR", "AP_HORIZONTAL", "AP SUPINE"},
    "FRONTAL": {"FRONTAL"},
    "LATERAL": {"LATERAL", "LAT", "L", "LL", "RL", "LEFT LATERAL", "RIGHT LATERAL"},
}
_STANDARD = {word: view for view, words in _WORDS.items() for word in words}
# Other projections and marks that owners use, kept as they are.
_KEPT = frozenset(
    {
        *("", "AP AXIAL", "AP LLD", "AP RLD", "PA LLD", "PA RLD", "LLD", "RLD", "LLO", "RLO"),
        *("LT-DECUB", "RT-DECUB", "DECUBITUS", "LORDOTIC", "AP LORDOTIC", "OBLIQUE", "LAO", "RAO"),
        *("LPO", "RPO", "XTABLE LATERAL", "SWIMMERS", "COSTAL", "EXCLUDE", "UNK", "OUTLIER"),
    }
)
OTHER = "OTHER"


def standard(view: str) -> str:
    """ "PA", "AP", "FRONTAL" (one of the two), "LATERAL", "" (unknown), a known word, or "OTHER".

    In DICOM the field is free for typing, so that anything unknown could be a name.
    """
    word = " ".join(view.upper().split())
    return _STANDARD.get(word) or (word if word in _KEPT else OTHER)
