"""A config as command lines give it: FILE[:PRESET], then changes as --config.FIELD=VALUE."""

import ast
import difflib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from cxr_jax.io.json import read_json

_ROOT = Path(__file__).parents[1]


def load(spec: str | None, overrides: Sequence[str]) -> ConfigDict:
    """The config of FILE[:PRESET] with the fields that the command line changes.

    Raises:
      ValueError, OSError, flags.Error: no such file or preset, or a change that does not fit it.
    """
    if not spec:
        raise ValueError("--config is missing; python run.py --help lists the configs")
    path, _, preset = spec.partition(":")
    found = [place for place in (Path(path), _ROOT / path) if place.is_file()]
    if not found or found[0].suffix != ".py" or "def get_config" not in found[0].read_text():
        raise FileNotFoundError(f"no config file {path}; there are:\n{list_configs()}")
    if str(_ROOT) not in sys.path:
        sys.path.append(str(_ROOT))  # configs import each other, wherever the command was given
    config = runpy.run_path(str(found[0]))["get_config"](preset)
    for argument in overrides:
        name = argument.partition("=")[0]
        if not name.startswith("--config."):
            raise ValueError(
                f"unknown option {name!r}; fields are given as --config.FIELD=VALUE, and "
                "python run.py --help lists the options"
            )
        _check_field(config, name.removeprefix("--config."))
    holder = flags.FlagValues()
    value = config_flags.DEFINE_config_dict(
        "config", config, flag_values=holder, sys_argv=["run.py", *overrides]
    )
    holder(["run.py", *overrides])
    return value.value


def load_saved(workdir: Path, new: Path, overrides: Sequence[str]) -> ConfigDict:
    """The config of a finished run, to run it again in the workdir `new`.

    What it would read or write elsewhere than in its workdir is changed: features come from no
    cache, and are exported into `new`. Of the fields only data.dir can be given.

    Raises:
      ValueError, OSError: no such run, or another field is given.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"--reproduce={workdir} is no workdir: it has no config.json")
    try:
        config = ConfigDict(_with_tuples(read_json(path)))
        sections = [config, config.transfer] if "transfer" in config else [config]
        known = config.experiment in ("pretrain", "transfer", "benchmark")
        if not known or not all(isinstance(one.data.dir, str) for one in sections):
            raise ValueError("no experiment of ours")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged; the run cannot be repeated") from error
    for argument in overrides:
        name, _, value = argument.partition("=")
        if name != "--config.data.dir":
            raise ValueError(f"{name}: --reproduce takes --config.data.dir and --workdir alone")
        for section in sections:
            section.data.dir = value
    for section in sections:
        if section.get("feature_cache"):
            section.feature_cache = ""
        if section.get("export_features"):
            section.export_features = str(new / Path(section.export_features).name)
    if config.experiment == "benchmark":
        config.dry_run = False  # which is not saved
    return config


def _with_tuples(value: Any) -> Any:
    """As configs have it: JSON knows lists alone."""
    if isinstance(value, dict):
        return {name: _with_tuples(inner) for name, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def list_configs() -> str:
    """The config files, a line each."""
    lines = []
    for path in sorted((_ROOT / "configs").glob("*.py")):
        if path.stem != "common":
            first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
            lines.append(f"  configs/{path.name:<14} {first}")
    return "\n".join(lines)


def _check_field(config: ConfigDict, name: str) -> None:
    """Raises ValueError, naming the closest field, if the config has no field `name`."""
    node, known = config, []
    for part in name.split("."):
        known = list(node) if isinstance(node, ConfigDict) else []
        if part not in known:
            close = difflib.get_close_matches(part, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"the config has no field config.{name}: {hint}the fields there are "
                f"{', '.join(known) or 'nothing (that is a value)'}"
            )
        node = node[part]
