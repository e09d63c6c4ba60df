"""Localisation: does what a probe rests on lie where the dataset's boxes are.

A probe learns the labels as ever, without a box. Its map of a label, what each place adds to the
score, is then held against the boxes: the pointing game (Zhang et al., arXiv:1608.00507) asks if
the map's maximum lies in a box; box IoU is that of the best of an image's boxes with the box around
the largest connected part of the map above a share of its maximum (Zhou et al., arXiv:1512.04150),
the share chosen on validation. Both are on the central square of the image, the same for every
encoder whatever square it reads; only images count that have a box of the label there.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
import scipy.ndimage
from jaxtyping import Array, Float

from cxr_jax.config import Section
from cxr_jax.data import places
from cxr_jax.data.splits import LabelledSplit, image_batches
from cxr_jax.transfer import _features, _heads, attentive, linear
from cxr_jax.transfer._protocol import Protocol, Result, Shown, Splits, Tools, examples
from cxr_jax.transfer.segmentation import enlarged, refuse_folds
from cxr_jax.weights.encoder import Encoder

_SIDE = 128  # pixels of the squares on which maps are held against boxes
_SHARES = tuple(round(0.1 * k, 1) for k in range(1, 10))  # of a map's maximum
_TITLES = {"pointing": "Pointing game", "box_iou": "Box IoU"}
# (split, label) -> maps of the rows of the split
Heat = Callable[[LabelledSplit, str, np.ndarray, int], Float[np.ndarray, "n h w"]]


def make(config: Section) -> Protocol:
    """Returns the protocol "localisation"; of the config it reads dense, C and what its probe does.

    Raises ValueError for fields that make no sense.
    """
    _heads.check(config)
    refuse_folds(config, "localisation")
    fields = config["dense"]
    probe = {"attentive": attentive, "linear": linear}[fields["probe"]].make(config)
    settings = {"probe": fields["probe"], "score": fields["score"], "square": "central"}
    settings |= probe.settings

    def method(exclusive: bool) -> tuple[str, ...]:
        whose = "what each place adds to the score of an attentive probe"
        if fields["probe"] == "linear":
            whose = "Grad-CAM of a linear probe, less that of the average training image"
        said = "is the map's maximum within a box of the label"
        if fields["score"] == "box_iou":
            said = (
                "IoU of a box of the label with that around the largest part of the map above a "
                "share of its maximum, which is chosen on validation"
            )
        return (
            *probe.method(exclusive)[:1],
            f"Map of a label: {whose}. {_TITLES[fields['score']]}, image by image: {said}. Map and "
            "boxes are cut to the image's central square. Images without a box of the label there "
            "do not count; no box is used in training.",
        )

    return Protocol("Localisation", method, settings, partial(_run, config), labels=_labels)


def _labels(splits: Splits) -> Splits:
    """Makes test targets 1 where an image has a box of the label, 0 where the label is absent."""
    test = splits.test
    if "boxes" not in test.source.fields:
        raise ValueError(
            f"dataset {test.source.name} has no boxes, so nothing says where its findings are; the "
            f"drawn one has: python -m data_builders.build phantom "
            f"--data_dir={test.source.folder.parents[2]}"
        )
    boxed, marked = _boxed(test)
    if not boxed.any():
        raise ValueError(f"no test image of {test.source.name} has a box of a label that is scored")
    targets = np.where(boxed, 1, np.where(test.targets == 0, 0, np.nan)).astype(np.float32)
    validation = splits.validation._replace(marked=_boxed(splits.validation)[1])
    return splits._replace(
        validation=validation, test=test._replace(targets=targets, marked=marked)
    )


def _boxed(split: LabelledSplit) -> tuple[np.ndarray, bytes]:
    """Returns bool [n k], has the central square a box of the label, and a hash of these boxes."""
    shape = split.targets.shape
    every = [(row, label) for row in range(shape[0]) for label in range(shape[1])]
    held, digest = places.load_central_boxes(split, every), hashlib.sha256()
    for boxes, _ in held:
        digest.update(f"{len(boxes)} ".encode() + boxes.tobytes())
    found = np.array([len(boxes) > 0 for boxes, _ in held], bool)
    return found.reshape(shape), digest.digest()


def _run(config: Section, encoder: Encoder, splits: Splits, tools: Tools) -> Result:
    fields, names = config["dense"], splits.test.label_names
    of_probe = _attentive if fields["probe"] == "attentive" else _linear
    heat, not_scored, remarks = of_probe(config, encoder, splits, tools)
    shape = (len(splits.test.rows), len(names))
    both, shares = {name: np.zeros(shape) for name in _TITLES}, {}
    chosen: dict[tuple[int, int], np.ndarray] = {}
    for k, name in enumerate(names):
        rows = np.flatnonzero(splits.test.targets[:, k] == 1)
        if k in not_scored or not len(rows):
            not_scored.setdefault(k, "no test image has a box of it")
            continue
        boxes = places.load_central_boxes(splits.test, [(row, k) for row in rows.tolist()])
        maps = heat(splits.test, "test", rows, k)
        shares[name] = _chosen_share(heat, splits.validation, k)
        for row, (own, square), grid in zip(rows, boxes, maps):
            chosen[int(row), k] = grid
            cut = enlarged(grid, _SIDE, square)
            both["pointing"][row, k] = points(cut, own)
            both["box_iou"][row, k] = best_iou(cut, own, shares[name])
    scores = both[fields["score"]]
    counts = splits.test.targets == 1
    for k in not_scored:
        scores[:, k], counts[:, k] = np.nan, False
    other = "box_iou" if fields["score"] == "pointing" else "pointing"
    means = {
        kind: {
            name: float(held[counts[:, names.index(name)], names.index(name)].mean())
            for name in shares
        }
        for kind, held in both.items()
    }
    listed = ", ".join(f"{name} {value:.3f}" for name, value in means[other].items())
    shown = tuple(
        Shown(row, k, why, scores[row, k], heat=np.maximum(chosen[row, k], 0))
        for row, k, why in examples(scores, counts, [names.index(name) for name in shares])
    )
    return Result(
        scores=scores,
        not_scored=not_scored,
        summary=f"{fields['probe']} probe at {encoder.image_size} px",
        facts={"means": means, "share_of_maximum": shares},
        score_kind=fields["score"],
        remarks=(*remarks, f"{_TITLES[other]}, not compared here: {listed}."),
        shown=shown,
    )


def _attentive(
    config: Section, encoder: Encoder, splits: Splits, tools: Tools
) -> tuple[Heat, dict[int, str], tuple[str, ...]]:
    fitted = attentive.fit(config, splits, tools)
    column = {int(label): c for c, label in enumerate(fitted.labels)}

    @jax.jit
    def apply(maps: Array) -> Float[Array, "b h w k"]:
        return attentive.parts(fitted.probe, fitted.standard(maps), fitted.heads)

    def heat(split: LabelledSplit, name: str, rows: np.ndarray, label: int) -> np.ndarray:
        found = _heads.chunks(tools.maps(name).at(rows), apply, axis=0)
        return np.concatenate(list(found))[..., column[label]]

    remark = _heads.at_the_edge(fitted.best, fitted.grid)
    return heat, dict(fitted.not_scored), (remark,) if remark else ()


def _linear(
    config: Section, encoder: Encoder, splits: Splits, tools: Tools
) -> tuple[Heat, dict[int, str], tuple[str, ...]]:
    result = linear.make(config).run(encoder, splits, tools)
    average = np.mean(tools.extract("train"), axis=0, dtype=np.float64)

    def heat(split: LabelledSplit, name: str, rows: np.ndarray, label: int) -> np.ndarray:
        read = image_batches(split.take(rows), config["batch_size"], encoder.image_size)
        found = []
        for part in read:
            full = 1 << (len(part) - 1).bit_length()  # few sizes, hence few programs
            padded = np.pad(part, ((0, full - len(part)), (0, 0), (0, 0), (0, 0)))
            parts = _features.contributions(result.head, padded, label, average)
            found.append(parts[: len(part)])
        return np.concatenate(found)

    return heat, dict(result.not_scored), result.remarks


def _chosen_share(heat: Heat, validation: LabelledSplit, label: int) -> float:
    """Returns the share of a map's maximum at which boxes of validation are met best.

    Where validation has no box of the label it is .5.
    """
    every = [(row, label) for row in np.flatnonzero(validation.targets[:, label] == 1).tolist()]
    found = places.load_central_boxes(validation, every)
    held = [(row, *one) for (row, _), one in zip(every, found) if len(one[0])]
    if not held:
        return 0.5
    maps = heat(validation, "validation", np.array([row for row, *_ in held]), label)
    cut = [enlarged(grid, _SIDE, square) for grid, (*_, square) in zip(maps, held)]
    means = [
        np.mean([best_iou(grid, boxes, share) for grid, (_, boxes, _) in zip(cut, held)])
        for share in _SHARES
    ]
    return _SHARES[int(np.argmax(means))]


def points(grid: Float[np.ndarray, "h w"], boxes: Float[np.ndarray, "n 4"]) -> float:
    """Returns 1 if the map's maximum, enlarged bilinearly, lies in one of the boxes, else 0.

    >>> points(np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 0.5, 0.5, 1.0]]))
    1.0
    """
    large = enlarged(grid, _SIDE)
    y, x = (np.array(np.unravel_index(large.argmax(), large.shape)) + 0.5) / _SIDE
    y0, x0, y1, x1 = boxes.T
    return float(((y0 <= y) & (y <= y1) & (x0 <= x) & (x <= x1)).any())


def best_iou(
    grid: Float[np.ndarray, "h w"], boxes: Float[np.ndarray, "n 4"], share: float
) -> float:
    """Returns the IoU of the map's box with the best of the boxes, clipped to the image."""
    found = map_box(grid, share)
    if found is None:
        return 0.0
    return max(iou(found, np.clip(box, 0, 1)) for box in boxes)


def map_box(grid: Float[np.ndarray, "h w"], share: float) -> Float[np.ndarray, "4"] | None:
    """Returns the box around the largest connected part of the map above `share` of its maximum.

    None for a map that is nowhere above 0.
    """
    large = enlarged(grid, _SIDE)
    if large.max() <= 0:
        return None
    parts, count = scipy.ndimage.label(large >= share * large.max(), structure=np.ones((3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    rows, columns = scipy.ndimage.find_objects(parts)[int(sizes.argmax())]
    return np.array([rows.start, columns.start, rows.stop, columns.stop]) / _SIDE


def iou(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Returns the intersection of two boxes (y0, x0, y1, x1) over their union.

    >>> iou((0.0, 0.0, 2.0, 2.0), (0.0, 1.0, 2.0, 3.0))
    0.3333333333333333
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    both = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    total = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both
    return float(both / total) if total > 0 else 0.0
