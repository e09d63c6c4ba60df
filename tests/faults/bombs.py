"""What the tests of bombs share: small files that claim or unfold to gigabytes.

All are read in one process that may grow by 256 MB, a tenth of what the smallest would take.
"""

import struct
import zlib

from tests.faults.containers import png_chunk

EXTRA_BYTES = 256 << 20
MODULES = (
    *("cxr_jax.data.images", "cxr_jax.weights.arrays", "cxr_jax.io.image_io"),
    *("data_builders.base.csv_table", "data_builders.indiana_university.reports", "pydicom.pixels"),
    *("data_builders.jsrt.jsrt_dataset_builder", "tests.faults.readers"),
    "data_builders.medmnist_cxr.medmnist_cxr_dataset_builder",
)


def assert_refused(process, message, function, *arguments):
    """The call ends in an error of ours that holds `message`, having allocated next to nothing."""
    answer = process.ask(function, *arguments)
    kind, _, text = answer.error.partition(": ")
    assert kind in ("ImageError", "BuildError", "ValueError"), answer
    assert message in text
    assert answer.memory < 64 << 20


def png(width, height, *chunks, depth=8, colour=0):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    ends = (*chunks, png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(ends)


def zeros(megabytes):
    """Deflated zeros: a thousandth of what they unfold to."""
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(1 << 20)) for _ in range(megabytes)] + [packer.flush()])


def pixels(content):
    return png_chunk(b"IDAT", content)
