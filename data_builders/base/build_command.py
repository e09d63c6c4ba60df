"""The command line of data_builders.build, and the list and details of datasets it prints."""

import argparse
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from cxr_jax.data.tasks import FRONTAL, Task, as_stored
from cxr_jax.io import command_line
from cxr_jax.io.text import did_you_mean, in_words
from data_builders import build
from data_builders.base import counts
from data_builders.base.records import BuildError

_HEAD = ("NAME", "what", "a patient is", "default task", "other tasks", "splits")
_MOST_LABELS = 5


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, str]]:
    """Reads the command line: the options of every dataset, and those of this one."""
    parser = argparse.ArgumentParser(
        prog="python -m data_builders.build",
        usage="%(prog)s NAME --manual_dir=FOLDER [--data_dir=data] [options]",
        description="Builds a dataset from its raw files, on all cores, without TensorFlow.",
        epilog="The raw files each dataset needs: data_builders/NAME/README.md. Some datasets have "
        "options of their own (image_folder: --name, --labels_csv; mimic_cxr: --reports_dir): "
        "NAME --help shows them.",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help=" | ".join(build.builder_names()))
    parser.add_argument("--help", "-h", action="store_true", help="this; NAME's options after NAME")
    parser.add_argument("--list", action="store_true", help="the datasets and their default tasks")
    parser.add_argument("--manual_dir", help="folder with the raw dataset, as its owner packs it")
    parser.add_argument("--data_dir", default="data", help="where datasets are put (default: data)")
    parser.add_argument(
        "--check",
        action="store_true",
        help="read the tables, count, compare with the owner's counts, look for every image; build "
        "nothing",
    )
    parser.add_argument(
        "--resolution",
        help="shorter side of the stored images: 256 (default), 512 or full; or another config of "
        "the dataset",
    )
    parser.add_argument(
        "--max_skipped",
        type=float,
        default=0.01,
        help="fraction of the images that may be unreadable before the build fails (default: 0.01)",
    )
    parser.add_argument(
        "--num_workers", type=int, help="processes that read images (default: all cores; 0: none)"
    )
    parser.add_argument(
        "--splits_csv",
        help="somebody else's splits instead of the dataset's: a CSV of image (id or path), split; "
        "give it a --data_dir of its own",
    )
    parser.add_argument(
        "--follow_links",
        action="store_true",
        help="also read images that links in the folder lead to outside of it (default: they are "
        "skipped and listed)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="build again what is already there"
    )
    parser.add_argument(
        "--refresh",
        action="store_true",
        help="store the tasks of NAME in a dataset that an older version built; needs no raw files",
    )
    parser.add_argument(
        "--beam_runner",
        help="build through Apache Beam on many machines: DirectRunner, FlinkRunner, SparkRunner …",
    )
    parser.add_argument(
        "--beam_options",
        default="",
        help="Beam's own, as on a command line: '--direct_num_workers=4 --flink_master=host:8081'",
    )
    args, rest = parser.parse_known_args(command_line(arguments))
    if args.list:
        print(markdown({name: build.builder_class(name) for name in build.builder_names()}))
        sys.exit(0)
    if args.help or not args.name:
        if args.name:
            print(details(args.name, build.builder_class(args.name)) + "\n")
        parser.print_help()
        sys.exit(0 if args.help else 2)
    if not 0 <= args.max_skipped <= 1:
        parser.error(f"--max_skipped={args.max_skipped} is not a fraction from 0 to 1")
    if args.num_workers is not None and args.num_workers < 0:
        parser.error(f"--num_workers={args.num_workers}: 0 reads in one process, more in so many")
    return args, _own(parser, rest)


def _own(parser: argparse.ArgumentParser, rest: Sequence[str]) -> dict[str, str]:
    """Returns the options that not every dataset has: name -> value."""
    everybodys = [option for action in parser._actions for option in action.option_strings]
    own: dict[str, str] = {}
    for word in rest:
        match = re.fullmatch(r"--(\w+)=(.*)", word, re.DOTALL)
        if match is None:
            option = word.split("=")[0]
            parser.error(
                f"{word}: no such option.{did_you_mean(option, everybodys)} A dataset's own "
                "options are written --name=value."
            )
        if match[1] in own:
            parser.error(f"--{match[1]} is given twice")
        own[match[1]] = match[2]
    return own


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds and reports; returns the exit status."""
    start = time.monotonic()
    # A scheduler's ends a build as Ctrl-C does: its workers and half files go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        args, own = parse(arguments)
        if args.refresh:
            print(f"Wrote the tasks of {args.name} into {build.refresh(args.name, args.data_dir)}")
            return 0
        if args.check:
            where = args.manual_dir, args.resolution, own
            how = args.num_workers, args.follow_links, args.splits_csv
            found = build.check(args.name, *where, *how)
            print(f"Checked in {time.monotonic() - start:.0f} s.\n\n{found}")
            return 0
        said: list[str] = []
        build.build(
            args.name,
            args.data_dir,
            args.manual_dir,
            config_name=args.resolution,
            options=own,
            overwrite=args.overwrite,
            max_skipped=args.max_skipped,
            num_workers=args.num_workers,
            follow_links=args.follow_links,
            beam_runner=args.beam_runner,
            beam_options=args.beam_options,
            splits_csv=args.splits_csv,
            then=lambda folder: said.append(counts.describe_dataset(folder)),
        )
    except (BuildError, OSError) as error:
        print(in_words(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing was built.", file=sys.stderr)
        return 130
    print(f"Built in {time.monotonic() - start:.0f} s.\n\n{''.join(said)}")
    return 0


def what(cls: type) -> str:
    """Returns the dataset in a line: the first of its builder's docstring."""
    return sys.modules[cls.__module__].__doc__.splitlines()[0].rstrip(".")


def _row(name: str, cls: type) -> tuple[str, ...]:
    named = cls.TASKS
    labels = cls.LABEL_NAMES if isinstance(cls.LABEL_NAMES, tuple) else ()
    task = named.get("default", Task(as_stored(labels)))
    others = ", ".join(f"`{task}`" for task in named if task != "default")
    return name, what(cls), cls.PATIENT, _words(task, cls), others or "–", _splits(cls.SPLIT_RULE)


def _words(task: Task, cls: type) -> str:
    """Says a task in words: its first labels, then every policy that is not the default."""
    labels = list(task.labels)
    if not labels:
        if cls.name == "image_folder":
            return "your labels, if any"
        return f"no labels, {len(cls.MASK_NAMES)} masks" if cls.MASK_NAMES else "every label"
    shown = ", ".join(labels[:_MOST_LABELS]) + (" …" if len(labels) > _MOST_LABELS else "")
    first = shown if len(labels) == 1 else f"{len(labels)} labels: {shown}"
    return "; ".join([first, *_policies(task, cls)])


def _policies(task: Task, cls: type) -> list[str]:
    """Lists what a task does beyond taking a label as it is."""
    parts = []
    if task.missing_as != "ignore":
        parts.append(f"−1 as {task.uncertain_as}, blanks as {task.missing_as}")
    if cls.READERS:
        parts.append(f"{task.readers} of the readers")
    if cls.LABEL_SCALE == "certainty":
        parts.append(f"certainty from {task.certainty:g} on")
    if task.projections:
        unknown = " and unknown ones" if task.projections != FRONTAL else ""
        parts.append("frontal images" + unknown)
    return parts


def _splits(rule: str) -> str:
    """Says in few words who made the splits; each dataset's README has the whole rule."""
    owners = "owner's test" in rule or "split file" in rule
    if "70 % train" in rule:
        return (
            "owner's or by patient"
            if owners and "no labels" not in rule
            else "by patient, 70/10/20"
        )
    return "owner's" if "owner" in rule or owners else "own"


def markdown(classes: Mapping[str, type]) -> str:
    """Returns the table of builder classes, one line a dataset."""
    rows = [_HEAD, tuple("---" for _ in _HEAD), *(_row(name, cls) for name, cls in classes.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def details(name: str, cls: type) -> str:
    """Describes one dataset: raw files, options, labels, tasks, splits."""
    lines = [f"{name}: {what(cls)}", "", cls.MANUAL_DOWNLOAD_INSTRUCTIONS or "Needs no raw files."]
    own = {**cls.INPUTS, **cls.OPTIONS}
    lines += [f"  --{option}  {text}" for option, text in own.items()]
    if cls.BUILDER_CONFIGS:
        lines.append(f"  --resolution  {', '.join(config.name for config in cls.BUILDER_CONFIGS)}")
    labels = cls.LABEL_NAMES if isinstance(cls.LABEL_NAMES, tuple) else ()
    if labels:
        lines += ["", f"Labels ({cls.LABEL_SCALE}): {', '.join(labels)}"]
    for title, task in cls.TASKS.items():
        flag = "unasked" if title == "default" else f"--config.task={title}"
        named = [
            label if label == stored else f"{label} ({stored})"
            for label, stored in task.labels.items()
        ]
        lines.append(
            f"Task, {flag}: {', '.join(named)}; {'; '.join(_policies(task, cls)) or 'plain'}"
        )
    patient = f"A patient is: {cls.PATIENT}. {cls.PATIENT_NOTE}".rstrip()
    return "\n".join([*lines, "", f"Splits: {cls.SPLIT_RULE}", patient, f"Licence: {cls.LICENCE}"])
