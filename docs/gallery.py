"""Makes the pictures of docs/gallery.md: runs the software on drawn images and keeps its pictures.

python docs/gallery.py [FOLDER]    some ten minutes on two CPU cores; FOLDER keeps the runs

Writes docs/gallery/NAME.webp, and gallery.md from the table below: what made a picture, in order.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

_DOCS = Path(__file__).parent
_WIDTH, _QUALITY = 1100, 72
_TITLE = """# Gallery

Every kind of picture that the software makes, from drawn images: `python docs/gallery.py` makes
this page. Reports hold them with their tables and captions. The figures of
[statistics for clinicians](clinicians.md) are not repeated.
"""
_END = """## Reports and the film browser

On a desktop, a phone, in the dark, on paper: [reports](reports.md).

[![A report](figures/report_desktop.webp)](reports.md)

[![The film browser](figures/browse.webp)](reports.md)
"""
_RUN = ("run.py", "--config.data.dir={data}")
# What is run, in order: folder -> arguments. {NAME} is the folder of another.
_RUNS = {
    "data": ("-m", "data_builders.build", "phantom", "--data_dir={data}"),
    "audit": (
        *("-m", "cxr_jax.augment.audit", "--dataset=phantom", "--config=configs/byol.py:demo"),
        *("--data_dir={data}", "--num_draws=64", "--output={audit}"),
    ),
    "byol": (*_RUN, "--config=configs/byol.py:demo", "--workdir={byol}"),
    "benchmark": (
        *(*_RUN, "--config=configs/benchmark.py", "--workdir={benchmark}"),
        *("--config.encoders=random,byol={byol}", "--config.datasets=phantom"),
        *("--config.fractions=(0.03,0.1,0.3,1.0)", "--config.seeds=(0,)"),
    ),
}
# Picture -> (its title, what it is). A path may hold *; the first that is there counts.
_PICTURES = {
    "data/phantom/*/*/contact_sheet.png": (
        "Contact sheet",
        "Ends every build: is white dense, are letters the right way round?",
    ),
    "audit/audit.png": (
        "Audit of the views",
        "How much of a finding two random views keep, and what larger crops would save: "
        "`python -m cxr_jax.augment.audit`.",
    ),
    "byol/transfer/auroc.png": (
        "AUROC, label by label",
        "Of a transfer: both encoders with their intervals, and the paired difference.",
    ),
    "byol/transfer/roc.png": ("ROC curves", "The same encoders."),
    "byol/transfer/reliability.png": (
        "Calibration",
        "What was predicted, and how often it was so.",
    ),
    "byol/transfer/pictures/saliency.png": (
        "Why an image scored high",
        "Grad-CAM of the difference from the average image, with the boxes of the findings.",
    ),
    "byol/transfer/pictures/neighbours.png": (
        "What resembles an image",
        "The nearest labelled training images, by the encoder's features.",
    ),
    "byol/transfer/pictures/embedding.png": ("A map of the test images", "t-SNE of the features."),
    "benchmark/figures/curves-*.png": (
        "Label efficiency",
        "AUROC against the number of labelled patients, and the labels that an encoder saves.",
    ),
    "benchmark/figures/differences-*.png": ("Differences", "Of each dataset, with verdicts."),
    "benchmark/figures/calibration-*.png": ("Calibration in a benchmark", "Every encoder."),
    "benchmark/figures/subgroups-*.png": ("Subgroups", "By sex, age and projection."),
}


def main(folder: Path) -> None:
    """Runs what has not been run in `folder` yet, and writes the page."""
    places = {name: str(folder / name) for name in _RUNS}
    for name, arguments in _RUNS.items():
        if not (done := folder / f"{name}.done").exists():
            filled = [argument.format(**places) for argument in arguments]
            subprocess.run([sys.executable, *filled], cwd=_DOCS.parent, check=True)
            done.touch()
    lines = [_TITLE]
    for pattern, (title, words) in _PICTURES.items():
        for path in sorted(folder.glob(pattern))[:1]:
            name = title.lower().replace(" ", "_").replace(",", "")
            _write(path, _DOCS / "gallery" / f"{name}.webp")
            lines.append(f"## {title}\n\n{words}\n\n![{title}](gallery/{name}.webp)\n")
    (_DOCS / "gallery.md").write_text("\n".join([*lines, _END]))


def _write(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    image = Image.open(source).convert("RGB")
    image.thumbnail((_WIDTH, 4 * _WIDTH))
    image.save(target, quality=_QUALITY, method=6)
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary).absolute())
