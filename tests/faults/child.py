"""The process of a `runs.Run`: run.py, forked after its imports."""

import os
import resource
import sys

import run
from cxr_jax.experiments import pretrain, transfer  # noqa: F401 (for the processes forked later)


def main(arguments: list[str], log: str, setting: dict[str, int] | None) -> None:
    """Runs run.py with its output in the file `log`; limits of `resource` by name in `setting`."""
    os.setsid()  # so that a signal can go to it and to its workers together, as schedulers do
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout.reconfigure(line_buffering=True)
    for name, most in (setting or {}).items():
        resource.setrlimit(getattr(resource, name), (most, most))
    # Compiling without optimization takes half the time; read when the first program is compiled.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    sys.exit(run.main(arguments))
