"""JSRT's images: raw pixels without a header, stored as a negative."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cxr_jax.io import pixels as greys
from cxr_jax.io.limits import MIN_SIDE, BoundedFile, ImageError

SIDE = 2048
# Twelve bits, high byte first.
BRIGHTEST = 4095


@dataclasses.dataclass(frozen=True)
class ImgImage:
    """Reads one .IMG file when called; its text is the file's name, for messages."""

    path: Path

    def __str__(self) -> str:
        return self.path.name

    def __call__(self) -> UInt8[np.ndarray, "h w 1"]:
        """The image as displayed, stretched from its darkest to its brightest value.

        Raises:
          ImageError: no such file, of another length, or with values beyond 12 bits.
        """
        try:
            with BoundedFile(self.path) as file:
                stored = file.read()
        except OSError as error:
            raise ImageError("no such file") from error
        # 2048, or a copy halved from it.
        side = math.isqrt(len(stored) // 2)
        if len(stored) != 2 * side * side or side < MIN_SIDE or SIDE % side:
            raise ImageError(
                f"{len(stored):,} bytes, expected {2 * SIDE * SIDE:,} ({SIDE} x {SIDE} pixels of "
                "two bytes): cut off, or another format"
            )
        pixels = np.frombuffer(stored, ">u2").reshape(side, side)
        if pixels.max() > BRIGHTEST:
            raise ImageError(f"a value of {pixels.max()}, beyond 12 bits: its bytes are swapped")
        return greys.to_uint8((BRIGHTEST - pixels).astype(np.uint16))[..., None]
