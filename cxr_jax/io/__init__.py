"""Small tools that both packages need: atomic writes, bounded readers, images. Free of JAX."""

import argparse
import functools
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

# How messages write the command line: a wheel brings the configs and a command of its own.
COMMAND = "cxr-jax" if (Path(__file__).parents[1] / "_bundled").is_dir() else "python run.py"


@functools.cache
def end_with_parent() -> None:
    """Ends this process when the one that it works for ends, kill -9 included."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os._exit(1)

    if parent:
        threading.Thread(target=wait, daemon=True).start()


def command_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Returns a command's parser, whose --help prints the description as it stands."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=prog, description=description, formatter_class=form)


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
