"""Builds a dataset: python -m data_builders.build NAME --manual_dir=… --data_dir=…

Heavy imports wait until they are needed: --help answers at once, and the processes that read
films, which import this module again, do not load TFDS.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_builders import claim, summary
from data_builders.records import BuildError

HERE = Path(__file__).parent
SUFFIX = "_dataset_builder.py"


def builder_names() -> list[str]:
    """The datasets that can be built: the folders beside this file."""
    return sorted(p.parent.name for p in HERE.glob(f"*/*{SUFFIX}"))


def builder_class(name: str) -> type:
    """The TFDS builder class of a dataset.

    Raises:
      BuildError: no such dataset; lists those there are.
    """
    if name not in builder_names():
        raise BuildError(
            f"There is no builder for {name!r}. There are: {', '.join(builder_names())}."
        )
    module = f"data_builders.{name}.{name}{SUFFIX.removesuffix('.py')}"
    return importlib.import_module(module).Builder


def build(
    name: str,
    data_dir: str | Path,
    manual_dir: str | Path | None = None,
    config_name: str | None = None,
    options: Mapping[str, str] | None = None,
    overwrite: bool = False,
    max_skipped: float = 0.01,
    num_workers: int | None = None,
    progress: bool = True,
    beam_runner: str | None = None,
    beam_options: str = "",
) -> Path:
    """Builds a dataset and returns its version folder.

    Args:
      name: a folder of data_builders.
      data_dir: where datasets stand, in TFDS's layout.
      manual_dir: the raw dataset, for datasets that are not drawn.
      config_name: "256", "512" or "full" (image_folder: a size too), or one of the dataset's
        own; None or "" is its default.
      options: the dataset's own: its class's OPTIONS and INPUTS.
      overwrite: replace a dataset that stands already; it stays if the new build fails.
      max_skipped, num_workers, progress: see cxr_builder.BuildSettings.
      beam_runner, beam_options: build through Apache Beam, with its options as on a command line.

    Raises:
      AlreadyBuilt: it stands already.
      BuildError: anything else the person has to mend.
    """
    chosen = choose(name, manual_dir, config_name, options)
    import tensorflow_datasets as tfds

    from data_builders import beam_build, cxr_builder

    folder = Path(data_dir).absolute() / name / chosen.config.name / str(chosen.builder.VERSION)
    settings = cxr_builder.BuildSettings(max_skipped, num_workers, progress, chosen.inputs)
    with claim.claimed(folder, overwrite):
        builder = chosen.builder(data_dir=folder.parents[2], config=chosen.config)
        builder.settings = settings
        download_config = tfds.download.DownloadConfig(
            manual_dir=Path(manual_dir).absolute() if manual_dir else None,
            try_download_gcs=False,
            beam_runner=beam_runner,
            beam_options=beam_build.pipeline_options(beam_options) if beam_runner else None,
        )
        # Nothing is downloaded; TFDS wants the folder nevertheless.
        with tempfile.TemporaryDirectory() as downloads:
            try:
                builder.download_and_prepare(
                    download_dir=downloads,
                    download_config=download_config,
                    file_format="array_record",
                )
            except OSError:
                # Another process (another host of the same run) may have finished it first.
                if not (folder / "dataset_info.json").exists():
                    raise
    return folder


def check(
    name: str,
    manual_dir: str | Path | None = None,
    config_name: str | None = None,
    options: Mapping[str, str] | None = None,
    num_workers: int | None = None,
) -> str:
    """Reads the owner's tables, looks whether their films are there, builds nothing.

    Returns:
      What they list, split by split, beside what the owner publishes.

    Raises:
      BuildError: as `build`, as far as tables tell.
    """
    chosen = choose(name, manual_dir, config_name, options)
    from data_builders import cxr_builder

    with tempfile.TemporaryDirectory() as scratch:
        builder = chosen.builder(data_dir=scratch, config=chosen.config)
        builder.settings = cxr_builder.BuildSettings(num_workers=num_workers, inputs=chosen.inputs)
        manual_dir = Path(manual_dir).absolute() if manual_dir else None
        listing = builder.list_films(manual_dir)
        listed = listing.records
        films = [record.film for record in listed if isinstance(record.film, Path)]
        return summary.of_listing(
            name,
            {split: builder.count(listed, (split,)) for split in cxr_builder.splits_of(listed)},
            builder.against_owner(listed),
            [f"{entry.file} ({entry.reason})" for entry in listing.skipped],
            [
                cxr_builder.relative_name(film, manual_dir)
                for film in films
                if not os.path.exists(film)
            ],
            builder.split_rule(),
        )


class Chosen(NamedTuple):
    """A TFDS builder class, one of its configs, and the folders it reads besides manual_dir."""

    builder: type
    config: Any
    inputs: dict[str, Path]


def choose(
    name: str,
    manual_dir: str | Path | None,
    config_name: str | None,
    options: Mapping[str, str] | None,
) -> Chosen:
    """What `build`'s arguments of these names mean.

    Raises:
      BuildError: no such dataset, config or option, or a folder is missing.
    """
    cls = builder_class(name)
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    options = dict(options or {})
    inputs = {key: Path(options.pop(key)).absolute() for key in cls.INPUTS if key in options}
    config = cls.make_config(config_name or None, options)
    if cls.MANUAL_DOWNLOAD_INSTRUCTIONS:
        check_folder(name, "manual_dir", manual_dir, cls.MANUAL_DOWNLOAD_INSTRUCTIONS)
    for key, folder in inputs.items():
        check_folder(name, key, folder, cls.INPUTS[key])
    return Chosen(cls, config, inputs)


def check_folder(name: str, option: str, folder: str | Path | None, instructions: str) -> None:
    """Refuses a missing folder, with what belongs into it."""
    if folder is None:
        raise BuildError(f"{name} needs --{option}. {instructions}")
    if not Path(folder).is_dir():
        raise BuildError(f"--{option}: {folder} is no folder. {instructions}")


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, str]]:
    """The command line; what is not an option of every dataset is for the dataset itself."""
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
    parser.add_argument("name", metavar="NAME", nargs="?", help=" | ".join(builder_names()))
    parser.add_argument("--help", "-h", action="store_true", help="this; NAME's options after NAME")
    parser.add_argument("--list", action="store_true", help="the datasets and their default tasks")
    parser.add_argument("--manual_dir", help="folder with the raw dataset, as its owner packs it")
    parser.add_argument("--data_dir", default="data", help="where datasets are put (default: data)")
    parser.add_argument(
        "--check",
        action="store_true",
        help="read the tables, count, compare with the owner's counts, look for every film; build "
        "nothing",
    )
    parser.add_argument(
        "--resolution",
        help="shorter side of the stored films: 256 (default), 512 or full; or another config of "
        "the dataset",
    )
    parser.add_argument(
        "--max_skipped",
        type=float,
        default=0.01,
        help="fraction of the films that may be unreadable before the build fails (default: 0.01)",
    )
    parser.add_argument(
        "--num_workers", type=int, help="processes that read films (default: all cores; 0: none)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="build again what is already there"
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
    args, rest = parser.parse_known_args(arguments)
    if args.list:
        from data_builders import listing

        print(listing.markdown({name: builder_class(name) for name in builder_names()}))
        sys.exit(0)
    if args.help or not args.name:
        parser.print_help()
        if args.name:
            print("\n" + own_options(args.name))
        sys.exit(0 if args.help else 2)
    own = {}
    for word in rest:
        match = re.fullmatch(r"--(\w+)=(.*)", word, re.DOTALL)
        if match is None:
            parser.error(f"{word}: write a dataset's own options as --name=value")
        own[match[1]] = match[2]
    return args, own


def own_options(name: str) -> str:
    """The options that only this dataset has, and what its manual folder must hold."""
    cls = builder_class(name)
    own = {**cls.INPUTS, **cls.OPTIONS}
    lines = [f"{name}: {cls.MANUAL_DOWNLOAD_INSTRUCTIONS or 'needs no raw files.'}"]
    lines += [f"  --{option}  {text}" for option, text in own.items()]
    lines.append(f"  --resolution  {', '.join(c.name for c in cls.BUILDER_CONFIGS or [])}")
    return "\n".join(lines)


def _interrupt(*_: Any) -> None:
    """Makes a scheduler's SIGTERM end a build as Ctrl-C does: its workers and half files go."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds and reports; returns the exit status."""
    start = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        args, own = parse(arguments)
        if args.check:
            print(check(args.name, args.manual_dir, args.resolution, own, args.num_workers))
            print(f"\n({time.monotonic() - start:.0f} s)")
            return 0
        folder = build(
            args.name,
            args.data_dir,
            args.manual_dir,
            config_name=args.resolution,
            options=own,
            overwrite=args.overwrite,
            max_skipped=args.max_skipped,
            num_workers=args.num_workers,
            beam_runner=args.beam_runner,
            beam_options=args.beam_options,
        )
    except (BuildError, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing was built.", file=sys.stderr)
        return 130
    print(summary.of_dataset(folder))
    print(f"\n({time.monotonic() - start:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
