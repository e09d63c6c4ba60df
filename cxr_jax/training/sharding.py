"""The device mesh, axes ("data", "model"), and how batches and states lie on it.

Batches are split over "data". States are copied to every device, or, on request, split over "data"
as well (ZeRO, Rajbhandari et al., arXiv:1910.02054): each device then keeps a part of parameters
and optimizer state, and the step brings them together where the loss reads them.
"""

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cxr_jax import xla

_SMALL = 4096  # numbers; splitting fewer costs more in messages than it saves in memory
_IMAGES_A_DEVICE = 32  # with fewer, what a CPU's devices tell each other costs more than they save


def split_cpu(batch_size: int) -> None:
    """Makes two devices of every core, as far as the batch fills them; before JAX's first use.

    One part of a layer then waits less for the others than in XLA's own threads: a tenth less time
    a step. Nothing is done where XLA_FLAGS or JAX_NUM_CPU_DEVICES says how many there are.
    """
    given = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if given or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    most = min(2 * len(os.sched_getaffinity(0)), batch_size // _IMAGES_A_DEVICE)
    fitting = [n for n in (2, 4, 8, 16, 32, 64) if n <= most and batch_size % n == 0]
    jax.config.update("jax_num_cpu_devices", max(fitting, default=1))


def make_mesh(model: int = 1) -> Mesh:
    """Returns all devices of all processes: `model` on the axis "model", the others on "data".

    In the order of processes, so that each has one contiguous block of a batch's rows. Auto axes:
    the contrastive losses multiply sharded batches with each other, which explicit axes refuse.
    Raises ValueError where `model`, which is config.mesh.model, does not divide the devices of a
    process, or processes have different numbers of devices.
    """
    devices = sorted(xla.devices(), key=lambda device: (device.process_index, device.id))
    processes = [device.process_index for device in devices]
    owners = np.bincount(processes, minlength=jax.process_count())
    if len(set(owners)) > 1:
        raise ValueError(
            f"the {len(owners)} processes have {', '.join(map(str, owners))} devices: batches are "
            "split evenly; start every process with the same number"
        )
    if model < 1 or owners[0] % model:
        where = f"{owners[0]} devices"
        where += f" of each of {len(owners)} processes" * (len(owners) > 1)
        fitting = [n for n in range(1, owners[0] + 1) if owners[0] % n == 0]
        raise ValueError(
            f"config.mesh.model={model} does not divide the {where}; "
            f"use one of {', '.join(map(str, fitting))}"
        )
    grid = np.array(devices).reshape(-1, model)
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec("data"))


def of_state(state: Any, mesh: Mesh, split: bool) -> Any:
    """Returns where each leaf of a TrainState (arrays or shapes) lies, as a tree like it.

    Kernels with many outputs have them split over "model". If `split`, a parameter's largest axis
    that divides is split over "data". What has the shape of a parameter (momenta, a target
    network) lies as that parameter does; all else, and what is small, is copied to every device.
    """
    return jax.tree.map(_placement(state.params, mesh, split), state)


def gather(mesh: Mesh) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Returns a function (params, aux) -> (params, aux) for jit: whole, but split over "model".

    Without it the compiler might split the work of a layer by its parameters and copy the batch.
    """

    def whole(params: Any, aux: Any) -> tuple[Any, Any]:
        place = _placement(params, mesh, split=False)
        return jax.tree.map(
            lambda leaf: jax.lax.with_sharding_constraint(leaf, place(leaf)), (params, aux)
        )

    return whole


def _placement(params: Any, mesh: Mesh, split: bool) -> Callable[[Any], NamedSharding]:
    shapes = {leaf.shape for leaf in jax.tree.leaves(params)}

    def place(leaf: Any) -> NamedSharding:
        shape, model = leaf.shape, mesh.shape["model"]
        if shape not in shapes or math.prod(shape) < _SMALL:
            return replicated(mesh)
        names: list[str | None] = [None] * len(shape)
        if model > 1 and len(shape) > 1 and shape[-1] % model == 0:
            names[-1] = "model"
        fitting = [
            axis
            for axis, name in enumerate(names)
            if split and not name and shape[axis] % mesh.shape["data"] == 0
        ]
        if fitting:
            names[max(fitting, key=lambda axis: shape[axis])] = "data"
        return NamedSharding(mesh, PartitionSpec(*names))

    return place


def check_batch(batch_size: int, mesh: Mesh, field: str = "batch_size") -> None:
    """Raises ValueError, naming config.<field>, if the batch does not divide over "data"."""
    parts = mesh.shape["data"]
    if batch_size % parts:
        below = batch_size // parts * parts
        nearest = f"{below} or {below + parts}" if below else f"{parts}"
        where = f"{parts} devices"
        if mesh.shape["model"] > 1:
            where = f"{parts} groups of {mesh.shape['model']} devices (config.mesh.model)"
        raise ValueError(
            f"config.{field}={batch_size} does not divide by the {where}; "
            f"use a multiple of {parts}, for example {nearest}"
        )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch on its devices, as parts of one global array."""
    return jax.make_array_from_process_local_data(by_example(mesh), batch)


def join(rows: jax.Array, mesh: Mesh) -> jax.Array:
    """Joins the rows that each process has on its devices (mesh.local_mesh) to a global array."""
    shape = (rows.shape[0] * jax.process_count(), *rows.shape[1:])
    parts = [shard.data for shard in rows.addressable_shards]
    return jax.make_array_from_single_device_arrays(shape, by_example(mesh), parts)


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    return jax.device_put(tree, replicated(mesh))


def put_like(old: jax.Array, new: Any) -> jax.Array:
    """Copies `new` to where `old` lies, with its type. Steps give their state's memory away."""
    array = np.asarray(new, old.dtype)
    return jax.make_array_from_callback(
        array.shape, old.sharding, lambda index: np.array(array[index])
    )
