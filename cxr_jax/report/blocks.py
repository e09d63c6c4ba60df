"""Pages made of blocks, written as Markdown and as one HTML file that needs nothing else.

Text may hold **bold**; everything else is printed as it is. The HTML file fetches nothing: pictures
are inlined, there is no script, and the style below is all of it.
"""

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image


class Heading(NamedTuple):
    """A section of the contents list (level 2) or a part of one (level 3)."""

    text: str
    level: int = 2


class Text(NamedTuple):
    text: str


class Bullets(NamedTuple):
    items: Sequence[str]


class Table(NamedTuple):
    """`rows` of cells as wide as `header`; the lines of a cell after its first are set small.

    A cell whose first line is a verdict has the verdict's colour.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


class Picture(NamedTuple):
    """A PNG and its caption."""

    path: Path
    caption: str


Block = Heading | Text | Bullets | Table | Picture

_VERDICTS = dict(win="win", loss="loss", tie="tie", negligible="tie", inconclusive="open")
_DPI = 160  # of pictures that do not say theirs
_OF_A_CHART = 0.2  # bytes a pixel of a lossless file, at most; photographs take more

_STYLE = """
:root { --ink: #222; --grey: #666; --line: #d8d8d8; --band: #f6f6f4; --link: #00568a; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.2rem 1rem 4rem; color: var(--ink);
  background: #fff; font: 16px/1.5 system-ui, "Segoe UI", Roboto, Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .4rem 0 1rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p, ul { margin: .6rem 0; max-width: 46rem; }
li { margin: .25rem 0; }
a { color: var(--link); }
nav { background: var(--band); padding: .6rem 1rem; margin: 1.2rem 0; }
nav ul { list-style: none; padding: 0; margin: 0; columns: 2 16rem; max-width: none; }
nav li { margin: 0; padding: .12rem 0; break-inside: avoid; }
.wide { overflow-x: auto; margin: .8rem 0 1.2rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
.caption { color: var(--grey); font-size: .88rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0;
  border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
tbody th { font-weight: 600; position: sticky; left: 0; background: #fff; }
td small { display: block; color: var(--grey); font-size: .8em; white-space: nowrap; }
.win b { color: #00573f; } .loss b { color: #a33d00; } .tie b { color: #00568a; }
.open b { color: var(--grey); font-weight: 400; font-style: italic; }
figure { margin: 1rem 0 1.6rem; }
img { max-width: 100%; height: auto; }
figcaption { color: var(--grey); font-size: .88rem; max-width: 46rem; }
@media (max-width: 40rem) { body { font-size: 15px; } h1 { font-size: 1.4rem; } }
@media print {
  @page { size: A4; margin: 16mm 14mm; }
  body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  .wide { overflow: visible; } tbody th { position: static; }
  table { font-size: 7.5pt; } th, td { padding-right: .4rem; }
  figure, tr { break-inside: avoid; } h2, h3, .caption { break-after: avoid; }
}
"""


def write(folder: Path, name: str, title: str, blocks: Sequence[Block]) -> Path:
    """Writes folder/name (Markdown) and folder/report.html; returns the path of the latter."""
    (folder / name).write_text(to_markdown(title, blocks, folder))
    path = folder / "report.html"
    path.write_text(to_html(title, blocks))
    return path


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """Returns one HTML document with a list of contents; reads the pictures from their paths."""
    heads = [place for place, block in enumerate(blocks) if isinstance(block, Heading)]
    contents = "".join(
        f'<li><a href="#part-{place}">{_inline(blocks[place].text)}</a></li>'
        for place in heads
        if blocks[place].level == 2
    )
    body = [_html(block, f"part-{place}") for place, block in enumerate(blocks)]
    listed = f'<nav aria-label="Contents"><ul>{contents}</ul></nav>'
    body.insert(heads[0] if heads else 0, listed)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en-GB">',
            f'<head><meta charset="utf-8"><title>{html.escape(title)}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{_STYLE}</style></head>",
            f"<body><h1>{html.escape(title)}</h1>",
            *body,
            "</body></html>\n",
        ]
    )


def _html(block: Block, place: str) -> str:
    match block:
        case Heading(text, level):
            return f'<h{level} id="{place}">{_inline(text)}</h{level}>'
        case Text(text):
            return f"<p>{_inline(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>"
        case Table(header, rows, caption):
            # Above the table, not in it: a wide table scrolls on a phone, words need not.
            above = f'<p class="caption">{_inline(caption)}</p>' if caption else ""
            head = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in header)
            body = "".join(
                f'<tr><th scope="row">{_inline(first)}</th>{"".join(map(_cell, others))}</tr>'
                for first, *others in rows
            )
            return (
                f'{above}<div class="wide"><table><thead><tr>{head}</tr></thead>'
                f"<tbody>{body}</tbody></table></div>"
            )
        case Picture(path, caption):
            try:
                with Image.open(path) as picture:
                    dpi = picture.info.get("dpi", (_DPI,))[0]
                    width = round(picture.width * 96 / dpi)  # a browser's inch has 96 pixels
                    held = base64.b64encode(_webp(picture)).decode()
            except (OSError, ValueError, ZeroDivisionError):  # damaged: the rest is still a page
                return f"<p>{_inline(caption)} (The picture cannot be read.)</p>"
            alt = html.escape(caption, quote=True)
            return (
                f'<figure><img width="{width}" alt="{alt}" src="data:image/webp;base64,{held}">'
                f"<figcaption>{_inline(caption)}</figcaption></figure>"
            )


def _webp(picture: Image.Image) -> bytes:
    """Encodes a chart as it is, and a photograph, whose file would be large, at quality 80."""
    pixels, encoded = picture.convert("RGB"), io.BytesIO()
    pixels.save(encoded, "WEBP", lossless=True, method=1)
    if encoded.tell() > _OF_A_CHART * pixels.width * pixels.height:
        encoded = io.BytesIO()
        pixels.save(encoded, "WEBP", quality=80)
    return encoded.getvalue()


def _cell(text: str) -> str:
    first, *others = text.split("\n")
    small = "".join(f"<small>{_inline(line)}</small>" for line in others)
    if first in _VERDICTS:
        return f'<td class="{_VERDICTS[first]}"><b>{first}</b>{small}</td>'
    return f"<td>{_inline(first)}{small}</td>"


def _inline(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text, quote=False))


def to_markdown(title: str, blocks: Sequence[Block], folder: Path) -> str:
    """Returns the same page as Markdown for a file in `folder`; picture paths are relative to it.

    >>> print(to_markdown("Scores", [Heading("AUROC"), Text("Of one model.")], Path(".")), end="")
    # Scores
    <BLANKLINE>
    ## AUROC
    <BLANKLINE>
    Of one model.
    """
    return "\n\n".join([f"# {title}", *(_markdown(block, folder) for block in blocks)]) + "\n"


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Bullets(items):
            return "\n".join(f"- {item}" for item in items)
        case Table(header, rows, caption):
            table = markdown_table(header, rows)
            return f"{caption}\n\n{table}" if caption else table
        case Picture(path, caption):
            return f"![{caption}]({path.relative_to(folder).as_posix()})"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; the lines of a cell become one.

    >>> print(markdown_table(["label", "AUROC"], [["Mass", ".812\\n[.790, .834]"]]))
    | label | AUROC |
    | --- | --- |
    | Mass | .812 [.790, .834] |
    """
    lines = [header, ["---"] * len(header), *rows]
    cells = [[str(cell).replace("\n", " ").replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
