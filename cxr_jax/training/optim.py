"""Optimizers from optax's parts: LARS both ways, SGD, Adam(W); schedules, exclusions, groups.

Fields of config.optimizer (required: name and learning_rate; for lars rate_inside_momentum too):

name           "lars", "sgd", "adam" or "adamw"
learning_rate  before scaling with the batch
scaling        "none"; "linear": times batch_size / 256; "sqrt": times sqrt(batch_size)
warmup         length of the linear warm-up from 0, in `warmup_unit`; 0 is none
warmup_unit    "steps", "epochs" or "examples"
schedule       "cosine" from the end of the warm-up to the last step, "constant", or "step": a tenth
               at each of the milestones
final_learning_rate
               where the cosine ends, before scaling with the batch; 0
milestones     shares of the training, as (0.6, 0.9)
momentum       decay of the gradients' running mean (Adam's beta1); .9
beta2          adam, adamw: decay of the running mean of their squares; .999
weight_decay   lars, sgd, adam: added to the gradient; adamw: decoupled, times the rate; 0
final_weight_decay
               where the weight decay ends, by a cosine over the training; None: it is constant
exclude        regular expressions, searched in "encoder/layer1_0/bn1/scale": parameters that weight
               decay and LARS's trust ratio skip; default every bias and every norm's scale, a
               transformer's tokens, positions and layer scales, and CLIP's temperature
clip           largest norm that the gradient of a parameter (an array) may have; None: any
clip_by        "parameter", or "all": clip is that of the gradients of all together; "parameter"
trust_coefficient
               lars only: .001
rate_inside_momentum
               lars only. True: the rate multiplies what enters the momentum, so that a change of
               rate works gradually (SimCLR). False: it multiplies the momentum (BYOL, Barlow Twins,
               VICReg). The two differ only while the rate changes.
groups         by name: parameters with a rate of their own; of several that match the first by the
               alphabet counts
groups.*.match regular expressions, as of exclude
groups.*.learning_rate, groups.*.final_learning_rate, groups.*.schedule, groups.*.warmup
               in place of those above
groups.*.frozen
               for how long from the start, in warmup_unit, nothing of the group moves (Adam's
               running means do)

A field that its optimizer does not use is allowed, so that --config.optimizer.name can switch.
"""

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cxr_jax.config import Section, check_fields

# Flax calls a norm's factor "scale", and nothing else so.
BIAS_AND_NORM = (r"(^|/)bias$", r"(^|/)scale$")
# As DeiT's code, and MAE's where it fine-tunes. In pretraining MAE's and DINO's official codes
# decay what has more than one axis there: the tokens, and DINO's positions. gamma is ConvNeXt's
# layer scale, bias_table Swin's positions, logit_scale of CLIP's temperature.
_OTHERS = (
    r"(^|/)(cls|register_tokens|mask_token|probe|positions|scale1|scale2)$",
    r"(^|/)(gamma|bias_table|logit_scale)$",
)
_DEFAULTS = {
    "scaling": "none",
    "warmup": 0,
    "warmup_unit": "steps",
    "schedule": "cosine",
    "final_learning_rate": 0.0,
    "milestones": (),
    "momentum": 0.9,
    "beta2": 0.999,
    "weight_decay": 0.0,
    "final_weight_decay": None,
    "exclude": None,
    "clip": None,
    "clip_by": "parameter",
    "trust_coefficient": 0.001,
    "rate_inside_momentum": None,
    "groups": {},
}
_SIZES = ("learning_rate", "final_learning_rate", "weight_decay", "final_weight_decay")
_LARGEST = float(jnp.finfo(jnp.float32).max)
_OF_A_GROUP = ("learning_rate", "final_learning_rate", "schedule", "warmup", "frozen")


def make_optimizer(
    config: Section, num_train_steps: int, batch_size: int, num_examples: int | None = None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns the transformation for config.optimizer, schedule applied, and the rate by step.

    The rate is that of parameters in no group. `num_examples` in an epoch is needed where a length
    is counted in epochs. Raises ValueError for an unknown name, unit or field, a rate or a decay
    that makes no sense, and (at `init`) for an exclusion or a group that matches no parameter.
    LARS: You et al., arXiv:1708.03888.
    """
    check_fields(config, "config.optimizer", ("name", "learning_rate"), tuple(_DEFAULTS))
    fields = _DEFAULTS | dict(config)
    _one_of(fields, "name", ("lars", "sgd", "adam", "adamw"))
    _one_of(fields, "clip_by", ("parameter", "all"))
    _check_sizes(fields, "config.optimizer")
    name, clip, inside = fields["name"], fields["clip"], fields["rate_inside_momentum"]
    if clip is not None and clip <= 0:
        raise ValueError(f"config.optimizer.clip is {clip}; it must be above 0, or None")
    if name == "lars" and inside is None:
        raise ValueError(
            "config.optimizer lacks 'rate_inside_momentum', which lars needs: "
            "True as in SimCLR, False as in BYOL"
        )
    lengths = (num_train_steps, batch_size, num_examples)
    schedule = _schedule(fields, *lengths)
    # The default patterns need not match: a model may have no bias and no tokens.
    where = "" if fields["exclude"] is None else "config.optimizer.exclude"
    excluded = _patterns(fields["exclude"], where) if where else BIAS_AND_NORM + _OTHERS

    def mask(tree: Any) -> Any:
        kept = [not found for found in _matches(excluded, tree, where)]
        return jax.tree.unflatten(jax.tree.structure(tree), kept)

    weight_decay, final_decay = fields["weight_decay"], fields["final_weight_decay"]
    if final_decay is not None:
        weight_decay = cosine(weight_decay, final_decay, num_train_steps)
    decay = optax.add_decayed_weights(weight_decay, mask)
    rate = _rates(fields, schedule, lengths)
    momentum = optax.trace(fields["momentum"])
    adam = optax.scale_by_adam(b1=fields["momentum"], b2=fields["beta2"])
    trust = optax.masked(optax.scale_by_trust_ratio(0.0, fields["trust_coefficient"]), mask)
    parts = {
        "lars": (decay, trust, *((rate, momentum) if inside else (momentum, rate))),
        "sgd": (decay, momentum, rate),
        "adam": (decay, adam, rate),
        "adamw": (adam, decay, rate),
    }
    clipped = _clip_each if fields["clip_by"] == "parameter" else optax.clip_by_global_norm
    first = () if clip is None else (clipped(clip),)
    return optax.chain(*first, *parts[name]), schedule


def _check_sizes(section: Section, where: str) -> None:
    """Raises ValueError for the first rate or decay of `section` that no training could use."""
    for name in _SIZES:
        value = section.get(name)
        if value is None and name != "learning_rate":
            continue
        # Of a group 0 means that it stays as it is; of all it means that nothing is learned.
        above = name == "learning_rate" and where == "config.optimizer"
        good = isinstance(value, int | float) and 0 <= value <= _LARGEST and (value or not above)
        if not good:
            wanted = "above 0" if above else "0 or more"
            raise ValueError(f"{where}.{name} is {value!r}; it must be {wanted}, and finite")


def _clip_each(largest: float | int) -> optax.GradientTransformation:
    """Shortens every parameter's gradient on its own, as DINO's code does."""

    def shorten(gradient: jax.Array) -> jax.Array:
        return gradient * jnp.minimum(1.0, largest / (jnp.linalg.norm(gradient) + 1e-6))

    return optax.stateless(lambda gradients, _: jax.tree.map(shorten, gradients))


def _rates(
    fields: Section, schedule: optax.Schedule, lengths: tuple[int, int, int | None]
) -> optax.GradientTransformation:
    """Multiplies by the rate of `schedule`, and in groups by that of the group."""
    by_group, patterns = {"": optax.scale_by_learning_rate(schedule)}, {}
    for name, group in sorted(fields["groups"].items()):  # a ConfigDict keeps no other order
        where = f"config.optimizer.groups.{name}"
        check_fields(group, where, ("match",), _OF_A_GROUP)
        patterns[name] = _patterns(group["match"], f"{where}.match")
        own = fields | {"frozen": 0} | dict(group)
        _check_sizes(own, where)
        frozen, rate = _in_steps(own, "frozen", *lengths[1:]), _schedule(own, *lengths)
        by_group[name] = optax.scale_by_learning_rate(
            lambda step, frozen=frozen, rate=rate: jnp.where(step < frozen, 0.0, rate(step))
        )
    if not patterns:
        return by_group[""]

    def labels(tree: Any) -> Any:
        chosen = [""] * len(jax.tree.leaves(tree))
        for name in reversed(patterns):  # of several the first counts
            found = _matches(patterns[name], tree, f"config.optimizer.groups.{name}.match")
            chosen = [name if match else other for match, other in zip(found, chosen)]
        return jax.tree.unflatten(jax.tree.structure(tree), chosen)

    return optax.partition(by_group, labels)


def _patterns(given: Any, where: str) -> tuple[str, ...]:
    if isinstance(given, str):
        raise ValueError(f"{where} is {given!r}; it must be a tuple of patterns")
    return tuple(given)


def _matches(patterns: Sequence[str], tree: Any, where: str = "") -> list[bool]:
    """Says of each parameter if a pattern is found in its path.

    `where`: the field that gave them; one that matches nothing is refused, as misspelt.
    """
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]
    for pattern in patterns if where else ():
        if not any(re.search(pattern, path) for path in paths):
            raise ValueError(
                f"{where} has {pattern!r}, which matches no parameter; "
                f"they are named like {paths[0]!r} (without what config.frozen_stages or lora.rank "
                "leave as it is)"
            )
    return [any(re.search(pattern, path) for pattern in patterns) for path in paths]


def _schedule(
    fields: Section, num_train_steps: int, batch_size: int, num_examples: int | None
) -> optax.Schedule:
    """Returns the rate of step k = 0, 1, …: peak * k / warmup, then as fields["schedule"] says."""
    _one_of(fields, "scaling", ("none", "linear", "sqrt"))
    _one_of(fields, "schedule", ("cosine", "constant", "step"))
    factor = {"none": 1.0, "linear": batch_size / 256, "sqrt": math.sqrt(batch_size)}
    peak = fields["learning_rate"] * factor[fields["scaling"]]
    final = fields["final_learning_rate"] * factor[fields["scaling"]]
    warmup = _in_steps(fields, "warmup", batch_size, num_examples)
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


@cache  # groups of parameters share a warm-up
def _warn(text: str) -> None:
    print(f"WARNING: {text}", flush=True)


def _in_steps(fields: Section, name: str, batch_size: int, num_examples: int | None) -> int:
    """Returns the length fields[name], in fields["warmup_unit"], as steps, rounded."""
    _one_of(fields, "warmup_unit", ("steps", "epochs", "examples"))
    length, unit = fields[name], fields["warmup_unit"]
    if length < 0:
        raise ValueError(f"config.optimizer.{name} is {length}; it must not be negative")
    if unit == "epochs" and num_examples is None:
        raise ValueError(
            "config.optimizer.warmup_unit is 'epochs', but the number of examples in an epoch is "
            "not known here; use 'steps' or 'examples'"
        )
    images = {"steps": batch_size, "epochs": num_examples, "examples": 1}
    return round(length * images[unit] / batch_size)


def cosine(start: float, end: float, steps: int) -> optax.Schedule:
    """Returns half a cosine from `start` to `end`, up or down, which then stays.

    >>> [round(float(cosine(1.0, 0.0, 2)(step)), 3) for step in range(4)]
    [1.0, 0.5, 0.0, 0.0]
    """
    # From the difference, because optax's own takes the end as a share of the start.
    change = optax.cosine_decay_schedule(start - end, steps)
    return lambda step: end + change(step)


def _falling(peak: float, milestones: tuple[float, ...], steps: int, warmup: int) -> optax.Schedule:
    """Falls to a tenth at each milestone; steps are counted from the end of the warm-up."""
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


def _one_of(fields: Section, name: str, known: tuple[str, ...]) -> None:
    """Raises ValueError, naming the choices, unless fields[name] is one of `known`."""
    if fields[name] not in known:
        raise ValueError(
            f"config.optimizer.{name} is {fields[name]!r}; it must be one of {', '.join(known)}"
        )
