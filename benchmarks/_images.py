"""Images to read where none are given: drawn, built into a dataset, and as files of their own."""

from pathlib import Path

from PIL import Image

from cxr_jax.data.source import Source
from data_builders import build
from data_builders.phantom import drawing

_DISTINCT = 50  # drawing is slow: further images are copies, which cost the same to read


def drawn(folder: Path, size: int, count: int) -> tuple[str, str]:
    """Builds `count` drawn JPEG images, shorter side `size` px; returns (dataset, data folder)."""
    raw, name = folder / f"raw{size}", f"drawn{size}"
    raw.mkdir()
    for number in range(min(count, _DISTINCT)):
        image = Image.fromarray(drawing.draw(0, number, 0, size))
        image = image.resize((size, 6 * size // 5))  # tall, as images are
        for copy in range(number, count, _DISTINCT):
            image.save(raw / f"{copy:05d}.jpg", quality=95)
    build.build(
        "image_folder",
        folder / "data",
        manual_dir=raw,
        config_name="full",
        options={"name": name},
        num_workers=0,
        progress=False,
    )
    return name, str(folder / "data")


def write_files(source: Source, folder: Path, count: int) -> list[Path]:
    """The stored bytes of the first `count` images, a file each, for programs that read those."""
    folder.mkdir()
    paths = []
    for row in range(min(count, len(source))):
        paths.append(folder / f"{row:06d}")
        paths[-1].write_bytes(source.records[row]["image"])
    return paths
