"""How fast are frozen features read? A ResNet in evaluation mode, ours against PyTorch's.

    python -m benchmarks.features                                  # ResNet-50, 224 px, batch 64
    python -m benchmarks.features --variant=18 --size=96

Both have the same weights and read the same images in float32, grey; PyTorch runs eager and
compiled, channels last and not, without gradients. All run in turns; PyTorch's fastest counts. The
features must agree, or the two would not have done the same.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import _command, _timing
from cxr_jax import models
from cxr_jax.weights.encoder import Encoder, features, random_encoder

_CLOSE = 1e-3  # of the largest feature


def theirs(
    encoder: Encoder, images: np.ndarray, compiling: tuple[bool, ...]
) -> dict[str, Callable[[], np.ndarray]]:
    """PyTorch's ways to read `images`, by what they are called."""
    import torch

    from benchmarks import _torch_model

    cuda = jax.default_backend() != "cpu"
    variables = encoder.variables
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    rivals = {}
    for compiled in compiling:
        for last in (True,) if cuda else (False, True):
            net = _torch_model.ResNet(models.build(encoder.model))
            _torch_model.copy_variables(net, variables["params"], variables["batch_stats"])
            layout = torch.channels_last if last else torch.contiguous_format
            net = net.eval().to("cuda" if cuda else "cpu", memory_format=layout)
            own = batch.to("cuda" if cuda else "cpu").contiguous(memory_format=layout)
            apply = torch.compile(net) if compiled else net

            def run(apply=apply, own=own) -> np.ndarray:
                with torch.no_grad():
                    return apply(own).cpu().numpy()

            name = ("compiled" if compiled else "eager") + (", channels last" if last else "")
            rivals[f"PyTorch, {name}"] = run
    return rivals


def measure(
    variant: str, size: int, batch_size: int, repetitions: int, compiling: tuple[bool, ...]
) -> dict[str, Any]:
    """The figures; prints them. `compiling`: with torch.compile, without, or both."""
    encoder = random_encoder({"name": "resnet", "variant": variant}, size, seed=0)
    images = np.random.default_rng(0).random((batch_size, size, size, 1), np.float32)
    apply = features(encoder)
    rivals = {"cxr_jax": lambda: np.asarray(apply(images))}
    try:
        rivals |= theirs(encoder, images, compiling)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        print(_command.NO_TORCH)
    read = {name: run() for name, run in rivals.items()}  # both compile here
    ours = read["cxr_jax"]
    far = {name: float(np.abs(one - ours).max() / np.abs(ours).max()) for name, one in read.items()}
    times = _timing.in_turns(rivals, repetitions)
    rows = [
        {
            "what": name,
            "images/s": batch_size / times[name].median,
            "spread": times[name].spread,
            "largest difference": far[name],
        }
        for name in rivals
    ]
    print(f"\nResNet-{variant}, {batch_size} images of {size} px, {repetitions} times in turns\n")
    _command.print_table(
        rows, {"what": "", "images/s": ",.1f", "spread": ".0%", "largest difference": ".0e"}
    )
    figures = {"variant": variant, "size": size, "batch_size": batch_size, "rows": rows}
    if len(rows) > 1:
        fastest = max(rows[1:], key=lambda row: row["images/s"])["what"]
        ratio = _timing.ratio(times[fastest].seconds, times["cxr_jax"].seconds)
        print(f"\nIn words: ours are read {ratio:.2f} times as fast as {fastest} reads them.")
        if max(far.values()) > _CLOSE:
            print("WARNING: the features differ: the networks are not the same.")
        figures |= {"ratio": ratio, "rival": fastest}
    return figures


def main() -> None:
    made = _command.parser(__doc__)
    made.add_argument("--variant", default="50", help="a ResNet of cxr_jax/models/resnet.py")
    made.add_argument("--size", type=int, default=224, help="pixels of an image's side")
    made.add_argument("--batch_size", type=int, default=64)
    made.add_argument("--repetitions", type=int, default=7)
    made.add_argument("--eager", action="store_true", help="tries PyTorch without torch.compile")

    def run(arguments: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
        if arguments.config or changes:
            raise ValueError("--config: this benchmark has none; --help lists its options")
        compiling = (False,) if arguments.eager else (False, True)
        order = (arguments.variant, arguments.size, arguments.batch_size, arguments.repetitions)
        return measure(*order, compiling)

    _command.main(made, run)


if __name__ == "__main__":
    main()
