"""Small tools that both packages need: atomic writes, bounded readers, images. Free of JAX."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

# How messages write the command line: a wheel brings the configs and a command of its own.
COMMAND = "cxr-jax" if (Path(__file__).parents[1] / "_bundled").is_dir() else "python run.py"


def command_line(arguments: Sequence[str] | None = None) -> list[str]:
    """Returns a command's arguments, sys.argv's if None, with the home folder in place of "~".

    The shell leaves it standing behind "--option=", and a folder of that name would be made.

    >>> home = str(Path.home())
    >>> command_line(["--a=~/x", "a~b"]) == [f"--a={home}/x", "a~b"]
    True
    """
    home = str(Path.home())
    given = sys.argv[1:] if arguments is None else arguments
    return [re.sub(r"(?<![^=:,+])~(?=/|$)", lambda _: home, argument) for argument in given]
