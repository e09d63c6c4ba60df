"""Builds a dataset: python -m data_builders.build NAME --manual_dir=… --data_dir=…

Heavy imports wait until they are needed: --help answers at once, and the processes that read
images, which import this module again, do not load TFDS.
"""

import contextlib
import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cxr_jax.io.text import did_you_mean
from data_builders.base import build_lock, counts, records
from data_builders.base.records import AlreadyBuilt, BuildError

HERE = Path(__file__).parent
SUFFIX = "_dataset_builder.py"


def builder_names() -> list[str]:
    """Lists the datasets that can be built: the folders beside this file."""
    return sorted(p.parent.name for p in HERE.glob(f"*/*{SUFFIX}"))


def builder_class(name: str) -> type:
    """Imports the TFDS builder class of a dataset; BuildError lists those there are."""
    if name not in builder_names():
        raise BuildError(
            f"There is no builder for {name!r}.{did_you_mean(name, builder_names())} There are: "
            f"{', '.join(builder_names())}."
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
    follow_links: bool = False,
    beam_runner: str | None = None,
    beam_options: str = "",
    then: Callable[[Path], None] | None = None,
    splits_csv: str | Path | None = None,
) -> Path:
    """Builds a dataset and returns its version folder.

    Args:
      name: a folder of data_builders.
      data_dir: the folder of built datasets, in TFDS's layout.
      manual_dir: the raw dataset, for datasets that are not drawn.
      config_name: "256", "512" or "full" (image_folder: a size too), or one of the dataset's
        own; None or "" is its default.
      options: the dataset's own: its class's OPTIONS and INPUTS.
      overwrite: replace a dataset that is built already; it stays if the new build fails.
      max_skipped, num_workers, progress, follow_links: see builder.BuildSettings.
      beam_runner, beam_options: build through Apache Beam, with its options as on a command line.
      then: is given the folder while no other build can take its place.
      splits_csv: somebody else's list of splits, which takes the place of the dataset's own
        (base/splits.py).

    Raises:
      AlreadyBuilt: it is built already.
      BuildError: anything else that the person has to fix.
    """
    chosen = choose(name, manual_dir, config_name, options)
    import tensorflow_datasets as tfds

    from data_builders.base import builder as cxr_builder
    from data_builders.base import write

    place = Path(data_dir).absolute() / (chosen.config.dataset or name) / chosen.config.name
    folder = place / str(chosen.builder.VERSION)
    settings = cxr_builder.BuildSettings(
        max_skipped, num_workers, progress, chosen.inputs, check_list(splits_csv), follow_links
    )
    with build_lock.locked(folder):
        with build_lock.claimed(folder, overwrite):
            builder = chosen.builder(data_dir=folder.parents[2], config=chosen.config)
            builder.settings = settings
            download_config = tfds.download.DownloadConfig(
                manual_dir=Path(manual_dir).absolute() if manual_dir else None,
                try_download_gcs=False,
                beam_runner=beam_runner,
                beam_options=write.beam_options(beam_options) if beam_runner else None,
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
        if then is not None:
            then(folder)
    return folder


def draw_missing(names: Iterable[str], data_dir: str | Path) -> None:
    """Builds those of the datasets that are not built and need no raw files: the drawn ones.

    To drawn ones that an older version built it adds their tasks. `names` are as in configs,
    "phantom" or "phantom/tiny"; others are left to their readers, whose messages say what is
    missing. Raises BuildError if a drawn dataset has no such config.
    """
    root = Path(data_dir).expanduser()
    for name in dict.fromkeys(names):
        dataset, _, config = name.partition("/")
        if dataset not in builder_names():
            continue
        built = list(root.glob(f"{dataset}/{config or '*'}/*/metadata.json"))
        if built and all(b'"tasks"' in path.read_bytes() for path in built):
            continue
        if builder_class(dataset).MANUAL_DOWNLOAD_INSTRUCTIONS:
            continue
        if built:  # drawn by an older version
            refresh(name, root)
            continue
        with contextlib.suppress(AlreadyBuilt):  # by another process meanwhile
            build(dataset, root, config_name=config or None)


def refresh(name: str, data_dir: str | Path) -> Path:
    """Writes a dataset's tasks and unit of patients, as its builder declares them now, into it.

    Neither raw files nor images are read; the images, labels and splits stay. `name` is as in
    configs. Raises FileNotFoundError or ValueError if the dataset is not built, or is damaged.
    """
    from cxr_jax.data import dataset_info, tasks
    from cxr_jax.io.atomic import atomic_write_text

    folder = dataset_info.find_folder(name, str(data_dir))
    metadata = dataset_info.read_metadata(folder)
    cls = builder_class(metadata.get("builder", folder.parents[1].name))
    metadata |= {"tasks": tasks.to_json(cls.TASKS), "patient": cls.PATIENT}
    atomic_write_text(folder / "metadata.json", json.dumps(metadata))
    return folder


def check(
    name: str,
    manual_dir: str | Path | None = None,
    config_name: str | None = None,
    options: Mapping[str, str] | None = None,
    num_workers: int | None = None,
    follow_links: bool = False,
    splits_csv: str | Path | None = None,
) -> str:
    """Reads the owner's tables and checks that their images are there; builds nothing.

    Returns in words what they list, split by split, beside what the owner publishes. Raises
    BuildError as `build`, as far as tables tell.
    """
    chosen = choose(name, manual_dir, config_name, options)
    from data_builders.base import builder as cxr_builder

    with tempfile.TemporaryDirectory() as scratch:
        builder = chosen.builder(data_dir=scratch, config=chosen.config)
        builder.settings = cxr_builder.BuildSettings(
            num_workers=num_workers,
            inputs=chosen.inputs,
            splits_csv=check_list(splits_csv),
            follow_links=follow_links,
        )
        manual_dir = Path(manual_dir).absolute() if manual_dir else None
        listing = builder.list_images(manual_dir)
        return counts.describe_listing(
            name,
            builder.summary(listing.records, listing.records),
            [f"{entry.file} ({entry.reason})" for entry in listing.skipped],
            [entry.file for entry in records.absent(listing.records, manual_dir)],
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
    """Checks and interprets `build`'s arguments of these names; BuildError says what is wrong."""
    cls = builder_class(name)
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    options = dict(options or {})
    known = (*cls.OPTIONS, *cls.INPUTS)
    for option in options:
        if option not in known:
            raise BuildError(
                f"{cls.name} has no option --{option}.{did_you_mean(option, known)} Of its own it "
                f"has {', '.join(f'--{own}' for own in known) or 'none'}; --help lists the others."
            )
    inputs = {key: Path(options.pop(key)).absolute() for key in cls.INPUTS if key in options}
    config = cls.make_config(config_name or None, options)
    if cls.MANUAL_DOWNLOAD_INSTRUCTIONS:
        check_folder(name, "manual_dir", manual_dir, cls.MANUAL_DOWNLOAD_INSTRUCTIONS)
    for key, folder in inputs.items():
        check_folder(name, key, folder, cls.INPUTS[key])
    return Chosen(cls, config, inputs)


def check_list(path: str | Path | None) -> Path | None:
    """Returns --splits_csv; refuses what is no file."""
    if path is not None and not Path(path).is_file():
        raise BuildError(f"--splits_csv: {path} is not a file (a CSV of columns image and split).")
    return None if path is None else Path(path).absolute()


def check_folder(name: str, option: str, folder: str | Path | None, instructions: str) -> None:
    """Refuses a missing or empty folder; says what belongs in it."""
    if folder is None:
        raise BuildError(f"{name} needs --{option}. {instructions}")
    if not Path(folder).is_dir():
        raise BuildError(f"--{option}: {folder} is not a folder. {instructions}")
    if not any(Path(folder).iterdir()):
        raise BuildError(f"--{option}: {folder} is empty. {instructions}")


if __name__ == "__main__":
    from data_builders.base import build_command

    sys.exit(build_command.main())
