"""Forks runs of run.py after one import of everything: `python -m tests.faults.forks`.

Reads JSON lines and answers each with one: {"start": [arguments], "log": file, "limits": {name of
`resource`: bytes}} -> process id; {"poll": process id} -> exit code, negative for the signal that
ended it, or null while it runs. Ends when its standard input does.
"""

import json
import os
import resource
import sys
import traceback

import run
from cxr_jax.experiments import pretrain, transfer  # noqa: F401 (so that no fork imports them)


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if "poll" in asked:
            process, status = os.waitpid(asked["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if process else None
        else:
            answer = os.fork()
            if answer == 0:
                sys.exit(_run(asked["start"], asked["log"], asked["limits"]))
        print(json.dumps(answer), flush=True)


def _run(arguments: list[str], log: str, limits: dict[str, int]) -> int:
    os.setsid()  # so that a signal can go to it and to its workers together, as schedulers do
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout.reconfigure(line_buffering=True)
    for name, most in limits.items():
        resource.setrlimit(getattr(resource, name), (most, most))
    # Compiling without optimization takes half the time; read when the first program is compiled.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    try:
        return run.main(arguments)
    except BaseException:
        traceback.print_exc()
        return 99


if __name__ == "__main__":
    main()
