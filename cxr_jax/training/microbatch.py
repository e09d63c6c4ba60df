"""The gradient of a whole batch's loss, its images embedded a part at a time.

Contrastive losses compare every image with every other, so that gradients of parts do not add up.
But the loss reads images through their embeddings alone: these are computed part by part, the loss
and its gradient by the embeddings for all at once, and then part by part again what that gradient
means for the parameters (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup", arXiv:2101.06983). The gradient is exact; it costs a second forward pass, and the
memory of one part.

What does change: batch norm's statistics are those of a part, its running ones follow every part
in turn, and each part draws its own random views.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cxr_jax.objectives import Objective


def value_and_grad(objective: Objective, microbatch_size: int = 0) -> Callable[..., Any]:
    """Returns a pure `(params, aux, batch, key) -> ((loss, (aux, metrics)), gradient by params)`.

    A part has `microbatch_size` images of the global batch, which it must divide; 0: no parts.
    """
    if not microbatch_size:
        return jax.value_and_grad(objective.loss, has_aux=True)

    def in_parts(params, aux, batch, key):
        parts = jax.tree.map(lambda x: _split(x, microbatch_size), batch)
        count = jax.tree.leaves(parts)[0].shape[0]
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))

        def forward(aux, part):
            outputs, aux = objective.embed(params, aux, *part)
            return aux, outputs

        new_aux, outputs = jax.lax.scan(forward, aux, (parts, keys))
        (value, (new_aux, metrics)), slopes = jax.value_and_grad(
            objective.loss_from_outputs, has_aux=True
        )(jax.tree.map(_join, outputs), new_aux)
        slopes = jax.tree.map(lambda x: _split(x, microbatch_size), slopes)

        def backward(gradient, part):
            images, key, slope = part
            # Batch norm does not read its running statistics, or (norm_eval) leaves them: both
            # passes agree.
            _, pull = jax.vjp(lambda params: objective.embed(params, aux, images, key)[0], params)
            return jax.tree.map(jnp.add, gradient, pull(slope)[0]), None

        nothing = jax.tree.map(jnp.zeros_like, params)
        gradient, _ = jax.lax.scan(backward, nothing, (parts, keys, slopes))
        return (value, (new_aux, metrics)), gradient

    return in_parts


def _split(x: jax.Array, size: int) -> jax.Array:
    """Maps [b …] to [b / size, size, …]; a part takes rows of every device's share of the batch."""
    return x.reshape(size, x.shape[0] // size, *x.shape[1:]).swapaxes(0, 1)


def _join(x: jax.Array) -> jax.Array:
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
