"""PNG and JPEG to grey: reduced where that is close enough, and never with pixels missing."""

import io
import operator
import re
import struct
from collections.abc import Callable, Iterator

import imagecodecs
import numpy as np
import simplejpeg
from jaxtyping import Num, UInt8, UInt16
from PIL import Image

from cxr_jax.io.limits import (
    MAX_PIXELS_A_BYTE,
    MAX_PNG_PIXELS_A_BYTE,
    ImageError,
    check_coded,
    check_scans,
    check_size,
)
from cxr_jax.io.pixels import Scaled, luminance, to_uint8, unscaled

# An image may be decoded at 1/n if that leaves its shorter side this many times the target. Grain
# that the full decode would average away then stays below a grey level (docs/reliability.md).
LEAST = {4: 2.5, 2: 1.5}
LOSSLESS, PROGRESSIVE = 0xC3, 0xC2  # kinds, by the marker of their frame
JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
CUT = "a JPEG that ends early, or is damaged: some of its pixels are missing"

_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")

# What simplejpeg refuses without harm to a pixel: four colours, warnings, a few stray bytes, with
# which some scanners pad, and any between the segments of the header.
_HARMLESS = re.compile(
    "color conversion|Unknown Adobe|unknown JFIF|Invalid SOS|ICC"
    "|: [0-9] extraneous bytes|before marker 0x([cef]|d[abd])"
)
# More of a stream than its image needs: every restart marker, for one is due, with bits after it.
_BITS = b"\x55" * 64
_MORE = _BITS + b"".join(bytes([0xFF, 0xD0 + n]) + _BITS for n in range(8)) + b"\xff\xd9"


def reduction(size: tuple[int, int], shorter_side: int | None) -> int:
    """Returns 4, 2 or 1: by how much an image may be reduced before it is resampled.

    >>> reduction((2500, 2048), 200), reduction((2500, 2048), 256), reduction((400, 300), 256)
    (4, 2, 1)
    """
    if shorter_side is None:
        return 1
    return next((n for n, least in LEAST.items() if min(size) >= least * n * shorter_side), 1)


def size_of(encoded: bytes) -> tuple[int, int]:
    """Returns a PNG's or JPEG's height and width, from its header; raises as `decode`."""
    if encoded.startswith(_PNG) and len(encoded) > 24:
        width, height = struct.unpack(">II", encoded[16:24])
        most = MAX_PNG_PIXELS_A_BYTE
    elif encoded.startswith(JPEG) and (header := frame_header(encoded)):
        _, _, height, width, _ = header
        most = MAX_PIXELS_A_BYTE
    else:
        raise ImageError("not a PNG or JPEG, or one that ends before its pixels")
    check_size(width, height)
    check_coded(width, height, len(encoded), most)
    return height, width


def decode(encoded: bytes, shorter_side: int | None = None) -> Scaled:
    """Decodes to grey: colours to luminance, transparency dropped, 16 bits stretched to 8.

    A JPEG is reduced if that suffices for `shorter_side` pixels.

    Raises ImageError if it is none of the two, damaged, or ends early, also with an end marker.
    """
    height, width = size_of(encoded)
    if encoded.startswith(_PNG):
        return unscaled(to_uint8(_png(encoded)))
    check_scans(encoded)
    _check_has_all_scans(encoded)
    n = reduction((width, height), shorter_side)
    shape = {"min_height": -(-height // n), "min_width": -(-width // n)}
    try:
        pixels = simplejpeg.decode_jpeg(encoded, "GRAY", **shape)[..., 0]
    except ValueError as warning:
        if _HARMLESS.search(str(warning)):
            return unscaled(decode_whole(_by_pillow, encoded))
        missing = str(warning).startswith(("Corrupt JPEG data", "Premature end"))
        raise ImageError(CUT if missing else f"cannot be decoded ({warning})") from warning
    return Scaled(pixels, (width, height), (0.0, 0.0, width / n, height / n))


def _png(encoded: bytes) -> UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]:
    try:
        decoded = imagecodecs.png_decode(encoded)  # every checksum is verified
    except (imagecodecs.PngError, UnicodeDecodeError) as error:
        # Without libpng's message: it quotes the name of a damaged chunk, any four bytes.
        raise ImageError("a PNG that is damaged or cut off") from error
    if decoded.ndim == 2 or decoded.shape[-1] == 2:
        return decoded.reshape(*decoded.shape[:2], -1)[..., 0]
    return luminance(decoded[..., :3])


def frame_header(encoded: bytes) -> tuple[int, int, int, int, int] | None:
    """Returns a JPEG's or JPEG-LS's kind (its marker), precision, height, width and components.

    None if it has none. It is what a decoder would make room for.
    """
    for marker, at in _segments(encoded):
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            header = encoded[at : at + 6]
            return (marker, *struct.unpack(">BHHB", header)) if len(header) == 6 else None
    return None


def _segments(encoded: bytes) -> Iterator[tuple[int, int]]:
    """Yields each segment's marker, and the place of what it holds.

    Bytes between segments, and fillings, are skipped, as libjpeg does.
    """
    at = 2
    while (found := _MARKER.search(encoded, at)) and found[1] != b"\xd9":
        at = found.end()
        if found[1] != b"\xd8":
            yield found[1][0], at + 2
            at += int.from_bytes(encoded[at : at + 2], "big")


def _scans(encoded: bytes) -> list[tuple[bytes, bytes]]:
    """Returns each scan's components, and the three bytes of its parameters (T.81 B.2.3)."""
    places = [at for marker, at in _segments(encoded) if marker == 0xDA and at < len(encoded)]
    ends = [at + 1 + 2 * encoded[at] for at in places]
    return [
        (encoded[at + 1 : end : 2], encoded[end : end + 3])
        for at, end in zip(places, ends, strict=True)
        if end + 3 <= len(encoded)
    ]


def _check_has_all_scans(encoded: bytes) -> None:
    """Raises ImageError if a component has no scan, or a progressive one not its last bits.

    T.81 G.1.1.1: each of 64 coefficients comes to bit 0.
    """
    kind, *_, components = frame_header(encoded)
    if (kind, components) == (0xC0, 1) and b"\xff\xda" in encoded:
        return  # what builds store, for which no more time is to be lost
    exact = set()
    for parts, (first, last, bits) in _scans(encoded):
        if kind != PROGRESSIVE:
            first, last, bits = 0, 63, 0
        if bits & 15 == 0:
            exact |= {(c, k) for c in parts for k in range(first, last + 1)}
    if len(exact) < 64 * components:
        raise ImageError(CUT)


def decode_whole(
    decoder: Callable[[bytes], Num[np.ndarray, "h w *c"]], encoded: bytes
) -> Num[np.ndarray, "h w *c"]:
    """Decodes a JPEG by a decoder that makes up what is missing; ImageError if it did.

    What follows a whole image is never looked at. An image that changes with it was cut before.
    """
    _check_has_all_scans(encoded)
    pixels = decoder(encoded)
    end = encoded.rfind(b"\xff\xd9")
    if (pixels != decoder(encoded[: end if end >= 0 else None] + _MORE)).any():
        raise ImageError(CUT)
    return pixels


def unwrapped(lossless: bytes) -> UInt8[np.ndarray, "h w"]:
    """Decodes differences modulo 256; ImageError for those that no decoder reads."""
    _, precision, _, _, components = frame_header(lossless)
    shifted = any(bits & 15 for _, (_, _, bits) in _scans(lossless))
    restarts = any(marker == 0xDD for marker, _ in _segments(lossless))
    if (precision, components) != (8, 1) or shifted or restarts:
        raise ImageError(
            "a lossless JPEG whose differences wrap in colour, in other than 8 bits, with restarts "
            "or a point transform, which no decoder reads; convert it"
        )
    return imagecodecs.jpegsof3_decode(lossless)


def wraps(lossless: bytes) -> bool:
    """Tells whether a lossless JPEG has differences modulo 2^precision that libjpeg-turbo halves.

    Read as of 16 bits, an image only gets brighter, by the difference of the first predictions
    (T.81 H.1.2.1); with a difference that wrapped, a pixel leaves its range.
    """
    precision, components = operator.itemgetter(1, 4)(frame_header(lossless))
    if precision == 16 or all(predictor < 5 for _, (predictor, _, _) in _scans(lossless)):
        return False
    place = next(at for marker, at in _segments(lossless) if marker == LOSSLESS)
    spaces = {"colorspace": "RGB", "outcolorspace": "RGB"} if components == 3 else {}
    deep = lossless[:place] + b"\x10" + lossless[place + 1 :]
    pixels = imagecodecs.jpeg8_decode(deep, **spaces).astype(int)
    pixels = (pixels - 2**15 + 2 ** (precision - 1)) % 2**16
    return bool((pixels >= 2**precision).any())


def _by_pillow(encoded: bytes) -> Num[np.ndarray, "h w"]:
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
            return np.asarray(image.convert("RGB").convert("L"))
    except (OSError, SyntaxError) as error:
        raise ImageError(CUT) from error
