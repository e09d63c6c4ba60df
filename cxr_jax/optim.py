"""Optimizers from optax's parts: LARS both ways, SGD, AdamW; warm-up, cosine, exclusions.

Fields of config.optimizer (required: name and learning_rate; for lars rate_inside_momentum too):

name           "lars", "sgd" or "adamw"
learning_rate  before scaling with the batch
scaling        "none"; "linear": times batch_size / 256; "sqrt": times sqrt(batch_size)
warmup         length of the linear warm-up from 0, in `warmup_unit`; 0 is none
warmup_unit    "steps", "epochs" or "examples"
schedule       "cosine" from the end of the warm-up to the last step, or "constant"
final_learning_rate
               where the cosine ends, before scaling with the batch; 0
momentum       decay of the gradients' running mean (Adam's beta1; its beta2 is .999); .9
weight_decay   lars, sgd: added to the gradient; adamw: decoupled, times the rate; 0
exclude        regular expressions, searched in "encoder/layer1_0/bn1/scale": parameters that weight
               decay and LARS's trust ratio skip; default every bias and every norm's scale
trust_coefficient
               lars only: .001
rate_inside_momentum
               lars only. True: the rate multiplies what enters the momentum, so that a change of
               rate works gradually (SimCLR). False: it multiplies the momentum (BYOL, Barlow Twins,
               VICReg). The two differ only while the rate changes.

A field that its optimizer does not use is allowed, so that --config.optimizer.name can switch.
"""

import math
import re
import warnings
from typing import Any

import jax
import optax

from cxr_jax.fields import Section, check_fields

# Flax calls a norm's factor "scale", and nothing else so.
_BIAS_AND_NORM = (r"(^|/)bias$", r"(^|/)scale$")
_DEFAULTS = {
    "scaling": "none",
    "warmup": 0,
    "warmup_unit": "steps",
    "schedule": "cosine",
    "final_learning_rate": 0.0,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "exclude": None,
    "trust_coefficient": 0.001,
    "rate_inside_momentum": None,
}


def make_optimizer(
    config: Section, num_train_steps: int, batch_size: int, num_examples: int | None = None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """(transformation, rate by step) for config.optimizer; the transformation applies the schedule.

    `num_examples` in an epoch is needed where the warm-up is counted in epochs.
    Raises ValueError for an unknown name, unit or field, and (at `init`) for an exclusion that
    matches no parameter. LARS: You et al., arXiv:1708.03888.
    """
    check_fields(config, "config.optimizer", ("name", "learning_rate"), tuple(_DEFAULTS))
    fields = _DEFAULTS | dict(config)
    _one_of(fields, "name", ("lars", "sgd", "adamw"))
    schedule = make_schedule(fields, num_train_steps, batch_size, num_examples)
    mask = _decayed(fields["exclude"])
    decay = optax.add_decayed_weights(fields["weight_decay"], mask)
    rate = optax.scale_by_learning_rate(schedule)
    momentum = optax.trace(fields["momentum"])
    if fields["name"] == "adamw":
        return optax.chain(optax.scale_by_adam(b1=fields["momentum"]), decay, rate), schedule
    if fields["name"] == "sgd":
        return optax.chain(decay, momentum, rate), schedule
    if fields["rate_inside_momentum"] is None:
        raise ValueError(
            "config.optimizer lacks 'rate_inside_momentum', which lars needs: "
            "True as in SimCLR, False as in BYOL"
        )
    trust = optax.masked(optax.scale_by_trust_ratio(0.0, fields["trust_coefficient"]), mask)
    last = (rate, momentum) if fields["rate_inside_momentum"] else (momentum, rate)
    return optax.chain(decay, trust, *last), schedule


def make_schedule(
    fields: Section, num_train_steps: int, batch_size: int, num_examples: int | None
) -> optax.Schedule:
    """Rate of step k = 0, 1, …: peak * k / warmup, then cosine to the final rate at the last."""
    _one_of(fields, "scaling", ("none", "linear", "sqrt"))
    _one_of(fields, "schedule", ("cosine", "constant"))
    factor = {"none": 1.0, "linear": batch_size / 256, "sqrt": math.sqrt(batch_size)}
    peak = fields["learning_rate"] * factor[fields["scaling"]]
    final = fields["final_learning_rate"] * factor[fields["scaling"]]
    warmup = warmup_steps(fields, batch_size, num_examples)
    if warmup >= num_train_steps > 1:
        warnings.warn(
            f"the warm-up of {warmup} steps fills all {num_train_steps} training steps: the rate "
            "never falls; lower config.optimizer.warmup or raise config.num_train_steps",
            stacklevel=2,
        )
    if fields["schedule"] == "constant":
        after = optax.constant_schedule(peak)
    else:
        after = _cosine(peak, final, max(num_train_steps - warmup, 1))
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def warmup_steps(fields: Section, batch_size: int, num_examples: int | None) -> int:
    """The warm-up in steps, rounded."""
    _one_of(fields, "warmup_unit", ("steps", "epochs", "examples"))
    length, unit = fields["warmup"], fields["warmup_unit"]
    if length < 0:
        raise ValueError(f"config.optimizer.warmup is {length}; it must not be negative")
    if unit == "steps":
        return round(length)
    if unit == "examples":
        return round(length / batch_size)
    if num_examples is None:
        raise ValueError(
            "config.optimizer.warmup_unit is 'epochs', but the number of examples in an epoch is "
            "not known here; use 'steps' or 'examples'"
        )
    return round(length * num_examples / batch_size)


def _cosine(peak: float, final: float, steps: int) -> optax.Schedule:
    # From the difference, because optax's own takes the final rate as a share of the peak.
    fall = optax.cosine_decay_schedule(peak - final, steps)
    return lambda step: final + fall(step)


def _decayed(exclude: Any) -> Any:
    """The mask of parameters that weight decay and trust ratio act on, as a function of the tree.

    A given pattern that matches nothing is an error, being most likely misspelt; the default ones
    need not match, because a model may have no bias.
    """
    if isinstance(exclude, str):
        raise ValueError(f"config.optimizer.exclude is {exclude!r}; it must be a tuple of patterns")
    patterns = _BIAS_AND_NORM if exclude is None else tuple(exclude)

    def mask(tree: Any) -> Any:
        paths = [
            jax.tree_util.keystr(path, simple=True, separator="/")
            for path, _ in jax.tree_util.tree_leaves_with_path(tree)
        ]
        for pattern in patterns if exclude is not None else ():
            if not any(re.search(pattern, path) for path in paths):
                raise ValueError(
                    f"config.optimizer.exclude has {pattern!r}, which matches no parameter; "
                    f"they are named like {paths[0]!r}"
                )
        keep = [not any(re.search(pattern, path) for pattern in patterns) for path in paths]
        return jax.tree.unflatten(jax.tree.structure(tree), keep)

    return mask


def _one_of(fields: Section, name: str, known: tuple[str, ...]) -> None:
    if fields[name] not in known:
        raise ValueError(
            f"config.optimizer.{name} is {fields[name]!r}; it must be one of {', '.join(known)}"
        )
