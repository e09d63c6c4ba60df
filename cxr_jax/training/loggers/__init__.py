"""Where a run's numbers go besides metrics.jsonl: config.loggers names files of this folder.

Each has PACKAGE, what it imports, and `open_logger(workdir, config, first_step, before) -> Logger`:
`config` is flat, dotted name -> value; `first_step` is the step after which the run goes on;
`before` is `run` of the logger that an earlier start had, "" for none.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from jaxtyping import UInt8

from cxr_jax import plugins


class Logger:
    """What a training tells a logger. Pictures and words are for those that stay in the workdir.

    Attributes:
      run: the name by which its service knows the run, to go on with it; "": it needs none, and
        takes back what it has of steps that are made again.
    """

    run = ""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w c"]) -> None: ...

    def text(self, step: int, name: str, text: str) -> None: ...

    def close(self) -> None: ...


def find(name: str) -> Callable[..., Logger]:
    """Returns `open_logger` of a file of this folder.

    Raises ValueError for a name that there is not, or a package that is not installed.

    >>> find("tensorbord")
    Traceback (most recent call last):
    ValueError: no logger 'tensorbord' in cxr_jax/training/loggers; did you mean 'tensorboard'? \
it holds: mlflow, tensorboard, wandb
    """
    open_logger = plugins.find(__name__, name, "open_logger", "logger")
    package = sys.modules[open_logger.__module__].PACKAGE
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"config.loggers: the package {package} is missing: pip install '.[{name}]'"
        )
    return open_logger


def check(names: Iterable[str]) -> None:
    """Raises ValueError as `find`, for the first that cannot be used."""
    for name in names:
        find(name)
