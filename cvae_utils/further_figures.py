"""Figures beyond those of the report: data in, Figure out, as in figures.py."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from cvae_utils.figures import GREY, PAIR, class_legend, new_figure, show_tiles
from cvae_utils.labels import COLOURS, STRUCTURE_NAMES, Label

#: Okabe and Ito, and a brown, in the order in which models appear.
MODEL_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
                 "#8C6D31")
PRIOR_MARKERS = {"standard": "o", "gaussian": "s", "mixture": "D"}


def fig17_priors(samples: Mapping[str, np.ndarray], valid: Mapping[str, float],
                 title: str) -> Figure:
    """A row of drawn slices for each prior; samples: {name: (C, S, S)}, valid: {name: share}."""
    maps = np.stack(list(samples.values()))
    figure = new_figure(0.75 + 0.72 * len(maps))
    show_tiles(figure.subplots(), maps,
               [f"{name}\n{100 * valid[name]:.1f} % valid" for name in samples])
    figure.suptitle(title)
    class_legend(figure, maps)
    return figure


def fig18_schedules(curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
                    gain: pd.DataFrame) -> Figure:
    """Beta over the training for each schedule, and what it gains at the same rate.

    curves: {schedule: (share of the training, beta)}; gain: (seeds, schedules), test Dice above
    that of the controlled rate alone.
    """
    figure = new_figure(3.3)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    colours = dict(zip(curves, MODEL_COLOURS))
    for name, (x, beta) in curves.items():
        left.plot(x, beta, color=colours[name], label=name, linewidth=1.4)
    left.set(yscale="log", xlabel="share of the training", ylabel=r"$\beta$")
    left.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    for row, name in enumerate(gain):
        values, colour = gain[name].to_numpy(), colours.get(name, GREY)
        right.plot(values, np.full(len(values), row), "o", color=colour, markersize=4, alpha=0.6)
        right.errorbar(values.mean(), row + 0.22, xerr=values.std(ddof=1), fmt="D", color=colour,
                       markersize=5, capsize=3)
    right.axvline(0, color=GREY, linestyle="--", linewidth=1)
    right.set_yticks(range(gain.shape[1]), gain.columns)
    right.set_ylim(gain.shape[1] - 0.4, -0.4)
    right.set_xlabel("test Dice above that of the controlled rate, at its KL\n"
                     "(circles: seeds; diamonds: mean and standard deviation)")
    return figure


def fig19_sharp(test: np.ndarray, rebuilt: np.ndarray, drawn: np.ndarray, nearest: np.ndarray,
                title: str) -> Figure:
    """What one model rebuilds and draws: four rows of label maps (C, S, S).

    nearest: the training slice that is most like each drawn one.
    """
    figure = new_figure(3.5)
    show_tiles(figure.subplots(), np.stack([test, rebuilt, drawn, nearest]),
               ["unseen patients", "rebuilt", "drawn", "nearest\ntraining slice"])
    figure.suptitle(title)
    class_legend(figure, test, rebuilt, drawn)
    return figure


def fig20_criteria(broken: pd.DataFrame) -> Figure:
    """How many slices of each kind break each criterion: (criteria, kinds), in %."""
    figure = new_figure(4.4)
    ax = figure.subplots()
    values = broken.to_numpy()
    shown = np.sqrt(values)  # a tenth and ten per cent, both to be seen
    ax.imshow(shown, cmap="Blues", aspect="auto", vmin=0, vmax=max(shown.max(), 1))
    ax.set_xticks(range(broken.shape[1]), broken.columns)
    ax.set_yticks(range(len(broken)), broken.index)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    for (row, column), value in np.ndenumerate(values):
        ax.text(column, row, f"{value:.1f}" if value else "0", ha="center", va="center",
                fontsize=8, color="white" if shown[row, column] > 0.6 * shown.max() else "black")
    figure.suptitle("Slices that break each of the sixteen criteria, %")
    return figure


def fig21_pareto(points: pd.DataFrame, real: Mapping[str, float],
                 published: Sequence[Mapping] = ()) -> Figure:
    """Reconstruction against generation: test Dice and the share of samples that are not valid.

    points: one row a model and prior, with panel, family, label, note, prior, dice, dice_sd, valid;
    each panel is a protocol, a line joins the priors of one label, and its note stands below it.
    real: {panel: share of valid real slices}. published: protocol.PUBLISHED, drawn in the last
    panel. The axis of validity is logarithmic in what is not valid, and ends where a thousand
    samples do.
    """
    panels = list(dict.fromkeys(points["panel"]))
    figure = new_figure(4.8)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    families = list(dict.fromkeys(points["family"]))
    if len(families) > len(MODEL_COLOURS):
        raise ValueError(f"expected at most {len(MODEL_COLOURS)} families, which have a colour "
                         f"each, found {families}: draw fewer of them")
    colours = dict(zip(families, MODEL_COLOURS))
    for ax, panel in zip(axes, panels):
        for _, rows in points[points["panel"] == panel].groupby("label", sort=False):
            colour = colours[rows["family"].iloc[0]]
            broken = _not_valid(rows["valid"])
            ax.plot(rows["dice"], broken, color=colour, linewidth=0.8, alpha=0.6)
            for row, height in zip(rows.itertuples(), broken):
                ax.errorbar(row.dice, height, xerr=row.dice_sd, fmt=PRIOR_MARKERS[row.prior],
                            color=colour, markersize=5.5, elinewidth=0.8,
                            markerfacecolor="white" if row.prior == "standard" else colour)
            ax.annotate(rows["note"].iloc[0], (rows["dice"].iloc[0], broken.max()), ha="center",
                        fontsize=7, color=colour, textcoords="offset points", xytext=(0, -11))
        mark = _not_valid(real[panel])
        ax.axhline(mark, color=GREY, linestyle="--", linewidth=1)
        ax.annotate("real test slices", (0.02, mark), xytext=(0, 3), fontsize=7.5, color=GREY,
                    xycoords=("axes fraction", "data"), textcoords="offset points")
        ax.set(title=panel, xlabel="Dice of test slices", yscale="log", ylim=(300, 0.08))
    for row in published:
        dice, broken = np.array(row["dice"]), _not_valid(np.array(row["valid"]))
        axes[-1].plot(dice, np.sort(broken)[::-1], "x-", color=GREY, markersize=6)
        axes[-1].annotate(row["title"], (dice.mean(), broken.max()), xytext=(0, -11), ha="center",
                          textcoords="offset points", fontsize=7, color=GREY)
    if published:
        axes[-1].margins(x=0.25)
    axes[0].set_yticks([100, 10, 1, 0.1], ["100", "10", "1", "0.1 or less"])
    axes[0].set_ylabel("samples that are not valid, %")
    handles = [Line2D([], [], marker="o", linestyle="", color=c, label=m)
               for m, c in colours.items()]
    handles += [Line2D([], [], marker=PRIOR_MARKERS[kind], linestyle="", color=GREY, label=title,
                       markerfacecolor="white" if kind == "standard" else GREY)
                for kind, title in (("standard", "prior N(0, I)"), ("gaussian", "fitted Gaussian"),
                                    ("mixture", "fitted mixture"))]
    if published:
        handles.append(Line2D([], [], marker="x", linestyle="", color=GREY, label="published"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False,
                  fontsize=7.5)
    figure.draw_without_rendering()   # from here on every text has its place
    for ax in axes:
        _apart([text for text in ax.texts if text.get_text()])
    return figure


def _apart(names: Sequence[Annotation]) -> None:
    """Move names down until none lies on one to its left."""
    placed = []
    for name in sorted(names, key=lambda name: name.get_window_extent().x0):
        while any(name.get_window_extent().overlaps(box) for box in placed):
            name.xyann = (name.xyann[0], name.xyann[1] - 2)
        placed.append(name.get_window_extent())


def _not_valid(share):
    """A share of valid slices as per cent that are not, at least the 0.1 that 1000 can show."""
    return np.maximum(100 * (1 - share), 0.1)


def fig22_phases(steps: pd.DataFrame, areas: Mapping[str, float], window: int = 10) -> Figure:
    """Soft Dice, share of the gradient and drawn area of each class over the first steps.

    steps: columns RV, gradient_RV, area_RV, and so on (train.STEP_COLUMNS); areas: the true mean
    share of the picture that each structure has; one without any is not drawn.
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


def fig23_collapse(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """KL and validation Dice over the epochs of two ways of weight decay."""
    figure = new_figure(2.9)
    for ax, column, name in zip(figure.subplots(1, 2), ("train_kl", "validation_dice"),
                                ("KL, nats", "Dice of validation slices")):
        for (title, history), colour in zip(histories.items(), PAIR):
            ax.plot(history["epoch"], history[column], color=colour, label=title, linewidth=1.5)
        ax.set(xlabel="epoch", ylabel=name, ylim=(0, None))
    ax.legend(frameon=False)
    return figure
