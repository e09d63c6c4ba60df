"""What the benchmarks' commands share: options, configs, the machine in words, table and JSON."""

import argparse
import datetime
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from cxr_jax import config as config_file
from cxr_jax import xla

_PACKAGES = ("jax", "jaxlib", "flax", "grain", "pillow", "torch")
NO_TORCH = (
    "PyTorch is not installed, so there is no rival: our own numbers alone. "
    "pip install -e '.[bench]' brings it."
)


def parser(doc: str) -> argparse.ArgumentParser:
    """With --config and --json; its first lines are the module's."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--config", help="FILE[:PRESET]; fields as --config.FIELD=VALUE")
    made.add_argument("--json", type=Path, metavar="FILE", help="writes the figures there too")
    return made


def main(made: argparse.ArgumentParser, measure: Callable[..., dict[str, Any]]) -> None:
    """Runs `measure(arguments, changes)`, whose figures it writes; bad input ends in a sentence.

    `changes` are the --config.FIELD=VALUE of the command line.
    """
    # The rival needs device memory too; JAX would take three quarters of it at the start.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    flags.FLAGS(sys.argv[:1])  # Grain reads its own flags, which nobody else parses
    arguments, changes = made.parse_known_args()
    load = os.getloadavg()[0]  # before our own work
    try:
        figures = measure(arguments, changes)
    except (ValueError, OSError, flags.Error) as error:
        sys.exit(f"error: {error}")
    where = machine() | {"load_at_start": round(load, 2)}
    print("\nMachine: " + describe(where))
    if arguments.json:
        text = json.dumps({"machine": where, "command": sys.orig_argv[1:]} | figures, indent=1)
        arguments.json.write_text(text + "\n")
        print(f"Figures: {arguments.json}")


def load_configs(
    spec: str | None, changes: Sequence[str], objectives: Sequence[str] = ("simclr", "byol")
) -> dict[str, ConfigDict]:
    """That of --config, or one per objective: preset cpu on a CPU, small on an accelerator."""
    preset = "cpu" if xla.platform() == "cpu" else "small"
    specs = [spec] if spec else [f"configs/{name}.py:{preset}" for name in objectives]
    configs = {name: config_file.load(name, changes) for name in specs}
    for name, config in configs.items():
        if config.experiment != "pretrain":
            raise ValueError(
                f"--config={name} is of a {config.experiment}; what is measured here is a step of "
                "pretraining, as of configs/simclr.py:small"
            )
    return configs


def machine() -> dict[str, Any]:
    """Device, cores, versions and time, as JSON."""
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "backend": jax.default_backend(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "time": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
    }


def describe(where: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return (
        f"{where['device']}, {where['cores']} cores ({where['processor']}), load "
        f"{where['load_at_start']} before the start; {versions}; {where['time']}"
    )


def print_table(rows: Sequence[dict[str, Any]], formats: dict[str, str]) -> None:
    """A Markdown table of the columns in `formats` (header -> format); a missing value is "–"."""
    print("| " + " | ".join(formats) + " |")
    print("| " + " | ".join("---" for _ in formats) + " |")
    for row in rows:
        cells = (
            "–" if row.get(name) is None else format(row[name], style)
            for name, style in formats.items()
        )
        print("| " + " | ".join(cells) + " |")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"
