"""Run by test_sharding.py with 8 virtual devices: prints how two steps on several meshes differ."""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from cxr_jax import models, objectives
from cxr_jax.training import checkpoint, optim, sharding
from cxr_jax.training import step as train_step

_OPTIMIZER = dict(name="lars", learning_rate=0.1, trust_coefficient=0.1, rate_inside_momentum=True)


def mesh_of(devices: int) -> Mesh:
    grid = np.array(jax.devices()[:devices]).reshape(devices, 1)
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def parts(config, mesh: Mesh, split: bool):
    """(a function that makes the first state, the jitted step, one batch)."""
    objective = objectives.build(config)
    optimizer, schedule = optim.make_optimizer(_OPTIMIZER, 10, 16)
    blocks = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 1), dtype=np.uint8)
    batch = {"image": blocks.repeat(8, axis=1).repeat(8, axis=2)}
    create = partial(train_step.create_state, objective, optimizer, batch, 0)
    places = sharding.of_state(jax.eval_shape(create), mesh, split)
    step = jax.jit(
        train_step.make_train_step(
            objective, optimizer, schedule, config["microbatch_size"], sharding.gather(mesh)
        ),
        donate_argnums=0,
        out_shardings=(places, sharding.replicated(mesh)),
    )
    return jax.jit(create, out_shardings=places), step, sharding.put_batch(batch, mesh)


def bytes_per_device(state) -> int:
    device = jax.devices()[0]
    shards = (shard for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards)
    return sum(shard.data.nbytes for shard in shards if shard.device == device)


def two_steps(config, mesh: Mesh, split: bool):
    """(state as NumPy, what else there is to say of the run, the state on its devices)."""
    create, step, batch = parts(config, mesh, split)
    state = create()
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    for _ in range(2):
        state, metrics = step(state, batch)
    facts = {
        "bytes": bytes_per_device(state),
        "stays": jax.tree.map(lambda leaf: leaf.sharding, state) == places,
        "programs": step._cache_size(),
        "axes": sorted(
            {axis for leaf in jax.tree.leaves(state) for axis in leaf.sharding.spec} - {None}
        ),
        "loss": float(metrics["loss"]),
    }
    return jax.device_get(state), facts, state


def distance(one, other) -> float:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(np.float64(a) - np.float64(b)).max()) for a, b in pairs)


def main():
    assert len(jax.devices()) == 8
    models.__path__.append(str(Path(__file__).parents[1] / "objectives" / "tiny"))
    config = json.loads(sys.argv[1])
    expected, results = None, {}
    meshes = {
        "one": (mesh_of(1), False),
        "plain": (sharding.make_mesh(), False),
        "split": (sharding.make_mesh(), True),
        "model": (sharding.make_mesh(2), True),
    }
    for name, (mesh, split) in meshes.items():
        values, facts, state = two_steps(config, mesh, split)
        expected = values if expected is None else expected
        results[name] = facts | {"distance": distance(expected, values)}
    manager = checkpoint.open_manager(Path(sys.argv[2]), 1)
    checkpoint.save(manager, state, state.params["encoder"], {"next": 7}, {})
    manager.wait_until_finished()
    for devices in (1, 2):
        create, step, batch = parts(config, mesh_of(devices), split=devices > 1)
        restored, data_state = checkpoint.restore(manager, create())
        results[f"restored_{devices}"] = {
            "distance": distance(values, jax.device_get(restored)),
            "data": data_state,
            "loss": float(step(restored, batch)[1]["loss"]),
        }
    try:
        sharding.make_mesh(3)
    except ValueError as error:
        results["mesh of 3"] = str(error)
    try:
        sharding.check_batch(6, sharding.make_mesh(2))
    except ValueError as error:
        results["batch of 6"] = str(error)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
