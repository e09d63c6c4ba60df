"""How often do intervals of an AUROC hold the truth? `python -m benchmarks.coverage` prints it.

Test sets are drawn whose true AUROC is known: scores are normal, with shift 1 or another between
the classes, and each interval is asked if it holds the truth. "1 image" is one image a patient;
"3 images" are three, which share half of their variance, two of a sick patient's three with the
finding. The product's interval (`bootstrap_auroc`, here "product") stands beside the usual ones.
A second table has the paired difference of two models that are equally good: how often each rule
finds a difference that is not there (5 in 100 are what a level of 95 % allows).
A third has cross-validated probes: features of a patient are 16 normal numbers, of which one
differs between the classes, and the product's linear probe is run in folds.

Cost: 4 minutes on one core, and 5 for the third (`--folds=5`: this one alone, with so many folds).
Seeds are fixed: the tables are the same again.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats

from configs import common
from cxr_jax.data.splits import LabelledSplit
from cxr_jax.data.tasks import Task
from cxr_jax.report.blocks import markdown_table
from cxr_jax.stats.bootstrap import auroc_limits, bootstrap_auroc, degrees, fold_variance
from cxr_jax.stats.verdict import compare_auroc, judge
from cxr_jax.transfer import _folds, linear
from cxr_jax.transfer._protocol import Result, Splits, Tools
from cxr_jax.weights.encoder import Encoder

POSITIVES, NEGATIVES, AUROCS = (1, 2, 5, 10, 20), (20, 50, 200), (0.6, 0.8, 0.95)
KINDS = ("percentile", "BCa", "DeLong-logit", "stratified", "product")
FOLDED, AUROCS_FOLDED = ((20, 50), (30, 270), (124, 123)), (0.5, 0.65, 0.8, 0.95)
_RESAMPLES, _CHUNK = 1000, 50
_WIDTH, _FEWER, _STRENGTHS = 16, 300, (1e-4, 1e-2, 1.0)
_NORMAL = scipy.stats.norm.ppf(0.975)


class Design(NamedTuple):
    """`sick` patients come first; `with_it` and `without` count the images of every patient."""

    sick: int
    with_it: np.ndarray
    without: np.ndarray
    shared: float  # of the variance of a patient's images


def design(positives: int, negatives: int, images: int) -> Design:
    sick = np.arange(positives + negatives) < positives
    if images == 1:
        return Design(positives, sick.astype(int), (~sick).astype(int), 0.0)
    return Design(positives, np.where(sick, 2, 0), np.where(sick, 1, 3), 0.5)


def truth(of: Design, auroc: float) -> float:
    """The expected AUROC: pairs of images of one patient are ordered rightly more often."""
    own, pairs = (of.with_it * of.without).sum(), of.with_it.sum() * of.without.sum()
    shift = np.sqrt(2) * scipy.stats.norm.ppf(auroc)
    within = scipy.stats.norm.cdf(shift / np.sqrt(2 * (1 - of.shared)))
    return (own * within + (pairs - own) * auroc) / pairs


def wins(of: Design, auroc: float, noise: tuple[np.ndarray, ...]) -> np.ndarray:
    """Draws a model's scores; [sick patients] of how many pairs the first one's images win."""
    patient, images = noise
    scores = np.sqrt(of.shared) * patient[:, None] + np.sqrt(1 - of.shared) * images
    shift = np.sqrt(2) * scipy.stats.norm.ppf(auroc)
    place = np.arange(3)
    has, lacks = (place < of.with_it[:, None]), (place >= 3 - of.without[:, None])
    sick = scores[: of.sick, :, None, None] + shift > scores[None, None]
    held = has[: of.sick, :, None, None] & lacks[None, None]
    return (sick & held).sum(axis=(1, 3)).astype(float)


def draws(rng: np.random.Generator, of: Design) -> tuple[np.ndarray, np.ndarray]:
    """How often each resample has each patient, drawn from all, and by class."""
    count, sick = len(of.with_it), of.sick
    whole = rng.integers(0, count, (_RESAMPLES, count))
    parts = (
        rng.integers(0, sick, (_RESAMPLES, sick)),
        rng.integers(sick, count, (_RESAMPLES, count - sick)),
    )
    rows = np.arange(_RESAMPLES)[:, None]
    found = np.zeros((2, _RESAMPLES, count))
    for weights, drawn in zip(found, (whole, np.concatenate(parts, axis=1))):
        np.add.at(weights, (rows, drawn), 1)
    return found[0], found[1]


def resampled(of: Design, won: np.ndarray, weights: np.ndarray) -> np.ndarray:
    pairs = (weights @ of.with_it) * (weights @ of.without)
    counted = np.einsum("bs,bs->b", weights[:, : of.sick], weights @ won.T)
    return np.divide(counted, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def intervals(
    of: Design, won: np.ndarray, whole: np.ndarray, parts: np.ndarray
) -> dict[str, tuple[float, float]]:
    """The limits by every rule; NaN where a rule gives none."""
    num_with, num_without, count = of.with_it.sum(), of.without.sum(), len(of.with_it)
    auroc = won.sum() / (num_with * num_without)
    values, stratified = resampled(of, won, whole), resampled(of, won, parts)
    usable = values[~np.isnan(values)]
    fewest = min((of.with_it > 0).sum(), (of.without > 0).sum())
    return {
        "percentile": tuple(np.quantile(usable, [0.025, 0.975])),
        "BCa": _bca(of, won, auroc, usable),
        "DeLong-logit": _delong_logit(of, won, auroc, count),
        "stratified": tuple(np.quantile(stratified, [0.025, 0.975])),
        "product": auroc_limits(auroc, values, degrees(np.array([fewest]))),
    }


def _bca(of: Design, won: np.ndarray, auroc: float, values: np.ndarray) -> tuple[float, float]:
    """Efron's (1987), with the acceleration of a jackknife over patients."""
    below = (values < auroc).mean() + (values == auroc).mean() / 2
    of_rows = np.pad(won.sum(axis=1), (0, len(of.with_it) - of.sick))
    both = np.pad(np.diag(won), (0, len(of.with_it) - of.sick))
    pairs = (of.with_it.sum() - of.with_it) * (of.without.sum() - of.without)
    kept = pairs > 0
    if not 0 < below < 1 or kept.sum() < 2:
        return float(values.min()), float(values.max())
    left = (won.sum() - of_rows - won.sum(axis=0) + both)[kept] / pairs[kept]
    apart = left.mean() - left
    squares = (apart**2).sum()
    skew = (apart**3).sum() / (6 * squares**1.5) if squares > 1e-20 else 0.0
    bias = scipy.stats.norm.ppf(below)
    ends = bias + np.array([-_NORMAL, _NORMAL])
    low, high = np.quantile(values, scipy.stats.norm.cdf(bias + ends / (1 - skew * ends)))
    return float(low), float(high)


def _delong_logit(of: Design, won: np.ndarray, auroc: float, count: int) -> tuple[float, float]:
    """Obuchowski's (1997) variance over patients, on the logit scale; none at 0 and 1."""
    sick, well = (of.with_it > 0).sum(), (of.without > 0).sum()
    if sick < 2 or well < 2 or auroc in (0, 1):
        return np.nan, np.nan
    pairs = of.with_it.sum() * of.without.sum()
    above = np.pad(won.sum(axis=1), (0, count - of.sick)) / pairs
    above -= of.with_it * auroc / of.with_it.sum()
    beneath = won.sum(axis=0) / pairs - of.without * auroc / of.without.sum()
    variance = sick / (sick - 1) * (above @ above) + well / (well - 1) * (beneath @ beneath)
    variance += 2 * count / (count - 1) * (above @ beneath)
    half = _NORMAL * np.sqrt(max(variance, 0)) / (auroc * (1 - auroc))
    low, high = scipy.special.expit(scipy.special.logit(auroc) + np.array([-half, half]))
    return float(low), float(high)


def coverage(num_sets: int) -> Iterator[list[str]]:
    """Rows of the first table: mean coverage over cells, the worst cell's, and the mean width."""
    for images in (1, 3):
        for positives in POSITIVES:
            held: dict[str, list[float]] = {kind: [] for kind in KINDS}
            widths: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for negatives in NEGATIVES:
                for auroc in AUROCS:
                    of = design(positives, negatives, images)
                    rng = np.random.default_rng([positives, negatives, int(100 * auroc), images])
                    right = dict.fromkeys(KINDS, 0)
                    for number in range(num_sets):
                        if number % _CHUNK == 0:
                            whole, parts = draws(rng, of)
                        noise = (
                            rng.normal(size=len(of.with_it)),
                            rng.normal(size=(len(of.with_it), 3)),
                        )
                        found = intervals(of, wins(of, auroc, noise), whole, parts)
                        for kind, (low, high) in found.items():
                            widths[kind].append(high - low)
                            right[kind] += low - 1e-12 <= truth(of, auroc) <= high + 1e-12
                    for kind in KINDS:
                        held[kind].append(right[kind] / num_sets)
            cells = [
                f"{np.mean(held[kind]):.2f} ({min(held[kind]):.2f}); {_mean(widths[kind]):.2f}"
                for kind in KINDS
            ]
            yield [str(positives), f"{images}", *cells]


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def false_differences(num_sets: int) -> Iterator[list[str]]:
    """Rows of the second table: how often two models of equal worth are called different."""
    for positives in POSITIVES[1:]:
        found = {"percentile": [], "product": []}
        for negatives in NEGATIVES[1:]:
            for auroc in AUROCS[1:]:
                of = design(positives, negatives, 3)
                rng = np.random.default_rng([positives, negatives, int(100 * auroc)])
                called = dict.fromkeys(found, 0)
                fewest = min((of.with_it > 0).sum(), (of.without > 0).sum())
                for number in range(num_sets):
                    if number % _CHUNK == 0:
                        whole, _ = draws(rng, of)
                    patient, common = (
                        rng.normal(size=len(of.with_it)),
                        rng.normal(size=(len(of.with_it), 3)),
                    )
                    mix = [
                        (
                            patient,
                            np.sqrt(0.6) * common + np.sqrt(0.4) * rng.normal(size=common.shape),
                        )
                        for _ in range(2)
                    ]
                    won = [wins(of, auroc, noise) for noise in mix]
                    pairs = of.with_it.sum() * of.without.sum()
                    apart = resampled(of, won[0], whole) - resampled(of, won[1], whole)
                    low, high = np.nanquantile(apart, [0.025, 0.975])
                    called["percentile"] += low > 0 or high < 0
                    both = [one.sum() / pairs for one in won]
                    verdict = judge(*both, apart, freedom=degrees(np.array([fewest])))
                    called["product"] += verdict.p_value <= 0.05
                for rule, count in called.items():
                    found[rule].append(count / num_sets)
        yield [str(positives), *(f"{np.mean(v):.3f} ({max(v):.3f})" for v in found.values())]


class Folded(NamedTuple):
    """One simulated cross-validation: its predictions, and the true AUROC of each fold's model."""

    targets: np.ndarray
    scores: np.ndarray
    fold: np.ndarray
    truths: np.ndarray


def folded(
    features: np.ndarray, sick: np.ndarray, auroc: float, seed: int, folds: int = 5
) -> Folded:
    """Runs the linear probe in folds; the first feature parts the classes with this AUROC."""
    count, shift = len(sick), np.sqrt(2) * scipy.stats.norm.ppf(auroc)
    config = common.transfer()
    config.folds, config.seed, config.C = folds, seed, _STRENGTHS
    names = tuple(map(str, range(count)))
    pool = LabelledSplit(
        *(None, np.arange(count), sick[:, None].astype(np.float32), np.zeros((count, 1), bool)),
        *(names, names, ("sign",), Task({"sign": "sign"}), 0),
    )
    heads = []

    def run(*given) -> Result:
        result = probe.run(*given)
        heads.append(result.head.kernel[:, 0])
        return result

    probe = linear.make(config)
    protocol = _folds.cross_validated(probe._replace(run=run), config)
    tools = Tools(lambda _: features, print, None)
    result = protocol.run(Encoder("simulated", {}, {}, 0), Splits(pool, pool, pool), tools)
    # Of normal classes of one covariance: the shift along the weights, in standard deviations.
    along = [kernel[0] * shift / max(np.linalg.norm(kernel), 1e-300) for kernel in heads]
    truths = scipy.stats.norm.cdf(np.array(along) / np.sqrt(2))
    return Folded(pool.targets[:, 0], result.scores[:, 0], result.fold, truths)


def two_encoders(
    auroc: float, sizes: tuple[int, int], number: int, folds: int = 5
) -> tuple[Folded, Folded]:
    """Draws patients, features of two encoders of equal worth, and their cross-validations."""
    rng = np.random.default_rng([number, *sizes, int(100 * auroc)])
    sick = np.arange(sum(sizes)) < sizes[0]
    shared, *own = rng.normal(size=(3, len(sick), _WIDTH))
    found = []
    for noise in own:
        features = np.sqrt(0.6) * shared + np.sqrt(0.4) * noise
        features[:, 0] += sick * np.sqrt(2) * scipy.stats.norm.ppf(auroc)
        found.append(folded(features, sick, auroc, number, folds))
    return found[0], found[1]


def cross_validation(num_sets: int, folds: int) -> Iterator[list[str]]:
    """Rows of the third table: error of the estimate, coverage, width, and false differences."""
    for sizes in FOLDED:
        for auroc in AUROCS_FOLDED:
            estimates, truths, limits, called, given = [], [], [], 0, 0
            for number in range(num_sets):
                a, b = two_encoders(auroc, sizes, number, folds)
                interval = bootstrap_auroc(a.targets, a.scores, None, _FEWER, number, fold=a.fold)
                estimates.append(interval.estimate)
                limits.append(interval[1:3])
                truths.append(a.truths.mean())
                both = (a.targets, a.scores, b.scores, None)
                found = compare_auroc(*both, _FEWER, number, folds=(a.fold, b.fold))
                called += found.p_value <= 0.05
                errors = abs(found.difference) / found.standard_error * fold_variance(folds) ** 0.5
                given += 2 * scipy.stats.t.sf(errors, min(sizes) - 1) <= 0.05
            (low, high), truth = np.transpose(limits), np.array(truths)
            held = [((low <= t) & (t <= high)).mean() for t in (truth, truth.mean())]
            yield [
                *(f"{sizes[0]} + {sizes[1]}", f"{auroc:.2f}", f"{truth.mean():.3f}"),
                *(f"{np.mean(estimates) - truth.mean():+.3f}", *(f"{one:.2f}" for one in held)),
                *(f"{np.mean(high - low):.2f}", f"{called / num_sets:.3f}"),
                f"{given / num_sets:.3f}",
            ]


def main() -> None:
    """Prints the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_sets", type=int, default=500, help="test sets of each cell")
    parser.add_argument("--folds", type=int, help="the third table alone, with so many folds")
    given = parser.parse_args()
    num_sets = given.num_sets
    if not given.folds:
        header = ["patients with the finding", "images a patient", *KINDS]
        print(markdown_table(header, list(coverage(num_sets))))
        print()
        header = ["patients with the finding", "percentile", "product"]
        print(markdown_table(header, list(false_differences(num_sets))), flush=True)
        print()
    header = [
        *("patients with + without", "best AUROC", "true AUROC", "error", "holds these models'"),
        *("holds the procedure's", "width", "false differences", "without the factor"),
    ]
    print(markdown_table(header, list(cross_validation(num_sets, given.folds or 5))), flush=True)


if __name__ == "__main__":
    main()
