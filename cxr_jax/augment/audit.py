"""Audits how much of the findings in a dataset's boxes a config's augmentations keep.

  python -m cxr_jax.augment.audit --dataset=phantom --config=configs/byol.py

Two random views of an image should show what the encoder is to learn: where the finding is in one
and not in the other, the objective teaches that it does not matter. A box is held by a view that
keeps at least --min_kept of its area; its size is the square root of its area in that view, in
pixels. Every box counts alike and gets --num_draws pairs of views, drawn as in pretraining.

Options:
  --dataset=NAME          a dataset with boxes; python -m data_builders.build phantom draws one
  --config=FILE[:PRESET]  a pretraining config
  --config.FIELD=VALUE    changes one field, e.g. '--config.views.a.crop_scale=(0.4,1.0)'
  --data_dir=FOLDER       where datasets are (default: the config's data.dir)
  --split=NAME            train (default), validation, test; train[:10%] takes a part
  --num_draws=N           pairs of views for each box (default 256)
  --min_kept=SHARE        of its box that a view must keep to hold a finding (default 0.5)
  --seed=N                of the draws (default 0)
  --output=FOLDER         for audit.json, audit.csv and audit.png (default audit)
"""

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import Int
from ml_collections import ConfigDict
from tqdm import tqdm

from cxr_jax import config as config_file
from cxr_jax.augment import _pictures, survival
from cxr_jax.augment.views import check_view
from cxr_jax.data.splits import Boxed, load_boxes
from cxr_jax.io import COMMAND, command_line
from cxr_jax.io.atomic import atomic_write_csv
from cxr_jax.io.text import in_words
from cxr_jax.report.blocks import markdown_table

MINIMA = (0.08, 0.2, 0.4, 0.6, 0.8)  # of crop_scale, for the curve
ENOUGH = 0.5  # of the pairs: below it most pairs teach to ignore the finding
_PICTURED = 4  # findings

Groups = Mapping[str, Int[np.ndarray, " n"]]
Rows = list[dict[str, Any]]
Shares = Mapping[float, Mapping[str, float]]  # smallest crop -> finding -> held by both views
Views = Mapping[str, Mapping[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Audits, writes and reports; returns the exit code (0 done, 1 failed, 2 wrong options)."""
    args, overrides = _parse(arguments)
    if args.help:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # its reader may be head
        print(__doc__)
        return 0
    try:
        _check(args)
        config = config_file.load(args.config, overrides)
        views = _views(config, args.config)
    except (ValueError, OSError, flags.Error) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    try:
        boxed = load_boxes(args.dataset, args.data_dir or config.data.dir, args.split)
        _audit(args, overrides, views, config.data.image_size, boxed)
    except (ValueError, OSError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing was written.", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage="see --help")
    for name in ("config", "dataset", "data_dir"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--split", default="train")
    parser.add_argument("--num_draws", type=int, default=256)
    parser.add_argument("--min_kept", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("audit"))
    parser.add_argument("--help", "-h", action="store_true")
    return parser.parse_known_args(command_line(arguments))


def _check(args: argparse.Namespace) -> None:
    if not args.dataset:
        raise ValueError("--dataset is missing: the name of a built dataset that has boxes")
    if args.num_draws < 1:
        raise ValueError(f"--num_draws={args.num_draws} must be at least 1")
    if not 0 < args.min_kept <= 1:
        raise ValueError(f"--min_kept={args.min_kept} is no share above 0 and up to 1")


def _views(config: ConfigDict, spec: str) -> Views:
    """Returns the fields of views a and b; ValueError for a config without, or impossible ones."""
    if not isinstance(config.get("views"), ConfigDict):
        raise ValueError(f"{spec} makes no views; audit a pretraining, such as configs/byol.py")
    if set(config.views) != {"a", "b"}:
        raise ValueError(f"{spec} has views {', '.join(config.views)}; the audit is of a and b")
    for name in ("a", "b"):
        check_view(config.views[name], f"config.views.{name}")
    if config.data.image_size < 1:
        raise ValueError(f"config.data.image_size={config.data.image_size} must be at least 1")
    return {name: config.views[name].to_dict() for name in ("a", "b")}


def _audit(
    args: argparse.Namespace, overrides: Sequence[str], views: Views, image_size: int, boxed: Boxed
) -> None:
    key = jax.random.PRNGKey(args.seed)
    groups = survival.groups(boxed.labels, boxed.boxes)
    largest = min(view["crop_scale"][1] for view in views.values())
    swept = {
        minimum: {
            name: view | {"crop_scale": (minimum, view["crop_scale"][1])}
            for name, view in views.items()
        }
        for minimum in MINIMA
        if minimum <= largest
    }
    count = len(np.unique(boxed.images))
    print(f"{args.dataset} {args.split!r}: {len(boxed.labels):,} boxes on {count:,} images", end="")
    print(f" ({boxed.flat:,} boxes without area left out)" if boxed.flat else "", flush=True)
    others = sum(changed != views for changed in swept.values())
    total = len(boxed.labels) * args.num_draws * (1 + others)
    with tqdm(total=total, unit=" pairs of views", unit_scale=True, mininterval=5) as bar:

        def measured(pair: Views) -> Rows:
            kept = survival.measure(
                key, boxed.boxes, [*pair.values()], image_size, args.num_draws, bar.update
            )
            return survival.summarise(kept, groups, args.min_kept)

        rows, by_minimum = measured(views), {}
        for minimum, changed in swept.items():
            found = rows if changed == views else measured(changed)
            by_minimum[minimum] = {row["finding"]: row["held_both"] for row in found}
    args.output.mkdir(parents=True, exist_ok=True)
    _write(args, views, image_size, rows, by_minimum)
    chosen = _pictured(rows, boxed, groups)
    shown = list(chosen.values())
    images = np.stack([boxed.image(box, image_size) for box in shown])
    names = (*chosen, *list(groups)[-2:])
    _pictures.draw(
        args.output / "audit.png",
        _pictures.examples(key, images, boxed.boxes[shown], list(chosen), views, args.min_kept),
        list(by_minimum),
        {name: [shares[name] for shares in by_minimum.values()] for name in names},
        {f"view {name}": view["crop_scale"][0] for name, view in views.items()},
        ENOUGH,
    )
    print(f"\n{_table(rows)}\n")
    print(
        f"held: a view keeps at least {100 * args.min_kept:g} % of the box; both: the two views "
        "share the finding.\nSizes in pixels of the view (before: the whole image scaled to it), "
        f"and the share below {survival.SMALL} px,\namong the views that hold it."
    )
    print(f"\nThe numbers: {args.output / 'audit.json'}, {args.output / 'audit.csv'}")
    print(f"Findings in their views, and larger smallest crops: {args.output / 'audit.png'}")
    print(_next(args, overrides, views, rows, by_minimum))


def _write(
    args: argparse.Namespace, views: Views, image_size: int, rows: Rows, by_minimum: Shares
) -> None:
    options = ("dataset", "split", "config", "seed", "num_draws", "min_kept")
    whole = {name: getattr(args, name) for name in options} | {
        "image_size": image_size,
        "small_below_px": survival.SMALL,
        "views": views,
        "findings": rows,
        "sweep": [{"crop_scale_min": k, "held_both": shares} for k, shares in by_minimum.items()],
    }
    (args.output / "audit.json").write_text(json.dumps(whole, indent=1) + "\n")
    atomic_write_csv(args.output / "audit.csv", [rows[0], *(row.values() for row in rows)])


def _table(rows: Rows) -> str:
    header = ["finding", "boxes", "view a held", "view b held", "both held"]
    header += ["median size before → after", f"below {survival.SMALL} px"]
    body = []
    for row in rows:
        held = [f"{100 * row[name]:.0f} %" for name in ("held_a", "held_b", "held_both")]
        after = small = "–"  # no view holds it
        if row["size_after"] is not None:
            after, small = f"{row['size_after']:.1f}", f"{100 * row['share_small']:.0f} %"
        sizes = f"{row['size_before']:.1f} → {after}"
        body.append([row["finding"], f"{row['boxes']:,}", *held, sizes, small])
    return markdown_table(header, body)


def _pictured(rows: Rows, boxed: Boxed, groups: Groups) -> dict[str, int]:
    """Returns findings from the smallest to the largest, each with its box of median size."""
    findings = sorted(rows[: len(groups) - 2], key=lambda row: row["size_before"])
    places = np.unique(np.linspace(0, len(findings) - 1, _PICTURED).round().astype(int))
    chosen = {}
    for name in (findings[place]["finding"] for place in places):
        sizes = survival.sizes_before(boxed.boxes[groups[name]], [1])[:, 0]
        chosen[name] = int(groups[name][np.argsort(sizes)[len(sizes) // 2]])
    return chosen


def _next(
    args: argparse.Namespace, overrides: Sequence[str], views: Views, rows: Rows, by_minimum: Shares
) -> str:
    """Says what to do: pretrain as it is, or with crops that let most pairs share each finding."""
    command = [*COMMAND.split(), f"--config={args.config}"]
    worst = min(rows, key=lambda row: row["held_both"])
    if worst["held_both"] >= ENOUGH:
        told = f"Every finding is in both views of {100 * ENOUGH:.0f} % of the pairs or more."
        return f"{told} Next: {shlex.join([*command, *overrides])}"
    enough = [k for k, shares in by_minimum.items() if min(shares.values()) >= ENOUGH]
    minimum = enough[0] if enough else max(by_minimum, default=1.0)
    others = [word for word in overrides if ".crop_scale=" not in word]
    changes = [
        f"--config.views.{name}.crop_scale=({minimum},{view['crop_scale'][1]})"
        for name, view in views.items()
    ]
    told = f"{worst['finding']}: only {100 * worst['held_both']:.1f} % of the pairs share it. "
    told += "Larger crops keep more" if enough else "Even larger crops keep too little"
    return f"{told}. Next, compare by transfer: {shlex.join([*command, *others, *changes])}"


if __name__ == "__main__":
    sys.exit(main())
