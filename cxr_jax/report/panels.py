"""Pictures of single images: where a score comes from, what resembles an image, where images lie.

`saliency`, `neighbours` and `embedding` draw them into a transfer's folder; `drawn` and `blocks`
show them on a page. Images have numbers here, never ids.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from cxr_jax.io.json import read_json
from cxr_jax.report.blocks import Block, Heading, Picture, Text
from cxr_jax.report.figures import DPI, label_panels
from cxr_jax.report.svg import COLOURS, GREY, INK, LINE

# The same in all pictures: a label that is present, absent, or not known.
_PRESENT, _ABSENT = COLOURS[1], COLOURS[0]
_BOX = COLOURS[5]
_IMAGE, _GAP = 1.5, 0.08  # inches
_HEAT = COLOURS[4]  # of one hue, so that light and dark stay the image's own
_MOST = 0.75  # of the image's grey, at most so much gives way to the heat
_MAX_BYTES = 1_000_000  # pages hold their pictures


class Case(NamedTuple):
    """A test image with regard to one label."""

    number: int  # the reader's name for the image
    image: UInt8[np.ndarray, "h w"]
    label: str
    target: float  # 1, 0, NaN
    lower: float  # share of the other test images that scored lower; NaN: not said
    kind: str  # why it was chosen, in words, or ""
    heat: Float[np.ndarray, "i j"] | None  # what raises the score, 0 or more, of any size
    boxes: Float[np.ndarray, "n 4"]  # of the label: y0, x0, y1, x1 in fractions of the image


class Marked(NamedTuple):
    """A test image with a mask of it, and what was marked."""

    number: int
    image: UInt8[np.ndarray, "h w"]
    label: str
    kind: str
    truth: Bool[np.ndarray, "s s"]
    found: Bool[np.ndarray, "s s"]


class Neighbour(NamedTuple):
    image: UInt8[np.ndarray, "h w"]
    target: float
    cosine: float


def saliency(path: Path, cases: Sequence[Case]) -> None:
    """Draws a row per case to a PNG: the image, the image under its heat, and what it is.

    Images of one label share the scale of the heat. Every case has its heat.
    """
    strongest: dict[str, float] = {}
    for case in cases:
        strongest[case.label] = max(strongest.get(case.label, 0.0), float(case.heat.max()))
    figure, rows = _rows(len(cases), 0.8)
    for case, (plain, heated, beside) in zip(cases, rows):
        _show(plain, case.image)
        _show(heated, overlay(case.image, case.heat, strongest[case.label]))
        for top, left, bottom, right in case.boxes * np.tile(case.image.shape, 2) - 0.5:
            corner = (left, top), right - left, bottom - top
            for axes in (plain, heated):
                axes.add_patch(Rectangle(*corner, fill=False, edgecolor=_BOX, linewidth=1.5))
        _write(beside, _described(case))
    _draw_scale(_axes(figure, 0.0, figure.get_figheight() - 0.6, 2 * _IMAGE + _GAP, 0.12))
    _save(figure, path)


def masks(path: Path, marked: Sequence[Marked], scores: Sequence[float]) -> None:
    """Draws a row per image to a PNG: it, it with what was marked and its mask's outline, its Dice.

    Images are squares, and masks of any side lie on the whole of them.
    """
    figure, rows = _rows(len(marked), 0.1)
    for one, score, (plain, tinted, beside) in zip(marked, scores, rows):
        _show(plain, one.image)
        _show(tinted, overlay(one.image, one.found.astype(np.float32), 1.0))
        centres = (np.arange(len(one.truth)) + 0.5) * len(one.image) / len(one.truth) - 0.5
        tinted.contour(centres, centres, one.truth, levels=[0.5], colors=[_BOX], linewidths=1.2)
        said = [(f"Image {one.number}", {"fontweight": "bold"})]
        said += [(one.label, {"color": _PRESENT, "fontweight": "bold"})]
        said += [(f"Dice {score:.2f}, {one.kind} of the images with it", {})]
        _write(beside, said)
    _save(figure, path)


def overlay(
    image: UInt8[np.ndarray, "h w"], heat: Float[np.ndarray, "i j"], most: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image tinted by the heat, which is clear at 0 and strongest from `most` on."""
    size = image.shape[::-1]
    grown = Image.fromarray(np.asarray(heat, np.float32)).resize(size, Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(grown) / most, 0, 1) if most > 0 else np.zeros(image.shape)
    share = _MOST * share[..., None]
    tint = np.array([int(_HEAT[k : k + 2], 16) for k in (1, 3, 5)])
    grey = image[..., None].astype(np.float64)
    # The tint keeps some of the image's light: what lies under strong heat can still be read.
    return np.round(grey * (1 - share) + share * tint * (0.55 + 0.45 * grey / 255)).astype(np.uint8)


def neighbours(path: Path, cases: Sequence[Case], found: Sequence[Sequence[Neighbour]]) -> None:
    """Draws a row per case to a PNG: the image and its nearest training images."""
    side, step, frame = 1.05, 1.05 + 0.52, 0.03
    width = (1 + max(map(len, found))) * (side + _GAP)
    figure = Figure(figsize=(width, len(cases) * step))
    for row, (case, near) in enumerate(zip(cases, found)):
        images = [(case.image, case.target, "this image")]
        for one, cosine in zip(near, told_apart([one.cosine for one in near])):
            images.append((one.image, one.target, f"{word(one.target)}, cosine {cosine}"))
        for place, (image, target, words) in enumerate(images):
            left = frame + place * (side + _GAP)
            axes = _axes(figure, left, row * step + 0.26, side, side)
            _show(axes, image, _colour(target))
            axes.set_xlabel(words, fontsize=7, color=_colour(target), labelpad=3)
            if not place:
                count = sum(one.target == 1 for one in near)
                said = f"present in {count} of the {len(near)} nearest training images"
                said = f"Image {case.number}   {_state(case)}; {said}"
                axes.set_title(said, loc="left", fontsize=8, fontweight="bold", color=INK, pad=5)
    _save(figure, path)


def embedding(
    path: Path,
    points: Float[np.ndarray, "n 2"],
    targets: Float[np.ndarray, "n k"],
    names: Sequence[str],
    marks: Sequence[dict[int, int]] = (),
) -> None:
    """Draws images on a plane to a PNG: a panel for each of the first six labels, coloured by it.

    marks: of each label, number of an image -> its row of `points`.
    """
    figure, panels = label_panels(names[:6], 3.2 if len(names) > 1 else 4.5)
    size = float(np.clip(6000 / len(points), 5, 30))
    for k, axes in enumerate(panels.values()):
        target = targets[:, k]
        for value, chosen in ((np.nan, np.isnan(target)), (0.0, target == 0), (1.0, target == 1)):
            if chosen.any():
                name = f"{word(value)} ({int(chosen.sum()):,})"
                dots = dict(color=_colour(value), alpha=0.65, linewidth=0, label=name)
                axes.scatter(*points[chosen].T, s=size, **dots)
        ring = dict(markersize=7, markerfacecolor="none", markeredgecolor="black")
        for number, row in (marks[k] if k < len(marks) else {}).items():
            axes.plot(*points[row], "o", **ring)
            bold = dict(textcoords="offset points", fontsize=9, fontweight="bold")
            axes.annotate(str(number), points[row], (4, 4), **bold)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(LINE)
        below = dict(loc="upper left", bbox_to_anchor=(0, 0), borderaxespad=0.2, ncols=3)
        spaces = dict(handletextpad=0.1, columnspacing=1, markerscale=1.6)
        axes.legend(**below, **spaces, frameon=False, fontsize=8)
    _save(figure, path)


def word(target: float) -> str:
    """Returns "present", "absent" or "unknown"."""
    return {1.0: "present", 0.0: "absent"}.get(float(target), "unknown")


def rank_in_words(lower: float) -> str:
    """Returns a score's rank in words; `lower` is the share of the other images that scored lower.

    >>> rank_in_words(0.981)
    'scored higher than 98 % of the test images'
    """
    if lower >= 1:
        return "scored higher than all other test images"
    if lower <= 0:
        return "no test image scored lower"
    percent = int(round(100 * lower, 6))  # down: "99 %" of what is nearly all
    if not percent:
        return "fewer than 1 % of the test images scored lower"
    return f"scored higher than {percent} % of the test images"


def told_apart(values: Sequence[float]) -> list[str]:
    """Returns numbers with two decimals, or as many as tell them apart (six at most).

    >>> told_apart([0.97, 0.9]), told_apart([0.99981, 0.99974])
    (['.97', '.90'], ['.9998', '.9997'])
    """
    for decimals in range(2, 7):
        words = [f"{value:.{decimals}f}" for value in values]
        if len(set(words)) == len(set(values)):
            break
    return [one.removeprefix("0") for one in words]


def _colour(target: float) -> str:
    return {1.0: _PRESENT, 0.0: _ABSENT}.get(float(target), GREY)


def _state(case: Case) -> str:
    return f"{case.label}: {word(case.target)}"


def _rows(count: int, below: float) -> tuple[Figure, list[list[Axes]]]:
    """Returns a figure, and row by row the axes of two images and of the words beside them."""
    step = _IMAGE + _GAP
    figure = Figure(figsize=(2 * step + 2.5, count * step + below))
    places = ((0.0, _IMAGE), (step, _IMAGE), (2 * step + 0.05, 2.4))
    tops = [_GAP + row * step for row in range(count)]
    return figure, [[_axes(figure, x, top, width, _IMAGE) for x, width in places] for top in tops]


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Returns axes at this place in inches from the upper left corner, so that pixels are kept."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))


def _show(axes: Axes, image: np.ndarray, frame: str = "") -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(bool(frame))
    if frame:
        axes.spines[:].set(color=frame, linewidth=3)


def _described(case: Case) -> list[tuple[str, Mapping[str, str]]]:
    lines = [(f"Image {case.number}", {"fontweight": "bold"})]
    colour = {"color": _colour(case.target), "fontweight": "bold"}
    lines += [(part, colour) for part in textwrap.wrap(_state(case), 38)]
    boxed = "boxed in the dataset" if len(case.boxes) else ""
    rank = "" if np.isnan(case.lower) else rank_in_words(case.lower)
    for said in filter(None, (rank, case.kind, boxed)):
        lines += [(part, {}) for part in textwrap.wrap(said, 42)]
    return lines


def _write(axes: Axes, lines: Sequence[tuple[str, Mapping[str, str]]]) -> None:
    axes.axis("off")
    for place, (text, style) in enumerate(lines):
        style = {"fontsize": 8, "color": INK, "verticalalignment": "top"} | style
        axes.text(0, 1 - (0.02 + 0.16 * place) / _IMAGE, text, transform=axes.transAxes, **style)


def _draw_scale(axes: Axes) -> None:
    """Draws the scale from clear to the full tint, as it looks on an image of middle grey."""
    colours = overlay(np.full((4, 256), 128, np.uint8), np.linspace(0, 1, 256)[None], 1.0)
    axes.imshow(colours, aspect="auto", extent=(0, 1, 0, 1))
    axes.set(yticks=[], xticks=[])
    axes.spines[:].set_visible(False)
    style = {"fontsize": 8, "color": INK, "verticalalignment": "top"}
    axes.text(0, -0.4, "nothing", **style)
    axes.text(1, -0.4, "most", horizontalalignment="right", **style)
    words = "raises the score\n(images of one label share this scale)"
    axes.text(0.5, -0.4, words, horizontalalignment="center", **style)


def _save(figure: Figure, path: Path) -> None:
    """Saves a PNG of less than a megabyte: the more grain its images have, the fewer pixels."""
    dpi, size = DPI, _MAX_BYTES + 1
    while size > _MAX_BYTES:
        figure.savefig(path, dpi=dpi)
        size = path.stat().st_size
        dpi *= 0.97 * min(1, _MAX_BYTES / size) ** 0.5


# Of each file: its title, and how to read it.
_MEANING = {
    "saliency.png": (
        "Where the score comes from",
        "Left the image, right the same image with, in orange, what makes it score higher than the "
        "average training image (Grad-CAM, Selvaraju et al. 2017, of the features less those of "
        "the average training image). Parts that lower the score are not shown, so an image of low "
        "score can have orange too. The map is coarse, a few parts a side, and shows what the "
        "score rests on, which need not be the finding. Blue rectangles, where there are any, are "
        "the dataset's boxes.",
    ),
    "neighbours.png": (
        "What the encoder finds alike",
        "Each image and the five images nearest to it by cosine of their features, with what the "
        "dataset says about the label there. They come from the labelled training images.",
    ),
    "embedding.png": (
        "Where the test images lie",
        "t-SNE of their features: images that the encoder finds alike lie close to each other; "
        "distances across the map mean little.",
    ),
    "masks.png": (
        "Masks",
        "Left the image, right the same with, in orange, what the head marked, and in blue the "
        "outline of the dataset's mask: of each of the first three masks the test image with the "
        "highest, the middle and the lowest Dice.",
    ),
    "places.png": (
        "Maps and boxes",
        "Left the image, right the same with, in orange, what raises the label's score: of each of "
        "the first three labels the test image that was scored best, the middle and the worst. "
        "Blue rectangles are the dataset's boxes.",
    ),
}
_SHOWN = "This page shows images of the test set and, beside them, of the training set. "
_CHOSEN = (
    "They are chosen label by label: of the images with it the one that scored highest and the one "
    "that scored lowest, of those without it the one that scored highest"
)
_NAMED = "Those of the test set were named (config.pictures.images)."
EITHER_WAY = f"{_SHOWN}{_CHOSEN}; or they were named."


def drawn(workdir: Path) -> dict[str, Picture]:
    """Returns the pictures that a transfer left in its folder, by how to read them."""
    return {
        f"**{title}.** {meaning}": Picture(path, title)
        for name, (title, meaning) in _MEANING.items()
        if (path := workdir / "pictures" / name).is_file()
    }


def blocks(workdir: Path) -> list[Block]:
    """Returns the section that shows them; empty where there are none."""
    pictures = drawn(workdir)
    if not pictures:
        return []
    ids = "pictures/films.csv"
    which = f" {ids} says which images these are." if (workdir / ids).is_file() else ""
    how = _how_chosen(workdir)
    if (workdir / "pictures/masks.png").is_file() or (workdir / "pictures/places.png").is_file():
        how = "This page shows images of the test set."
    page = [Heading("Images"), Text(how + which)]
    for meaning, picture in pictures.items():
        page += [Text(meaning), picture]
    return page


def _how_chosen(workdir: Path) -> str:
    config = workdir / "config.json"
    if not config.is_file():
        return EITHER_WAY
    pictures = read_json(config).get("pictures")
    named = isinstance(pictures, dict) and pictures.get("images")
    return _SHOWN + (_NAMED if named else f"{_CHOSEN}.")
