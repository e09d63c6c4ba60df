"""Makes a page to look through a built dataset: cxr-jax browse NAME.

Images by label, split and projection, with boxes and masks where the dataset has them; by score and
error with --predictions; with an image's nearest neighbours with --features; with report texts with
--reports. The page needs no network and no server: open FOLDER/index.html in a browser.

It shows patients' images. The folder is readable by you alone (mode 700); keep it where the data
is. Ids are the pseudonyms that predictions have; no file holds another. Report texts are copied as
they are, with whatever names they hold.
"""

import html
import json
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import PIL.Image
import scipy.stats
from jaxtyping import Float, UInt8

from cxr_jax.data.dataset_info import find_folder, open_built
from cxr_jax.data.source import Source, load_source
from cxr_jax.io import COMMAND, command_line, command_parser, pictures
from cxr_jax.io.text import in_words, plain
from cxr_jax.report.panels import told_apart
from cxr_jax.transfer import predictions as files

_QUALITY = 70  # of WebP
_NUM_NEIGHBOURS = 8
_CORNERS = ("y0", "x0", "y1", "x1")
_PAGE = "index.html"
_OURS = ".made_by_browse"  # in a folder whose page may be replaced
_WRITTEN = re.compile(r"index\.html|\d+(-\d+)?\.webp")


def main(arguments: Sequence[str] | None = None) -> Path:
    """Writes what the command line asks for; returns the path of the page."""
    parser = command_parser(f"{COMMAND} browse", __doc__)
    parser.add_argument("name", metavar="NAME", help="a built dataset")
    parser.add_argument("--data_dir", default="data", help="its folder (default: data)")
    parser.add_argument("--split", default="", help="one split, such as test (default: all)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: browse/NAME")
    parser.add_argument(
        "--most",
        type=int,
        default=1000,
        help="images, drawn evenly from all (default: 1000, of some 20 kB each)",
    )
    parser.add_argument(
        "--size", type=int, default=512, help="pixels of the longer side, at most (default: 512)"
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="PATH",
        help="predictions.parquet or the workdir of a transfer: the images scored there alone",
    )
    parser.add_argument(
        "--features",
        type=Path,
        metavar="FILE.npz",
        help="arrays image_id [n] and features [n d], as a transfer's --config.export_features",
    )
    parser.add_argument("--reports", action="store_true", help="copy the report texts too")
    given = parser.parse_args(command_line(arguments))
    if given.most < 1 or not 16 <= given.size <= 4096:
        parser.error("--most is at least 1, --size from 16 to 4096")
    out = given.out or Path("browse") / given.name.replace("/", "-")
    return browse(out, **{k: v for k, v in vars(given).items() if k != "out"})


def browse(
    out: Path,
    name: str,
    data_dir: str = "data",
    split: str = "",
    most: int = 1000,
    size: int = 512,
    predictions: Path | None = None,
    features: Path | None = None,
    reports: bool = False,
) -> Path:
    """Writes the page and its images into `out`, for an earlier page there; returns its path.

    Raises FileNotFoundError or ValueError, naming file or field, for a dataset, predictions or
    features that cannot be used, and for a folder that holds things and was not made by it.
    """
    splits = [split] if split else list(open_built(find_folder(name, data_dir)).info.splits)
    sources = [load_source(name, data_dir, one) for one in splits]
    if reports and "report" not in sources[0].fields:
        raise ValueError(f"dataset {name} has no report texts: leave out --reports")
    scored = _read_predictions(predictions) if predictions else None
    images = _choose([one for source in sources for one in _listed(source)], most, scored)
    near = _nearest(images, features) if features else {}
    _make_folder(out)
    films = []
    for place, image in enumerate(images):
        film = _film(image, out, place, size, reports) | _scores(scored, image)
        films.append(film | ({"near": near[place]} if place in near else {}))
    labels = list(dict.fromkeys((*sources[0].label_names, *(scored.names if scored else ()))))
    data = {"labels": labels, "scored": scored.names if scored else [], "films": films}
    of = sum(map(len, sources))
    said = (
        f"{len(films):,} of {of:,} images, at most {size} pixels a side. They are patients': keep "
        "this folder where the data is. Ids are pseudonyms."
    )
    if reports:
        said += " Report texts are as the dataset has them and may hold names."
    (out / _PAGE).write_text(_page(f"{name}: images", said, data), encoding="utf-8")
    return out / _PAGE


class Image(NamedTuple):
    """An image of a split: its row, its own id and, hashed, its and its patient's."""

    source: Source
    row: int
    own_id: str
    hashed_id: str
    patient: str


class Scored(NamedTuple):
    """Predictions by image id: the row of each; probabilities where they are known, and errors.

    NaN is what an image has not.
    """

    rows: dict[str, int]
    names: list[str]
    scores: Float[np.ndarray, "n k"]
    errors: Float[np.ndarray, "n k"]


def _listed(source: Source) -> list[Image]:
    columns = source.columns(("image_id", "patient_id"))
    hashed = (source.hashed(what, columns[f"{what}_id"]) for what in ("image", "patient"))
    given = zip(range(len(source)), columns["image_id"], *hashed, strict=True)
    return [Image(source, *one) for one in given]


def _read_predictions(path: Path) -> Scored:
    """Reads scores; an error is the distance of probability and target.

    Where scores only rank, a score's share of images that scored lower stands for a probability.
    Measures (Dice) are scores of the images that count alone, and have no error.
    """
    held = files.read_parquet(path / "predictions.parquet" if path.is_dir() else path)
    rows = {one: row for row, one in enumerate(held.image_id.tolist())}
    if held.score_kind in files.MEASURES:
        scores = np.where(held.targets == 1, held.scores, np.nan)
        return Scored(rows, list(held.label_names), scores, np.full_like(scores, np.nan))
    chance = held.probabilities
    if chance is None:
        ranks = scipy.stats.rankdata(held.scores, axis=0) - 1
        chance = ranks / max(len(held.scores) - 1, 1)
    scores = held.scores if held.probabilities is None else chance
    return Scored(rows, list(held.label_names), scores, np.abs(chance - held.targets))


def _choose(images: Sequence[Image], most: int, scored: Scored | None) -> list[Image]:
    """Returns at most `most`, evenly over all: those that are scored, where there are scores."""
    if scored:
        images = [one for one in images if {one.own_id, one.hashed_id} & scored.rows.keys()]
        if not images:
            raise ValueError(
                "no image of the dataset is in the predictions: they are of another dataset, or "
                "their ids were hashed with another secret (.salt beside the datasets)"
            )
    places = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
    return [images[place] for place in places]


def _nearest(images: Sequence[Image], path: Path) -> dict[int, list[tuple[int, str]]]:
    """Returns by place the places of the nearest other images and their cosines, as they print."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids, features = arrays["image_id"].tolist(), arrays["features"].astype(np.float32)
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise ValueError(
            f"features file {path}: {plain(str(error))}; it needs the arrays image_id [n] and "
            "features [n d] (numpy.savez)"
        ) from error
    if features.ndim != 2 or len(ids) != len(features) or not np.isfinite(features).all():
        raise ValueError(
            f"features file {path}: {len(ids)} image ids and features of shape {features.shape}; "
            "features are [n d] finite numbers, a row for each id"
        )
    rows = {one: row for row, one in enumerate(ids)}
    found = {k: rows.get(one.hashed_id, rows.get(one.own_id)) for k, one in enumerate(images)}
    places = [place for place, row in found.items() if row is not None]
    if not places:
        raise ValueError(f"features file {path}: none of its image ids is of the dataset's images")
    vectors = features[[found[place] for place in places]]
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    near = {}
    for place, vector in zip(places, vectors):
        cosines = vectors @ vector
        order = [k for k in np.argsort(-cosines, kind="stable") if places[k] != place]
        order = order[:_NUM_NEIGHBOURS]
        near[place] = list(zip([places[k] for k in order], told_apart(cosines[order].tolist())))
    return near


def _make_folder(out: Path) -> None:
    """Makes the folder, for its owner alone, or takes an earlier page, whole or not, out of it.

    Raises ValueError where it holds other things and has no mark that a page was made there.
    """
    if out.exists() and any(out.iterdir()) and not (out / _OURS).is_file():
        raise ValueError(f"{out} holds other things than a page of images: choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.mkdir(0o700, exist_ok=True)
    out.chmod(0o700)
    (out / _OURS).touch()
    for path in out.iterdir():
        if _WRITTEN.fullmatch(path.name):
            path.unlink()


def _film(image: Image, out: Path, place: int, size: int, reports: bool) -> dict[str, Any]:
    """Returns what the page says of an image, and writes its pixels."""
    example = image.source.records[image.row]
    film = {
        "id": image.hashed_id,
        "patient": image.patient,
        "split": image.source.split,
        "projection": _text(example.get("projection", example.get("view", ""))),
        "file": f"{place}.webp",
    }
    scale = image.source.metadata.get("label_scale", "presence")
    film["labels"] = {name: _state(one, scale) for name, one in example.get("labels", {}).items()}
    _write(pictures.decode(example["image"]).pixels, size, out / film["file"])
    if boxes := example.get("boxes"):
        corners = zip(*(np.round(boxes[name], 4).tolist() for name in _CORNERS))
        film["boxes"] = [(_text(name), *four) for name, four in zip(boxes["label"], corners)]
    if masks := example.get("masks"):
        film["masks"] = []
        for k, (name, mask) in enumerate(zip(masks["label"], masks["mask"])):
            if (pixels := pictures.decode(bytes(mask)).pixels).any():
                file = f"{place}-{k}.webp"
                _write(pixels, size, out / file, mask=True)
                film["masks"].append((_text(name), file))
    if reports:
        film["report"] = _text(example["report"])
    return film


def _write(pixels: UInt8[np.ndarray, "h w"], size: int, path: Path, mask: bool = False) -> None:
    """Writes WebP, no larger than `size` a side; a mask is orange where it is not zero."""
    picture = PIL.Image.fromarray(pixels)
    if mask:
        alpha = picture.point(lambda value: 255 if value else 0)
        picture = PIL.Image.new("RGBA", picture.size, "#e69f00")
        picture.putalpha(alpha)
    picture.thumbnail((size, size))
    picture.save(path, "WEBP", quality=_QUALITY)


def _state(value: Any, scale: str) -> float | str | None:
    """Returns a label's value; of several readers what most say; None where it is not mentioned.

    Certainties and grades, of which 1 is not "present", are told as they are.

    >>> _state([0.0, 1.0, 1.0], "presence"), _state([1.0, 4.0], "certainty")
    (1.0, 'certainty 1, 4')
    """
    known = np.asarray(value, float).ravel()
    known = known[~np.isnan(known)]
    if not known.size:
        return None
    if scale != "presence":
        return f"{scale} {', '.join(f'{one:g}' for one in known)}"
    whole = float(known[0]) if known.size == 1 else float(2 * (known == 1).sum() > known.size)
    return round(whole, 3)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _scores(scored: Scored | None, image: Image) -> dict[str, Any]:
    """Returns an image's score and error of each label; empty without predictions."""
    if scored is None:
        return {}
    row = scored.rows.get(image.hashed_id, scored.rows.get(image.own_id))
    found = {"score": scored.scores[row], "error": scored.errors[row]}
    return {
        what: {
            name: round(float(one), 5)
            for name, one in zip(scored.names, values)
            if not np.isnan(one)
        }
        for what, values in found.items()
    }


def _page(title: str, said: str, data: Mapping[str, Any]) -> str:
    folder = resources.files("cxr_jax.report")
    text = (folder / "browse.html").read_text()
    held = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    parts = {"%STYLE%": (folder / "page.css").read_text(), "%DATA%": held}
    parts |= {"%TITLE%": html.escape(title), "%SAID%": html.escape(said)}
    before, after = text.split("%DATA%")
    for mark, part in parts.items():
        before = before.replace(mark, part)
    return before + held + after


def command(arguments: Sequence[str] | None = None) -> int:
    """Runs `main`; returns the exit code: 0, or 2 with a sentence on what cannot be used."""
    try:
        print(f"Open in a browser: {main(arguments)}")
    except (ValueError, OSError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(command())
