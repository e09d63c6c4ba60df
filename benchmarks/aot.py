"""What a training step would need and do on accelerators that are not at hand, by XLA's account.

    python -m benchmarks.aot --topology=h200:1 --config=configs/simclr.py:small
    python -m benchmarks.aot --topology=v5e:4x4 --config=configs/byol.py --fit
    python -m benchmarks.aot --lower                   # every config, without a plugin, in minutes
    python -m benchmarks.aot --all=docs/results/aot.jsonl    # docs/performance.md's, for hours

XLA compiles the step for the topology, its plugin installed (an error says how); nothing runs. The
figures are the compiler's account, not a measurement: the memory it planned, and the bytes and
products of the kernels it made. Speeds are upper bounds by roofline: each kernel takes as long as
its bytes need at the memory's full rate, or its products at the chip's, whichever is longer, and
collectives nothing. Does not fit? `--fit` compiles what may: rematerialisation, microbatches, more
chips.

`--all=FILE` compiles what is missing of the list below, one after the other, each in a process of
its own, adds it to FILE and prints the table of all: start it again to go on.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from benchmarks import _account, _command, _devices
from cxr_jax import config as config_file

OBJECTIVES = ("simclr", "byol", "mae", "dino", "moco", "barlow", "vicreg", "simsiam", "medaug")
WITH_TEXT = ("convirt", "clip", "gloria", "refers")
# (config, topology): every preset `small` on one GPU, every recipe on a host of GPUs and on TPUs.
# Recipes with text are for one GPU, and most start from a file of weights: their preset alone.
LIST = [
    *((f"configs/{name}.py:small", "h200:1") for name in ("simclr", "byol")),
    *((f"configs/{name}.py", "h200:8") for name in ("simclr", "byol", "mae", "dino")),
    ("configs/dino.py:vits", "h200:8"),
    *((f"configs/{name}.py", "v5e:4x4") for name in ("simclr", "byol", "mae", "dino")),
    ("configs/dino.py:vits", "v5e:4x4"),
    *((f"configs/{name}.py", "h200:8") for name in OBJECTIVES[4:]),
    *((f"configs/{name}.py", "h200:8") for name in ("dinov2", "ijepa")),
    *((f"configs/{name}.py:small", "h200:1") for name in (*OBJECTIVES[2:], "dinov2", "ijepa")),
    *((f"configs/{name}.py:small", "h200:1") for name in WITH_TEXT),
]
_RUN = 100 * 377_110  # images: 100 epochs of MIMIC-CXR


def lower_all() -> list[dict[str, Any]]:
    """Returns what `_account.lower` finds in every config and preset; prints it line by line."""
    rows = []
    paths = [path for path in Path("configs").glob("*.py") if "def get_config" in path.read_text()]
    for path in sorted(paths):
        for preset in ("", *_presets(path)):
            name = f"{path}:{preset}" if preset else str(path)
            config = config_file.load(name, [])
            if config.experiment != "pretrain":
                break
            if config.objective.name in ("convirt", "refers") and not preset:
                config.objective.text.frozen_layers = 0  # else it asks for a file of weights
            found = _account.lower(config, ("gpu", "tpu"))
            for platform, counts in found.items():
                print(f"{name} for {platform}: {dict(sorted(counts.items()))}", flush=True)
            rows.append({"config": name} | {key: dict(value) for key, value in found.items()})
    return rows


def _presets(path: Path) -> list[str]:
    """Returns a config's presets, from the message that lists them."""
    try:
        config_file.load(f"{path}:?", [])
    except ValueError as error:
        return str(error).rpartition("has: ")[2].split(", ")
    return []


def report(name: str, topology: _devices.Topology, figures: dict[str, Any], top: bool) -> None:
    """Prints one account."""
    chip = topology.chip
    print(
        f"\n{name}, {figures['batch_size']} images a step, on {topology.name}, "
        f"{figures['chips']} chips: the compiler's account, not a measurement\n"
    )
    fits = "It fits" if figures["fits"] else "IT DOES NOT FIT"
    print(f"{fits}: the compiler {'says: ' * (not figures['fits'])}{figures['compiler']}.")
    if "parts" not in figures:
        return
    rows = [
        {"part": part, "kernels": row["kernels"], "GB": row["bytes"] / 1e9}
        | {"GFLOP": row["products"] / 1e9, "ms": 1e3 * row["seconds"]}
        for part, row in figures["parts"].items()
    ]
    whole = {"part": "all", "kernels": figures["kernels"], "GB": figures["bytes"] / 1e9}
    rows.append(whole | {"GFLOP": figures["products"] / 1e9, "ms": 1e3 * figures["seconds"]})
    print("\nA step on one chip; ms by roofline:\n")
    _command.print_table(
        rows, {"part": "", "kernels": ",", "GB": ",.2f", "GFLOP": ",.0f", "ms": ",.2f"}
    )
    rates = ", ".join(f"{rate / 1e12:.0f} TFLOP/s {dtype}" for dtype, rate in chip.products.items())
    print(
        f"\nRates: {rates}, {chip.bandwidth / 1e12:.2f} TB/s, links {chip.links / 1e9:.0f} GB/s. "
        f"{figures['small_kernels']:,} kernels touch less than {_account.SMALL / 1e6:.0f} MB."
    )
    for kind, row in figures["collectives"].items():
        print(
            f"{kind}: {row['count']}, {row['bytes'] / 1e6:,.1f} MB, {1e3 * row['seconds']:.2f} ms "
            "on the links if nothing runs beside it."
        )
    found = [f"{number} {what}" for what, number in figures["found"].items()]
    print(f"Convolutions, sorts and scatters: {', '.join(found) or 'none'}.")
    if figures["xla_cycles"]:
        print(f"XLA's own estimate: {figures['xla_cycles'] / 1e6:,.0f} million cycles.")
    for kernel in figures["largest"] if top else ():
        print(f"  {kernel['bytes'] / 1e6:,.0f} MB x {kernel['times']}: {kernel['what']}")
    print(
        f"\nIn words: at most {figures['images_per_second']:,.0f} images/s on {figures['chips']} "
        f"chips by the account; a step holds {figures['memory_bytes'] / 1e9:.1f} GB a chip and "
        f"moves {figures['bytes'] / 1e9:,.0f} GB."
    )


def print_remedies(
    name: str, config: ConfigDict, topology: _devices.Topology, compile: bool
) -> None:
    print("\nWhat may make it fit:")
    for changes, where in _account.remedies(config, topology.name, len(topology.devices)):
        fields = " ".join(f"--config.{field}={value}" for field, value in changes.items())
        words = "not tried (--fit compiles it)"
        if compile:
            chosen = config.copy_and_resolve_references()
            chosen.update_from_flattened_dict(changes)
            figures = _account.account(chosen, _devices.describe(where))
            words = f"{'fits' if figures['fits'] else 'does not fit'}: {figures['compiler']}"
        print(f"  --topology={where} --config={name} {fields}: {words}")


def fill(path: Path) -> list[dict[str, Any]]:
    """Returns the accounts of `LIST` that are in the file, after adding what was missing."""
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["config"], row["topology"]) for row in known}
    for name, topology in LIST:
        if (name, topology) in done:
            continue
        print(f"{name} on {topology} …", flush=True)
        arguments = [f"--config={name}", f"--topology={topology}", f"--add={path}"]
        command = [sys.executable, "-m", "benchmarks.aot", *arguments]
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            print("  failed", flush=True)
    return [json.loads(line) for line in path.read_text().splitlines()]


def print_all(rows: list[dict[str, Any]]) -> None:
    by_name = {(row["config"], row["topology"]): row for row in rows}
    cells, missing = [], []
    for name, topology in LIST:
        short = name.removeprefix("configs/").replace(".py", "")
        row = by_name.get((name, topology))
        if not row:
            missing.append(f"{short} on {topology}")
            continue
        cell = {"config": short, "on": topology, "batch": row["batch_size"]}
        if "seconds" not in row:
            cells.append(cell | {"GB held": f"refused: {row['compiler']}"})
            continue
        rate, held = row["images_per_second"], f"{row['memory_bytes'] / 1e9:.1f}"
        cells.append(
            cell
            | {"GB held": held if row["fits"] else f"{held}, does not fit"}
            | {"TFLOP": row["products"] / 1e12, "GB moved": row["bytes"] / 1e9}
            | {"ms": 1e3 * row["seconds"], "images/s": rate, "a host": rate / row["hosts"]}
            | {"chip-hours": _RUN / rate * row["chips"] / 3600}
        )
    formats = {"config": "", "on": "", "batch": ",", "GB held": "", "TFLOP": ".1f"}
    formats |= {"GB moved": ",.0f", "ms": ",.0f", "images/s": ",.0f", "a host": ",.0f"}
    _command.print_table(cells, formats | {"chip-hours": ",.1f"})
    print(f"\nNot compiled yet: {', '.join(missing) or 'none'}.")


def main() -> None:
    made = _command.parser(__doc__)
    made.add_argument("--topology", help="CHIP:SHAPE, as v5e:4x4, v5p:2x2x1, h200:1 or h100:2x8")
    made.add_argument("--fit", action="store_true", help="compiles what may make it fit")
    made.add_argument("--top", action="store_true", help="names the kernels that move most bytes")
    made.add_argument(
        "--dump", type=Path, metavar="FILE", help="writes the optimised program there"
    )
    made.add_argument("--lower", action="store_true", help="lowers every config and preset")
    made.add_argument("--all", type=Path, metavar="FILE", help="fills the table of all configs")
    made.add_argument("--add", type=Path, metavar="FILE", help="adds the account as a line of JSON")

    def run(arguments: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
        if arguments.lower:
            return {"rows": lower_all()}
        if arguments.all:
            rows = fill(arguments.all)
            print_all(rows)
            return {"rows": rows}
        if not arguments.topology or not arguments.config:
            raise ValueError(
                "give --topology and --config, as --topology=h200:1 "
                "--config=configs/simclr.py:small; or --all=FILE"
            )
        topology = _devices.describe(arguments.topology)
        ((name, config),) = _command.load_configs(arguments.config, changes).items()
        figures = _account.account(config, topology, arguments.dump)
        report(name, topology, figures, arguments.top)
        if not figures["fits"]:
            print_remedies(name, config, topology, arguments.fit)
        facts = {"config": name, "topology": topology.name, "changes": changes}
        facts["hosts"] = len({device.process_index for device in topology.devices})
        if arguments.add:
            with arguments.add.open("a") as file:
                file.write(json.dumps(facts | figures) + "\n")
        return facts | figures

    _command.main(made, run)


if __name__ == "__main__":
    main()
