"""Matplotlib's figures as <svg> elements of a page, in the page's own colours and small.

Colours become the variables of page.css, so that a chart is dark on a dark page; text stays text,
in the page's font.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from cxr_jax.report.blocks import Panel

matplotlib.rcParams["svg.fonttype"] = "none"

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, GREY, LINE, BAND = "#333333", "#777777", "#e5e5e5", "#f5f5f5"

_VARIABLES = {colour.lower(): f"var(--c{k})" for k, colour in enumerate(COLOURS)} | {
    INK: "var(--ink)",
    GREY: "var(--grey)",
    LINE: "var(--line)",
    BAND: "var(--band)",
    "#ffffff": "none",
}
_SHORTER = (
    (r"<defs>\s*(<style.*?</style>|<clipPath.*?</clipPath>\s*)*\s*</defs>", ""),
    (r"<!--.*?-->|<metadata>.*?</metadata>", ""),
    (r"<g id=\"[^\"]*\">", "<g>"),
    (r"\s+", " "),
    (r"> <", "><"),
)
_SHORTER_IN_TAGS = (  # text is left as it is: numbers at an axis keep their digits
    (r" (clip-path|xml:space)=\"[^\"]*\"| transform=\"rotate\(-0 [^\"]*\"", ""),
    (r"font-family: [^;\"]*(; )?", ""),
    (r"xlink:href", "href"),
    (r"(\d+\.\d)\d+", r"\1"),
    (r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0])),
)


def panel(figure: Figure, title: str, name: str) -> Panel:
    """Returns the figure as a part of a page; `name` tells a blind reader what it is.

    >>> figure = Figure(figsize=(1, 1))
    >>> panel(figure, "Mass", "A square").svg[:60]
    '<svg viewBox="0 0 72 72" role="img" aria-label="A square"><g'
    """
    held = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": f"{title} {name}"}):  # the same page twice
        figure.savefig(held, format="svg", metadata={"Date": None})
    text = held.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = _replace(_SHORTER, body)
    body = re.sub("<[^>]*>", lambda tag: _replace(_SHORTER_IN_TAGS, tag[0]), body)
    width, height = (72 * side for side in figure.get_size_inches())
    named = re.sub('[<>&"]', " ", name)
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{named}">'
    return Panel(title, round(width * 96 / 72), head + body.strip())


def _replace(patterns: Sequence[tuple[str, Any]], text: str) -> str:
    for pattern, short in patterns:
        text = re.sub(pattern, short, text, flags=re.DOTALL)
    return text


def sample(colour: str, line: str) -> str:
    """Returns a short line, for a legend beside the chart."""
    dash = {"--": "6 3", ":": "1.5 2.5", "-.": "6 2.5 1.5 2.5"}.get(line, "")
    stroke = f'stroke="{_VARIABLES[colour.lower()]}" stroke-width="2.5" stroke-dasharray="{dash}"'
    return f'<svg viewBox="0 0 32 12" aria-hidden="true"><path d="M1 6H31" {stroke}/></svg>'
