"""LoRA (arXiv:2106.09685): an encoder stays as it is but for products of two thin matrices.

To a kernel W, [in out], comes alpha / rank * A B, A [in rank] drawn at random, B [rank out] zero at
the start. Adapted are the kernels within blocks that are matrices: of a transformer its attention
and its MLPs, of a ResNet or DenseNet the convolutions of 1x1. Norms, biases, embeddings and larger
convolutions stay; heads are trained as ever. What leaves a training is W + alpha / rank * A B, an
encoder like any other. Fields of config.lora, config.finetune.lora:

rank   of what is added to each matrix of the encoder's blocks, which is trained in its place; 0:
       the encoder itself is trained
alpha  the factor of what is added, over rank
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from cxr_jax.config import Section, check_fields, check_values
from cxr_jax.objectives import Objective, _frozen

_LORA = "lora"  # in params
# Uniform from -1 to 1 over the root of the inputs, as the authors' code draws A.
_draw = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def check(fields: Section, where: str) -> None:
    """Raises ValueError for the first field of the section `where` that makes no sense."""
    check_fields(fields, where, ("rank", "alpha"))
    whole = type(fields["rank"]) is int and fields["rank"] >= 0
    check_values(
        *(fields, where),
        ("rank", whole, "a whole number, 0 (off) or more"),
        ("alpha", fields["alpha"] > 0, "above 0"),
    )


def new_adapters(key: PRNGKeyArray, encoder: Any, rank: int) -> Any:
    """Returns {"a": …, "b": …} for each kernel of `encoder`, its parameters, that is adapted.

    Raises ValueError if there is none.
    """
    adapters: dict[str, Any] = {}
    leaves = jax.tree_util.tree_leaves_with_path(encoder)
    for number, (path, leaf) in enumerate(leaves):
        *names, last = (entry.key for entry in path)
        if last != "kernel" or len(names) < 2 or any(size != 1 for size in leaf.shape[:-2]):
            continue
        inside = adapters
        for name in names:
            inside = inside.setdefault(name, {})
        a = _draw(jax.random.fold_in(key, number), (leaf.shape[-2], rank))
        inside |= {"a": a, "b": jnp.zeros((rank, leaf.shape[-1]))}
    if not adapters:
        raise ValueError("lora.rank adapts matrices within blocks, of which this model has none")
    return adapters


def merge(encoder: Any, adapters: Any, scale: float | Float[Array, ""]) -> Any:
    """Returns the parameters with scale * a @ b added to each kernel that has adapters.

    >>> encoder = {"block": {"fc": {"kernel": jnp.ones((2, 1)), "bias": jnp.ones(1)}}}
    >>> adapters = {"block": {"fc": {"a": jnp.array([[1.0], [0.0]]), "b": jnp.array([[3.0]])}}}
    >>> merge(encoder, adapters, 0.5)["block"]["fc"]["kernel"].ravel().tolist()
    [2.5, 1.0]
    """
    if set(adapters) == {"a", "b"}:
        product = jnp.matmul(adapters["a"], adapters["b"], precision="highest")
        kernel = encoder["kernel"] + scale * product.reshape(encoder["kernel"].shape)
        return encoder | {"kernel": kernel}
    return encoder | {name: merge(encoder[name], adapters[name], scale) for name in adapters}


def whole(params: Any, aux: Any, fields: Section) -> Any:
    """Returns the parameters as the objective alone has them: "encoder" merged, the heads."""
    return _join(fields)(params, aux[_frozen.BASE]) if _LORA in params else params


def adapt(objective: Objective, fields: Section, where: str) -> Objective:
    """Returns the objective that trains adapters in place of the encoder; rank 0: as it was.

    params has "lora" for "encoder", whose start is in aux. Targets and teachers that follow the
    encoder follow it merged. Raises ValueError for fields that make no sense, named by `where`.
    """
    check(fields, where)
    if not fields["rank"]:
        return objective

    def split(key: Any, params: Any) -> tuple[Any, Any]:
        encoder = params["encoder"]
        heads = {name: part for name, part in params.items() if name != "encoder"}
        adapters = new_adapters(jax.random.fold_in(key, 1), encoder, fields["rank"])
        return heads | {_LORA: adapters}, {"encoder": encoder}

    return _frozen.train_part(objective, split, _join(fields))


def _join(fields: Section) -> Callable[[Any, Any], Any]:
    def join(params: Any, base: Any) -> Any:
        heads = {name: part for name, part in params.items() if name != _LORA}
        scale = fields["alpha"] / fields["rank"]
        return {"encoder": merge(base["encoder"], params[_LORA], scale)} | heads

    return join
