"""Our DICOM reader beside independent decoders: python -m benchmarks.decoders [FOLDER …]

Every DICOM file that pydicom and its data package ship (`pip install pydicom-data`), or of the
folders, is read by `image_io.read_image`, and decoded by GDCM, libjpeg and OpenJPEG, whichever read
it (`pip install python-gdcm pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg`); the standard's
formulas, pixel by pixel in floats, make greys of that. Equal: no pixel is three grey levels off.
"""

from __future__ import annotations

import argparse
import collections
import warnings
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Num, UInt8
from PIL import Image
from pydicom.pixels import convert_color_space, pixel_array
from pydicom.pixels.processing import apply_color_lut

from cxr_jax.io import dicom, image_io
from cxr_jax.io.limits import ImageError

DECODERS = ("gdcm", "pylibjpeg", "pillow", "")  # "": pydicom's own


def packaged() -> list[Path]:
    """Returns the folders of pydicom's files and of its data package."""
    folders = [Path(pydicom.data.__file__).parent]
    try:
        import data_store
    except ImportError:
        return folders
    return [*folders, Path(data_store.__file__).parent]


def independent(path: Path) -> UInt8[np.ndarray, "h w"] | str:
    """Decodes and displays an image without our code; a sentence if nothing reads it."""
    dataset = pydicom.dcmread(path, force=True)
    for decoder in DECODERS:
        try:
            stored = pixel_array(dataset, decoding_plugin=decoder, raw=True)
            break
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        return reason
    return displayed(stored, dataset)


def displayed(
    stored: Num[np.ndarray, "h w *c"], dataset: pydicom.Dataset
) -> UInt8[np.ndarray, "h w"]:
    """Applies PS3.3 C.11 and C.7.6.3 plainly."""
    colours = dataset.PhotometricInterpretation
    if colours == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        stored = (stored >> 8 if stored.max() > 255 else stored).astype(np.uint8)
    if stored.ndim == 3:
        if colours.startswith("YBR_FULL"):
            stored = convert_color_space(stored, "YBR_FULL", "RGB")
        if stored.dtype == np.uint8:
            return np.asarray(Image.fromarray(stored).convert("L"))
        return stretched(stored @ np.array([0.299, 0.587, 0.114]))
    bits, signed = int(dataset.get("BitsStored", 64)), dataset.get("PixelRepresentation") == 1
    values = stored.astype(np.float64)
    if stored.dtype.kind in "ui":
        values = (stored.astype(np.int64) % 2**bits).astype(np.float64)
        values[values >= 2 ** (bits - 1)] -= 2**bits * signed
    kept = dataset.BitsAllocated == bits == 8 and not signed
    padding = dataset.get("PixelPaddingValue")
    outside = np.zeros(values.shape, bool) if padding is None else values == padding
    slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
    if items := dataset.get("ModalityLUTSequence"):
        values, kept = looked_up(values, items[0])
    elif (slope, intercept) != (1, 0):
        values, kept = values * float(slope) + float(intercept), False
    centre, width = (dataset.get(f"Window{of}") for of in ("Center", "Width"))
    if items := dataset.get("VOILUTSequence"):
        values, kept = looked_up(values, items[0])
    elif centre is not None and width is not None:
        centre, width = float(np.atleast_1d(centre)[0]), float(np.atleast_1d(width)[0])
        function = dataset.get("VOILUTFunction", "LINEAR")
        if function == "SIGMOID":
            values = 1 / (1 + np.exp(-4 * (values - centre) / width))
        else:
            exact = function == "LINEAR_EXACT"
            middle, range_ = (centre, width) if exact else (centre - 0.5, width - 1)
            values = np.clip((values - middle) / range_ + 0.5, 0, 1)
        kept = False
    if colours == "MONOCHROME1":
        values = 255 - values if kept else -values
    values[outside] = values[~outside].min()
    return values.astype(np.uint8) if kept else stretched(values)


def looked_up(
    values: Num[np.ndarray, "h w"], item: pydicom.Dataset
) -> tuple[Num[np.ndarray, "h w"], bool]:
    """Looks values up, clamped to the table; and returns whether its entries are of 8 bits."""
    count, first, bits = item.LUTDescriptor
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) <= count + 1 else "<u2")
    place = np.clip(np.rint(values) - first, 0, (count or 2**16) - 1).astype(int)
    return np.asarray(data, np.float64)[place], bits == 8


def stretched(values: Num[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Maps the darkest value to 0 and the brightest to 255."""
    return np.round(255 * (values - values.min()) / (np.ptp(values) or 1)).astype(np.uint8)


def compare(path: Path) -> tuple[str, str]:
    """Returns what became of a file, and the words for it."""
    try:
        ours = image_io.read_image(path)[..., 0]
    except ImageError as error:
        return f"refused: {error}", ""
    theirs = independent(path)
    if isinstance(theirs, str):
        return "read here alone", theirs
    if ours.shape != theirs.shape:
        return "DIFFERENT", f"shape {ours.shape} against {theirs.shape}"
    difference = np.abs(ours.astype(int) - theirs)
    equal = difference.max() <= 2  # colours are rounded twice
    return "equal" if equal else "DIFFERENT", f"{difference.mean():.2f}, at most {difference.max()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folders", nargs="*", type=Path)
    warnings.simplefilter("ignore")
    counts: collections.Counter[str] = collections.Counter()
    files = [
        path for folder in parser.parse_args().folders or packaged() for path in folder.rglob("*")
    ]
    for path in sorted(filter(dicom.is_dicom, files)):
        became, words = compare(path)
        counts[became] += 1
        if became != "equal":
            print(f"{path.name}: {became} {words}")
    print()
    for became, count in counts.most_common():
        print(f"| {became} | {count} |")


if __name__ == "__main__":
    main()
