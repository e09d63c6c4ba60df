"""Blocks become Markdown and one HTML page that needs nothing else."""

from pathlib import Path

from cxr_jax.report import blocks, webpage


def test_a_damaged_picture_does_not_cost_the_page(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    text = webpage.to_html("A", [blocks.Picture(tmp_path / "a.png", "Curves")])
    assert "Curves (The picture cannot be read.)" in text and "<img" not in text


def test_text_is_escaped_and_marked():
    page = [blocks.Text("1 < 2 **& more**"), blocks.Table(["a", "b"], [["x", "win\n+.1"]])]
    text = webpage.to_html("A & B", page)
    assert "<p>1 &lt; 2 <strong>&amp; more</strong></p>" in text
    assert '<td class="win"><b>win</b><small>+.1</small></td>' in text
    assert "<title>A &amp; B</title>" in text
    markdown = blocks.to_markdown("A & B", page, Path("."))
    assert "| x | win +.1 |" in markdown and "1 < 2 **& more**" in markdown
