"""Figures of how a model was trained: losses, Dice, phases, schedules of beta."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from cvae_utils.figures.colours import COLOURS
from cvae_utils.figures.style import GREY, MODEL_COLOURS, PAIR, new_figure
from cvae_utils.labels import STRUCTURE_NAMES, STRUCTURES, Label


def training_history(history: pd.DataFrame, best_epoch: int, planned: int) -> Figure:
    """Loss (training, validation) and Dice per class, epoch by epoch, with the epoch whose weights
    are kept; planned: how many there are if early stopping does not act."""
    stopped = "early stopping" if len(history) < planned else "early stopping did not act"
    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2)
    for part, colour, style in zip(("train", "validation"), PAIR, ("-", "--")):
        left.plot(history["epoch"], history[f"{part}_loss"], color=colour, linestyle=style,
                  label={"train": "training (z sampled)"}.get(part, "validation (z = mu)"))
    left.set(xlabel="epoch", ylabel="loss", yscale="log")
    for label, marker in zip(STRUCTURES, "osD"):
        dice = history[f"validation_{label.name}"]
        if dice.notna().any():  # a class that does not occur has none
            right.plot(history["epoch"], dice, label=label.name, color=COLOURS[label],
                       marker=marker, markersize=3)
    right.set(xlabel="epoch", ylabel="Dice of validation slices", ylim=(0, 1))
    for ax in (left, right):
        ax.axvline(best_epoch, color=GREY, linestyle=":", linewidth=1.2,
                   label=f"epoch {best_epoch} of {len(history)} is kept: {stopped}")
        ax.legend(facecolor="white", edgecolor="none", loc="best" if ax is left else "lower right")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.3)
        sns.despine(ax=ax)
    left.yaxis.set_major_formatter("{x:.2g}")
    left.yaxis.set_minor_formatter("{x:.2g}")
    return figure


def beta_schedules(curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
                   gain: pd.DataFrame) -> Figure:
    """Beta over the training for each schedule, and by how much it lowers the test loss.

    curves: {schedule: (share of the training, beta)}; gain: (seeds, schedules), % of the loss
    without a schedule.
    """
    figure = new_figure(2.9)
    left, right = figure.subplots(1, 2)
    colours = dict(zip(curves, MODEL_COLOURS))
    for name, (x, beta) in curves.items():
        left.plot(x, beta, color=colours[name], label=name, linewidth=1.6)
    left.set(yscale="log", xlabel="share of the training", ylabel=r"$\beta$", title="the schedules")
    left.legend(frameon=False, loc="lower right")
    for row, name in enumerate(gain):
        right.plot(gain[name], np.full(len(gain), row), "o", color=colours[name], markersize=5,
                   alpha=0.7)
        right.plot([gain[name].mean()], [row], "|", color=colours[name], markersize=22)
    right.axvline(0, color=GREY, linestyle="--", linewidth=1)
    right.set_yticks(range(gain.shape[1]), gain.columns)
    widest = 1.2 * max(1.0, gain.abs().max(axis=None))
    right.set(xlim=(-widest, widest), ylim=(gain.shape[1] - 0.5, -0.5),
              xlabel="gain: test loss lower than without a schedule, %",
              title="what they bring (circles: seeds; bar: mean)")
    for ax in (left, right):
        sns.despine(ax=ax)
    return figure


def class_phases(steps: pd.DataFrame, areas: Mapping[str, float], window: int = 10) -> Figure:
    """Soft Dice, share of the gradient and drawn area of each class over the first steps.

    steps: columns RV, gradient_RV, area_RV, and so on, of a training with class_probes; areas: the
    true mean share of the picture that each structure has; one without any is not drawn.
    """
    figure = new_figure(3.1)
    dice, gradient, area = figure.subplots(1, 3)
    smooth = steps.rolling(window, min_periods=1).mean()
    x = np.arange(1, len(steps) + 1)
    total = smooth[[f"gradient_{label.name}" for label in Label]].sum(axis=1)
    for label in Label:
        if not areas.get(label.name, 1):
            continue
        colour = GREY if label is Label.BACKGROUND else COLOURS[label]
        name = label.name
        gradient.plot(x, 100 * smooth[f"gradient_{name}"] / total, color=colour, label=name.replace(
            "BACKGROUND", "background"), linewidth=1.3)
        if name in STRUCTURE_NAMES:
            dice.plot(x, smooth[name], color=colour, linewidth=1.3)
            area.plot(x, 100 * smooth[f"area_{name}"], color=colour, linewidth=1.3)
            area.axhline(100 * areas[name], color=colour, linestyle=":", linewidth=1)
    dice.set(title="soft Dice", ylim=(0, 1), xlabel="step")
    gradient.set(title="share of the squared gradient, %", ylim=(0, 100), xlabel="step")
    area.set(title="drawn area, % (dotted: true)", xlabel="step", ylim=(0, None))
    figure.legend(*gradient.get_legend_handles_labels(), loc="outside upper center", ncols=4,
                  frameon=False)
    return figure


def posterior_collapse(histories: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """KL and validation Dice over the epochs of two ways of weight decay; a line for each seed."""
    figure = new_figure(2.9)
    for ax, column, name in zip(figure.subplots(1, 2), ("train_kl", "validation_dice"),
                                ("KL, nats", "Dice of validation slices")):
        for (title, seeds), colour in zip(histories.items(), PAIR):
            for number, history in enumerate(seeds):
                ax.plot(history["epoch"], history[column], color=colour, linewidth=1.2, alpha=0.7,
                        label="" if number else title)
        ax.set(xlabel="epoch", ylabel=name)
        ax.set_ylim(bottom=-0.04 * ax.get_ylim()[1])  # so that a line at 0 is seen
        ax.xaxis.get_major_locator().set_params(integer=True)
        sns.despine(ax=ax)
    ax.legend(frameon=False, title=f"a line for each of {len(seeds)} seeds", loc="center right")
    return figure
