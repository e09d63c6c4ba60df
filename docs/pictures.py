"""Makes the pictures of the documentation: runs the software on drawn images, and looks at it.

python docs/pictures.py [FOLDER]    some twenty minutes on two CPU cores; FOLDER keeps the runs

Writes docs/gallery/NAME.webp with gallery.md, from the tables below; docs/figures/: reports, the
film browser, a notebook and the site itself in headless Chromium; docs/sheets/: contact sheets of
the datasets' miniatures. Needs Chromium, the extras test and docs, nbconvert and pypdfium2.
docs/clinicians.py draws the figures of clinicians.md.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import screens
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ExecutePreprocessor
from PIL import Image

from tests.fakes import every
from tests.fakes.dataset import build_and_read

_DOCS = Path(__file__).parent
_WIDTH, _MOST = 1100, 80_000  # pixels, and bytes of a picture where quality can give it
_TITLE = """# Gallery

Every kind of picture that the software makes, from drawn images: `python docs/pictures.py` makes
this page. Reports hold them with their tables and captions. The figures of
[statistics for clinicians](clinicians.md) are not repeated.
"""
_END = """## More of real images

[How much of the start to keep](tutorials/continue.md), [the pairs that two datasets
share](results/datasets.md), [a study's differences](results/study_trials.md).

## Pages

A report on a desktop, a phone, in the dark and on paper, and the film browser:
[reports](reports.md). A notebook: [notebooks](tutorials/notebooks.md). This site:

"""
_RUN = ("run.py", "--config.data.dir={data}")
_DENSE = (
    *(*_RUN, "--config=configs/transfer.py"),
    *("--config.encoder={byol}", "--config.dataset=phantom"),
)
# What is run, in order: folder -> arguments. {NAME} is the folder of another.
_RUNS = {
    "data": ("-m", "data_builders.build", "phantom", "--data_dir={data}"),
    "audit": (
        *("-m", "cxr_jax.augment.audit", "--dataset=phantom", "--config=configs/byol.py:demo"),
        *("--data_dir={data}", "--num_draws=64", "--output={audit}"),
    ),
    "byol": (*_RUN, "--config=configs/byol.py:demo", "--workdir={byol}"),
    "segmentation": (*_DENSE, "--config.protocol=segmentation", "--workdir={segmentation}"),
    "localisation": (*_DENSE, "--config.protocol=localisation", "--workdir={localisation}"),
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
    "segmentation/pictures/masks.png": (
        "Masks",
        "What a segmentation marked, in orange, and the outline of the dataset's mask.",
    ),
    "localisation/pictures/places.png": (
        "Maps and boxes",
        "Where an attentive probe looks, in orange, and the dataset's boxes.",
    ),
    "benchmark/figures/curves-*.png": (
        "Label efficiency",
        "AUROC against the number of labelled patients, and the labels that an encoder saves.",
    ),
    "benchmark/figures/differences-*.png": ("Differences", "Of each dataset, with verdicts."),
    "benchmark/figures/calibration-*.png": ("Calibration in a benchmark", "Every encoder."),
}


# Picture -> (its page in the runs' folder, width, height, the heading it begins at, dark).
_REPORT = "benchmark/report.html"
_PAGES = {
    "report_desktop": (_REPORT, 1280, 960, "", False),
    "report_phone": (_REPORT, 390, 960, "", False),
    "report_dark": (_REPORT, 1280, 960, "ROC curves", True),
    "browse": ("browse/index.html", 1100, 800, "", False),
    "notebook": ("neighbours.html", 1000, 1950, "", False),
}
# The site's start and other pages.
_SITE = {
    "index": "Start here",
    "tutorials/own_images": "A tutorial",
    "datasets/nih_chestxray14": "A dataset",
    "reference/simclr": "A config's fields",
    "clinicians": "Statistics for clinicians",
    "results/study": "Results",
}


def main(folder: Path) -> None:
    """Runs what has not been run in `folder` yet, and writes the pictures."""
    places = {name: str(folder / name) for name in _RUNS}
    for name, arguments in _RUNS.items():
        if not (done := folder / f"{name}.done").exists():
            filled = [argument.format(**places) for argument in arguments]
            _run(*filled)
            done.touch()
    lines = [_TITLE]
    for pattern, (title, words) in _PICTURES.items():
        for path in sorted(folder.glob(pattern))[:1]:
            name = title.lower().replace(" ", "_").replace(",", "")
            _save(Image.open(path).convert("RGB"), f"gallery/{name}")
            lines.append(f"## {title}\n\n{words}\n\n![{title}](gallery/{name}.webp)\n")
    shown = [f"![{title}](figures/site_{Path(page).name}.webp)" for page, title in _SITE.items()]
    (_DOCS / "gallery.md").write_text("\n".join([*lines, _END + "\n\n".join(shown), ""]))
    _look_at_pages(folder)
    _draw_miniatures()
    _look_at_the_site(folder)


def _draw_miniatures() -> None:
    """Builds the tests' miniature of every dataset of whose images no sheet may be shown."""
    for name in every.names():
        if not (_DOCS / f"results/{name}_contact_sheet.png").exists():
            with tempfile.TemporaryDirectory() as raw, tempfile.TemporaryDirectory() as data:
                every.write(name, Path(raw))
                built, _ = build_and_read(name, Path(data), manual_dir=Path(raw))
                _save(Image.open(built / "contact_sheet.png").convert("RGB"), f"sheets/{name}", 720)


def _look_at_pages(folder: Path) -> None:
    _run("-m", "cxr_jax.report", folder / "benchmark")  # by the code of today
    (cell,) = folder.glob("benchmark/cells/*/linear/1/0/byol")
    options = (f"--data_dir={folder / 'data'}", f"--out={folder / 'browse'}", "--most=200")
    _run("run.py", "browse", "phantom", *options, f"--predictions={cell}")
    _execute(_DOCS.parent / "examples/neighbours.ipynb", folder)
    with screens.served(folder) as address:
        for name, (page, width, height, heading, dark) in _PAGES.items():
            path = folder / page
            if heading:
                path = path.with_name(f"{name}.html")
                path.write_text(_from_heading((folder / page).read_text(), heading))
            url = f"{address}{path.relative_to(folder)}"
            _save(screens.screen(url, width, height, dark), f"figures/{name}")
        _save(screens.first_sheet(f"{address}{_REPORT}", 794), "figures/report_paper")


def _look_at_the_site(folder: Path) -> None:
    site = folder / "site"
    _run("-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", site)
    with screens.served(site) as address:
        for page in _SITE:
            picture = screens.screen(f"{address}{page}.html", 1280, 900)
            _save(picture, f"figures/site_{Path(page).name}")


def _from_heading(page: str, heading: str) -> str:
    begin = page.index("<body>") + len("<body>")
    return page[:begin] + page[page.rindex("<h2", 0, page.index(f">{heading}</h2>")) :]


def _execute(path: Path, folder: Path) -> None:
    """Runs a notebook with the encoder of `folder`, and writes what it looks like then."""
    book = nbformat.read(path, as_version=4)
    (place,) = (k for k, c in enumerate(book.cells) if "parameters" in c.metadata.get("tags", ()))
    book.cells[place].source = book.cells[place].source.replace('spec = ""', 'spec = "byol"')
    ExecutePreprocessor(timeout=900).preprocess(book, {"metadata": {"path": str(folder)}})
    (folder / f"{path.stem}.html").write_text(HTMLExporter().from_notebook_node(book)[0])


def _run(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], cwd=_DOCS.parent, check=True)


def _save(image: Image.Image, name: str, width: int = _WIDTH) -> None:
    """Writes docs/NAME.webp, in the first quality that makes it small enough."""
    path = _DOCS / f"{name}.webp"
    path.parent.mkdir(exist_ok=True)
    image.thumbnail((width, 4 * width))
    for quality in (72, 60, 45, 30):
        image.save(path, quality=quality, method=6)
        if path.stat().st_size <= _MOST:
            break
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary).absolute())
