"""How fast images are read, against the plain way: python -m benchmarks.build

Every kind of image is read and shrunk to 256 pixels by `images.read_image` and by a plain Pillow or
pydicom loop, in turns in one process. Time is this process's CPU time, files come from memory.
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import pydicom
from jaxtyping import Num, UInt8
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from cxr_jax.io import image_io
from data_builders.phantom import drawing

HEIGHT, WIDTH, RESOLUTION = 3000, 2500, 256
QUIET, NOISY = 0.010, 0.029  # noise's deviation, of the whole range: JPEGs of about 1 and 2.5 MB
WINDOW = {"WindowCenter": 2048.0, "WindowWidth": 2400.0}  # clips at both ends


class Row(NamedTuple):
    kind: str
    megabytes: float
    plain: float  # images/s per core
    ours: float
    ratio: float  # median over pairs of readings
    difference: float  # mean, in grey levels


def write_images(folder: Path, pictures: Iterator[UInt8[np.ndarray, "h w"]], count: int) -> None:
    """Writes `count` images of every kind into a folder of that kind."""
    rng = np.random.default_rng(0)
    for number, picture in enumerate(itertools.islice(pictures, count)):
        grey = Image.fromarray(picture).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        clean = np.asarray(grey, np.float32)
        clean = (clean - clean.min()) / np.ptp(clean)
        noise = rng.standard_normal(clean.shape, np.float32)
        quiet, noisy = (np.clip(clean + level * noise, 0, 1) for level in (QUIET, NOISY))
        eight, twelve = np.uint8(255 * noisy), np.uint16(4095 * (0.05 + 0.9 * quiet))
        for kind, write in {
            "JPEG grey, little noise": lambda p, q=quiet: _write_jpeg(p, np.uint8(255 * q)),
            "JPEG grey, noisy": lambda p, e=eight: _write_jpeg(p, e),
            "JPEG RGB, noisy": lambda p, e=eight: _write_jpeg(p, np.stack([e] * 3, axis=-1)),
            "PNG 16 bits": lambda p, t=twelve: Image.fromarray(t * 16).save(p, "PNG"),
            "DICOM 12 bits raw": lambda p, t=twelve: _write_dicom(p, t),
            "DICOM 12 bits raw, window": lambda p, t=twelve: _write_dicom(p, t, **WINDOW),
            "DICOM JPEG baseline": lambda p, e=eight: _write_dicom(p, e, JPEGBaseline8Bit),
            "DICOM JPEG 2000": lambda p, t=twelve: _write_dicom(p, t, JPEG2000Lossless),
            "DICOM JPEG 2000, window": lambda p, t=twelve: _write_dicom(
                p, t, JPEG2000Lossless, **WINDOW
            ),
        }.items():
            (folder / kind).mkdir(exist_ok=True)
            write(folder / kind / str(number))


def _write_jpeg(path: Path, pixels: UInt8[np.ndarray, "h w *colour"]) -> None:
    Image.fromarray(pixels).save(path, "JPEG", quality=90)


def _write_dicom(
    path: Path, pixels: Num[np.ndarray, "h w"], syntax: str = ExplicitVRLittleEndian, **tags: Any
) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored = 8 if pixels.itemsize == 1 else 12
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.PixelData = pixels.tobytes()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    if syntax == JPEGBaseline8Bit:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=90)
        meta.TransferSyntaxUID, dataset.PixelData = syntax, encapsulate([stream.getvalue()])
        dataset["PixelData"].is_undefined_length = True
    elif syntax == JPEG2000Lossless:
        frame = imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True)
        meta.TransferSyntaxUID, dataset.PixelData = syntax, encapsulate([frame])
        dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)


def read_plainly(path: Path) -> UInt8[np.ndarray, "h w"]:
    """The same image by the shortest loop over Pillow's or pydicom's own functions."""
    if path.parent.name.startswith("DICOM"):
        dataset = pydicom.dcmread(path)
        pixels = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    else:
        image = Image.open(path)
        pixels = np.asarray(image if image.mode == "I;16" else image.convert("L"))
    if pixels.dtype != np.uint8:
        low, high = pixels.min(), pixels.max()
        pixels = np.round((pixels.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)
    size = (RESOLUTION, round(RESOLUTION * HEIGHT / WIDTH))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def measure(kind: Path, repeats: int) -> Row:
    """Reads the images of one kind both ways in turns."""
    ours = functools.partial(image_io.read_image, shorter_side=RESOLUTION)
    paths = sorted(kind.iterdir())
    difference = np.mean(
        [np.abs(ours(p)[..., 0].astype(float) - read_plainly(p)).mean() for p in paths]
    )
    pairs = [(_seconds(read_plainly, p), _seconds(ours, p)) for _ in range(repeats) for p in paths]
    plain, own = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    megabytes = statistics.mean(p.stat().st_size for p in paths) / 1e6
    return Row(kind.name, megabytes, 1 / plain, 1 / own, ratio, float(difference))


def _seconds(read: Callable[[Path], Any], path: Path) -> float:
    start = time.process_time()
    read(path)
    return time.process_time() - start


def pictures(folder: Path | None) -> Iterator[UInt8[np.ndarray, "h w"]]:
    """Images from a folder of PNG, JPEG or DICOM, spread over it; without one, drawn."""
    if folder is None:
        return (drawing.draw(0, patient, 0, 1024) for patient in itertools.count())
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in image_io.SUFFIXES)
    return (image_io.read_image(p)[..., 0] for p in paths[:: max(1, len(paths) // 10)])


def processor() -> str:
    """The machine's own name for its processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.build", description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder of real images; default: drawn ones")
    parser.add_argument("--count", type=int, default=3, help="images of every kind")
    parser.add_argument("--repeats", type=int, default=3, help="readings of every image")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), pictures(options.images), options.count)
        print(f"{processor()}; {HEIGHT} x {WIDTH} to {RESOLUTION}, images/s per core\n")
        print(f"{'kind':27}{'MB':>6}{'plain':>8}{'ours':>8}{'ratio':>7}{'difference':>12}")
        rows = []
        for kind in sorted(Path(folder).iterdir()):
            rows.append(row := measure(kind, options.repeats))
            print(
                f"{row.kind:27}{row.megabytes:6.1f}{row.plain:8.1f}{row.ours:8.1f}{row.ratio:7.1f}"
                f"{row.difference:12.2f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(
            json.dumps({"cpu": processor(), "rows": [r._asdict() for r in rows]}, indent=2) + "\n"
        )
    print(
        "\nratio: ours over plain; difference: mean of |ours - plain|, in grey levels of 255.\n"
        "DICOM is always decoded whole, JPEG at half its size where that suffices."
    )


if __name__ == "__main__":
    main()
