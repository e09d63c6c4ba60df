"""The device mesh: one axis, "data"; batches split over it, states copied to every device."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
    """All devices of all hosts on the axis "data".

    Auto axes: the contrastive losses multiply sharded batches with each other, which explicit
    axes refuse.
    """
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch(batch_size: int, mesh: Mesh, field: str = "batch_size") -> None:
    """Raises ValueError, naming config.<field>, if the batch does not divide over the devices."""
    if batch_size % mesh.size:
        below = batch_size // mesh.size * mesh.size
        nearest = f"{below} or {below + mesh.size}" if below else f"{mesh.size}"
        raise ValueError(
            f"config.{field}={batch_size} does not divide by the {mesh.size} devices; "
            f"use a multiple of {mesh.size}, for example {nearest}"
        )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This host's part of a batch to its devices, as parts of one global array."""
    sharding = by_example(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    return jax.device_put(tree, replicated(mesh))
