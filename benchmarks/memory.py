"""How large a batch fits? From the compiled step's own account of its memory; nothing is run.

    python -m benchmarks.memory --budget_gb=4                        # the small encoder, CPU
    python -m benchmarks.memory --config=configs/simclr.py:small --microbatch=0,256
    python -m benchmarks.memory --config=configs/byol.py:small --topology=h200:1

Arguments, results and temporaries of the whole step on one device against the budget: by default
90 % of the device's memory. `--microbatch` tries those config.microbatch_size too (0: none).
`--confirm` makes one step at the batch that was found. `--topology` asks for devices that are not
at hand (benchmarks/aot.py); without it, on a CPU, the account is that of the CPU's program, which
works otherwise than a GPU's: a rough guide to a GPU, no more.
"""

import argparse
import contextlib
import re
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import _command, _devices, _work
from cxr_jax import xla

SHARE = 0.9  # of the device's memory: the rest goes to the images, fragments and the runtime
_TOLERANCE = 0.03  # of the batch: a compilation takes up to a minute


def step_bytes(config: ConfigDict, batch_size: int) -> int:
    """Peak of what one step holds on one device, as the compiler plans it."""
    config = config.copy_and_resolve_references()
    config.batch_size = batch_size
    made = _work.prepare(config)
    try:
        return planned_bytes(made.step.lower(*made.shapes()).compile())
    except jax.errors.JaxRuntimeError as error:  # what a TPU's compiler says where it does not fit
        used = re.search(r"(?:Used |temporaries \()([\d.]+)G", str(error))
        if not used:
            raise
        return int(float(used[1]) * 2**30)


def planned_bytes(compiled: jax.stages.Compiled) -> int:
    """Peak of what a compiled step holds on one device, as the compiler plans it."""
    account = compiled.memory_analysis()
    return (
        account.argument_size_in_bytes
        + account.output_size_in_bytes
        + account.temp_size_in_bytes
        - account.alias_size_in_bytes
    )


def largest_batch(
    bytes_of: Callable[[int], int], budget: int, multiple: int, start: int
) -> tuple[int, int]:
    """(the largest batch whose bytes fit the budget, its bytes); (0, bytes of the least) if none.

    Among the multiples of `multiple`, to within 3 %. Bytes grow nearly linearly with the batch, so
    that each guess lies on the line through two known ones.
    """

    def rounded(batch: float | int) -> int:
        return max(int(batch) // multiple, 1) * multiple

    batch = rounded(start)
    known = {batch: bytes_of(batch)}
    known[2 * batch] = bytes_of(2 * batch)
    while True:
        fit = max((b for b, size in known.items() if size <= budget), default=0)
        over = min((b for b, size in known.items() if size > budget), default=0)
        if over and over - fit <= max(multiple, _TOLERANCE * fit):
            return fit, known[fit] if fit else known[over]
        a, b = (fit, over) if fit and over else sorted(known)[-2:]
        slope = max((known[b] - known[a]) / (b - a), 1)
        guess = a + (budget - known[a]) / slope
        if over:  # never near an end of what is left: it shrinks by a tenth at least
            guess = min(max(guess, 0.9 * fit + 0.1 * over), 0.1 * fit + 0.9 * over)
            guess = min(max(rounded(guess), fit + multiple), over - multiple)
        else:
            guess = rounded(max(guess, fit * (1 + _TOLERANCE) + multiple))
        known[guess] = bytes_of(guess)


def measure(
    config: ConfigDict, budget: int, microbatches: list[int], confirm: bool
) -> dict[str, Any]:
    """The figures of one config; prints them."""
    rows = []
    for part in microbatches:
        chosen = config.copy_and_resolve_references()
        chosen.microbatch_size = part
        multiple = part or len(xla.devices()) * 8
        start = part or max(config.batch_size // 2, multiple)

        def bytes_of(batch: int, chosen: ConfigDict = chosen) -> int:
            size = step_bytes(chosen, batch)
            print(f"  batch {batch:,}: {size / 1e9:.2f} GB", flush=True)
            return size

        print(f"{config.objective.name}, microbatch_size={part}")
        batch, size = largest_batch(bytes_of, budget, multiple, start)
        rows.append({"microbatch_size": part, "largest batch": batch, "GB": size / 1e9})
        if confirm and batch:
            rows[-1]["one step"] = _one_step(chosen, batch)
    print(
        f"\n{config.objective.name}, {dict(config.model)}, views of {config.views.a.size} px, "
        f"against {budget / 1e9:.1f} GB a device\n"
    )
    formats = {"microbatch_size": "", "largest batch": ",", "GB": ".1f", "one step": ""}
    _command.print_table(rows, formats)
    best = max(rows, key=lambda row: row["largest batch"])
    print(
        f"\nIn words: batches of up to {best['largest batch']:,} fit by the compiler's account, "
        f"with microbatch_size={best['microbatch_size']}."
    )
    if xla.platform() == "cpu":
        print("This is the account of the CPU's program; a GPU's differs.")
    return {"objective": config.objective.name, "budget_bytes": budget, "rows": rows}


def _one_step(config: ConfigDict, batch_size: int) -> str:
    config = config.copy_and_resolve_references()
    config.batch_size = batch_size
    made = _work.prepare(config)
    try:
        batch = _work.invent_batch(config, made)
        _, metrics = made.step(made.create(), batch)
        return f"ran, loss {float(metrics['loss']):.3f}"
    except jax.errors.JaxRuntimeError as error:
        return "failed: " + str(error).partition("\n")[0][:80]


def device_budget(topology: _devices.Topology | None) -> int:
    """Bytes that a step may take of a described device's memory, or of this one's.

    Raises ValueError on a device that does not tell its memory, as a CPU.
    """
    if topology:
        return int(SHARE * topology.chip.memory)
    stats = jax.local_devices()[0].memory_stats()
    if not stats or "bytes_limit" not in stats:
        raise ValueError("this device does not tell its memory: give --budget_gb=GB")
    return int(SHARE * stats["bytes_limit"])


def main() -> None:
    made = _command.parser(__doc__)
    made.add_argument("--budget_gb", type=float, help="a device's memory for the step, in 10^9 B")
    made.add_argument("--microbatch", default="0,64", help="sizes of parts to try, by commas")
    made.add_argument("--topology", help="CHIP:SHAPE, as v5e:4x4 or h200:8 (benchmarks/aot.py)")
    made.add_argument("--confirm", action="store_true", help="makes one step at the batch found")

    def run(arguments: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
        topology = _devices.describe(arguments.topology) if arguments.topology else None
        if topology and arguments.confirm:
            raise ValueError("--confirm makes a step, which needs the device: leave it out")
        given = arguments.budget_gb
        budget = int(given * 1e9) if given else device_budget(topology)
        parts = [int(part) for part in arguments.microbatch.split(",")]
        with topology.made_for() if topology else contextlib.nullcontext():
            configs = _command.load_configs(arguments.config, changes, ("simclr",))
            return {
                name: measure(config, budget, parts, arguments.confirm)
                for name, config in configs.items()
            }

    _command.main(made, run)


if __name__ == "__main__":
    main()
