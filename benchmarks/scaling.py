"""What do more devices change in the program? One global batch over 1, 2, 4 and 8 virtual devices.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --config=configs/byol.py:cpu --devices=1,2

Virtual devices share this machine's cores: the table shows which collectives the compiled program
holds, how many bytes they move, and what the split costs in all. It says nothing of the speed of
real devices.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import _command, _program, _work

_KINDS = _program.COLLECTIVES


def collectives(kernels: list[_program.Kernel]) -> dict[str, tuple[int, int]]:
    """Kind -> (how many, bytes of their results on one device)."""
    found: dict[str, tuple[int, int]] = {}
    for kernel in kernels:
        if kernel.moved:
            count, total = found.get(kernel.kind, (0, 0))
            size = kernel.times * sum(kernel.moved.values())
            found[kernel.kind] = (count + kernel.times, total + size)
    return found


def measure(config: ConfigDict, steps: int) -> dict[str, Any]:
    """The figures on the devices that there are; prints nothing."""
    made = _work.prepare(config)
    batch = _work.invent_batch(config, made)
    state = made.create()
    compiled = made.step.lower(state, batch).compile()
    seconds = []
    for _ in range(1 + steps):
        start = time.perf_counter()
        state, metrics = compiled(state, batch)
        loss = float(metrics["loss"])
        seconds.append(time.perf_counter() - start)
    return {
        "devices": jax.device_count(),
        "seconds": seconds[1:],
        "collectives": collectives(_program.read(compiled.as_text())),
        "last_loss": loss,
    }


def measure_apart(devices: int, arguments: list[str]) -> dict[str, Any]:
    """`measure` in a process of its own, which has this many virtual devices.

    Raises ValueError with the process's last line if it fails.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", "--here", *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"on {devices} devices: {last.removeprefix('error: ')}")
    return json.loads(done.stdout.splitlines()[0])


def print_figures(config: ConfigDict, results: list[dict[str, Any]]) -> None:
    rows = [
        {
            "devices": result["devices"],
            "ms/step": 1e3 * float(np.median(result["seconds"])),
            "last loss": result["last_loss"],
        }
        | {kind: count for kind, (count, _) in result["collectives"].items()}
        | {"MB moved": sum(size for _, size in result["collectives"].values()) / 1e6}
        for result in results
    ]
    kinds = [kind for kind in _KINDS if any(kind in row for row in rows)]
    print(
        f"\n{config.objective.name}, {config.batch_size} images of {config.data.image_size} px on "
        "virtual devices, which share the cores of this machine\n"
    )
    _command.print_table(
        rows,
        {"devices": "", "ms/step": ",.1f", "last loss": ".4f"}
        | dict.fromkeys(kinds, "")
        | {"MB moved": ",.2f"},
    )
    most = max(rows, key=lambda row: row["devices"])
    print(
        f"\nIn words: on {most['devices']} devices a step moves {most['MB moved']:.2f} MB to each "
        f"in {sum(most.get(kind, 0) for kind in kinds)} collectives, and the same work takes "
        f"{most['ms/step'] / rows[0]['ms/step']:.2f} times as long as on {rows[0]['devices']}. "
        "This measures the program, not speed: the devices are threads of one processor."
    )


def main() -> None:
    made = _command.parser(__doc__)
    made.add_argument("--devices", default="1,2,4,8", help="how many, by commas")
    made.add_argument("--steps", type=int, default=5)
    made.add_argument("--here", action="store_true", help="this process's devices, as JSON")

    def run(arguments: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
        if arguments.here:
            config = next(iter(_command.load_configs(arguments.config, changes).values()))
            figures = measure(config, arguments.steps)
            print(json.dumps(figures))
            return figures
        spec = arguments.config or "configs/simclr.py:cpu"
        config = _command.load_configs(spec, changes)[spec]
        passed = [f"--config={spec}", f"--steps={arguments.steps}", *changes]
        counts = [int(count) for count in arguments.devices.split(",")]
        results = [measure_apart(count, passed) for count in counts]
        print_figures(config, results)
        return {spec: {"objective": config.objective.name, "devices": results}}

    _command.main(made, run)


if __name__ == "__main__":
    main()
