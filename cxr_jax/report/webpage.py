"""One HTML file that needs nothing else: page.css, page.js and all pictures are in it.

It fetches nothing. Charts are SVG in the page's own colours, light or dark; photographs are WebP of
the size shown, so small that the page holds at most 3 MB. Tables sort at a click on a heading.
"""

import base64
import html
import io
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from PIL import Image

from cxr_jax.report.blocks import (
    Block,
    Bullets,
    Heading,
    Panel,
    Picture,
    Table,
    Text,
    to_markdown,
)

_VERDICTS = dict(win="win", loss="loss", tie="tie", negligible="tie", inconclusive="open")
_DPI = 160  # of pictures that do not say theirs
_MOST = 3_000_000  # bytes of a page
_QUALITIES = (75, 60, 45, 30, 15)  # of WebP: the first with which all pictures fit
_NARROWEST = 0.75  # of its width: a chart that needs more than a phone has scrolls
_OPEN = 6  # panels; the others are behind a click


def write(folder: Path, name: str, title: str, blocks: Sequence[Block]) -> Path:
    """Writes folder/name (Markdown) and folder/report.html; returns the path of the latter."""
    (folder / name).write_text(to_markdown(title, blocks, folder))
    path = folder / "report.html"
    path.write_text(to_html(title, blocks, folder))
    return path


def to_html(
    title: str, blocks: Sequence[Block], folder: Path = Path("."), most: int = _MOST
) -> str:
    """Returns one document of at most `most` bytes of pictures and text, with a list of contents.

    Reads pictures from their paths. Those that do not fit are named, relative to `folder`.
    """
    heads = [place for place, block in enumerate(blocks) if isinstance(block, Heading)]
    contents = "".join(
        f'<li><a href="#part-{place}">{_inline(blocks[place].text)}</a></li>'
        for place in heads
        if blocks[place].level == 2
    )
    blocks = [_said_once(*pair) for pair in zip([Text(""), *blocks], blocks)]
    body = {place: _html(block, f"part-{place}") for place, block in enumerate(blocks)}
    pictures = {k: one for k, one in enumerate(blocks) if isinstance(one, Picture)}
    photographs = {k: one for k, one in pictures.items() if not one.panels}
    left = most - sum(len(one.encode()) + 300 for one in body.values()) - 20_000
    body |= _photographs(photographs, left, folder)
    parts = list(body.values())
    listed = f'<nav aria-label="Contents"><ul>{contents}</ul></nav>'
    parts.insert(heads[0] if heads else 0, listed)
    style, script = (
        (resources.files("cxr_jax.report") / f"page.{kind}").read_text() for kind in ("css", "js")
    )
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en-GB">',
            f'<head><meta charset="utf-8"><title>{html.escape(title)}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>\n{style}</style></head>",
            f"<body><h1>{html.escape(title)}</h1>",
            *parts,
            f"<script>\n{script}</script></body></html>\n",
        ]
    )


def _said_once(before: Block, block: Block) -> Block:
    """Returns a picture without its caption where the text or heading above it says the same."""
    if isinstance(block, Picture) and isinstance(before, Text | Heading):
        return block._replace(caption="" if block.caption in before.text else block.caption)
    return block


def _html(block: Block, place: str) -> str:
    match block:
        case Heading(text, level):
            return f'<h{level} id="{place}">{_inline(text)}</h{level}>'
        case Text(text, kind):
            return f'<p class="{kind}">{_inline(text)}</p>' if kind else f"<p>{_inline(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>"
        case Table(header, rows, caption):
            # Above the table, not in it: a wide table scrolls on a phone, words need not.
            above = f'<p class="caption">{_inline(caption)}</p>' if caption else ""
            sorts = len(rows) > 2 and len(header) > 2
            around = "<button>{}</button>" if sorts else "{}"
            head = "".join(
                f'<th scope="col">{around.format(_inline(cell))}</th>' for cell in header
            )
            body = "".join(
                f'<tr><th scope="row">{_inline(first)}</th>{"".join(map(_cell, others))}</tr>'
                for first, *others in rows
            )
            return (
                f'{above}<div class="wide table" tabindex="0"><table><thead><tr>{head}</tr>'
                f"</thead><tbody>{body}</tbody></table></div>"
            )
        case Picture():
            return _chart(block)


def _chart(picture: Picture) -> str:
    """Returns the panels, those after the first six behind a click."""
    keys = "".join(f"<span>{sample}{_inline(name)}</span>" for name, sample in picture.keys)
    parts = [f'<div class="keys">{keys}</div>'] if len(picture.keys) > 1 else []
    parts.append(_panels(picture.panels[:_OPEN]))
    if more := picture.panels[_OPEN:]:
        names = ", ".join(_inline(panel.title) for panel in more)
        parts.append(f"<details><summary>{len(more)} more: {names}</summary>")
        parts.append(f"{_panels(more)}</details>")
    return _figure("".join(parts), picture.caption)


def _panels(panels: Sequence[Panel]) -> str:
    drawn = (
        f'<div class="panel wide" style="width:{width}px"><b>{_inline(title)}</b>'
        f'<div style="min-width:{round(_NARROWEST * width)}px">{svg}</div></div>'
        for title, width, svg in panels
    )
    return f'<div class="panels">{"".join(drawn)}</div>'


def _figure(held: str, caption: str) -> str:
    below = f"<figcaption>{_inline(caption)}</figcaption>" if caption else ""
    return f"<figure>{held}{below}</figure>"


def _photographs(pictures: dict[int, Picture], room: int, folder: Path) -> dict[int, str]:
    """Returns them as HTML, by their places in the page: all of one quality, that which fits."""
    read = {k: _read(picture.path) for k, picture in pictures.items()}
    for quality in _QUALITIES:
        held = {k: _webp(image, quality) for k, image in read.items() if image}
        if sum(map(len, held.values())) <= room:
            break
    found = {}
    for place, (path, caption, *_) in pictures.items():
        if place not in held:  # damaged: the rest is still a page
            found[place] = f"<p>{_inline(caption)} (The picture cannot be read.)</p>"
        elif len(held[place]) > room:
            where = path.relative_to(folder) if path.is_relative_to(folder) else path.name
            said = f"{caption} (Left out to keep the page small: {where}.)"
            found[place] = f"<p>{_inline(said)}</p>"
        else:
            room -= len(held[place])
            width, alt = read[place].width, html.escape(caption or path.stem, quote=True)
            narrowest = round(_NARROWEST * width)
            size = f"width:max({narrowest}px,min(100%,{width}px))"
            source = f"data:image/webp;base64,{held[place]}"
            image = f'<img width="{width}" style="{size}" alt="{alt}" src="{source}">'
            found[place] = _figure(f'<div class="wide" tabindex="0">{image}</div>', caption)
    return found


def _read(path: Path) -> Image.Image | None:
    """Returns the pixels at the size that a page shows; None for a damaged file."""
    try:
        with Image.open(path) as picture:
            scale = 96 / picture.info.get("dpi", (_DPI,))[0]  # a browser's inch has 96 pixels
            size = [max(1, round(scale * side)) for side in picture.size]
            return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _webp(image: Image.Image, quality: int) -> str:
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=quality)
    return base64.b64encode(encoded.getvalue()).decode()


def _cell(text: str) -> str:
    first, *others = text.split("\n")
    small = "".join(f"<small>{_inline(line)}</small>" for line in others)
    if first in _VERDICTS:
        return f'<td class="{_VERDICTS[first]}"><b>{first}</b>{small}</td>'
    return f"<td>{_inline(first)}{small}</td>"


def _inline(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text, quote=False))
