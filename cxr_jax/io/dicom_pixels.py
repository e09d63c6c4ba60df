"""The pixels of a DICOM image: its header made sound, its frame decoded, its greys displayed."""

import functools
import struct
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from jaxtyping import Num, UInt8
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.pixels import pixel_array
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import RLELossless

from cxr_jax.io import dicom_greys, pictures
from cxr_jax.io.dicom import BROKEN, read_dataset, text
from cxr_jax.io.dicom_greys import integer
from cxr_jax.io.limits import MAX_STORED_BYTES, ImageError, check_coded, check_size
from cxr_jax.io.pixels import luminance, to_uint8

_SEVERAL = (
    "a DICOM file with several frames, expected one image; save the frame that is meant as a file "
    "of its own"
)
_FIELDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_GREYS = ("MONOCHROME2", "MONOCHROME1", "PALETTE COLOR")
_JPEG_LS = 0xF7
_ITEM = b"\xfe\xff\0\xe0"  # starts each fragment of compressed pixels
_JPEG_2000 = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")


def read_pixels(path: Path) -> UInt8[np.ndarray, "h w"]:
    """Reads an image as 8-bit grey with rescale and window applied, and white = dense.

    Raises:
      ImageError: no pixels, several frames, an absurd size, a header that makes no sense or a
        stream that is cut or damaged. The message holds no value of a tag other than sizes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # More values than the header's: it would leave them out.
            warnings.filterwarnings("error", "The decoded RLE segment")
            dataset = read_dataset(path)
            _mend(dataset)
            stored, bits = _decoded(dataset, _frame(dataset))
            return _displayed(stored, dataset, bits)
    except ImageError:
        raise
    except EOFError as error:
        raise ImageError("a DICOM file that was cut off: it ends before its header says") from error
    except BROKEN as error:
        # The error's own text may quote tags.
        raise ImageError(
            "a DICOM file that cannot be decoded: its header or pixels are damaged, cut off, or "
            "contradict each other"
        ) from error


def _mend(dataset: pydicom.Dataset) -> None:
    """Fills in what headers leave out, and checks the rest before any pixel is looked at."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in dataset.get(groups) or ():  # enhanced images keep window and rescale here
            for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in group.get(name) or ():
                    dataset.update(item)
    field = next((field for field in _FIELDS if field in dataset), None)
    if field is None:
        # The latter because pydicom drops an element that ends too early.
        raise ImageError("a DICOM file without pixels, or cut off within them")
    if integer(dataset, "NumberOfFrames", 1) > 1:
        raise ImageError(_SEVERAL)
    dataset.NumberOfFrames = 1
    needed = ("Rows", "Columns", "BitsAllocated")
    if missing := [keyword for keyword in needed if not integer(dataset, keyword)]:
        raise ImageError(f"a DICOM file whose header has no {' and no '.join(missing)}")
    rows, columns, allocated = (integer(dataset, keyword) for keyword in needed)
    check_size(columns, rows)
    samples = integer(dataset, "SamplesPerPixel", 1)
    if samples not in (1, 3):
        raise ImageError(f"a DICOM image of {samples} values a pixel (SamplesPerPixel), not 1 or 3")
    if allocated not in (1, 8, 16, 32, 64):
        raise ImageError(
            f"a DICOM image whose values take {allocated} bits (BitsAllocated), not 8, 16, 32 or 64"
        )
    size = rows * columns * samples * allocated // 8
    if size > MAX_STORED_BYTES:
        raise ImageError(
            f"a DICOM image of {columns} x {rows} x {samples} values of {allocated} bits, "
            f"{size:,} bytes; an image takes up to {MAX_STORED_BYTES:,}"
        )
    check_coded(columns, rows, len(dataset[field].value or b""))
    bits = integer(dataset, "BitsStored") or allocated
    if not integer(dataset, "BitsStored") and integer(dataset, "HighBit", bits - 1) != bits - 1:
        raise ImageError("a DICOM image whose header has no BitsStored")
    if not 1 <= bits <= allocated or (bits > 32 and field == "PixelData"):
        raise ImageError("a DICOM image of more bits (BitsStored) than a value has (BitsAllocated)")
    if integer(dataset, "HighBit", bits - 1) != bits - 1:
        raise ImageError("a DICOM image whose bits are not where its header says (HighBit)")
    dataset.SamplesPerPixel, dataset.BitsStored, dataset.HighBit = samples, bits, bits - 1
    for keyword in ("PixelRepresentation", "PlanarConfiguration"):
        setattr(dataset, keyword, integer(dataset, keyword))
    colours = text(dataset, "PhotometricInterpretation").upper().strip("\0")
    colours = colours.replace("MONOCHROME ", "MONOCHROME") or ("RGB" if samples == 3 else _GREYS[0])
    if samples == 1 and colours not in _GREYS:
        raise ImageError("a DICOM file in colours that are not shades of grey")
    dataset.PhotometricInterpretation = colours


def _frame(dataset: pydicom.Dataset) -> bytes | None:
    """Returns the compressed frame, with an end marker; None for pixels that are not compressed."""
    syntax = dataset.file_meta.TransferSyntaxUID
    compressed = syntax.is_compressed if syntax.is_transfer_syntax else False
    if "PixelData" not in dataset or not (compressed or dataset["PixelData"].is_undefined_length):
        _check_length(dataset)
        return None
    if not dataset.PixelData.startswith(_ITEM):
        raise ImageError("a DICOM file whose pixels are not compressed as its transfer syntax says")
    kinds = (pictures.JPEG, *_JPEG_2000)
    # The first holds offsets, which one image does not need, and some writers get wrong.
    offsets, *fragments = generate_fragments(dataset.PixelData)
    fragments = [part for part in fragments if part]
    fragments = [offsets, *fragments] if offsets.startswith(kinds) else fragments
    frame = b"".join(fragments)
    # Run lengths start with the number of their segments and the place of the first.
    start = next((kind for kind in kinds if frame.startswith(kind)), frame[:8])
    if any(fragment.startswith(start) for fragment in fragments[1:]):
        raise ImageError(_SEVERAL)
    size = None
    if frame.startswith(pictures.JPEG):
        header = pictures.frame_header(frame)
        size = header and header[2:4]
    elif frame.startswith(_JPEG_2000):
        at = frame.find(_JPEG_2000[0]) + 8
        right, lower, left, upper = np.frombuffer(frame[at : at + 16], ">u4").tolist()
        size = (lower - upper, right - left)
    elif syntax == RLELossless:
        dataset.PixelData = encapsulate([frame], has_bot=False)
        return None  # pydicom's own
    else:
        raise ImageError(
            "a DICOM file in a coding that is not read here; convert it to JPEG, JPEG-LS, JPEG "
            "2000, RLE or uncompressed pixels"
        )
    if size is None:
        raise ImageError(pictures.CUT)
    if size != (dataset.Rows, dataset.Columns):
        raise ImageError("a DICOM image of another size than its header says")
    if start in _JPEG_2000:
        _check_tiles(frame[frame.find(_JPEG_2000[0]) :])
    ends = frame.startswith(_JPEG_2000[1]) or frame.rstrip(b"\0").endswith(b"\xff\xd9")
    return frame if ends else frame.rstrip(b"\0") + b"\xff\xd9"


def _check_length(dataset: pydicom.Dataset) -> None:
    """Raises ImageError unless uncompressed pixels are as many as the header says."""
    field = next(field for field in _FIELDS if field in dataset)
    bits = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated
    size = -(-bits // 8)
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        size = size // 3 * 2
    value = dataset[field].value
    there = len(value)
    if there < size:
        raise ImageError("a DICOM file that ends early: it has fewer pixels than its header says")
    # Some writers pad by more than the one byte to an even length.
    if there >= 2 * size or any(value[size + size % 2 :]):
        raise ImageError(
            f"a DICOM file of {there:,} bytes of pixels where its header says {size:,}: "
            "NumberOfFrames, Rows, Columns or BitsAllocated is wrong"
        )


def _check_tiles(stream: bytes) -> None:
    """Raises ImageError if a tile of JPEG 2000, or a part of one, is missing (T.800 A.4.2)."""
    sides = np.frombuffer(stream[8:40], ">u4").astype(int).reshape(4, 2)
    # Width and height; offset of the image; sides of a tile; offset of the tiles.
    across, down = -(-(sides[0] - sides[3]) // np.maximum(sides[2], 1))
    at, parts, promised = 2, {}, {}
    while stream[at : at + 2] not in (b"\xff\x90", b""):
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    while stream[at : at + 2] == b"\xff\x90" and at + 12 <= len(stream):
        tile, length, _, of = struct.unpack(">HIBB", stream[at + 4 : at + 12])
        parts[tile] = parts.get(tile, 0) + 1
        promised[tile] = of or promised.get(tile, 1)
        at = at + length if length else len(stream)
    if len(parts) < across * down or any(parts[tile] < promised[tile] for tile in parts):
        raise ImageError("a JPEG 2000 stream that ends early: some of its tiles are missing")


def _decoded(
    dataset: pydicom.Dataset, frame: bytes | None
) -> tuple[Num[np.ndarray, "h w *c"], int]:
    """Returns the stored values, whole numbers as unsigned bit patterns, and a pixel's bits.

    PhotometricInterpretation is RGB afterwards where a decoder has made it so.
    """
    bits, colours = dataset.BitsStored, dataset.PhotometricInterpretation
    allocated = precision = dataset.BitsAllocated
    if frame is None:
        dataset.BitsStored = allocated  # else it takes away what lies above
        dataset.HighBit = allocated - 1
        stored = pixel_array(dataset, raw=True)
    elif frame.startswith(_JPEG_2000):
        stored = imagecodecs.jpeg2k_decode(frame)
        depth = frame[frame.find(_JPEG_2000[0]) + 42]
        precision = (depth & 127) + 1
        if depth & 128 and not dataset.PixelRepresentation:
            raise ImageError("a JPEG 2000 stream of signed values, which its header says are not")
        colours = "RGB" if colours in ("YBR_ICT", "YBR_RCT") else colours
    else:
        kind, precision, _, _, components = pictures.frame_header(frame)
        if kind == _JPEG_LS:
            stored = imagecodecs.jpegls_decode(frame)
        elif precision == 8 and components == 1 and kind < pictures.LOSSLESS:
            stored = pictures.decode(frame).pixels
        else:
            # The header says what three components are, unless the stream itself does.
            marked = b"JFIF\0" in frame[:100] or b"\xff\xee\0\x0eAdobe" in frame[:1000]
            inside = None if marked else ("RGB" if colours == "RGB" else "YCBCR")
            spaces = {"colorspace": inside, "outcolorspace": "RGB"} if components == 3 else {}
            colours = "RGB" if components == 3 else colours
            decoder = functools.partial(imagecodecs.jpeg8_decode, **spaces)
            stored = pictures.decode_whole(decoder, frame)
            if kind == pictures.LOSSLESS and pictures.wraps(frame):
                # Some scanners write differences modulo 256, which libjpeg-turbo halves wrongly.
                stored = pictures.unwrapped(frame)
    dataset.PhotometricInterpretation = colours
    if stored.dtype.kind != "f":
        stored = stored.astype(f"u{stored.itemsize}")  # of any order of bytes
    shape = (dataset.Rows, dataset.Columns)
    if stored.shape not in (shape, (*shape, dataset.SamplesPerPixel)) or stored.size == 0:
        raise ImageError("a DICOM image of another shape than its header says")
    if precision > allocated:
        raise ImageError("a DICOM image of more bits in its stream than BitsAllocated says")
    if bits < precision < allocated and stored.ndim == 2:
        # Between 16 and BitsStored lie overlays, but here the stream says that they are pixels.
        signed = bool(dataset.PixelRepresentation)
        kept, whole = (dicom_greys.numbers(stored, of, signed) for of in (bits, precision))
        if (kept != whole).any():
            raise ImageError("a DICOM image of more bits in its stream than BitsStored says")
    return stored, min(bits, precision)


def _displayed(
    stored: Num[np.ndarray, "h w *c"], dataset: pydicom.Dataset, bits: int
) -> UInt8[np.ndarray, "h w"]:
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        if "RedPaletteColorLookupTableDescriptor" not in dataset:
            raise ImageError("a DICOM file in palette colours, which does not hold its palette")
        values = dicom_greys.numbers(stored, bits, bool(dataset.PixelRepresentation))
        if "SegmentedRedPaletteColorLookupTableData" in dataset:
            stored = apply_color_lut(values, dataset)
        else:
            big_endian = dicom_greys.is_big_endian(dataset)
            tables = (f"{name}PaletteColorLookupTable" for name in ("Red", "Green", "Blue"))
            found = [dicom_greys.look_up(values, dataset, of, big_endian)[0] for of in tables]
            stored = np.stack(found, axis=-1).astype(np.uint16)
        stored = (stored >> 8 if stored.max() > 255 else stored).astype(np.uint8)
    if stored.ndim == 3:
        is_ybr = dataset.PhotometricInterpretation.startswith("YBR")
        return to_uint8(stored[..., 0] if is_ybr else luminance(stored[..., :3]))
    show = functools.partial(dicom_greys.displayed, dataset=dataset, bits=bits)
    image = to_uint8(stored, show)
    if image.min() == image.max() and stored.min() != stored.max():
        raise ImageError("a DICOM image of which its window shows one grey only")
    return image
