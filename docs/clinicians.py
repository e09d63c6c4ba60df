"""Draws the figures of docs/clinicians.md from simulated patients, with the product's statistics.

python docs/clinicians.py    writes docs/figures/*.webp, seconds on one core
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cxr_jax.report.figures import COLOURS, GREY, bare, new_figure
from cxr_jax.stats.auroc import auroc
from cxr_jax.stats.bootstrap import bootstrap_auroc
from cxr_jax.stats.calibration import reliability
from cxr_jax.stats.label_equivalence import label_equivalence
from cxr_jax.stats.verdict import word

FOLDER = Path(__file__).parent / "figures"
BLUE, ORANGE, GREEN = COLOURS[:3]
INK, BAND = "#333333", "#f5f5f5"


def patients(
    seed: int, positive: int, negative: int, apart: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a test set: targets, and the scores of a model that parts the classes by `apart`."""
    random = np.random.default_rng(seed)
    targets = np.repeat([1, 0], [positive, negative])
    return targets, random.normal(apart * targets)


def draw_auroc() -> Figure:
    """Scores of both classes, and one pair of patients."""
    targets, scores = patients(3, 12, 20, 1.4)
    figure, grid = new_figure(7.5, 2.2)
    axes = grid[0, 0]
    for value, name, colour in ((1, "with effusion", ORANGE), (0, "without", BLUE)):
        own = scores[targets == value]
        axes.plot(own, np.full(len(own), value), "o", color=colour, alpha=0.75, clip_on=False)
        axes.text(-3.9, value, name, color=colour, va="center")
    pair = np.sort(scores[targets == 1])[5], np.sort(scores[targets == 0])[12]
    axes.plot(pair, (1, 0), color=INK, linewidth=1)
    wins = (scores[targets == 1][:, None] > scores[targets == 0]).sum()
    axes.set_title(
        f"{wins} of 12 × 20 = 240 such pairs are in the right order: "
        f"AUROC {auroc(targets, scores):.3f}",
        fontsize=10,
    )
    axes.set(xlim=(-4, 5), ylim=(-0.5, 1.5), yticks=[], xlabel="the model's score")
    bare(axes)
    axes.spines["left"].set_visible(False)
    return figure


def draw_interval() -> Figure:
    """The same model scored in hospitals of three sizes."""
    figure, grid = new_figure(7.5, 3.4)
    axes, place, ticks = grid[0, 0], 0, []
    for positive in (10, 40, 160):
        for seed in range(6):
            targets, scores = patients(100 * positive + seed, positive, 3 * positive, 1.19)
            found = bootstrap_auroc(targets, scores, None)
            axes.plot((found.low, found.high), (place, place), color=BLUE, linewidth=2)
            axes.plot(found.estimate, place, "o", color=BLUE)
            place -= 1
        ticks.append((place + 3.5, f"{positive} patients with,\n{3 * positive} without"))
        place -= 1
    axes.axvline(0.8, color=ORANGE, linestyle="--", linewidth=1)
    axes.text(0.803, 0.7, "the truth", color=ORANGE, va="bottom")
    axes.set_yticks(*zip(*ticks))
    axes.set(xlabel="AUROC, and its 95 % interval", xlim=(0.5, 1), ylim=(place + 0.5, 1.8))
    bare(axes, "x")
    return figure


def draw_verdicts() -> Figure:
    """Five differences with their intervals, and the word for each."""
    figure, grid = new_figure(7.5, 2.9)
    axes = grid[0, 0]
    axes.axvspan(-0.02, 0.02, color=BAND, zorder=0)
    axes.plot((0, 0), (-4.6, 0.4), color=GREY, linewidth=1)
    rows = ((0.045, 0.03), (-0.04, 0.022), (0.012, 0.006), (0.003, 0.014), (0.02, 0.05))
    for place, (difference, half) in enumerate(rows):
        low, high = difference - half, difference + half
        said = word(difference, low, high, 0.2 if low < 0 < high else 0.01, 0.02, 0.95)
        colour = {"win": GREEN, "loss": ORANGE}.get(said, INK)
        axes.plot((low, high), (-place, -place), color=colour, linewidth=2)
        axes.plot(difference, -place, "o", color=colour)
        axes.text(0.105, -place, said, color=colour, va="center")
    axes.text(0, 0.75, "too small to matter", ha="center", color=GREY, fontsize=9)
    axes.set(xlim=(-0.1, 0.15), ylim=(-4.6, 1.1), yticks=[])
    axes.set_xlabel("difference of the two AUROCs, on the same patients")
    bare(axes, "x")
    return figure


def draw_labels() -> Figure:
    """Two label-efficiency curves, and the step from one to the other."""
    labels = np.array([30, 100, 300, 1000, 3000])
    new, old = np.array([0.72, 0.79, 0.84, 0.87, 0.88]), np.array([0.63, 0.7, 0.765, 0.82, 0.85])
    none = np.zeros((0, 5))
    found = label_equivalence(labels, new, old, none, none, at=100)
    figure, grid = new_figure(7.5, 3)
    axes = grid[0, 0]
    for curve, name, colour in ((new, "new encoder", BLUE), (old, "ImageNet", ORANGE)):
        axes.plot(labels, curve, "o-", color=colour)
        axes.text(3300, curve[-1], name, color=colour, va="center")
    axes.annotate(
        "", (found.labels_b, 0.79), (100, 0.79), arrowprops=dict(arrowstyle="->", color=INK)
    )
    axes.text(
        640,
        0.777,
        f"{found.ratio:.1f} times the labels",
    )
    axes.set(xscale="log", xlabel="labelled training patients", ylabel="AUROC", xlim=(25, 9000))
    axes.set_xticks(labels, [f"{n:,}" for n in labels])
    axes.minorticks_off()
    bare(axes, "y")
    return figure


def draw_calibration() -> Figure:
    """An honest and an overconfident model with one and the same AUROC."""
    random = np.random.default_rng(5)
    logit = random.normal(-0.6, 1.4, 2000)
    targets = random.random(2000) < 1 / (1 + np.exp(-logit))
    figure, grid = new_figure(7.5, 3.4, ncols=2, sharey=True)
    for axes, stretch, title in zip(grid[0], (1, 3), ("honest", "overconfident")):
        said = 1 / (1 + np.exp(-stretch * logit))
        table = reliability(targets.astype(float), said)
        errors = np.abs([table.low, table.high] - table.observed_rate)
        axes.plot((0, 1), (0, 1), color=GREY, linewidth=1)
        axes.errorbar(table.mean_probability, table.observed_rate, errors, fmt="o-", color=BLUE)
        value = auroc(targets.astype(int), said)
        axes.set_title(f"{title}: AUROC {value:.2f}", fontsize=10)
        axes.set(xlabel="what the model says", xlim=(0, 1), ylim=(0, 1))
        bare(axes, "both")
    grid[0, 0].set_ylabel("how often it is there")
    return figure


def draw_folds() -> Figure:
    """Five folds: who trains, who is scored."""
    figure, grid = new_figure(7.5, 2.4)
    axes = grid[0, 0]
    for model in range(5):
        for fold in range(5):
            scored = model == fold
            axes.barh(-model, 0.96, left=fold, color=ORANGE if scored else BAND, height=0.8)
            text = "scored" if scored else "trains"
            colour = "white" if scored else GREY
            axes.text(fold + 0.48, -model, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_yticks(range(0, -5, -1), [f"model {n}" for n in range(1, 6)])
    axes.set_xticks([n + 0.48 for n in range(5)], [f"patients {n}" for n in "ABCDE"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in list(globals().items()):
        if name.startswith("draw_"):
            path = FOLDER / f"{name.removeprefix('draw_')}.webp"
            draw().savefig(path, dpi=130, pil_kwargs={"lossless": True})
            print(path, f"{path.stat().st_size:,} bytes")
