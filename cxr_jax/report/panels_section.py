"""The part of a page that shows images: what pictures.py left of them, and what they mean."""

from pathlib import Path

from cxr_jax.io.json import read_json

_TITLES = {
    "saliency.png": "**Where the score comes from.** Left the image, right the same image with, in "
    "orange, what makes it score higher than the average training image (Grad-CAM, Selvaraju et al. "
    "2017, of the features less those of the average training image). Parts that lower the score "
    "are not shown, so an image of low score can have orange too. The map is coarse, a few parts a "
    "side, and shows what the score rests on, which need not be the finding. Blue rectangles, "
    "where there are any, are the dataset's boxes.",
    "neighbours.png": "**What the encoder finds alike.** Each image and the five images nearest to "
    "it by cosine of their features, with what the dataset says of the label there. They are "
    "looked for among the labelled training images of the budget.",
    "embedding.png": "**Where the test images lie.** t-SNE of their features: images that the "
    "encoder finds alike stand close to each other; distances across the map mean little.",
}
_SHOWN = "This page shows images of the test set and, beside them, of the training set. "
_CHOSEN = (
    "They are chosen label by label: of the images with it the one that scored highest and the one "
    "that scored lowest, of those without it the one that scored highest"
)
_NAMED = "Those of the test set were named (config.pictures.images)."
SENTENCE = f"{_SHOWN}{_CHOSEN}; or they were named."  # where it may have been either way
_IDS = "pictures/films.csv"


def drawn(workdir: Path) -> list[tuple[Path, str]]:
    """The pictures that a transfer left in its folder, and a caption for each."""
    paths = {name: workdir / "pictures" / name for name in _TITLES}
    return [(path, _TITLES[name]) for name, path in paths.items() if path.is_file()]


def section(workdir: Path) -> list[str]:
    """The part of report.md that shows them, Markdown; empty where there are none."""
    pictures = drawn(workdir)
    if not pictures:
        return []
    ids = f" {_IDS} says which images these are." if (workdir / _IDS).is_file() else ""
    parts = ["## Images", _how_chosen(workdir) + ids]
    for path, caption in pictures:
        title = caption.split("**")[1].rstrip(".")
        parts += [caption, f"![{title}]({path.relative_to(workdir).as_posix()})"]
    return parts


def _how_chosen(workdir: Path) -> str:
    config = workdir / "config.json"
    if not config.is_file():
        return SENTENCE
    pictures = read_json(config).get("pictures")
    named = isinstance(pictures, dict) and pictures.get("images")
    return _SHOWN + (_NAMED if named else f"{_CHOSEN}.")
