"""What does augmentation cost? Our views against PyTorch's, and as a share of our training step.

    python -m benchmarks.augment                                    # SimCLR's and BYOL's views
    python -m benchmarks.augment --config=configs/byol.py:small

From a uint8 batch on the device to float32 views there. Ours resamples with antialiasing, the rival
(torch_augment.py) without. PyTorch runs eager and compiled; the faster counts.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import _command, _timing, _work
from cxr_jax.augment.views import augment_view


def ours(images: jax.Array, view: ConfigDict, key: jax.Array) -> Callable[[], Any]:
    view_of = jax.jit(partial(augment_view, view=view))
    return lambda: view_of(key, images).block_until_ready()


def theirs(
    originals: np.ndarray, view: ConfigDict, compiling: tuple[bool, ...]
) -> dict[str, Callable[[], Any]]:
    import torch

    from benchmarks._torch_augment import augment

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    images = torch.from_numpy(originals).permute(0, 3, 1, 2).contiguous().to(device)
    fields = view.to_dict()

    def run(way: Callable[..., torch.Tensor]) -> None:
        with torch.no_grad():
            way(images, fields)
        if device == "cuda":
            torch.cuda.synchronize()

    ways = {False: ("eager", lambda: augment), True: ("compiled", lambda: torch.compile(augment))}
    chosen = [ways[compiled] for compiled in compiling]
    return {f"PyTorch, {name}": partial(run, way()) for name, way in chosen}


def measure(
    config: ConfigDict, repetitions: int, compiling: tuple[bool, ...] = (False, True)
) -> dict[str, Any]:
    """The figures of one config; prints them. `compiling`: with torch.compile, without, or both."""
    made = _work.prepare(config)
    batch = _work.invent_batch(config, made)
    images = np.asarray(batch["image"])
    views = config.views.to_dict()
    state = made.create()

    def step() -> None:
        nonlocal state
        state, metrics = made.step(state, batch)
        float(metrics["loss"])

    rivals: dict[str, Callable[[], Any]] = {"step": step}
    key = jax.random.PRNGKey(0)
    for name, view in config.views.items():
        rivals[f"view {name}: cxr_jax"] = ours(batch["image"], view, key)
        try:
            others = theirs(images, view, compiling)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            others = {}
        rivals |= {f"view {name}: {what}": run for what, run in others.items()}
    if len(rivals) == 1 + len(views):
        print(_command.NO_TORCH)
    for _ in range(2):
        for run in rivals.values():
            run()
    times = _timing.in_turns(rivals, repetitions)
    rows = [
        {
            "what": name,
            "images/s": config.batch_size / time.median,
            "spread": time.spread,
            "share of our step": _timing.ratio(time.seconds, times["step"].seconds),
        }
        for name, time in times.items()
    ]
    print(
        f"\n{config.objective.name}: {config.batch_size} images of {config.data.image_size} px to "
        f"views of {config.views.a.size} px; {repetitions} readings in turns\n"
    )
    _command.print_table(
        rows, {"what": "", "images/s": ",.0f", "spread": ".0%", "share of our step": ".1%"}
    )
    own = [times[f"view {name}: cxr_jax"].median for name in views]
    share = sum(own) / times["step"].median
    figures = {
        "objective": config.objective.name,
        "batch_size": config.batch_size,
        "views": views,
        "seconds": {name: time.seconds for name, time in times.items()},
        "rows": rows,
        "share_of_step": share,
    }
    words = f"\nIn words: the views, made apart, take {share:.0%} of the time of our step"
    if len(rivals) > 1 + len(views):
        fastest = [
            min(time.median for what, time in times.items() if f"view {name}: PyTorch" in what)
            for name in views
        ]
        figures["ratio"] = sum(fastest) / sum(own)
        words += f" and are made {figures['ratio']:.2f} times as fast as PyTorch makes them"
    print(words + ".")
    return figures


def main() -> None:
    made = _command.parser(__doc__)
    made.add_argument("--repetitions", type=int, default=15)

    def run(arguments: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
        configs = _command.load_configs(arguments.config, changes)
        return {name: measure(config, arguments.repetitions) for name, config in configs.items()}

    _command.main(made, run)


if __name__ == "__main__":
    main()
