"""Linear probe: regression on frozen features, its strength chosen on validation (probe.py).

Exclusive classes are fitted together, by multinomial regression of one strength.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from cxr_jax.fields import Section
from cxr_jax.transfer._probe import ProbeResult, linear_probes
from cxr_jax.transfer._protocol import (
    Head,
    Protocol,
    Result,
    Splits,
    Tools,
    against,
    positive_numbers,
)
from cxr_jax.weights.encoder import Encoder


def make(config: Section) -> Protocol:
    """The protocol "linear"; of the config it reads `strengths`."""
    strengths = positive_numbers(config, "strengths")

    def run(encoder: Encoder, splits: Splits, tools: Tools) -> Result:
        (result,) = run_many(encoder, splits, [np.arange(len(splits.train.rows))], tools)
        return result

    def run_many(
        encoder: Encoder, splits: Splits, subsets: Sequence[Int[np.ndarray, "..."]], tools: Tools
    ) -> list[Result]:
        train, validation, test = (tools.extract(name) for name in Splits._fields)
        probes = linear_probes(
            (train, splits.train.targets),
            subsets,
            (validation, splits.validation.targets),
            test,
            strengths,
            splits.test.label_names,
            splits.test.task.exclusive,
        )
        return [_result(probe, encoder, splits) for probe in probes]

    listed = ", ".join(f"{strength:g}" for strength in strengths)

    def method(exclusive: bool) -> tuple[str, ...]:
        kind, per = ("multinomial logistic", "once") if exclusive else ("logistic", "per label")
        return (
            f"Frozen features in evaluation mode, standardised on the training images; {kind} "
            f"regression with an L2 penalty, its strength C chosen {per} on validation among "
            f"{listed}; the same for every encoder.",
            *against(exclusive),
        )

    return Protocol("Linear probe", method, {"strengths": list(strengths)}, run, run_many)


def _result(probe: ProbeResult, encoder: Encoder, splits: Splits) -> Result:
    names, exclusive = splits.test.label_names, splits.test.task.exclusive
    chosen = {name: float(probe.strength[k]) for k, name in enumerate(names) if probe.scored[k]}
    listed = [f"{name} {strength:g}" for name, strength in chosen.items()]
    if exclusive:
        listed = [f"{next(iter(chosen.values())):g}"]
    width = len(probe.kernel)
    return Result(
        scores=probe.scores,
        scored=probe.scored,
        not_scored=probe.not_scored,
        notes=probe.notes,
        remarks=probe.remarks,
        summary=f"{width} features at {encoder.image_size} px; C chosen: {', '.join(listed)}",
        facts={"features": width, "strength": chosen},
        score_kind="log-probability" if exclusive else "log-odds",
        head=Head(encoder, probe.kernel, probe.bias),
    )
