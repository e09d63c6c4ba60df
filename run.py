"""cxr_jax: pretrain on unlabelled chest X-rays, transfer, compare.

  python run.py --config=configs/byol.py:demo
      pretrain on drawn films and report: minutes on a CPU, nothing to download
  python run.py --config=configs/simclr.py:small --config.data.name=image_folder
      pretrain a ResNet-50 on your own films, on one GPU
  python run.py --config=configs/transfer.py --config.encoder=WORKDIR --config.dataset=NAME
      what an encoder is worth on labelled films

Options:
  --config=FILE[:PRESET]  what to run; the files are listed below, their presets in their heads
  --config.FIELD=VALUE    changes one field; `--config=FILE --help` lists a config's fields
  --workdir=FOLDER        where results go (default runs/<config>-<time>); an existing one resumes
  --help                  this text
"""

import argparse
import datetime
import importlib
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from absl import flags, logging
from ml_collections import ConfigDict

from cxr_jax import config_file


def main(arguments: list[str]) -> int:
    """Runs one experiment; returns the exit code (0 done, 1 failed, 2 a wrong command line)."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage="see --help")
    parser.add_argument("--config")
    parser.add_argument("--workdir")
    parser.add_argument("--help", "-h", action="store_true")
    own, overrides = parser.parse_known_args(arguments)
    if own.help and not own.config:
        print(__doc__ + "\nConfigs:\n" + config_file.list_configs())
        return 0
    try:
        config = config_file.load(own.config, overrides)
    except (ValueError, OSError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if own.help:
        print(f"Fields of {own.config}, as --config.FIELD=VALUE (see configs/common.py):\n")
        print("\n".join(_fields(config.to_dict(), "--config")))
        return 0
    return _run(config, Path(own.workdir or _default_workdir(own.config)).expanduser())


def _run(config: ConfigDict, workdir: Path) -> int:
    print(f"workdir: {workdir}", flush=True)
    flags.FLAGS(["run.py"])  # Grain reads its own flags, which nobody else parses
    logging.set_verbosity(logging.ERROR)  # Orbax tells of every save
    _keep_compiled_programs()
    # Late, with JAX behind it, so that --help and wrong command lines answer at once.
    experiment = importlib.import_module(f"cxr_jax.experiments.{config.experiment}")
    try:
        experiment.run(config, workdir)
    except KeyboardInterrupt:
        print(f"\nInterrupted. To go on: the same command with --workdir={workdir}")
        return 130
    except Exception as error:
        # The message is for a person; the traceback is kept for a developer.
        with tempfile.NamedTemporaryFile(
            "w", prefix="cxr_jax-", suffix=".txt", delete=False
        ) as file:
            file.write(traceback.format_exc())
        expected = isinstance(error, (ValueError, OSError, FloatingPointError))
        kind = "" if expected else f"{type(error).__name__}: "
        print(f"error: {kind}{error}\n(traceback: {file.name})", file=sys.stderr)
        return 1
    return 0


def _keep_compiled_programs() -> None:
    """A run that resumes, or is like the last one, does not compile again.

    By machine, because programs for CPUs use what one CPU can and another cannot.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = caches / "cxr_jax" / "compiled" / platform.node()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))


def _default_workdir(spec: str) -> str:
    path, _, preset = spec.partition(":")
    name = "-".join(part for part in (Path(path).stem, preset) if part)
    return f"runs/{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _fields(section: dict, prefix: str) -> Iterator[str]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}={value!r}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
