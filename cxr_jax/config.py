"""Reads configs, as FILE[:PRESET] with changes as --config.FIELD=VALUE, and checks their fields."""

import ast
import difflib
import re
import runpy
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from cxr_jax.io import COMMAND
from cxr_jax.io.json import read_json
from cxr_jax.io.text import did_you_mean

# Holds configs/: the clone, or what a wheel brings.
_CLONE, _BUNDLED = Path(__file__).parents[1], Path(__file__).parent / "_bundled"
_ROOT = _BUNDLED if _BUNDLED.is_dir() else _CLONE
# Fields of older configs and what they are called now, by experiment: dotted old name -> new name.
RENAMED: dict[str, dict[str, str]] = {
    "pretrain": {"knn": "online_knn"},
    "transfer": {
        "pictures.films": "pictures.images",
        "strengths": "C",
        "uncertain": "uncertain_as",
        "unmentioned": "missing_as",
        "views": "projections",
    },
}
# The fields of config.dense; configs/common.py takes them from here.
DENSE = {
    "learning_rates": (1e-3, 1e-2, 1e-1),
    "weight_decays": (0.01, 0.1, 1.0),
    "warmup": 0.1,
    "epochs": 20.0,
    "min_steps": 300,
    "max_steps": 5000,
    "evaluations": 10,
    "batch_size": 64,
    "heads": 8,
    "head": "linear",
    "hidden": 64,
    "side": 128,
    "probe": "attentive",
    "score": "pointing",
}
# Fields that older configs lack, with the value at which everything is as it was then.
_ADDED: dict[str, dict[str, Any]] = {
    "pretrain": {
        "start_share": 0.0,
        "frozen_stages": -1,
        "lora": {"rank": 0, "alpha": 16.0},
        "loggers": ["tensorboard"],
    },
    "transfer": {
        "folds": 0,
        "folds_of": "train+validation+test",
        "read_size": 0,
        "zero_shot": {"prompts": ""},
        "loggers": ["tensorboard"],
        "dense": {k: list(v) if isinstance(v, tuple) else v for k, v in DENSE.items()},
        "finetune.lora": {"rank": 0, "alpha": 16.0},
        "finetune.norm_eval": False,
    },
}
_OPTIONS = (
    *("--config", "--workdir", "--reproduce", "--help", "--distributed", "--coordinator"),
    *("--num_processes", "--process_id", "--connect_timeout", "--heartbeat_timeout"),
)
_KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    tuple: "a list by commas",
}
Section = Mapping | ConfigDict


def load(spec: str | None, overrides: Sequence[str]) -> ConfigDict:
    """Returns the config of FILE[:PRESET] with the fields that the command line changes.

    Raises ValueError, OSError or flags.Error for an unknown file or preset, or a change that does
    not fit it.
    """
    if not spec:
        for argument in overrides:
            _check_option(argument)
        raise ValueError(f"--config is missing; {COMMAND} --help lists the configs")
    path, _, preset = spec.partition(":")
    file = find(path)
    if file.suffix != ".py" or "def get_config" not in file.read_text():
        raise FileNotFoundError(f"no config file {path}; there are:\n{list_configs()}")
    if str(_ROOT) not in sys.path:
        sys.path.append(str(_ROOT))  # configs import each other, wherever the command was given
    config = runpy.run_path(str(file))["get_config"](preset)
    for argument in overrides:
        _check_option(argument, config)
        name = argument.partition("=")[0].removeprefix("--config.")
        _check_renamed(config, name)
        _check_field(config, name)
    # The last of a field given twice: absl would join two lists.
    overrides = {argument.partition("=")[0]: argument for argument in overrides}.values()
    numbers = {name: old for name, old in flat(config) if _of_numbers(old)}
    holder = flags.FlagValues()
    value = config_flags.DEFINE_config_dict(
        "config", config, flag_values=holder, sys_argv=["run.py", *overrides]
    )
    try:
        holder(["run.py", *overrides])
    except flags.IllegalFlagValueError as error:
        raise ValueError(_wrong_value(config, str(error))) from error
    for name, new in flat(value.value):
        if name in numbers and new and not _of_numbers(new):
            said = ",".join(map(str, new))
            raise ValueError(f"config.{name}={said}: it takes numbers, such as {numbers[name]!r}")
    return value.value


def _of_numbers(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(type(x) in (int, float) for x in value)


def find(path: str) -> Path:
    """Returns a config's file: from here, or else from the clone or what the wheel brings.

    Raises FileNotFoundError with the one that may be meant, else the list of those there are.
    """
    found = [place for place in (Path(path), _ROOT / path) if place.is_file()]
    if not found:
        known = {file.stem: f"configs/{file.name}" for file in (_ROOT / "configs").glob("[!_]*.py")}
        near = difflib.get_close_matches(Path(path).stem, known, n=1)
        hint = f"There are:\n{list_configs()}"
        if near:
            hint = f"Did you mean {known[near[0]]}? {COMMAND} --help lists all"
        raise FileNotFoundError(f"no config file {path}. {hint}")
    return found[0]


def load_saved(workdir: Path, new: Path, overrides: Sequence[str]) -> ConfigDict:
    """Returns the config of a finished run, to run it again in the workdir `new`.

    What the run read or wrote outside of its workdir is changed: features come from no cache, and
    are exported into `new`. The command line may change data.dir, no other field.

    Raises ValueError or OSError where there is no such run, or another field is given.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"--reproduce={workdir} is not a workdir: it has no config.json")
    try:
        config = ConfigDict(_with_tuples(with_added(read_json(path))))
        sections = [config, config.transfer] if "transfer" in config else [config]
        known = config.experiment in ("pretrain", "transfer", "benchmark")
        if not known or not all(isinstance(one.data.dir, str) for one in sections):
            raise ValueError("not an experiment of ours")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or of what cannot be repeated") from error
    try:
        for name, _ in flat(config.to_dict()):
            _check_renamed(config, name)
    except ValueError as error:
        raise ValueError(f"repeat {path} by the older version that made it: {error}") from error
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


def with_added(saved: dict[str, Any]) -> dict[str, Any]:
    """Returns a saved config with the fields that came after it.

    >>> with_added({"experiment": "pretrain", "start_share": 0.5})["start_share"]
    0.5
    """
    known = dict(saved)
    for name, value in _ADDED.get(str(saved.get("experiment")), {}).items():
        section, _, field = name.rpartition(".")
        if not section:
            known.setdefault(field, value)
        elif isinstance(inside := known.get(section), dict):
            known[section] = inside | {field: inside.get(field, value)}
    if isinstance(inner := known.get("transfer"), dict):
        known["transfer"] = with_added(inner)
    return known


def _with_tuples(value: Any) -> Any:
    """Turns lists into tuples, which configs have and JSON does not."""
    if isinstance(value, dict):
        return {name: _with_tuples(inner) for name, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def flat(section: Section, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every field of a config with its dotted name.

    >>> list(flat({"data": {"name": "pool"}, "seed": 0}))
    [('data.name', 'pool'), ('seed', 0)]
    """
    for name, value in section.items():
        if isinstance(value, Section):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def list_configs() -> str:
    """Lists the config files, a line each."""
    lines = []
    for path in sorted((_ROOT / "configs").glob("*.py")):
        if "def get_config" in (text := path.read_text()):
            head = ast.get_docstring(ast.parse(text)) or ""
            lines.append(f"  configs/{path.name:<14} {head.partition(chr(10))[0]}")
            if presets := re.findall(r"^:\w+", head, re.MULTILINE):
                lines.append(f"{'':25}{' '.join(presets)}")
    return "\n".join(lines)


def _check_option(argument: str, fields: Iterable[str] = ()) -> None:
    """Raises ValueError, with what was probably meant, for what is not --config.FIELD=VALUE."""
    option = argument.partition("=")[0]
    if option.startswith("--config."):
        return
    if not option.startswith("-") and ".py" in option:
        hint = f" Did you mean --config={argument}?"
    elif not option.startswith("-") and did_you_mean(option, ("browse",)):
        hint = f" Did you mean {COMMAND} browse NAME?"
    else:
        known = [*_OPTIONS, *(f"--config.{field}" for field in fields)]
        hint = did_you_mean(f"--{option.strip('-')}", known)
    raise ValueError(
        f"unknown option {option!r}.{hint} Fields are given as --config.FIELD=VALUE, and "
        f"{COMMAND} --help lists the options"
    )


def _check_renamed(config: ConfigDict, name: str) -> None:
    """Raises ValueError, with the new name, for a field that an older version had."""
    inner = name.removeprefix("transfer.")
    experiment = "transfer" if inner != name else config.experiment
    for old, new in RENAMED.get(experiment, {}).items():
        if inner == old or inner.startswith(f"{old}."):
            now = name.removesuffix(inner) + new + inner.removeprefix(old)
            raise ValueError(f"config.{name} is now called config.{now}")


def _check_field(config: ConfigDict, name: str) -> None:
    """Raises ValueError, naming the closest field, if the config has no field `name`."""
    node, known = config, []
    for part in name.split("."):
        known = list(node) if isinstance(node, ConfigDict) else []
        if part not in known:
            deeper = [field for field, _ in flat(config) if field.endswith(f".{name}")]
            hint = f"did you mean {deeper[0]!r}? " if deeper else _hint(part, known)
            raise ValueError(
                f"the config has no field config.{name}: {hint}the fields there are "
                f"{', '.join(known) or 'nothing (that is a value)'}"
            )
        node = node[part]


def _wrong_value(config: ConfigDict, said: str) -> str:
    """Says in words what absl says of a value that its field does not take."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", said, re.DOTALL)
    if not match:
        return said
    name, value = match.groups()
    old: Any = config
    for part in name.split("."):
        old = old[part]
    if isinstance(old, ConfigDict):
        field = "name" if "name" in old else next(iter(old), "FIELD")
        return f"config.{name} has fields; give one of them, as --config.{name}.{field}={value}"
    kind = _KINDS.get(type(old), type(old).__name__)
    return f"config.{name}={value}: it takes {kind}, such as {old!r}"


def check_fields(
    section: Section, where: str, required: Iterable[str], optional: Iterable[str] = ()
) -> None:
    """Raises ValueError for the first field of `section` that is unknown, or required and absent.

    `where` is the section's name in messages.

    >>> check_fields({"nam": "adamw"}, "config.optimizer", required=["name"])
    Traceback (most recent call last):
    ValueError: config.optimizer has no field 'nam'; did you mean 'name'? its fields are 'name'
    """
    required = tuple(required)
    known = [*required, *optional]
    for name in section.keys():  # noqa: SIM118 (iterating a ConfigDict is not iterating its keys)
        if name not in known:
            hint = _hint(str(name), known)
            raise ValueError(f"{where} has no field {name!r}; {hint}its fields are {_list(known)}")
    missing = [name for name in required if name not in section]
    if missing:
        raise ValueError(f"{where} lacks {_list(missing)}; it needs {_list(required)}")


def check_values(section: Section, where: str, *checks: tuple[str, bool, str]) -> None:
    """Raises ValueError for the first of `checks` (field, is it good, what it must be) that fails.

    >>> check_values({"flip": 2}, "view", ("flip", False, "between 0 and 1"))
    Traceback (most recent call last):
    ValueError: view.flip is 2; it must be between 0 and 1
    """
    for name, good, wanted in checks:
        if not good:
            raise ValueError(f"{where}.{name} is {section[name]!r}; it must be {wanted}")


def check_positive(config: Section, names: Iterable[str]) -> None:
    """Raises ValueError for the first of the dotted fields `names` that is not above zero."""
    for name in names:
        value: Any = config
        for part in name.split("."):
            value = value[part]
        if value <= 0:
            raise ValueError(f"config.{name}={value} must be at least 1")


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def _list(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
