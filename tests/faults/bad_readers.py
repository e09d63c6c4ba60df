"""Readers with every fault that the fuzzer is there to find, one an input."""

import os
import time
from pathlib import Path

from tests.faults import readers


def _read(folder: Path, data: bytes, index: int) -> str:
    match index:
        case 1:
            os.abort()
        case 2:
            bytearray(8 << 30)
        case 3:
            raise KeyError("width")
        case 4:
            int(data)  # a ValueError that nobody meant to raise
        case 5:
            raise readers.Broken("other pixels")
        case 6:
            time.sleep(600)
    return "read"


KINDS = {"bad": readers.Kind(lambda: [b"x"], lambda rng, data, others: data, _read)}
