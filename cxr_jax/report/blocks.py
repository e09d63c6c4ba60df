"""The blocks that pages are made of, and pages as Markdown; webpage.py makes a file of them.

Text may hold **bold**; everything else is printed as it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Heading(NamedTuple):
    """A section of the contents list (level 2) or a part of one (level 3)."""

    text: str
    level: int = 2


class Text(NamedTuple):
    """A paragraph; `kind` "lead" sets it large, "small" small."""

    text: str
    kind: str = ""


class Bullets(NamedTuple):
    items: Sequence[str]


class Table(NamedTuple):
    """`rows` of cells as wide as `header`; the lines of a cell after its first are set small.

    A cell whose first line is a verdict has the verdict's colour.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


class Panel(NamedTuple):
    """A part of a chart: its title, its width in pixels and an <svg> element (svg.py)."""

    title: str
    width: int
    svg: str


class Picture(NamedTuple):
    """A PNG and its caption. HTML has the panels of a chart in its place, beside each other.

    `keys` are the names of what is drawn, each with a sample as <svg>.
    """

    path: Path
    caption: str
    panels: Sequence[Panel] = ()
    keys: Sequence[tuple[str, str]] = ()


Block = Heading | Text | Bullets | Table | Picture


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
        case Text(text, _):
            return text
        case Bullets(items):
            return "\n".join(f"- {item}" for item in items)
        case Table(header, rows, caption):
            table = markdown_table(header, rows)
            return f"{caption}\n\n{table}" if caption else table
        case Picture(path, caption, _, _):
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
