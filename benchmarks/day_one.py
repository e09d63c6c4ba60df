"""The first ten minutes on a GPU or TPU: every benchmark, and what was slower than it could be.

    pip install -e '.[cuda,bench]'                        # or '.[tpu]'
    python -m benchmarks.day_one --out=day_one
    python -m benchmarks.day_one --rehearse               # before, on a CPU: does all of it run?

Runs the benchmarks of docs/performance.md one after the other, each in a process of its own, with
its JSON in the folder; report.md grows by their tables, ready for docs/performance.md. --config and
--config.FIELD=VALUE go to those that have a config. PyTorch runs beside ours where it is installed.
Then a trace of the step: what every kernel took, against the least that the compiler's account
allows it at the device's rates (benchmarks/aot.py), and as the end of the report the kernels that
lost most. Rates of a device that _devices.py does not know are measured. A benchmark that fails or
runs out of its time is named, and the others go on. The trace is of a program without CUDA graphs,
of which a profiler sees no kernels: the step's own speed is that of the first benchmark.
"""

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.profiler import ProfileData
from ml_collections import ConfigDict

from benchmarks import _account, _command, _devices, _program, _work
from benchmarks.step import matmul_ceiling
from cxr_jax import xla

# Name -> (arguments of python -m, its share of the time, what a rehearsal adds to them).
BENCHMARKS = {
    "step": (
        ["benchmarks.step", "--repetitions=3"],
        0.35,
        ["--repetitions=1", "--steps=1", "--eager"],
    ),
    "augment": (["benchmarks.augment"], 0.1, ["--repetitions=1"]),
    "end_to_end": (["benchmarks.end_to_end"], 0.15, ["--repetitions=1", "--steps=2"]),
    "input": (["benchmarks.input"], 0.1, ["--repetitions=1"]),
    "features": (
        ["benchmarks.features"],
        0.1,
        ["--variant=18", "--size=64", "--batch_size=8", "--repetitions=1", "--eager"],
    ),
    "memory": (["benchmarks.memory", "--microbatch=0", "--confirm"], 0.1, ["--budget_gb=0.1"]),
}
_WITHOUT_CONFIG = ("input", "features")
_STEPS = 3  # in the trace
_NAMED = 15  # kernels


def run_benchmarks(
    folder: Path, minutes: float, given: Sequence[str] = (), rehearse: bool = False
) -> None:
    """Writes folder/report.md: the Markdown that each benchmark printed, or why it did not.

    `given`: --config and its fields, for those that have a config.
    """
    page = folder / "report.md"
    page.write_text("")
    for name, (arguments, share, less) in BENCHMARKS.items():
        print(f"{name} …", flush=True)
        arguments = arguments + less * rehearse
        arguments = [*arguments, *(given if name not in _WITHOUT_CONFIG else ())]
        command = [sys.executable, "-m", *arguments, f"--json={folder / f'{name}.json'}"]
        seconds = 60 * minutes * share
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            text = done.stdout
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                text += f"\nFAILED: {last}\n"
        except subprocess.TimeoutExpired as error:
            text = (error.stdout or b"").decode()
            text += f"\nNOT DONE within {seconds:.0f} s; --minutes gives more.\n"
        with page.open("a") as file:
            file.write(f"## {name}\n\n    python -m {' '.join(arguments)}\n{text}\n")


def topology() -> _devices.Topology:
    """Returns one of this process's devices with its rates, measured if they are not known."""
    known = _devices.attached()
    if known:
        return known._replace(devices=known.devices[:1])
    size = 2048 if xla.platform() == "cpu" else 8192
    products = {"bf16": matmul_ceiling("bfloat16", size), "f32": matmul_ceiling("float32", size)}
    products["f32 highest"] = products["f32"]
    x = jnp.zeros(2**26)
    add = jax.jit(lambda x: x + 1)
    add(x).block_until_ready()
    start = time.perf_counter()
    add(x).block_until_ready()
    bandwidth = 2 * x.nbytes / (time.perf_counter() - start)
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit", 0)
    chip = _devices.Chip(xla.platform(), memory, bandwidth, bandwidth, products)
    return _devices.Topology(f"{device.device_kind}, rates as measured", chip, [device])


def compare(config: ConfigDict, where: _devices.Topology, steps: int) -> dict[str, Any]:
    """Returns a step's time beside its account, and the kernels' that lost most."""
    with where.made_for():
        made = _work.prepare(config)
        batch = _work.invent_batch(config, made)
        state = made.create()
        graphs = {"xla_gpu_enable_command_buffer": ""} if xla.platform() == "gpu" else {}  # none
        compiled = made.step.lower(state, batch).compile(xla.options() | graphs)
    figures = _account.read(compiled, where, config.batch_size)

    def run(state: Any, count: int) -> tuple[Any, float]:
        start = time.perf_counter()
        for _ in range(count):
            state, metrics = compiled(state, batch)
        float(metrics["loss"])
        return state, (time.perf_counter() - start) / count

    state, _ = run(state, 2)
    state, seconds = run(state, steps)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(state, _STEPS)
        spent = _spent(Path(folder))
    rows = []
    for kernel in _program.read(compiled.as_text()):
        if kernel.name in spent:
            least = kernel.times * _account.least_seconds(kernel, where.chip)
            row = {"kernel": kernel.name, "part": kernel.part, "ms": 1e3 * spent[kernel.name]}
            row |= {"least ms": 1e3 * least, "lost ms": row["ms"] - 1e3 * least}
            rows.append(row | {"in": f"{kernel.kind}, {kernel.op_name[-60:]}"})
    rows.sort(key=lambda row: -row["lost ms"])
    return {
        "batch_size": config.batch_size,
        "seconds": seconds,
        "account": figures,
        "traced": len(rows),
        "slower": rows[:_NAMED],
    }


def _spent(folder: Path) -> dict[str, float]:
    """Returns the seconds of a step that each instruction of a program took, from a trace of it."""
    seconds: Counter[str] = Counter()
    for path in folder.rglob("*.xplane.pb"):
        for plane in ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    name = dict(event.stats).get("hlo_op", event.name)  # a TPU's events are ops
                    seconds[str(name).removeprefix("%")] += event.duration_ns / 1e9 / _STEPS
    return seconds


def report(name: str, where: _devices.Topology, figures: dict[str, Any]) -> None:
    measured, account = 1e3 * figures["seconds"], figures["account"]
    print(f"\n## {name} against the account, one {where.name}\n")
    rows = [
        {
            "": "measured",
            "ms/step": measured,
            "images/s": figures["batch_size"] / figures["seconds"],
        },
        {
            "": "account: at least",
            "ms/step": 1e3 * account["seconds"],
            "images/s": account["images_per_second"],
        },
    ]
    _command.print_table(rows, {"": "", "ms/step": ",.2f", "images/s": ",.0f"})
    print(
        f"\nIn words: the step takes {figures['seconds'] / account['seconds']:.2f} times what the "
        f"account allows. Of {account['kernels']:,} kernels {figures['traced']:,} were traced; "
        "those that lost most:\n"
    )
    formats = {"kernel": "", "part": "", "ms": ",.3f", "least ms": ",.3f", "lost ms": ",.3f"}
    _command.print_table(figures["slower"], formats | {"in": ""})


def main() -> None:
    made = _command.parser(__doc__)
    made.add_argument("--out", type=Path, default=Path("day_one"), metavar="FOLDER")
    made.add_argument("--minutes", type=float, default=10.0, help="for all of it")
    made.add_argument("--only_trace", action="store_true", help="leaves the benchmarks out")
    made.add_argument("--rehearse", action="store_true", help="tiny, once: its figures say nothing")

    def run(arguments: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
        arguments.out.mkdir(parents=True, exist_ok=True)
        if not arguments.only_trace:
            given = [f"--config={arguments.config}"] if arguments.config else []
            minutes = arguments.minutes * (1 + arguments.rehearse)  # two cores take longer
            run_benchmarks(arguments.out, minutes, given + changes, arguments.rehearse)
        # After the benchmarks: this process would hold the device, which a TPU gives to one alone.
        where, found, page = topology(), {}, io.StringIO()
        for name, config in _command.load_configs(arguments.config, changes).items():
            with contextlib.redirect_stdout(page):
                try:
                    found[name] = compare(config, where, 2 if arguments.rehearse else 20)
                    report(name, where, found[name])
                except jax.errors.JaxRuntimeError as error:
                    print(f"\n## {name}: FAILED: {str(error).splitlines()[0]}")
        with (arguments.out / "report.md").open("a") as file:
            file.write(page.getvalue())
        print(page.getvalue())
        return found

    _command.main(made, run)


if __name__ == "__main__":
    main()
