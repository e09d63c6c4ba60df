"""Pages as pictures, in headless Chromium, for docs/pictures.py."""

import functools
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
_QUIET = "--disable-background-networking"
_DARK = ("--blink-settings=preferredColorScheme=0",)


def screen(url: str, width: int, height: int, dark: bool = False) -> Image.Image:
    """Returns what a window of this size shows of a page."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        size = (f"--window-size={width},{height}", f"--screenshot={shot}")
        _chromium(folder, *size, *(_DARK if dark else ()), url)
        with Image.open(shot) as picture:
            return picture.convert("RGB")


def first_sheet(url: str, width: int) -> Image.Image:
    """Returns the first sheet that a printer would give of a page, `width` pixels wide."""
    import pypdfium2

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.pdf"
        _chromium(folder, f"--print-to-pdf={path}", "--no-pdf-header-footer", url)
        sheet = pypdfium2.PdfDocument(path)[0]
        return sheet.render(scale=width / sheet.get_width()).to_pil().convert("RGB")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves a folder to this machine alone; yields its address, which ends with a slash."""
    handler = functools.partial(_Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None: ...


def _chromium(folder: str, *arguments: str) -> None:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        sys.exit("error: Chromium is not installed")
    own = f"--user-data-dir={folder}/chromium"
    command = [found, *_OPTIONS, _QUIET, own, *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
