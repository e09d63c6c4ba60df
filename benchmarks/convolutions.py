"""Where does a ResNet's step lose to PyTorch on a CPU? Its convolutions one by one, by kind.

    python -m benchmarks.convolutions                              # ResNet-50, views of 96 px
    python -m benchmarks.convolutions --variant=18 --size=64

Every convolution of the encoder as its layer does it (models/_layers.Conv, the training's compiler
options): forward, its gradient by input and that by kernel, each a program, beside PyTorch's
(oneDNN, channels last and not, the faster) on the same arrays in the same process and in turns.
Float32. Of the repetitions the fastest counts, for what else runs can only slow one. Times are a
step's: each shape as often as the network has it. `taskset -c 1` before the command gives figures
of one core, which other programs on the others disturb less.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks import _command, _timing
from cxr_jax import models, xla
from cxr_jax.models._layers import Conv

_WAYS = ("forward", "by input", "by kernel")
Shape = tuple[tuple[int, ...], int, int, int]  # of the input; features, kernel, stride


def shapes(variant: str, size: int, batch_size: int) -> Counter[Shape]:
    """Returns how often the encoder has each convolution."""
    found: Counter[Shape] = Counter()

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if isinstance(layer, Conv) and context.method_name == "__call__":
            found[args[0].shape, layer.features, layer.kernel_size, layer.stride] += 1
        return call(*args, **kwargs)

    encoder = models.build({"name": "resnet", "variant": variant})
    images = jax.ShapeDtypeStruct((batch_size, size, size, 1), jnp.float32)
    with nn.intercept_methods(note):
        jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, False), images)
    return found


def ours(shape: Shape) -> dict[str, Callable[[], Any]]:
    """Returns a way to run each of `_WAYS`; an image's gradient nobody needs."""
    (size, features, kernel_size, stride) = shape
    layer, rng = Conv(features, kernel_size, stride), np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=size), jnp.float32)
    kernel = jnp.asarray(
        rng.normal(size=(kernel_size, kernel_size, size[-1], features)), jnp.float32
    )

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return layer.apply({"params": {"kernel": kernel}}, x)

    def by(number: int) -> Callable[..., jax.Array]:
        return lambda x, kernel, slope: jax.vjp(convolve, x, kernel)[1](slope)[number]

    slope = convolve(x, kernel)
    programs = {"forward": lambda x, kernel, slope: convolve(x, kernel), "by kernel": by(1)}
    if size[-1] > 3:
        programs["by input"] = by(0)
    given = (x, kernel, slope)
    compiled = {
        way: jax.jit(program).lower(*given).compile(xla.options())
        for way, program in programs.items()
    }
    return {way: lambda run=run: run(*given).block_until_ready() for way, run in compiled.items()}


def theirs(shape: Shape, last: bool) -> dict[str, Callable[[], Any]]:
    """Does what `ours` does, by PyTorch."""
    import torch

    (count, height, width, channels), features, kernel_size, stride = shape
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(count, channels, height, width).contiguous(memory_format=layout)
    kernel = torch.randn(features, channels, kernel_size, kernel_size)
    kernel = kernel.contiguous(memory_format=layout)
    window = ([stride] * 2, [kernel_size // 2] * 2, [1, 1])

    def forward() -> Any:
        return torch.nn.functional.conv2d(x, kernel, None, *window)

    slope = forward()

    def backward(by_input: bool) -> Any:
        wanted = [by_input, not by_input, False]
        return torch.ops.aten.convolution_backward(
            slope, x, kernel, None, *window, False, [0, 0], 1, wanted
        )

    ways = {"forward": forward, "by kernel": lambda: backward(False)}
    return ways | ({"by input": lambda: backward(True)} if channels > 3 else {})


def operations(shape: Shape) -> float:
    (count, height, width, channels), features, kernel_size, stride = shape
    places = count * -(-height // stride) * -(-width // stride)
    return 2.0 * places * channels * features * kernel_size**2


def measure(variant: str, size: int, batch_size: int, repetitions: int) -> dict[str, Any]:
    """The figures; prints them."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for shape, times in shapes(variant, size, batch_size).items():
        kind = f"{shape[2]}x{shape[2]}" + f", stride {shape[3]}" * (shape[3] > 1)
        rivals = {"ours": ours(shape)} | {f"last {last}": theirs(shape, last) for last in (0, 1)}
        for way in rivals["ours"]:
            runs = {name: rival[way] for name, rival in rivals.items()}
            _timing.in_turns(runs, 1)
            taken = _timing.in_turns(runs, repetitions)
            best = {name: min(timing.seconds) for name, timing in taken.items()}
            theirs_best = min(best["last 0"], best["last 1"])
            for key in ((kind, way), ("all", way), ("all", "together")):
                row = rows.setdefault(key, Counter())
                row["ours"] += times * best["ours"]
                row["theirs"] += times * theirs_best
                row["operations"] += times * operations(shape)
    order = sorted(
        rows, key=lambda key: (key[0] == "all", key[0], (*_WAYS, "together").index(key[1]))
    )
    table = [
        {"convolutions": kind, "": way, "ours, ms": 1e3 * row["ours"]}
        | {"PyTorch, ms": 1e3 * row["theirs"], "ratio": row["theirs"] / row["ours"]}
        | {"GFLOP/s": row["operations"] / row["ours"] / 1e9}
        | {"PyTorch's": row["operations"] / row["theirs"] / 1e9}
        for kind, way in order
        for row in (rows[kind, way],)
    ]
    formats = {"convolutions": "", "": "", "ours, ms": ",.0f", "PyTorch, ms": ",.0f"}
    formats |= {"ratio": ".2f", "GFLOP/s": ",.0f", "PyTorch's": ",.0f"}
    _command.print_table(table, formats)
    whole = table[-1]
    print(
        f"\nIn words: the convolutions of a step of {batch_size} views take "
        f"{whole['ours, ms']:,.0f} ms, PyTorch's {whole['PyTorch, ms']:,.0f}."
    )
    return {"rows": table}


def main() -> None:
    made = _command.parser(__doc__)
    made.add_argument("--variant", default="50", help="of the ResNet")
    made.add_argument("--size", type=int, default=96, help="of the views, in pixels")
    made.add_argument("--batch_size", type=int, default=64, help="views at a time")
    made.add_argument("--repetitions", type=int, default=5)

    def run(arguments: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
        return measure(
            arguments.variant, arguments.size, arguments.batch_size, arguments.repetitions
        )

    _command.main(made, run)


if __name__ == "__main__":
    main()
