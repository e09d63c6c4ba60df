"""The compiler's account of a training step on described devices: memory, bytes, products, time.

It is not a measurement. Speeds are upper bounds by roofline: each kernel takes as long as its bytes
need at the memory's full rate, or its products at the chip's, whichever is longer, and collectives
nothing.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import _devices, _program, _work
from benchmarks.memory import SHARE, planned_bytes
from cxr_jax import xla

SMALL = 2e6  # bytes of a kernel, below which it is counted as small


def account(
    config: ConfigDict, topology: _devices.Topology, dump: Path | None = None
) -> dict[str, Any]:
    """Returns the figures of one chip; nothing is printed. `dump`: the optimised program's text.

    Raises ValueError for a batch or a mesh that does not fit the devices, and where the program
    would not be the device's for want of cuDNN.
    """
    if topology.chip.platform == "gpu" and config.model.name == "vit":
        _devices.check_cudnn()
    shared = {"chips": len(topology.devices), "batch_size": config.batch_size}
    with topology.made_for():
        made = _work.prepare(config)
        lowered = made.step.lower(*made.shapes())
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return shared | {"fits": False, "compiler": _in_short(str(error))}
    if dump:
        dump.write_text(compiled.as_text())
    return shared | read(compiled, topology, config.batch_size)


def read(
    compiled: jax.stages.Compiled, topology: _devices.Topology, batch_size: int
) -> dict[str, Any]:
    """Returns the figures of one chip from a compiled step."""
    chip, count = topology.chip, len(topology.devices)
    size, kernels = planned_bytes(compiled), _program.read(compiled.as_text())
    seconds = sum(kernel.times * least_seconds(kernel, chip) for kernel in kernels)
    found: Counter[str] = Counter()
    for kernel in kernels:
        found.update({what: kernel.times * number for what, number in kernel.found.items()})
    return {
        "fits": chip.platform == "tpu" or size <= SHARE * chip.memory,  # a TPU's compiler refuses
        "compiler": f"plans {size / 1e9:.2f} GB of {chip.memory / 1e9:.1f}",
        "memory_bytes": size,
        "products": sum(k.times * sum(k.products.values()) for k in kernels),
        "bytes": sum(k.times * k.bytes for k in kernels),
        "seconds": seconds,
        "images_per_second": batch_size / seconds,
        "xla_cycles": sum(k.times * k.cycles for k in kernels),
        "kernels": sum(k.times for k in kernels),
        "small_kernels": sum(k.times for k in kernels if k.bytes < SMALL),
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


def _in_short(error: str) -> str:
    """Returns the compiler's sentence about memory, of a message of a hundred lines."""
    lines = [line.strip() for line in error.splitlines()]
    words = [line for line in lines if "Used" in line or "xceeded" in line or "Ran out" in line]
    return (words or lines)[0][:300]


def least_seconds(kernel: _program.Kernel, chip: _devices.Chip) -> float:
    """Returns what one run of a kernel takes at the chip's rates; nothing of a collective."""
    products = sum(
        number / chip.products.get(dtype, chip.products["bf16"])
        for dtype, number in kernel.products.items()
    )
    return 0.0 if kernel.moved else max(products, kernel.bytes / chip.bandwidth)


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
        part["seconds"] += kernel.times * least_seconds(kernel, chip)
    return dict(sorted(parts.items(), key=lambda item: -item[1]["bytes"]))


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
