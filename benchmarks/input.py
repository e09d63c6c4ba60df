"""How fast are images read? Our pipeline against a PyTorch DataLoader with Pillow.

    python -m benchmarks.input                                      # drawn images
    python -m benchmarks.input --dataset=nih_chestxray14 --data_dir=data --image_size=256

The same JPEG or PNG bytes, ours out of ArrayRecord and the rival's a file each, to the same uint8
squares in shuffled batches. Without --dataset: drawn images of 256 px read at 256, and of 1,024 px
read at 256, where a JPEG can be decoded at reduced size; the rival does that only in a row of its
own. Images are in the page cache for both.

images/s per core are images by CPU second of all processes that take part, which other programs do
not change. A reading starts and ends with full buffers, so that it costs what its images cost.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import _command, _images, _timing
from cxr_jax.data import loader
from cxr_jax.data.images import stored_size
from cxr_jax.data.source import Source, load_source

_DRAWN = ((256, 256, 2048), (1024, 256, 512))  # stored size, read at, images a reading


def measure(
    source: Source,
    image_size: int,
    batch_size: int,
    num_workers: int,
    repetitions: int,
    images_read: int,
) -> dict[str, Any]:
    """The figures of one dataset and size; prints them."""
    order = (batch_size, image_size, 0)
    rivals: dict[str, Iterator[Any]] = {
        "cxr_jax": loader.batches(source, *order, num_workers=0),
        "cxr_jax, in processes": loader.batches(source, *order, num_workers=num_workers),
    }
    with tempfile.TemporaryDirectory(prefix="cxr_jax-bench-") as folder:
        try:
            from benchmarks import _torch_loader
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            print(_command.NO_TORCH)
        else:
            paths = _images.write_files(source, Path(folder) / "images", count=4096)
            for name, workers, reduced in (
                ("PyTorch DataLoader", num_workers, False),
                ("PyTorch DataLoader, reduced JPEG decoding", num_workers, True),
            ):
                rivals[name] = _torch_loader.batches(paths, *order[:2], workers, reduced)
        seconds = read_in_turns(rivals, repetitions, max(images_read // batch_size, 1))
    count = max(images_read // batch_size, 1) * batch_size
    rows = [
        {"what": name, "images/s per core": count / taken.median, "spread": taken.spread}
        for name, taken in seconds.items()
    ]
    stored = min(stored_size(source.records[0]["image"]))
    print(
        f"\n{len(source):,} images of {source.name}, {stored} px, read at {image_size} px; batches "
        f"of {batch_size}, {num_workers} workers, {repetitions} x {count} images in turns\n"
    )
    _command.print_table(rows, {"what": "", "images/s per core": ",.0f", "spread": ".0%"})
    figures = {
        "dataset": source.name,
        "stored_size": stored,
        "image_size": image_size,
        "num_workers": num_workers,
        "batch_size": batch_size,
        "cpu_seconds": {name: taken.seconds for name, taken in seconds.items()},
        "rows": rows,
    }
    if "PyTorch DataLoader" in seconds:
        ours = seconds["cxr_jax"].seconds
        plain, reduced = (taken.seconds for taken in list(seconds.values())[2:])
        figures["ratio"] = _timing.ratio(plain, ours)
        figures["ratio_reduced"] = _timing.ratio(reduced, ours)
        print(
            f"\nIn words: per core our pipeline reads {figures['ratio']:.2f} times as many images "
            f"as the DataLoader, {figures['ratio_reduced']:.2f} times where that decodes at "
            "reduced size as ours does."
        )
    return figures


def read_in_turns(
    rivals: dict[str, Iterator[Any]], repetitions: int, num_batches: int
) -> dict[str, _timing.Timing]:
    """CPU seconds of all processes for `num_batches`, by rival and repetition."""
    for batches in rivals.values():
        next(batches)
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    before = _timing.settle()
    for _ in range(repetitions):
        for name, batches in rivals.items():
            for _ in range(num_batches):
                next(batches)
            after = _timing.settle()
            seconds[name].append(after - before)
            before = after
    return {name: _timing.Timing(tuple(taken)) for name, taken in seconds.items()}


def main() -> None:
    made = _command.parser(__doc__)
    made.add_argument("--dataset", help="a built dataset; without it images are drawn")
    made.add_argument("--data_dir", default="data")
    made.add_argument("--image_size", type=int, default=256, help="the square, in pixels")
    made.add_argument("--batch_size", type=int, default=64)
    made.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--repetitions", type=int, default=5)

    def run(arguments: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
        if changes:
            raise ValueError(f"unknown option {changes[0]!r}; --help lists the options")
        common = (arguments.batch_size, arguments.workers, arguments.repetitions)
        if arguments.dataset:
            source = load_source(arguments.dataset, arguments.data_dir, "train", ("image",))
            return {arguments.dataset: measure(source, arguments.image_size, *common, 2048)}
        figures = {}
        with tempfile.TemporaryDirectory(prefix="cxr_jax-bench-") as folder:
            for stored, size, images_read in _DRAWN:
                name, data_dir = _images.drawn(Path(folder), stored, count=512)
                source = load_source(name, data_dir, "train", ("image",))
                figures[name] = measure(source, size, *common, images_read)
        return figures

    _command.main(made, run)


if __name__ == "__main__":
    main()
