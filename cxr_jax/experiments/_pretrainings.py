"""Several pretrainings of one recipe, which transfers and benchmarks take as one encoder."""

import itertools
import re
from pathlib import Path
from typing import Any

from cxr_jax import weights
from cxr_jax.config import with_added
from cxr_jax.experiments import _workdir
from cxr_jax.experiments._workdir import changes
from cxr_jax.io.json import read_json
from cxr_jax.training import checkpoint

# Fields of a pretraining that may differ from one of its recipe to the next: the seed, where things
# lie (what they hold is in provenance.json), and what its encoder does not depend on.
_NO_RECIPE = (
    r"(seed|init|objective\.text\.weights|data\.(dir|num_workers|cache))$"
    r"|(loggers|keep_checkpoints|\w+_every_steps)$|(online_knn|transfer)\."
)


def pretrainings(where: str, spec: str) -> list[str]:
    """Splits "runs/a+runs/b" into the workdirs, pretrainings of one recipe with different seeds.

    `where` names the field that holds it. Raises ValueError, naming both, for what is no workdir of
    a pretraining and for workdirs that are one, whose configs differ in what the encoder depends
    on, whose seeds are the same, or of which one has not come as far as the other.
    """
    specs = [part.strip() for part in spec.split("+")]
    if len(specs) == 1 or Path(weights.parse_spec(spec)[1]).expanduser().exists():
        return [spec]  # a "+" in the name of a file
    configs = []
    for one in specs:
        source, path = weights.parse_spec(one)
        folder = Path(path).expanduser()
        if source not in (None, "workdir") or not (folder / "config.json").is_file():
            raise ValueError(
                f"{where}: '{one}' is not the workdir of a pretraining (it has no config.json). "
                "Only workdirs are joined by '+'; give each weights file a name of its own"
            )
        configs.append((one, folder.resolve(), with_added(read_json(folder / "config.json"))))
    for (one, path, config), (other, other_path, other_config) in itertools.combinations(
        configs, 2
    ):
        if path == other_path:
            raise ValueError(f"{where} names {one} twice" + f" (as {other})" * (one != other))
        fields = [field for field, *_ in changes(config, other_config)]
        if "seed" not in fields:
            raise ValueError(
                f"{where}: {one} and {other} have the same seed, {config.get('seed')}: "
                "pretrainings of one recipe differ in config.seed"
            )
        if others := [name for name in fields if not re.match(_NO_RECIPE, name)]:
            raise ValueError(
                f"{where}: the configs of {one} and {other} differ in {', '.join(others)}: "
                "pretrainings of one recipe differ in config.seed, and in where they ran, alone"
            )
        for what, (mine, its) in _started_from(path, other_path).items():
            if mine != its:
                raise ValueError(
                    f"{where}: {one} and {other} were begun with other {what}: pretrainings of one "
                    "recipe have the same (provenance.json of each has their fingerprints)"
                )
        steps = [
            max(checkpoint.steps(folder / checkpoint.FOLDER), default=0)
            for folder in (path, other_path)
        ]
        if steps[0] != steps[1]:
            raise ValueError(
                f"{where}: the newest checkpoint of {one} is of step {steps[0]}, that of {other} "
                f"of step {steps[1]}: let {one if steps[0] < steps[1] else other} finish"
            )
    return specs


def _started_from(*workdirs: Path) -> dict[str, list[Any]]:
    """Returns the fingerprints of images and of weights that the workdirs' runs were begun with."""
    found: dict[str, list[Any]] = {"images": [], "weights to start from": []}
    for workdir in workdirs:
        begun = _workdir.read_provenance(workdir)["starts"][0]
        weights_of = [*begun.get("encoders", {}).values(), *begun.get("texts", {}).values()]
        for list_, value in zip(found.values(), ([*begun["dataset"].values()], weights_of)):
            list_.append(value)
    return found
