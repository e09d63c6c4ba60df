"""Counts the house: files, lines, imports between packages, files on the path of one image.

    python -m benchmarks.house                  # this clone
    python -m benchmarks.house --root=FOLDER    # another commit's checkout

Benchmarks and tests do not count. The path of an image: a folder of twelve drawn PNG files with
labels is built and an encoder with random weights transferred to it; a file is on the path if one
of its functions is called.
"""

import argparse
import ast
import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

_CORE = ("objectives", "models", "augment", "training", "data", "transfer", "stats")
_PACKAGES = ("cxr_jax", "data_builders")


def product_files(root: Path) -> list[Path]:
    """The product's Python files below `root`: the two packages, configs and run.py."""
    found = [root / "run.py", *(root / "configs").glob("*.py")]
    for package in _PACKAGES:
        found += (root / package).rglob("*.py")
    return sorted(path for path in found if not _is_benchmark(path.relative_to(root)))


def _is_benchmark(path: Path) -> bool:
    return "bench" in path.parts or path.stem in ("bench", "bench_copies")


def imports(path: Path) -> set[str]:
    """Names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def count(root: Path) -> dict[str, int]:
    """Files, lines and arrows of a checkout."""
    files = product_files(root)
    lines = {path: len(path.read_text().splitlines()) for path in files}
    rooms = {path: path.relative_to(root).parts[:2] for path in files}
    arrows = {
        (one, other): sum(
            any(name.partition(".")[0] == other for name in imports(path))
            for path in files
            if rooms[path][0] == one
        )
        for one, other in (_PACKAGES, _PACKAGES[::-1])
    }
    return {
        "files": len(files),
        "files in cxr_jax and data_builders": sum(room[0] in _PACKAGES for room in rooms.values()),
        "lines": sum(lines.values()),
        "lines of the core": sum(
            lines[path] for path, room in rooms.items() if room[0] == "cxr_jax" and room[1] in _CORE
        ),
        "files of cxr_jax that import data_builders": arrows["cxr_jax", "data_builders"],
        "files of data_builders that import cxr_jax": arrows["data_builders", "cxr_jax"],
    }


def trace(root: Path) -> dict[str, int]:
    """Builds and transfers in this process; `root` must be the current folder."""
    import numpy as np
    from PIL import Image

    sys.path.insert(0, str(root))
    called = set()

    def look(frame, event, _):
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(root)) and frame.f_code.co_name != "<module>":
            called.add(name)

    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch, "raw")
        raw.mkdir()
        rows = [("image", "patient_id", "split", "Nodule")]
        for number in range(24):
            pixels = np.random.default_rng(number).integers(0, 256, (96, 80), np.uint8)
            Image.fromarray(pixels).save(raw / f"{number}.png")
            split = ("train", "validation", "test")[number % 3]
            rows.append((f"{number}.png", f"p{number}", split, str(number // 3 % 2)))
        with Path(scratch, "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        import run
        from data_builders import build

        threading.setprofile(look)
        sys.setprofile(look)
        options = {"labels_csv": str(Path(scratch, "labels.csv"))}
        data = str(Path(scratch, "data"))
        build.build("image_folder", data, raw, options=options, num_workers=0, progress=False)
        code = run.main(
            [
                *("--config=configs/transfer.py:cpu", "--config.encoder=random"),
                *("--config.dataset=image_folder", f"--config.data.dir={data}"),
                *("--config.image_size=64", "--config.num_resamples=20", "--config.baselines="),
                f"--workdir={scratch}/run",
            ]
        )
        sys.setprofile(None)
        threading.setprofile(None)
    if code:
        raise SystemExit(code)
    return {"files on the path of one image": len(called)}


def main() -> None:
    """Prints the counts as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--trace", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    if arguments.trace:
        print("\n" + json.dumps(trace(root)))
        return
    command = [sys.executable, __file__, "--trace", f"--root={root}"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    for name, number in (count(root) | json.loads(done.stdout.splitlines()[-1])).items():
        print(f"| {name} | {number:,} |")


if __name__ == "__main__":
    main()
