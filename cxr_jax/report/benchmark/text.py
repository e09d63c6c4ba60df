"""Sentences on what a benchmark found and how it was measured."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cxr_jax.report import tables
from cxr_jax.report.benchmark.grid import Cell, Grid, percent
from cxr_jax.report.benchmark.pooled import Overall
from cxr_jax.report.benchmark.scores import Measured
from cxr_jax.report.benchmark.tables import Verdicts, title_of
from cxr_jax.stats.label_equivalence import LabelEquivalence
from cxr_jax.stats.verdict import Comparison

METHOD = (
    "All choices (C of a probe, learning rate, number of steps, number of neighbours) were made on "
    "validation images, of other patients than the test images. Every encoder had the same tuning "
    "budget: the same grid of choices, training images, seeds and number of evaluations. The test "
    "images were scored once, with what validation chose.",
    "A score is the AUROC (or what else a table names: that of every image, averaged over images) "
    "averaged over labels that can be estimated and that every encoder could "
    "be trained for, then over seeds, which draw the training patients and the randomness of "
    "training. {minimum}",
    "Intervals are 95 % intervals (Student's, on the logit scale) with the spread over "
    "{resamples:,} resamples of the test patients, the same for every encoder; in each resample "
    "seeds are drawn too, with replacement, before the mean over them. They include the "
    "uncertainty of the test set and that of other training images as far as the seeds can show "
    "it: too little with two or three seeds, nothing with one. {pretrainings} The spread "
    "over seeds is in tables/scores.csv.",
    "Comparisons are paired: same test images, same resamples, the seeds that both encoders have. "
    "p-values are Holm-corrected over the datasets of one encoder, protocol and fraction, not over "
    "encoders, protocols or fractions.",
    '"win" and "loss": the corrected p is at most .05, and the interval of the difference reaches '
    "beyond ± {margin}, the margin below which a difference does not matter. "
    '"negligible": as significant, but the interval lies within the margin: there is a difference, '
    'too small to matter. "tie": within the margin and not significant. "inconclusive": none of '
    'these. "detectable from" gives the minimum detectable difference: the '
    "smallest true difference that would have been found with power .8 (before the correction).",
    "Over three datasets or more, differences are pooled by random effects: each dataset has its "
    "own true difference, and their mean is asked for (REML; Hartung and Knapp's interval, never "
    "narrower than the sampling errors allow). The datasets are taken as independent; verdicts on "
    "the mean have the same words and are not corrected.",
    "Label equivalence reads both encoders' curves, made monotone, as straight lines over the "
    'logarithm of the number of images. "At least" and "at most": the answer lies beyond the '
    "numbers of images that were tried.",
    "Scores without the images that were seen leave out, for every encoder alike, the images that "
    "any encoder of the grid had seen, by their looks or by their patient; seeds, resamples, "
    "verdicts and Holm's correction are as above.",
)

IN_FOLDS = (
    "every image was tested once, by a model that had not seen its patient; of each model one fold "
    "was tested, choices were made on the next, and the others, or the share of their patients "
    "that is named, trained. “Test images” are then all labelled ones, or those of the splits that "
    "are named."
)


def pretrainings(grid: Grid) -> str:
    """Returns which encoders' intervals hold the uncertainty of another pretraining."""
    counts = {name: grid.pretrainings(name) for name in grid.encoders}
    several = [f"{name} ({count})" for name, count in counts.items() if count > 1]
    if not several:
        return "They do not include that of another pretraining."
    return (
        f"Of {', '.join(several)} several pretrainings of one recipe were run: the score is their "
        "mean, and intervals, verdicts and label equivalence include the variance between them, as "
        "var / number, with as few degrees of freedom as that has. Those of other encoders do not "
        "include that of another pretraining. Curves and images of the first seed are of the first "
        "pretraining. The interval over all datasets holds what the pretrainings, the same on "
        "each, have in common, where every dataset has a score from all."
    )


def leading(
    grid: Grid, found: Mapping[tuple[str, float], Verdicts]
) -> tuple[str, str, list[str]] | None:
    """Returns protocol, encoder and rivals of what a reader asks first; None without a verdict.

    That is the first protocol with a verdict and the encoder furthest ahead of the reference, on
    average over datasets; one that was not pretrained only where there is no other.
    """
    for protocol in grid.protocols:
        means: dict[str, list[float]] = {}
        for (encoder, _), one in found[protocol, grid.fractions(protocol)[-1]].items():
            if one.verdict != "not estimable":
                means.setdefault(encoder, []).append(one.difference)
        if means:
            pretrained = [name for name in means if name != tables.RANDOM] or list(means)
            best = max(pretrained, key=lambda name: sum(means[name]) / len(means[name]))
            return protocol, best, [name for name in pretrained if name != best]
    return None


def answer(
    grid: Grid,
    found: Mapping[tuple[str, float], Verdicts],
    overall: Sequence[Overall],
    measured: Measured,
) -> str:
    """Returns in a sentence what the leading encoder is worth; "" where there is no verdict."""
    if not (lead := leading(grid, found)):
        return ""
    protocol, encoder, rivals = lead
    fraction = grid.fractions(protocol)[-1]
    judged = {name: one for (of, name), one in found[protocol, fraction].items() if of == encoder}
    pooled = [
        one.pooled
        for one in overall
        if (one.protocol, one.fraction, one.encoder) == (protocol, fraction, encoder) and one.pooled
    ]
    counts = Counter(one.verdict for one in judged.values())
    split = ", ".join(f"{said} {counts[key]}" for key, said in _COUNTED.items() if counts[key])
    numbers = f"of {len(judged)} datasets {split}"
    whole = pooled[0] if pooled else next(iter(judged.values())) if len(judged) == 1 else None
    claim = f"{encoder} against {grid.reference}"
    if whole:
        claim = _CLAIMS[whole.verdict].format(a=encoder, b=grid.reference)
        difference = tables.with_interval(whole._asdict(), "difference")
        where = f"over {len(judged)} datasets ({split})" if pooled else f"on {next(iter(judged))}"
        numbers = f"{measured.measure(protocol)} {difference} {where}"
    text = f"**{claim}:** {numbers}; {title_of(protocol).lower()}, {percent(fraction)} of the "
    text += "training patients."
    if rivals:
        text += f" Of {len(rivals) + 1} pretrained encoders it lies furthest ahead on average."
    return text


_CLAIMS = {
    "win": "{a} is better than {b}",
    "loss": "{a} is worse than {b}",
    "negligible": "{a} and {b} differ by too little to matter",
    "tie": "{a} is as good as {b}",
    "inconclusive": "Inconclusive whether {a} is better than {b}",
    "not estimable": "{a} against {b} is not estimable",
}
_COUNTED = {
    "win": "better on",
    "loss": "worse on",
    "negligible": "too little to matter on",
    "tie": "as good on",
    "inconclusive": "inconclusive on",
    "not estimable": "not estimable on",
}


def summary(
    verdicts: Mapping[tuple[str, str], Comparison], reference: str, protocol: str
) -> list[str]:
    """Returns one sentence per encoder: the datasets on which it wins, loses, ties or neither."""
    by_encoder: dict[str, dict[str, list[str]]] = {}
    last = sorted(verdicts.items(), key=lambda item: item[0][0] == tables.RANDOM)
    for (encoder, dataset), comparison in last:
        held = by_encoder.setdefault(encoder, {}).setdefault(comparison.verdict, [])
        numbers = [tables.signed(comparison.difference)]
        if comparison.verdict == "inconclusive":
            smallest = tables.number(comparison.detectable)
            numbers.append(f"detectable from {smallest}")
        estimable = comparison.verdict != "not estimable"
        held.append(f"{dataset} ({', '.join(numbers)})" if estimable else dataset)
    claims = {
        "win": f"better than {reference} on",
        "loss": f"worse than {reference} on",
        "negligible": f"different from {reference}, but by too little to matter, on",
        "tie": f"as good as {reference} on",
        "inconclusive": "inconclusive on",
        "not estimable": "not estimable on",
    }
    return [
        f"**{encoder}**, {title_of(protocol).lower()}: "
        + "; ".join(f"{said} {', '.join(held[key])}" for key, said in claims.items() if key in held)
        + "."
        for encoder, held in by_encoder.items()
    ]


def next_steps(verdicts: Iterable[Comparison], failed: bool) -> list[str]:
    """Returns what a person would do after reading the page."""
    steps = []
    if failed:
        steps.append("Run the same command again: it tries the cells without a result once more.")
    found = {comparison.verdict for comparison in verdicts}
    if "inconclusive" in found:
        steps.append(
            "Where a verdict is inconclusive, add seeds (config.seeds) or datasets with more test "
            "patients: four times the patients halve the minimum detectable difference."
        )
    if "loss" in found:
        steps.append(
            "Where an encoder loses, pretrain it for longer or on more images, and run the same "
            "command with the new one added to config.encoders: finished cells are kept."
        )
    if "win" in found:
        steps.append(
            "Before you rely on a win, see above whether it had seen test images and whether it "
            "holds in every subgroup; then use the encoder: cxr_jax.load_encoder(WORKDIR), or "
            "python -m cxr_jax.weights.export for other software."
        )
    return steps or ["Add encoders (config.encoders) or datasets to compare."]


def equivalence(found: LabelEquivalence, encoder: str, reference: str) -> str:
    """Returns "With simclr 34 labels do what 120 do from imagenet (3.4 times, 2.1 to 5.6)." """
    needed = _bounded(found.bound, f"{found.labels_b:,.0f}")
    few = f"With {encoder} {found.labels_a:,.0f} labels"
    saved = found.ratio > 1 or found.bound == "at least"
    none = "" if saved else f": of so few {encoder} saves none"
    return f"{few} do what {needed} do from {reference} ({ratio(found)}){none}."


def ratio(found: LabelEquivalence) -> str:
    """Returns "3.4 times, 2.1 to 5.6"; without limits that are absent or say the same again."""
    text = f"{_bounded(found.bound, _times(found.ratio))} times"
    if found.bound and found.bound == found.low_bound == found.high_bound:
        return text
    if found.low != found.low:
        return f"{text}, no interval"
    low = _bounded(found.low_bound, _times(found.low))
    high = _bounded(found.high_bound, _times(found.high))
    return f"{text}, {low} to {high}"


def _times(value: float) -> str:
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"  # never 0.0


def _bounded(bound: str, text: str) -> str:
    return f"{bound} {text}" if bound else text


def problems(failed: Sequence[Cell]) -> list[list[str]]:
    """Returns rows for cells without a result; seeds that failed alike share one."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for cell in failed:
        why = cell.error or {"missing": "was not run"}.get(cell.state, "no reason given")
        numbered = f"{cell.encoder}, pretraining {cell.pretraining + 1}"
        encoder = numbered if cell.pretraining else cell.encoder
        key = (encoder, cell.dataset, cell.protocol, percent(cell.fraction), cell.state, why)
        alike.setdefault(key, []).append(str(cell.seed))
    return [[*key[:4], ", ".join(seeds), *key[4:]] for key, seeds in alike.items()]
