"""Builds a dataset: python -m data_builders.build NAME --manual_dir=… --data_dir=…

Heavy imports wait until they are needed: --help answers at once, and the processes that read
films, which import this module again, do not load TFDS.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_builders.records import AlreadyBuilt, BuildError

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
) -> Path:
    """Builds a dataset and returns its version folder.

    Args:
      name: a folder of data_builders.
      data_dir: where datasets stand, in TFDS's layout.
      manual_dir: the raw dataset, for datasets that are not drawn.
      config_name: "256", "512" or "full" (image_folder: a size too), or one of the dataset's
        own; None or "" is its default.
      options: image_folder's name, labels_csv, image_column, patient_column.
      overwrite: replace a dataset that stands already; it stays if the new build fails.
      max_skipped, num_workers, progress: see cxr_builder.BuildSettings.

    Raises:
      AlreadyBuilt: it stands already.
      BuildError: anything else the person has to mend.
    """
    cls = builder_class(name)
    import absl.logging
    import tensorflow_datasets as tfds

    from data_builders import cxr_builder

    absl.logging.set_verbosity(absl.logging.ERROR)
    config = cls.make_config(config_name or None, options or {})
    folder = Path(data_dir).absolute() / name / config.name / str(cls.VERSION)
    if cls.MANUAL_DOWNLOAD_INSTRUCTIONS:
        check_manual_dir(name, manual_dir, cls.MANUAL_DOWNLOAD_INSTRUCTIONS)
    with _replaced(folder, overwrite):
        builder = cls(data_dir=folder.parents[2], config=config)
        builder.settings = cxr_builder.BuildSettings(max_skipped, num_workers, progress)
        download_config = tfds.download.DownloadConfig(
            manual_dir=Path(manual_dir).absolute() if manual_dir else None, try_download_gcs=False
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


class _replaced:
    """Moves a dataset aside while its successor is built; brings it back if that fails."""

    def __init__(self, folder: Path, overwrite: bool):
        self._folder, self._overwrite = folder, overwrite
        # Without dots, so that no reader takes it for a version.
        self._aside = folder.with_name("replaced")

    def __enter__(self) -> None:
        if not self._folder.exists():
            return
        if not self._overwrite:
            if (self._folder / "dataset_info.json").exists():
                raise AlreadyBuilt(
                    f"{self._folder} is built already. To build it again: --overwrite."
                )
            raise BuildError(
                f"{self._folder} exists but is no finished dataset (dataset_info.json is "
                "missing). Remove it, or build it again with --overwrite."
            )
        shutil.rmtree(self._aside, ignore_errors=True)
        os.rename(self._folder, self._aside)

    def __exit__(self, error: Any, *_: Any) -> None:
        if not self._aside.exists():
            return
        if error is None:
            shutil.rmtree(self._aside)
        else:
            os.rename(self._aside, self._folder)


def check_manual_dir(name: str, manual_dir: str | Path | None, instructions: str) -> None:
    """Refuses a missing manual folder, with the dataset's instructions."""
    if manual_dir is None:
        raise BuildError(f"{name} needs --manual_dir. {instructions}")
    if not Path(manual_dir).is_dir():
        raise BuildError(f"--manual_dir: {manual_dir} is no folder. {instructions}")


def summary(folder: Path) -> str:
    """What stands in a version folder, and the command that uses it."""
    import tensorflow_datasets as tfds

    metadata = tfds.builder_from_directory(folder).info.metadata
    config, name, data_dir = folder.parent.name, folder.parents[1].name, folder.parents[2]
    lines = []
    for split, counts in metadata["counts"].items():
        lines.append(
            f"  {split:<10} {counts['images']:>8,} films  {counts['patients']:>7,} patients"
        )
        lines += [
            f"    {label:<22} {count:>8,} positive" for label, count in counts["positives"].items()
        ]
    if all(counts["patients"] == counts["images"] for counts in metadata["counts"].values()):
        lines.append("  As many patients as films: each film counts as a patient of its own.")
    # Readers take the only config that is built unasked, and ask where there are several.
    if len(list(folder.parents[1].glob("*/*/dataset_info.json"))) > 1:
        name = f"{name}/{config}"
    if metadata["label_names"]:
        command = (
            f"python run.py --config=configs/transfer.py --config.dataset={name} "
            f"--config.data.dir={data_dir} --config.encoder=<workdir, weights file or random>"
        )
    else:
        command = (
            f"python run.py --config=configs/simclr.py:small --config.data.name={name} "
            f"--config.data.dir={data_dir}"
        )
    return "\n".join(
        [
            f"{name}: wrote {folder}",
            *lines,
            f"  skipped    {metadata['skipped']:>8,} (listed in skipped.csv there)",
            f"  splits: {metadata['split_rule']}",
            "",
            "Next:",
            f"  {command}",
        ]
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_builders.build",
        description="Builds a dataset from its raw files, on all cores, without TensorFlow.",
        epilog="The raw files each dataset needs: data_builders/NAME/README.md.",
    )
    parser.add_argument("name", metavar="NAME", help=" | ".join(builder_names()))
    parser.add_argument("--manual_dir", help="folder with the raw dataset, as its owner packs it")
    parser.add_argument("--data_dir", default="data", help="where datasets are put (default: data)")
    parser.add_argument(
        "--resolution", help="shorter side of the stored films: 256 (default), 512 or full"
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
    own = parser.add_argument_group("for image_folder")
    own.add_argument("--name", dest="own_name", help="a name for this folder (default: 256)")
    own.add_argument("--labels_csv", help="CSV with one row per film; its columns are labels")
    own.add_argument("--image_column", help="column with the film's path (default: image)")
    own.add_argument("--patient_column", help="column with the patient (default: patient_id)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds and reports; returns the exit status."""
    args = parse(arguments)
    options = {
        "name": args.own_name,
        "labels_csv": args.labels_csv,
        "image_column": args.image_column,
        "patient_column": args.patient_column,
    }
    start = time.monotonic()
    try:
        folder = build(
            args.name,
            args.data_dir,
            args.manual_dir,
            config_name=args.resolution,
            options={key: value for key, value in options.items() if value is not None},
            overwrite=args.overwrite,
            max_skipped=args.max_skipped,
            num_workers=args.num_workers,
        )
    except (BuildError, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing was built.", file=sys.stderr)
        return 130
    print(summary(folder))
    print(f"\n({time.monotonic() - start:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
