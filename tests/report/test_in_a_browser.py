"""A report in headless Chromium: on a desktop, a phone and paper nothing is cut off."""

import html
import json
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_jax.report import charts, webpage
from cxr_jax.report.blocks import Heading, Picture, Table, Text
from tests.fakes import benchmark as fake

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

# What sticks out of the page, or of a frame that does not scroll; what can scroll says so.
MEASURE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const wide = innerWidth, found = [];
  for (const one of document.querySelectorAll("body *:not(script):not(style)")) {
    const frame = one.closest(".wide"), box = one.getBoundingClientRect();
    if (!box.width || one.closest("svg") !== null && one.tagName !== "svg") continue;
    if (!frame && (box.right > wide + 1 || box.left < -1)) found.push(one.tagName + one.className);
    if (frame === one && one.scrollWidth > one.clientWidth + 1 && !one.classList.contains("more"))
      found.push("no cue: " + one.className);
  }
  if (document.documentElement.scrollWidth > wide) found.push("the page");
  const smallest = Math.min(...[...document.querySelectorAll("svg text")].map(
    text => text.getBoundingClientRect().height));
  document.querySelector("th button").click();
  const order = [...document.querySelectorAll("tbody th")].map(cell => cell.textContent);
  parent.postMessage(JSON.stringify([wide, found, Math.round(smallest), order]), "*");
}, 0));
</script></body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    labels = tuple(f"Finding {k}" for k in range(7))
    given = fake.predictions(1.0, 0, "phantom", labels)
    runs = [("ours", given), ("a rival of a long name", given)]
    Image.fromarray(np.tile(np.arange(0, 250, 50, np.uint8), (2400, 220))).save(
        folder / "tall.png", dpi=(160, 160)
    )
    rows = [[name, *["+.012 [−.034, +.056]"] * 9] for name in ("b", "a", "c")]
    blocks = [
        Text("An answer.", "lead"),
        Heading("Tables"),
        Table(["encoder", *(f"a dataset ({k})" for k in range(9))], rows, "Numbers."),
        Heading("Curves"),
        charts.roc(folder / "roc.png", runs, labels, "Curves"),
        Heading("Images"),
        Picture(folder / "tall.png", "A tall picture"),
    ]
    path = folder / "page.html"
    path.write_text(webpage.to_html("A report", blocks, folder).replace("</body>", MEASURE))
    return path


def chromium(page: Path, *arguments: str) -> str:
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent}/own")
    command = [CHROMIUM, *options, *arguments, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_off_on_a_screen(page, width):
    # In a frame, for a window without a screen has at least 500 pixels.
    frame = page.parent / f"{width}.html"
    frame.write_text(
        "<body><script>onmessage = sent => { document.body.dataset.measured = sent.data; };"
        f'</script><iframe src="page.html" width="{width}" height="900"></iframe></body>'
    )
    options = ("--dump-dom", "--virtual-time-budget=3000", "--hide-scrollbars")
    held = re.search('data-measured="([^"]*)"', chromium(frame, *options))[1]
    wide, found, smallest, order = json.loads(html.unescape(held))
    assert (wide, found) == (width, [])
    assert smallest >= 8  # pixels of the smallest letters of a chart
    assert order == ["a", "b", "c"]  # by a click on a heading


def test_paper_holds_every_panel_and_whole_pictures(page):
    pdf = page.parent / "page.pdf"
    chromium(page, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    data = pdf.read_bytes()
    sizes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", data)
    assert {tuple(round(float(side)) for side in size) for size in sizes} == {(595, 842)}
    streams = [
        zlib.decompress(found)
        for found in re.findall(
            rb"/FlateDecode[^>]*>>\s*stream\r?\n(.*?)\r?\nendstream", data, re.S
        )
    ]
    # A picture that a page's end cuts is drawn on two pages.
    assert sum(re.search(rb"/X\d+ Do", one) is not None for one in streams) == 1
