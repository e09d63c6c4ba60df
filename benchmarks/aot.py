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
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import _command, _devices, _program, _work
from benchmarks.memory import SHARE, planned_bytes
from cxr_jax import config as config_file
from cxr_jax import xla

OBJECTIVES = (
    *("simclr", "byol", "dino", "mae", "moco", "barlow"),
    *("vicreg", "simsiam", "medaug", "convirt"),
)
# (config, topology): every preset `small` on one GPU, every recipe on a host of GPUs and on TPUs.
LIST = [
    *((f"configs/{name}.py:small", "h200:1") for name in OBJECTIVES),
    # ConVIRT's recipe starts from a file of weights: its preset is of its size.
    *((f"configs/{name}.py", "h200:8") for name in OBJECTIVES if name != "convirt"),
    ("configs/dino.py:vits", "h200:8"),
    *((f"configs/{name}.py", "v5e:4x4") for name in ("simclr", "byol", "mae")),
    ("configs/dino.py:vits", "v5e:4x4"),
]
_SMALL = 2e6  # bytes of a kernel, below which it is counted as small


def account(
    config: ConfigDict, topology: _devices.Topology, dump: Path | None = None
) -> dict[str, Any]:
    """Returns the figures of one chip; nothing is printed. `dump`: the optimised program's text.

    Raises ValueError for a batch or a mesh that does not fit the devices.
    """
    chip, count = topology.chip, len(topology.devices)
    figures: dict[str, Any] = {"chips": count, "batch_size": config.batch_size}
    with topology.made_for():
        made = _work.prepare(config)
        lowered = made.step.lower(*made.shapes())
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return figures | {"fits": False, "compiler": _in_short(str(error))}
    size, text = planned_bytes(compiled), compiled.as_text()
    if dump:
        dump.write_text(text)
    kernels = _program.read(text)
    seconds = sum(_seconds(kernel, chip) for kernel in kernels)
    found: Counter[str] = Counter()
    for kernel in kernels:
        found.update({what: kernel.times * number for what, number in kernel.found.items()})
    return figures | {
        "fits": size <= SHARE * chip.memory,
        "compiler": f"plans {size / 1e9:.2f} GB of {chip.memory / 1e9:.1f}",
        "memory_bytes": size,
        "products": sum(k.times * sum(k.products.values()) for k in kernels),
        "bytes": sum(k.times * k.bytes for k in kernels),
        "seconds": seconds,
        "images_per_second": config.batch_size / seconds,
        "xla_cycles": sum(k.times * k.cycles for k in kernels),
        "kernels": sum(k.times for k in kernels),
        "small_kernels": sum(k.times for k in kernels if k.bytes < _SMALL),
        "found": dict(sorted(found.items())),
        "collectives": {
            kind: {
                "count": number,
                "bytes": size,
                "seconds": size * _crossings(kind, count) / chip.links,
            }
            for kind, (number, size) in sorted(_program.collectives(kernels).items())
        },
        "parts": _parts(kernels, chip),
        "largest": [
            {"what": f"{k.kind} in {k.op_name[-80:]}", "times": k.times, "bytes": k.bytes}
            for k in sorted(kernels, key=lambda k: -k.times * k.bytes)[:20]
        ],
    }


def lower(config: ConfigDict, platforms: tuple[str, ...]) -> dict[str, Counter[str]]:
    """Returns, by platform, how many convolutions, sorts and scatters the step has as written.

    Needs no plugin. Raises ValueError for a batch or a mesh that does not fit.
    """
    found = {}
    for platform in platforms:
        with xla.made_for(platform):
            made = _work.prepare(config)
            traced = made.step.trace(*made.shapes())
        name = "cuda" if platform == "gpu" else platform
        text = traced.lower(lowering_platforms=(name,)).as_text()
        kinds = re.findall(r"stablehlo\.convolution.* : \(tensor<[\dx]*x(\w+)>", text)
        found[platform] = Counter(f"convolution {kind}" for kind in kinds)
        found[platform].update(re.findall(r"stablehlo\.(sort|scatter|select_and_scatter)", text))
    return found


def lower_all() -> list[dict[str, Any]]:
    """Returns what `lower` finds in every config and preset; prints it line by line."""
    rows = []
    for path in sorted(Path("configs").glob("*.py")):
        for preset in ("", *_presets(path)):
            name = f"{path}:{preset}" if preset else str(path)
            config = config_file.load(name, [])
            if config.experiment != "pretrain":
                break
            if config.objective.name == "convirt" and not preset:
                config.objective.text.frozen_layers = 0  # else it asks for a file of weights
            found = lower(config, ("gpu", "tpu"))
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


def _in_short(error: str) -> str:
    """Returns the compiler's sentence about memory, of a message of a hundred lines."""
    lines = [line.strip() for line in error.splitlines()]
    words = [line for line in lines if "Used" in line or "xceeded" in line or "Ran out" in line]
    return (words or lines)[0][:300]


def _seconds(kernel: _program.Kernel, chip: _devices.Chip) -> float:
    products = sum(
        number / chip.products.get(dtype, chip.products["bf16"])
        for dtype, number in kernel.products.items()
    )
    return kernel.times * max(products, kernel.bytes / chip.bandwidth) if not kernel.moved else 0.0


def _crossings(kind: str, chips: int) -> float:
    """Returns how often the bytes that a collective gives cross a chip's links, in a ring."""
    share = (chips - 1) / chips
    kind = kind.partition(" ")[0]
    return {"all-reduce": 2 * share, "reduce-scatter": chips - 1, "collective-permute": 1}.get(
        kind, share
    )


def _parts(kernels: list[_program.Kernel], chip: _devices.Chip) -> dict[str, dict[str, float]]:
    parts: dict[str, dict[str, float]] = {}
    for kernel in kernels:
        name = "collectives" if kernel.moved else kernel.part
        part = parts.setdefault(name, {"kernels": 0, "bytes": 0, "products": 0, "seconds": 0.0})
        part["kernels"] += kernel.times
        part["bytes"] += kernel.times * kernel.bytes
        part["products"] += kernel.times * sum(kernel.products.values())
        part["seconds"] += _seconds(kernel, chip)
    return dict(sorted(parts.items(), key=lambda item: -item[1]["bytes"]))


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
        f"{figures['small_kernels']:,} kernels touch less than {_SMALL / 1e6:.0f} MB."
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


def remedies(config: ConfigDict, topology: str, chips: int) -> list[tuple[dict[str, Any], str]]:
    """Returns what may make a step fit, the cheapest first: changed fields, and the topology."""
    ways: list[tuple[dict[str, Any], str]] = []
    if config.model.get("remat") is False:
        ways.append(({"model.remat": True}, topology))
    part = config.batch_size // 4 // chips * chips
    if part and config.batch_size % part == 0 and not config.microbatch_size:
        ways.append(({"microbatch_size": part}, topology))
    kind, _, shape = topology.partition(":")
    sides = [int(side) for side in shape.split("x")]
    sides[sides.index(min(sides)) if len(sides) > 1 else 0] *= 2
    return [*ways, ({}, f"{kind}:{'x'.join(map(str, sides))}")]


def print_remedies(
    name: str, config: ConfigDict, topology: _devices.Topology, compile: bool
) -> None:
    print("\nWhat may make it fit:")
    for changes, where in remedies(config, topology.name, len(topology.devices)):
        fields = " ".join(f"--config.{field}={value}" for field, value in changes.items())
        words = "not tried (--fit compiles it)"
        if compile:
            chosen = config.copy_and_resolve_references()
            chosen.update_from_flattened_dict(changes)
            figures = account(chosen, _devices.describe(where))
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
    cells = []
    for name, topology in LIST:
        row = by_name.get((name, topology), {"compiler": "not compiled yet"})
        short = name.removeprefix("configs/").replace(".py", "")
        cell = {"config": short, "on": topology, "batch": row.get("batch_size")}
        if "seconds" not in row:
            cells.append(cell | {"GB held": row["compiler"]})
            continue
        rate = row["images_per_second"]
        hours = row["images"] / rate * row["chips"] / 3600
        cells.append(
            cell
            | {
                "GB held": f"{row['memory_bytes'] / 1e9:.1f}"
                + (" (does not fit)" * (not row["fits"]))
            }
            | {"TFLOP": row["products"] / 1e12, "GB moved": row["bytes"] / 1e9}
            | {"ms": 1e3 * row["seconds"], "images/s": rate}
            | {"images/s a host": rate / row["hosts"], "chip-hours": hours}
        )
    formats = {
        "config": "",
        "on": "",
        "batch": ",",
        "GB held": "",
        "TFLOP": ".1f",
        "GB moved": ",.0f",
    }
    formats |= {"ms": ",.0f", "images/s": ",.0f", "images/s a host": ",.0f", "chip-hours": ",.0f"}
    _command.print_table(cells, formats)


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
        figures = account(config, topology, arguments.dump)
        report(name, topology, figures, arguments.top)
        if not figures["fits"]:
            print_remedies(name, config, topology, arguments.fit)
        facts = {"config": name, "topology": topology.name, "changes": changes}
        facts["hosts"] = len({device.process_index for device in topology.devices})
        facts["images"] = config.batch_size * config.num_train_steps
        if arguments.add:
            with arguments.add.open("a") as file:
                file.write(json.dumps(facts | figures) + "\n")
        return facts | figures

    # Programs are made for what is described: this process's own devices take no part.
    jax.config.update("jax_platforms", "cpu")
    _command.main(made, run)


if __name__ == "__main__":
    main()
