"""Several processes as one run: how they meet, make sure that they are alike, and end together.

JAX's coordination service does it: process 0 holds it, the others talk to it. A "host" is one
process here: with JAX a machine usually runs one, or one for each of its GPUs.
"""

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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
from jax._src import clusters
from jax._src.distributed import global_state

_LOOK_SECONDS = 1.0  # between looks for the failure of another
_AGREE_SECONDS = 600  # the slowest may need to read tables; a dead one ends the wait long before
_LEAVE_SECONDS = 24 * 3600  # at the end process 0 may have work of hours of its own
_FAILED = "cxr_jax/failed"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class Place(NamedTuple):
    """Which process this is, and where the first one listens (host:port)."""

    coordinator: str
    num_processes: int
    process_id: int
    local_devices: list[int] | None = None  # None: all that it sees


def index() -> int:
    return global_state.process_id


def count() -> int:
    return global_state.num_processes


def name() -> str:
    """As messages call this process: "host 1 of 4", from 0; "" where it is the only one."""
    return f"host {index()} of {count()}" if count() > 1 else ""


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return index() == 0


def find_place(timeout: int) -> Place | None:
    """What a scheduler's environment says: SLURM's srun, mpirun, Cloud TPU, Kubernetes.

    None in a plain shell, and where this is the only task. What JAX detects, but for allocations
    whose command was not started by srun and pods that are no task of an indexed job.

    Raises:
      ValueError: a task of an indexed Kubernetes job, without JAX's means to ask for the others.
    """
    left_out = {"mpi4py"}
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) < 2:
        left_out.add("slurm")
    if "JOB_COMPLETION_INDEX" not in os.environ:
        left_out.add("k8s")
    elif (
        importlib.util.find_spec("kubernetes") is None and "TPU_WORKER_HOSTNAMES" not in os.environ
    ):
        raise ValueError(
            "this is a task of an indexed Kubernetes job. Is it one run? Then install jax[k8s], or "
            "give --coordinator, --num_processes and --process_id. If not: --distributed=off"
        )
    for kind in clusters.ClusterEnv._cluster_types:
        known = "k8s" if kind is clusters.K8sCluster else kind.name
        if known in left_out or not kind.is_env_present():
            continue
        if kind.get_process_count() < 2:
            return None
        port = os.environ.get("JAX_COORDINATOR_PORT")
        address = kind.get_coordinator_address(timeout, port)
        local = kind.get_local_process_id()
        alone = re.fullmatch(r"1(\(x\d+\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
        devices = None if local is None or alone else [local]
        return Place(address, kind.get_process_count(), kind.get_process_id(), devices)
    return None


def join(place: Place, timeout: int, heartbeat_timeout: int) -> None:
    """Meets the other processes; call it before anything that asks JAX for its devices.

    Where that does not succeed within `timeout` seconds the process ends, with a message on
    stderr and exit code 1: jaxlib would abort it with a stack trace, as it does later when another
    process is silent for `heartbeat_timeout` seconds.

    Raises:
      OSError: process 0 cannot listen at its address.
    """
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
    met = threading.Event()
    threading.Thread(target=_give_up, args=(place, timeout, met), daemon=True).start()
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            place.local_devices,
            cluster_detection_method="deactivate",
            initialization_timeout=timeout + 60,
            heartbeat_timeout_seconds=heartbeat_timeout,
            shutdown_timeout_seconds=_LEAVE_SECONDS,
        )
    except jax.errors.JaxRuntimeError as error:
        raise OSError(
            f"host {place.process_id} of {place.num_processes}: cannot start the coordination of "
            f"processes at {place.coordinator} ({error}): is another program using the port?"
        ) from error
    met.set()
    threading.Thread(target=_watch, daemon=True).start()


def _give_up(place: Place, timeout: int, met: threading.Event) -> None:
    if met.wait(timeout):
        return
    who = f"host {place.process_id} of {place.num_processes}"
    address, _, port = place.coordinator.rpartition(":")
    try:
        socket.create_connection((address.strip("[]"), int(port)), timeout=2).close()
        why = (
            f"the coordinator at {place.coordinator} answers, but not all {place.num_processes} "
            "processes came to it: look which did not start, and that each has a --process_id of "
            "its own"
        )
    except OSError as error:
        why = (
            f"the coordinator at {place.coordinator} cannot be reached ({error}): is process 0 "
            "running there, and is the port open?"
        )
    print(f"{who}: error: after {timeout} s {why}", file=sys.stderr, flush=True)
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


def fail(message: str, code: int = 1) -> NoReturn:
    """Tells the others why this process ends, and ends it without waiting for them."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # there may be nobody left to tell
        global_state.client.key_value_set(f"{_FAILED}/{index()}", f"{name()} failed: {message}")
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():  # which holds the service that the others ask
        time.sleep(3 * _LOOK_SECONDS)
    _end(code)


def _end(code: int) -> NoReturn:
    """Without what Python does at an exit: JAX would wait there for processes that are gone."""
    for child in multiprocessing.active_children():  # which decode images
        child.kill()
    os._exit(code)


def leave() -> None:
    """Waits for all to be done, process 0's last work included."""
    jax.distributed.shutdown()


def agree(topic: str, facts: Mapping[str, Any]) -> None:
    """Waits until every process has come here, and checks that they bring the same facts.

    Args:
      topic: in messages and keys; once per run.
      facts: field -> value, as JSON.

    Raises:
      ValueError: on every process: the fields that differ, with the values of the first process
        and of the first other one.
      TimeoutError: some did not come.
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
    lines = list(_differences(by_host))
    if lines:
        raise ValueError(f"the {count()} hosts differ in their {topic}:\n" + "\n".join(lines))


def _differences(by_host: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    first = by_host[0]
    fields = sorted({field for facts in by_host.values() for field in facts})
    for field in fields:
        expected = first.get(field, "(absent)")
        others = {
            host: facts.get(field, "(absent)")
            for host, facts in sorted(by_host.items())
            if facts.get(field, "(absent)") != expected
        }
        if others:
            host, value = next(iter(others.items()))
            more = f", and {len(others) - 1} more hosts differ" if len(others) > 1 else ""
            yield f"  {field}: host 0 has {expected!r}, host {host} has {value!r}{more}"


def versions() -> dict[str, str]:
    """Of Python, of what a run's numbers depend on, and a hash of this package's own sources."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for folder in ("cxr_jax", "data_builders"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    found = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"code": digest.hexdigest()[:16], "python": platform.python_version(), **found}
