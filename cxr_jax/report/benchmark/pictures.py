"""The images of a benchmark's page: what cells of the largest fraction left beside their results."""

from pathlib import Path

from cxr_jax.report.benchmark.grid import Grid
from cxr_jax.report.benchmark.tables import TITLES
from cxr_jax.report.blocks import Block, Heading, Picture, Text
from cxr_jax.report.panels_section import SENTENCE, drawn


def blocks(workdir: Path, grid: Grid) -> list[Block]:
    """Dataset by dataset, protocol by protocol, encoder by encoder; empty where none are drawn."""
    found: list[Block] = []
    for dataset in grid.datasets:
        for protocol in grid.protocols:
            key = (protocol, dataset, grid.fractions(protocol)[-1])
            for cell in grid.cells:
                pictures = drawn(workdir / cell.folder) if cell.group == key else []
                if cell.state == "done" and pictures:
                    title = f"{dataset}: {TITLES.get(protocol, protocol).lower()}, {cell.encoder}"
                    found.append(Heading(title, 3))
                    plain = [(path, caption.replace("**", "")) for path, caption in pictures]
                    found += [Picture(*picture) for picture in plain]
    return [Heading("Images"), Text(SENTENCE), *found] if found else []
