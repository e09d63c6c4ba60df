"""How fast is a training step? Ours against PyTorch's, on one batch that lies on the device.

    python -m benchmarks.step                                       # SimCLR and BYOL
    python -m benchmarks.step --config=configs/simclr.py:small      # one of them, any config

The rival (_torch_step.py) starts from the same weights, sees the same images and does the same work
but our monitors. It runs eager and compiled, channels last (on a CPU without that too), in the
config's dtype; its fastest counts. All run in turns.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import _command, _timing, _work
from cxr_jax.objectives import _networks
from cxr_jax.training import step as training
from cxr_jax.training.step import TrainState

_CLOSE = 0.1  # of the loss: the two draw other views of the same images


class Rival(NamedTuple):
    """run(n) makes n steps and returns the last one's loss, which waits for it."""

    run: Callable[[int], float]
    parameters: int


def ours(made: training.Training, state: TrainState, batch: dict[str, Any]) -> Rival:
    """Our step; `state` is donated to it."""
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    compiled = made.step.lower(state, batch).compile()

    def run(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, metrics = compiled(state, batch)
        return float(metrics["loss"])

    return Rival(run, count)


def theirs(
    config: ConfigDict,
    made: training.Training,
    variables: Any,
    originals: np.ndarray,
    compiling: tuple[bool, ...],
) -> dict[str, Rival]:
    """PyTorch's steps, by what they were tried with; on a GPU all are channels last."""
    import torch

    from benchmarks import _torch_model, _torch_step

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    chain = _chain(config)
    params, stats = variables
    images = torch.from_numpy(originals).permute(0, 3, 1, 2).contiguous().to(device)
    steps = range(config.num_train_steps)
    rates = np.asarray(jax.vmap(made.schedule)(jnp.asarray(steps))).tolist()
    layouts = (True,) if device == "cuda" else (False, True)
    rivals = {}
    for compiled, last in itertools.product(compiling, layouts):
        nets = _torch_model.make_networks(chain, params, stats)
        if config.objective.name == "byol":
            names = {name: chain[name] for name in ("encoder", "projector")}
            target = _torch_model.make_networks(names, params, stats)
            module = _torch_step.BYOL(nets, target, config)
        else:
            module = _torch_step.SimCLR(nets, config)
        module = module.to(device).train()
        for networks in (module.networks, getattr(module, "target", None)):
            if networks:
                _torch_model.freeze(networks["encoder"], chain["encoder"], config.frozen_stages)
        step = _torch_step.make_step(
            module,
            images,
            config.optimizer.to_dict(),
            rates,
            bfloat16=config.model.get("dtype", "float32") == "bfloat16",
            compiled=compiled,
            channels_last=last,
        )
        name = ("compiled" if compiled else "eager") + (", channels last" if last else "")
        count = sum(p.numel() for p in module.parameters() if p.requires_grad)
        rivals[f"PyTorch, {name}"] = Rival(partial(_repeat, step), count)
    return rivals


def _repeat(step: Callable[[], Any], steps: int) -> float:
    for _ in range(steps):
        loss = step()
    return float(loss)


def _chain(config: ConfigDict) -> _networks.Chain:
    fields = config.objective
    head = {"hidden": _networks.widths(fields.hidden), "out": fields.out}
    if fields.name == "simclr":
        return _networks.encoder_and_heads(config, projector=head | {"out_bn": True})
    if fields.name == "byol":
        return _networks.encoder_and_heads(config, projector=head, predictor=head)
    raise ValueError(f"config.objective {fields.name!r} has no PyTorch rival; simclr and byol have")


def matmul_ceiling(dtype: str, size: int) -> float:
    """Operations a second of a square matrix product of `size`, the best of five."""
    x = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda x: x @ x)
    multiply(x).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        multiply(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def measure(
    config: ConfigDict,
    repetitions: int,
    steps: int,
    matmul_size: int,
    compiling: tuple[bool, ...] = (False, True),
    profile: Path | None = None,
) -> dict[str, Any]:
    """The figures of one config; prints them. `compiling`: with torch.compile, without, or both."""
    made = _work.prepare(config)
    batch = _work.invent_batch(config, made)
    images = np.asarray(batch["image"])
    state = made.create()
    # Fetched before the first step, which takes the state's memory.
    encoder = made.objective.exported(state.params, state.aux)["params"]  # frozen stages too
    variables = jax.device_get((state.params | {"encoder": encoder}, state.aux["batch_stats"]))
    rivals = {"cxr_jax": ours(made, state, batch)}
    try:
        rivals |= theirs(config, made, variables, images, compiling)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        print(_command.NO_TORCH)
    print("First steps, in which PyTorch compiles…", flush=True)
    first = {name: rival.run(1) for name, rival in rivals.items()}
    for rival in rivals.values():
        rival.run(2)
    if profile:
        with jax.profiler.trace(str(profile)):
            rivals["cxr_jax"].run(3)
        print(f"Trace of three of our steps: {profile}")
    times = _timing.in_turns(
        {name: partial(rival.run, steps) for name, rival in rivals.items()}, repetitions
    )
    last = {name: rival.run(1) for name, rival in rivals.items()}
    dtype = config.model.get("dtype", "float32")
    ceiling, flops = matmul_ceiling(dtype, matmul_size), _work.step_flops(config)
    rows = [
        {
            "what": name,
            "images/s": config.batch_size * steps / times[name].median,
            "spread": times[name].spread,
            "ms/step": 1e3 * times[name].median / steps,
            "share of ceiling": flops * steps / times[name].median / ceiling,
            "parameters": rivals[name].parameters,
            "first loss": first[name],
            "last loss": last[name],
        }
        for name in rivals
    ]
    figures = {
        "objective": config.objective.name,
        "batch_size": config.batch_size,
        "view_size": config.views.a.size,
        "model": config.model.to_dict(),
        "steps": steps,
        "seconds": {name: time.seconds for name, time in times.items()},
        "ceiling_flops": ceiling,
        "step_flops": flops,
        "rows": rows,
    }
    _print(config, figures, rows)
    if len(rivals) > 1:
        figures |= _compare(times, rows)
    return figures


def _print(config: ConfigDict, figures: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    print(
        f"\n{config.objective.name}, {config.model.name} {config.model.get('variant', '')} in "
        f"{config.model.get('dtype', 'float32')}, {config.batch_size} images of "
        f"{config.data.image_size} px, views of {config.views.a.size} px; "
        f"{len(figures['seconds']['cxr_jax'])} x {figures['steps']} steps in turns\n"
    )
    _command.print_table(
        rows,
        {"what": "", "images/s": ",.0f", "spread": ".0%", "ms/step": ",.1f"}
        | {"share of ceiling": ".0%", "parameters": ",", "first loss": ".3f", "last loss": ".3f"},
    )
    print(
        f"\nCeiling: {figures['ceiling_flops'] / 1e12:.2f} TFLOP/s of a large matrix product; the "
        f"networks of a step are {figures['step_flops'] / 1e9:,.1f} GFLOP."
    )


def _compare(times: dict[str, _timing.Timing], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The ratio to the fastest rival, and whether the two did the same; prints both in words."""
    fastest = min(rows[1:], key=lambda row: row["ms/step"])
    ratio = _timing.ratio(times[fastest["what"]].seconds, times["cxr_jax"].seconds)
    alike = rows[0]["parameters"] == fastest["parameters"]
    close = abs(rows[0]["first loss"] / fastest["first loss"] - 1) < _CLOSE
    print(
        f"In words: our step is {ratio:.2f} times as fast as the fastest of PyTorch "
        f"({fastest['what'].removeprefix('PyTorch, ')})."
    )
    if not alike:
        print("WARNING: the two networks do not have the same number of parameters.")
    if not close:
        print("WARNING: from the same weights, the two first losses are not close.")
    return {"ratio": ratio, "rival": fastest["what"], "same_parameters": alike, "close_loss": close}


def main() -> None:
    made = _command.parser(__doc__)
    made.add_argument("--repetitions", type=int, default=7)
    made.add_argument("--steps", type=int, help="in each; default 5, on an accelerator 20")
    made.add_argument("--eager", action="store_true", help="tries PyTorch without torch.compile")
    made.add_argument("--profile", type=Path, metavar="FOLDER", help="traces three of our steps")

    def run(arguments: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
        cpu = jax.default_backend() == "cpu"
        steps, matmul_size = arguments.steps or (5 if cpu else 20), 2048 if cpu else 8192
        compiling = (False,) if arguments.eager else (False, True)
        order = (arguments.repetitions, steps, matmul_size, compiling, arguments.profile)
        return {
            name: measure(config, *order)
            for name, config in _command.load_configs(arguments.config, changes).items()
        }

    _command.main(made, run)


if __name__ == "__main__":
    main()
