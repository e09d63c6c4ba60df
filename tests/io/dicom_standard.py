"""What DICOM's standard shows of stored values, pixel by pixel, as the tests' reference."""

from pathlib import Path

import numpy as np
import pydicom

from cxr_jax.io import image_io
from tests.fakes.pictures import deep, stretch


def table(
    entries, first: int, bits: int, vr: str = "US", packed: bool = False
) -> list[pydicom.Dataset]:
    """A sequence of an item without values and one look-up table."""
    item = pydicom.Dataset()
    signed = "SS" if first < 0 else "US"
    item.add_new("LUTDescriptor", signed, [len(entries), first, bits])
    words = np.asarray(entries, np.uint8 if packed else np.uint16)
    item.add_new("LUTData", vr, words.tolist() if vr == "US" else words.tobytes())
    return [pydicom.Dataset(), item]


def as_the_standard_shows(values: np.ndarray, tags: dict, photometric: str) -> np.ndarray:
    """uint8 [h w]: PS3.3 C.11 pixel by pixel, in floats, from whole numbers; no pydicom."""
    greys, kept = values.astype(np.float64), False
    if sequence := tags.get("ModalityLUTSequence"):
        greys = looked_up(greys, sequence[-1])
    else:
        greys = greys * tags.get("RescaleSlope", 1) + tags.get("RescaleIntercept", 0)
    if sequence := tags.get("VOILUTSequence"):
        greys, kept = looked_up(greys, sequence[-1]), sequence[-1].LUTDescriptor[2] == 8
    elif "WindowWidth" in tags:
        centre, width = (np.atleast_1d(tags[f"Window{of}"])[0] for of in ("Center", "Width"))
        function = tags.get("VOILUTFunction", "LINEAR")
        if function == "SIGMOID":
            greys = 1 / (1 + np.exp(-4 * (greys - centre) / width))
        elif function == "LINEAR_EXACT":
            greys = np.clip((greys - centre) / width + 0.5, 0, 1)
        else:
            greys = np.clip((greys - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    if photometric == "MONOCHROME1":
        greys = 255 - greys if kept else -greys
    if "PixelPaddingValue" in tags:
        outside = values == tags["PixelPaddingValue"]
        greys[outside] = greys[~outside].min()
    return greys.astype(np.uint8) if kept else stretch(greys)


def looked_up(values: np.ndarray, item: pydicom.Dataset) -> np.ndarray:
    data = item["LUTData"].value
    count, first, _ = item.LUTDescriptor
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) == count else "<u2")
    # One by one, and clamped by hand.
    place = [min(max(round(value) - first, 0), count - 1) for value in values.ravel().tolist()]
    return np.array([int(data[at]) for at in place], float).reshape(values.shape)


def shown(path: Path) -> np.ndarray:
    return image_io.read_image(path)[..., 0].astype(int)


CURVE = [round(4095 * (i / 4095) ** 2) for i in range(4096)]
EIGHT = [round(12 + 230 * (i / 4095) ** 2) for i in range(4096)]
WINDOW = {"WindowCenter": 1900.0, "WindowWidth": 1000.0}
BELOW = {"WindowCenter": -300.0, "WindowWidth": 3000.0}
RAW = deep(3, 700, 3600)
