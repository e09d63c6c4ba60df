"""Run by test_devices.py with 8 virtual devices: prints how far 8 devices are from 1, as JSON."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cxr_jax import models, objectives
from cxr_jax.objectives.simclr import nt_xent


def on_mesh(function, devices, replicated, sharded):
    """Returns (outputs, operations of one device): `sharded` split along its first axis."""
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    replicated = jax.device_put(replicated, NamedSharding(mesh, PartitionSpec()))
    sharded = jax.device_put(sharded, NamedSharding(mesh, PartitionSpec("data")))
    shards = {len(leaf.addressable_shards) for leaf in jax.tree.leaves(sharded)}
    assert shards == {devices}
    program = jax.jit(function).lower(replicated, sharded).compile()
    return jax.device_get(program(replicated, sharded)), program.cost_analysis()["flops"]


def distance(function, replicated, sharded):
    """(largest absolute difference of any output, largest output, a device's share of the work)."""
    (one, whole), (eight, part) = (
        on_mesh(function, devices, replicated, sharded) for devices in (1, 8)
    )
    pairs = list(zip(jax.tree.leaves(one), jax.tree.leaves(eight)))
    furthest = max(float(np.abs(a - b).max()) for a, b in pairs)
    return furthest, max(float(np.abs(a).max()) for a, _ in pairs), part / whole


def main():
    assert len(jax.devices()) == 8
    models.__path__.append(str(Path(__file__).parent / "tiny"))
    results = {}
    z_a, z_b = jax.random.normal(jax.random.PRNGKey(0), (2, 32, 8))
    results["nt_xent"] = distance(
        lambda temperature, z: jax.value_and_grad(nt_xent, argnums=(0, 1))(*z, temperature),
        0.1,
        (z_a, z_a + 0.5 * z_b),
    )
    # Blocks, because white noise gives the batch norm variances that are mostly rounding error.
    blocks = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 1), dtype=np.uint8)
    batch = {"image": jnp.asarray(blocks.repeat(10, axis=1).repeat(10, axis=2))}
    batch["tokens"] = jax.random.randint(jax.random.key(1), (16, 7), 0, 11)
    batch["mask"] = jnp.arange(7) < 1 + jnp.arange(16)[:, None] % 7
    batch["word"] = jnp.where(batch["mask"], jnp.arange(7) // 2, -1)
    for name, config in json.loads(sys.argv[1]).items():
        objective = objectives.build(config)
        params, aux = jax.jit(objective.init)(jax.random.PRNGKey(1), batch)

        def gradients(replicated, sharded, loss=objective.loss):
            return jax.value_and_grad(loss, has_aux=True)(*replicated, sharded, jax.random.key(2))

        results[name] = distance(gradients, (params, aux), batch)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
