"""Averages encoders of one shape: a model soup (arXiv:2203.05482), WiSE-FT (arXiv:2109.01903).

python -m cxr_jax.weights.average ENCODER ENCODER … --out=FOLDER [--weights .5 .25 .25]

ENCODER is the workdir of a pretraining, or any encoder as --config.encoder takes it
(torchvision:PATH); the first says the size of the images that the mean reads. Every parameter and
batch statistic is the mean of theirs, in equal shares or those of --weights. FOLDER is an encoder
again: --config.encoder=FOLDER, --config.init=FOLDER. Beside the weights it holds README.md, which
says of what they are the mean, and the list of images that any of the encoders had seen.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from cxr_jax import models, weights
from cxr_jax.data import seen_images
from cxr_jax.io import COMMAND, command_line, command_parser
from cxr_jax.io.text import in_words
from cxr_jax.weights import export
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.exporters import safetensors


def average(encoders: Sequence[Encoder], shares: Sequence[float]) -> Encoder:
    """Returns the encoder whose variables are the mean of theirs; it reads images as the first.

    Raises ValueError for shares that are not one for each, from 0 on and 1 together, and, with what
    differs, for encoders of another architecture or with other mean and deviation of pixels.

    >>> model = {"name": "resnet", "variant": "small"}
    >>> a, b = (weights.random_encoder(model, 32, seed) for seed in (0, 1))
    >>> soup = average([a, b], [0.25, 0.75])
    >>> of_a, of_b, of_soup = (x.variables["params"]["conv1"]["kernel"] for x in (a, b, soup))
    >>> bool(np.allclose(of_soup, 0.25 * of_a + 0.75 * of_b))
    True
    """
    if len(shares) != len(encoders) or min(shares) < 0 or not abs(sum(shares) - 1) < 1e-6:
        raise ValueError(
            f"--weights {' '.join(f'{share:g}' for share in shares)}: of {len(encoders)} encoders "
            f"they are {len(encoders)} numbers from 0 on whose sum is 1 (it is {sum(shares):g})"
        )
    first = encoders[0]
    for other in encoders[1:]:
        differing = models.differences(first.model, other.model)
        reverse = models.differences(other.model, first.model).items()  # what the first leaves out
        differing |= {name: (mine, its) for name, (its, mine) in reverse}
        if first.fit != other.fit:
            differing["fit"] = (first.fit, other.fit)
        if differing:
            lines = (f"{name} {mine!r} and {its!r}" for name, (mine, its) in differing.items())
            raise ValueError(
                f"{first.name} and {other.name} have no mean: they differ in {'; '.join(lines)}. "
                "Average encoders of one model, best such as started from the same weights"
            )
    trees = [encoder.variables for encoder in encoders]
    mean = jax.tree.map(lambda *leaves: np.float32(np.average(leaves, 0, shares)), *trees)
    return first._replace(name=f"mean of {len(encoders)} encoders", variables=mean, text=None)


def main(arguments: Sequence[str] | None = None) -> Path:
    """Writes what the command line asks for; returns the folder. Raises as average, weights.load.

    Raises ValueError also for a folder that is not empty.
    """
    parser = command_parser("python -m cxr_jax.weights.average", __doc__)
    parser.add_argument("encoders", nargs="+", metavar="ENCODER")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--weights", type=float, nargs="+", help="shares; default: equal")
    args = parser.parse_args(command_line(arguments))
    export.check_empty(args.out)
    shares = args.weights or [1 / len(args.encoders)] * len(args.encoders)
    encoders = [weights.load(spec) for spec in args.encoders]
    names = [f"{e.name} ({Path(spec).name})" for e, spec in zip(encoders, args.encoders)]
    mean = average([e._replace(name=name) for e, name in zip(encoders, names)], shares)
    mean = mean._replace(name=f"{args.out.absolute().name} ({mean.name})")
    seen, unknown = seen_images.make("", "", {}), []
    for spec in args.encoders:
        own, without_list = weights.seen_before(spec)
        seen = seen_images.union(seen, own or seen)
        unknown += [without_list] if without_list else []
    rows = "\n".join(f"| {share:g} | {name} |" for share, name in zip(shares, names))
    exported = safetensors.export(mean)
    card = (
        f"# {mean.name}\n\nThe mean of the weights and batch statistics of encoders, made by "
        f"cxr_jax.\n\n| share | encoder |\n|---|---|\n{rows}\n\n"
        f"```python\n{exported.usage}\n```\n"
    )
    with export.atomic_folder(args.out) as folder:
        export.write_folder(folder, exported, card)
        seen_images.write(folder / seen_images.FILE, seen, ", ".join(dict.fromkeys(unknown)))
    print(
        f"{mean.name}, for images of {mean.image_size} px. Next, score it:\n"
        f"  {COMMAND} --config=configs/transfer.py --config.encoder={args.out} "
        f"--config.baselines={args.encoders[0]} --config.dataset=<a labelled dataset>"
    )
    return args.out


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {in_words(error)}")
