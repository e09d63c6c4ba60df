"""Learning rate and weight decay by step; the fields are those of config.optimizer (optim.py)."""

import functools
import math

import optax

from cxr_jax.fields import Section


def learning_rate(
    fields: Section, num_train_steps: int, batch_size: int, num_examples: int | None
) -> optax.Schedule:
    """Rate of step k = 0, 1, …: peak * k / warmup, then as fields["schedule"] says.

    Raises ValueError for an unknown scaling, schedule or unit, and impossible lengths.
    """
    one_of(fields, "scaling", ("none", "linear", "sqrt"))
    one_of(fields, "schedule", ("cosine", "constant", "step"))
    factor = {"none": 1.0, "linear": batch_size / 256, "sqrt": math.sqrt(batch_size)}
    peak = fields["learning_rate"] * factor[fields["scaling"]]
    final = fields["final_learning_rate"] * factor[fields["scaling"]]
    warmup = in_steps(fields, "warmup", batch_size, num_examples)
    if warmup >= num_train_steps > 1:
        _warn(
            f"the warm-up of {warmup} steps fills all {num_train_steps} training steps: the rate "
            "never falls; lower config.optimizer.warmup or raise config.num_train_steps"
        )
    if fields["schedule"] == "constant":
        after = optax.constant_schedule(peak)
    elif fields["schedule"] == "step":
        after = _falling(peak, fields["milestones"], num_train_steps, warmup)
    else:
        after = cosine(peak, final, max(num_train_steps - warmup, 1))
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


@functools.cache  # groups of parameters share a warm-up
def _warn(text: str) -> None:
    print(f"WARNING: {text}", flush=True)


def in_steps(fields: Section, name: str, batch_size: int, num_examples: int | None) -> int:
    """The length fields[name], in fields["warmup_unit"], as steps, rounded."""
    one_of(fields, "warmup_unit", ("steps", "epochs", "examples"))
    length, unit = fields[name], fields["warmup_unit"]
    if length < 0:
        raise ValueError(f"config.optimizer.{name} is {length}; it must not be negative")
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


def cosine(start: float, end: float, steps: int) -> optax.Schedule:
    """Half a cosine from `start` to `end`, up or down, which then stays."""
    # From the difference, because optax's own takes the end as a share of the start.
    change = optax.cosine_decay_schedule(start - end, steps)
    return lambda step: end + change(step)


def _falling(peak: float, milestones: tuple[float, ...], steps: int, warmup: int) -> optax.Schedule:
    """A tenth at each milestone, a share of the training; counted from the end of the warm-up."""
    if not milestones or not all(0 < share < 1 for share in milestones):
        raise ValueError(
            f"config.optimizer.milestones is {milestones}; schedule 'step' needs shares of the "
            "training, each above 0 and below 1"
        )
    falls = [round(share * steps) - warmup for share in sorted(milestones)]
    if falls[0] <= 0:
        raise ValueError(
            f"config.optimizer.milestones is {milestones}: the first lies within the warm-up of "
            f"{warmup} steps of {steps}"
        )
    return optax.piecewise_constant_schedule(peak, dict.fromkeys(falls, 0.1))


def one_of(fields: Section, name: str, known: tuple[str, ...]) -> None:
    """Raises ValueError, naming the choices, unless fields[name] is one of `known`."""
    if fields[name] not in known:
        raise ValueError(
            f"config.optimizer.{name} is {fields[name]!r}; it must be one of {', '.join(known)}"
        )
