"""Files of bit patterns in every coding, for the tests."""

import functools
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.fakes.dicom_files import write_dicom


def lossless_jpeg(pixels: np.ndarray, predictor: int) -> bytes:
    """T.81 annex H, 8 bits, differences modulo 256: what some scanners write and few libraries do.

    All 17 kinds of difference have a code of five bits, their number.
    """
    height, width = pixels.shape
    values, bits = pixels.astype(int), []
    for y in range(height):
        for x in range(width):
            left, above = values[y, x - 1], values[y - 1, x]
            corner = values[y - 1, x - 1]
            predicted = {
                **{1: left, 2: above, 3: corner, 4: left + above - corner},
                **{5: left + ((above - corner) >> 1), 6: above + ((left - corner) >> 1)},
                7: (left + above) >> 1,
            }[predictor]
            predicted = (left if x else 128) if y == 0 else (predicted if x else above)
            difference = (values[y, x] - predicted + 128) % 256 - 128
            kind = int(abs(difference)).bit_length()
            bits.append(f"{kind:05b}")
            if kind:
                low = difference if difference > 0 else difference + 2**kind - 1
                bits.append(f"{low:0{kind}b}")
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    data = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0)
    codes = b"\0" + bytes([0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17))
    segments = ((0xC3, frame), (0xC4, codes), (0xDA, bytes([1, 1, 0, predictor, 0, 0])))
    head = b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments
    )
    return b"\xff\xd8" + head + data + b"\xff\xd9"


def write_coded(path: Path, patterns: np.ndarray, syntax, frame: bytes | None, **fields) -> None:
    """Writes bit patterns with a frame of them in another coding; `fields` go into the header."""
    write_dicom(path, patterns)
    dataset = pydicom.dcmread(path)
    padding = fields.pop("PixelPaddingValue", None)
    for keyword, value in fields.items():
        setattr(dataset, keyword, value)
    dataset.HighBit = dataset.BitsStored - 1
    if padding is not None:
        dataset.add_new(0x00280120, "SS" if dataset.PixelRepresentation else "US", padding)
    if frame is not None:
        dataset.PixelData = encapsulate([frame])
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = patterns.astype(patterns.dtype.newbyteorder(">")).tobytes()
        dataset.walk(lambda data, element: element.value)  # while the order of bytes is known
        dataset.set_original_encoding(False, False)
    dataset.save_as(path, implicit_vr=False, little_endian=syntax != ExplicitVRBigEndian)


def rle(patterns: np.ndarray) -> bytes:
    dataset = pydicom.Dataset()
    rows, columns = patterns.shape
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 1
    dataset.BitsAllocated = dataset.BitsStored = 8 * patterns.itemsize
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    options = {"rows": rows, "columns": columns, "samples_per_pixel": 1, "number_of_frames": 1}
    options |= {"bits_allocated": dataset.BitsAllocated, "bits_stored": dataset.BitsStored}
    options |= {"photometric_interpretation": "MONOCHROME2", "pixel_representation": 0}
    return RLELosslessEncoder.encode(patterns, **options)


CODINGS = {
    "native": (ExplicitVRLittleEndian, lambda patterns: None),
    "big-endian": (ExplicitVRBigEndian, lambda patterns: None),
    "deflated": (DeflatedExplicitVRLittleEndian, lambda patterns: None),
    "RLE": (RLELossless, rle),
    "lossless JPEG": (
        JPEGLosslessSV1,
        lambda patterns: imagecodecs.jpeg8_encode(
            patterns, lossless=True, bitspersample=8 * patterns.itemsize
        ),
    ),
    "JPEG-LS": (JPEGLSLossless, imagecodecs.jpegls_encode),
    "JPEG 2000": (
        JPEG2000Lossless,
        functools.partial(imagecodecs.jpeg2k_encode, codecformat="j2k", reversible=True),
    ),
}
LOSSY = {
    "JPEG": (JPEGBaseline8Bit, np.uint8, functools.partial(imagecodecs.jpeg8_encode, level=95)),
    "JPEG of 12 bits": (
        JPEGExtended12Bit,
        np.uint16,
        functools.partial(imagecodecs.jpeg8_encode, level=98, bitspersample=12),
    ),
}
CUT = r"cut off|ends early"
