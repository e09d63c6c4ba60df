"""Makes the pictures of docs/reports.md: pages on drawn images, in headless Chromium.

python docs/report_pictures.py [FOLDER]    minutes on two CPU cores; FOLDER keeps the runs
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

_ROOT = Path(__file__).parents[1]
_MOST = 60_000  # bytes of a picture
# Name -> page, width and height of the window, and the heading that it begins at.
_PICTURES = {
    "report_desktop": ("report", 1280, 900, ""),
    "report_phone": ("report", 390, 900, ""),
    "report_dark": ("dark", 1280, 900, "ROC curves"),
    "report_paper": ("paper", 794, 1123, "Label by label"),
    "browse": ("browse", 1100, 800, ""),
}
_RUNS = {
    "byol": ("--config=configs/byol.py:demo",),
    "benchmark": (
        *("--config=configs/benchmark.py", "--config.encoders=random,byol={byol}"),
        *("--config.datasets=phantom", "--config.seeds=(0,1)"),
    ),
}


def main(folder: Path) -> None:
    """Runs the demo and a benchmark of it, and draws their pages."""
    data = folder / "data"
    for name, arguments in _RUNS.items():
        given = [one.format(byol=folder / "byol") for one in arguments]
        if not (folder / name / "report.html").is_file() and not (folder / "benchmark").is_dir():
            _run("run.py", *given, f"--config.data.dir={data}", f"--workdir={folder / name}")
    _run("-m", "cxr_jax.report", folder / "benchmark")
    cell = next(folder.glob("benchmark/cells/*/linear/*/0/byol"))
    options = (f"--data_dir={data}", f"--out={folder / 'browse'}", "--most=200")
    _run("run.py", "browse", "phantom", *options, f"--predictions={cell}")
    report = folder / "benchmark" / "report.html"
    pages = {"report": report, "browse": folder / "browse" / "index.html"}
    # What a printer or a dark desktop gets, on a screen.
    kinds = {"paper": "@media print", "dark": "@media (prefers-color-scheme: dark)"}
    for name, (page, width, height, heading) in _PICTURES.items():
        text = pages.get(page, report).read_text()
        text = text.replace(kinds.get(page, "@media none"), "@media all", 1)
        if heading:
            begin, part = (
                text.index("<body>") + 6,
                text.rindex("<h2", 0, text.index(f">{heading}</h2>")),
            )
            text = text[:begin] + text[part:]
        if page == "paper":
            text = text.replace("<body>", '<body style="padding: 15mm 13mm">')
        shown = folder / "browse" / f"{name}.html"  # beside the images of its page
        shown.write_text(text)
        shot = folder / f"{name}.png"
        size = (f"--window-size={width},{height}", f"--screenshot={shot}")
        _chromium(folder, *size, shown.resolve().as_uri())
        _save(Image.open(shot), name)


def _run(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], check=True, cwd=_ROOT)


def _chromium(folder: Path, *arguments: str) -> None:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        sys.exit("error: Chromium is not installed")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    own = f"--user-data-dir={folder / 'chromium'}"
    subprocess.run([found, *options, own, *arguments], check=True, capture_output=True)


def _save(picture: Image.Image, name: str) -> None:
    path = _ROOT / "docs" / "figures" / f"{name}.webp"
    for quality in (75, 60, 45, 30):
        picture.convert("RGB").save(path, quality=quality, method=6)
        if path.stat().st_size <= _MOST:
            return
    raise ValueError(f"{path} is larger than {_MOST:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()).resolve())
