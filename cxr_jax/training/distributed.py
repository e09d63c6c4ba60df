"""Several processes as one run: they meet, check that they are alike, and end together.

A "host" is one process here: with JAX a machine usually runs one, or one for each of its GPUs.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import re
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax

# JAX's public API serves for meeting and parting. The key-value store of its coordination service
# has no public name, and jax.process_index() and multihost_utils (assert_equal, process_allgather)
# need devices that all have set up: too late to say that hosts run different code or versions, and
# without a word for the others when one host fails.
from jax._src.distributed import global_state

_LOOK_SECONDS = 1.0  # between looks for the failure of another
_AGREE_SECONDS = 600  # the slowest may need to read tables; a dead one ends the wait long before
_LEAVE_SECONDS = 24 * 3600  # at the end process 0 may have work of hours of its own
_FAILED = "cxr_jax/failed"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def index() -> int:
    return global_state.process_id


def count() -> int:
    return global_state.num_processes or 1


def name() -> str:
    """Returns "host 1 of 4", counted from 0, or "" where this is the only process."""
    return f"host {index()} of {count()}" if count() > 1 else ""


def is_first() -> bool:
    """Says whether this process is the one that writes and prints."""
    return index() == 0


def meet(options: argparse.Namespace, experiment: str) -> bool:
    """Meets the other processes of this run, as the options of cxr_jax/__main__.py say.

    Returns whether there are others. Call it before anything that asks JAX for its devices. Where
    they do not meet within `connect_timeout` seconds, or one is silent for `heartbeat_timeout`
    seconds later, the process ends with exit code 1 and a message on stderr. Raises ValueError for
    options that do not fit each other, the scheduler or the experiment, OSError where process 0
    cannot listen at its address or the scheduler does not answer.
    """
    given = (options.coordinator, options.num_processes, options.process_id)
    names = ("--coordinator", "--num_processes", "--process_id")
    missing = [name for name, value in zip(names, given, strict=True) if value is None]
    if options.distributed == "off":
        if len(missing) < 3:
            raise ValueError("--distributed=off goes without --coordinator and its companions")
        return False
    if 0 < len(missing) < 3:
        raise ValueError(f"{', '.join(missing)} missing: the three belong together")
    if not missing and not 0 <= options.process_id < options.num_processes:
        raise ValueError(
            f"--process_id={options.process_id}: from 0 to {options.num_processes - 1}, as "
            f"--num_processes={options.num_processes}"
        )
    if not missing and not re.fullmatch(r".+:\d+", options.coordinator):
        raise ValueError(f"--coordinator={options.coordinator} is not HOST:PORT")
    # What srun, mpirun or an indexed Kubernetes job started as several tasks. JAX also takes an
    # allocation whose command was not started by srun, and any pod, for one.
    sizes = (os.environ.get(name, 1) for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    several = not missing or max(map(int, sizes)) > 1 or "JOB_COMPLETION_INDEX" in os.environ
    if several:
        _check_can_be_shared(options, experiment)
    if several or importlib.util.find_spec("libtpu"):  # only JAX knows if a TPU is part of a pod
        _initialize(options, several)
    if count() < 2:
        if options.distributed == "on" and missing:
            raise ValueError(
                "--distributed=on, but no scheduler says where the others are; give --coordinator, "
                "--num_processes and --process_id"
            )
        return False
    _check_can_be_shared(options, experiment)
    threading.Thread(target=_watch, daemon=True).start()
    if not is_first():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print there too
    return True


def _check_can_be_shared(options: argparse.Namespace, experiment: str) -> None:
    if experiment != "pretrain":
        raise ValueError(
            f"a {experiment} runs as one process, and here are several; "
            "--distributed=off where they have nothing to do with each other"
        )
    if not options.workdir:
        raise ValueError("--workdir is missing: processes of one run share a folder")


def _initialize(options: argparse.Namespace, several: bool) -> None:
    jax.config.update("jax_enable_preemption_service", False)  # preemption.py says why
    met = threading.Event()
    threading.Thread(target=_give_up, args=(options.connect_timeout, met), daemon=True).start()
    # JAX gives a task of srun one GPU; the only task of a node has all of them ([]).
    alone = re.fullmatch(r"1(\(x\d+\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.num_processes,
            options.process_id,
            local_device_ids=[] if alone else None,
            cluster_detection_method="deactivate" if options.coordinator else None,
            initialization_timeout=options.connect_timeout + 60,
            heartbeat_timeout_seconds=options.heartbeat_timeout,
            shutdown_timeout_seconds=_LEAVE_SECONDS,
        )
    except ValueError as error:  # JAX knows no such scheduler
        if several:
            raise ValueError(
                f"a scheduler started several tasks, but JAX cannot tell where they are ({error}). "
                "Are they one run? Then give --coordinator, --num_processes and --process_id (in "
                "an indexed Kubernetes job jax[k8s] finds them). If not: --distributed=off"
            ) from error
    except RuntimeError as error:
        raise OSError(
            f"{name() or 'host 0'}: cannot start the coordination of processes at "
            f"{global_state.coordinator_address} ({error}): is another program using the port?"
        ) from error
    finally:
        met.set()


def _give_up(timeout: int, met: threading.Event) -> None:
    """Ends the process when the others did not come: jaxlib would abort it with a stack trace."""
    if met.wait(timeout):
        return
    coordinator = str(global_state.coordinator_address)
    address, _, port = coordinator.rpartition(":")
    try:
        socket.create_connection((address.strip("[]"), int(port)), timeout=2).close()
        why = (
            f"answers, but not all {count()} processes came to it: look which did not start, and "
            "that each has a --process_id of its own"
        )
    except (OSError, ValueError) as error:
        why = f"cannot be reached ({error}): is process 0 running there, and is the port open?"
    error = f"error: after {timeout} s the coordinator at {coordinator}"
    print(f"{name()}: {error} {why}", file=sys.stderr, flush=True)
    os._exit(1)


def _watch() -> None:
    """Ends this process when another has failed: it would wait for that one in its next step."""
    while (client := global_state.client) is not None:
        try:
            failed = client.key_value_dir_get(_FAILED)
        except jax.errors.JaxRuntimeError:  # the service is gone; jaxlib ends the process
            return
        others = [message for key, message in failed if key != f"{_FAILED}/{index()}"]
        if others:
            print(f"{name()}: error: {others[0]}", file=sys.stderr, flush=True)
            _end(1)
        time.sleep(_LOOK_SECONDS)


def fail(message: str, code: int = 1) -> None:
    """Tells the others why this process ends, and ends it without waiting; returns if alone."""
    if count() == 1:
        return
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # there may be nobody left to tell
        global_state.client.key_value_set(f"{_FAILED}/{index()}", f"{name()} failed: {message}")
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():  # which holds the service that the others ask
        time.sleep(3 * _LOOK_SECONDS)
    _end(code)


def _end(code: int) -> NoReturn:
    """Skips what Python does at an exit: JAX would wait there for processes that are gone."""
    for child in multiprocessing.active_children():  # which decode images
        child.kill()
    os._exit(code)


def leave() -> None:
    """Waits until all are done, process 0's last work included; returns at once if alone."""
    jax.distributed.shutdown()


def agree(topic: str, facts: Mapping[str, Any]) -> None:
    """Waits until every process has come here, and checks that they bring the same facts.

    topic: in messages; once per run. facts: field -> value, as JSON. Raises ValueError, on every
    process, with the fields that differ, and TimeoutError where some did not come.
    """
    if count() == 1:
        return
    client, folder = global_state.client, f"cxr_jax/agree/{topic}"
    client.key_value_set(f"{folder}/{index()}", json.dumps(dict(facts), default=str))
    try:
        client.wait_at_barrier(f"cxr_jax/{topic}", _AGREE_SECONDS * 1000)
    except jax.errors.JaxRuntimeError as error:
        came = {int(key.rpartition("/")[2]) for key, _ in client.key_value_dir_get(folder)}
        missing = ", ".join(str(host) for host in range(count()) if host not in came)
        raise TimeoutError(
            f"{topic}: waited {_AGREE_SECONDS} s for host {missing or '(unknown)'}"
        ) from error
    brought = client.key_value_dir_get(folder)
    by_host = {int(key.rpartition("/")[2]): json.loads(value) for key, value in brought}
    lines = []
    for field in sorted({field for facts in by_host.values() for field in facts}):
        values = [by_host[host].get(field, "(absent)") for host in range(count())]
        others = [host for host, value in enumerate(values) if value != values[0]]
        if others:
            more = f", and {len(others) - 1} more hosts differ" if len(others) > 1 else ""
            other = f"host {others[0]} has {values[others[0]]!r}{more}"
            lines.append(f"  {field}: host 0 has {values[0]!r}, {other}")
    if lines:
        raise ValueError(f"the {count()} hosts differ in their {topic}:\n" + "\n".join(lines))


def versions() -> dict[str, str]:
    """Returns the versions that a run's numbers depend on, and a hash of our own sources."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for folder in ("cxr_jax", "data_builders"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    found = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"code": digest.hexdigest()[:16], "python": platform.python_version(), **found}
