"""Figures of reconstruction against generation."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cvae_utils.figures.colours import COLOURS
from cvae_utils.figures.hearts import class_legend, show_tiles
from cvae_utils.figures.style import GREY, MODEL_COLOURS, WIDTH, new_figure
from cvae_utils.labels import STRUCTURE_NAMES, Label

#: A spread over fewer seeds is not drawn.
FEWEST_SEEDS = 3


def samples_by_beta(samples: Mapping[float | str, np.ndarray], table: pd.DataFrame,
                    seeds: pd.DataFrame | None = None,
                    side_mm: float | None = None) -> Figure:
    """Samples from N(0, I), a row per beta, and the share of valid ones.

    samples: {beta: (C, S, S)}, or the name of a baseline instead of beta; table: indexed by beta,
    with valid_prior and valid_real; seeds: see _beta_curve; side_mm: of a usual picture.
    """
    figure, left, right = _study_figure(samples, side_mm)
    figure.suptitle("Drawn hearts, and how many of those from N(0, I) are valid")
    _beta_curve(right, table, {"valid_prior": "samples from N(0, I)"}, "anatomically valid, %", 100,
                seeds)
    right.axhline(100 * table["valid_real"].iloc[0], color=GREY, linestyle="--", linewidth=1)
    right.annotate("real test slices", (table.index.min(), 100 * table["valid_real"].iloc[0]),
                   xytext=(0, -11), textcoords="offset points", color=GREY, fontsize=8)
    right.set_ylim(0, 104)
    return figure


def reconstructions_by_beta(originals: np.ndarray, rebuilt: Mapping[float | str, np.ndarray],
                            table: pd.DataFrame, baselines: Mapping[str, float] = {},
                            seeds: pd.DataFrame | None = None,
                            side_mm: np.ndarray | None = None) -> Figure:
    """Test slices and their reconstructions, a row per beta, and the Dice per class.

    originals: (C, S, S); rebuilt: {beta: (C, S, S)}, or the name of a baseline instead of beta;
    table: indexed by beta, with test_dice and test_dice_RV, _MYO, _LV. baselines: {name: mean Dice}
    become lines across. seeds: see _beta_curve; side_mm: (C,), of the pictures.
    """
    figure, left, right = _study_figure({"original": originals} | dict(rebuilt), side_mm)
    figure.suptitle("Reconstructions of test slices, and their Dice")
    _beta_curve(right, table, {"test_dice": "mean"} | {
        f"test_dice_{n}": n for n in STRUCTURE_NAMES}, "Dice of test slices", 1, seeds)
    for name, dice in baselines.items():
        right.axhline(dice, color=GREY, linestyle="--", linewidth=1, label=name)
    right.set_ylim(top=1)
    right.legend(frameon=False)
    return figure


def _study_figure(rows: Mapping[float | str, np.ndarray], side_mm) -> tuple[Figure, Axes, Axes]:
    """A figure with rows of label maps on its left, and room for a curve."""
    columns = len(next(iter(rows.values())))
    figure = new_figure(WIDTH * 0.54 * len(rows) / columns + 1.0)
    left, right = figure.subplots(1, 2, width_ratios=(0.62, 0.38))
    show_tiles(left, np.stack(list(rows.values())), _beta_names(rows), side_mm=side_mm)
    class_legend(figure, *rows.values(), bar=side_mm is not None)
    return figure, left, right


def _beta_names(rows) -> list[str]:
    """Names of rows that are betas, or have a name of their own."""
    return [row if isinstance(row, str) else rf"$\beta$ = {row:g}" for row in rows]


def _beta_curve(ax: Axes, table: pd.DataFrame, columns: Mapping[str, str], label: str,
                scale: float, seeds: pd.DataFrame | None = None) -> None:
    """One line a column over beta on a log axis; a class has its colour, anything else is black.

    A column without any value, the Dice of a class that does not occur, has no line. seeds: the
    same columns with beta, a row for each run; where there are FEWEST_SEEDS or more, a band shows
    their mean +- standard deviation.
    """
    markers, counts = iter("osD^"), pd.Series(dtype=int)  # seeds of each beta that has a band
    if seeds is not None and len(seeds):
        counts = seeds["beta"].value_counts().reindex(table.index, fill_value=0)
        counts = counts[counts >= FEWEST_SEEDS]
    for column, name in columns.items():
        if table[column].isna().all():
            continue
        colour = COLOURS[Label[name]] if name in STRUCTURE_NAMES else "black"
        ax.plot(table.index, scale * table[column], color=colour, marker=next(markers),
                linewidth=2 if colour == "black" else 1.3, markersize=5, label=name)
        if len(counts):
            found = scale * seeds.groupby("beta")[column].agg(["mean", "std"])
            found = found.reindex(counts.index).reindex(table.index)  # a gap where there is no band
            low, high = found["mean"] - found["std"], found["mean"] + found["std"]
            ax.fill_between(table.index, low, high, color=colour, alpha=0.18, linewidth=0)
            ax.vlines(table.index, low, high, color=colour, linewidth=3, alpha=0.3)
    if len(counts):
        some = "" if len(counts) == len(table) else (
            rf" at $\beta$ = {', '.join(f'{beta:g}' for beta in counts.index)}")
        count = " to ".join(f"{n}" for n in sorted({counts.min(), counts.max()}))
        ax.set_title(rf"line: one seed; band{some}: mean $\pm$ SD of {count} seeds", fontsize=8,
                     color=GREY)
    ax.set(xscale="log", xlabel=r"$\beta$ (weight of the KL term)", ylabel=label)
    ax.grid(alpha=0.3)
    sns.despine(ax=ax)


def broken_criteria(broken: pd.DataFrame) -> Figure:
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


def reconstruction_against_validity(points: pd.DataFrame, real: Mapping[str, float],
                                    published: Sequence[Mapping] = ()) -> Figure:
    """Reconstruction against generation: test Dice and the share of samples that are valid.

    points: one row a model and prior, with panel, label, prior, dice, valid; each panel is a
    protocol. A line leads from what a model draws from N(0, I), a hollow circle ("standard"), to
    what it draws from a fitted prior. real: {panel: share of valid real slices}. published: rows
    with title, dice and valid (two numbers each, the lowest and the highest), drawn in the last
    panel. Raises ValueError for more labels than there are colours.
    """
    colours, panels = _model_colours(points), list(dict.fromkeys(points["panel"]))
    figure = new_figure(4.3)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel in zip(axes, panels):
        for label, rows in points[points["panel"] == panel].groupby("label", sort=False):
            ax.plot(rows["dice"], 100 * rows["valid"], color=colours[label], linewidth=1.2)
            for row in rows.itertuples():
                ax.plot(row.dice, 100 * row.valid, "o", color=colours[label], markersize=7,
                        markerfacecolor="white" if row.prior == "standard" else colours[label])
            lowest = rows.loc[rows["valid"].idxmin()]
            rightmost = lowest["dice"] == points.loc[points["panel"] == panel, "dice"].max()
            beside = ("right" if published and panel == panels[-1] else
                      "left" if rightmost else "center")
            _name(ax, label, lowest["dice"], 100 * lowest["valid"], colours[label], beside)
        ax.axhline(100 * real[panel], color=GREY, linestyle="--", linewidth=1)
        ax.set(title=panel, xlabel="Dice of test slices", ylim=(0, 105))
        ax.margins(x=0.4)
        sns.despine(ax=ax)
    for row in published:
        x, y = np.array(row["dice"]), 100 * np.array(row["valid"])
        # Of several settings only the range of each number is known: a cross, not a line.
        axes[-1].errorbar(x.mean(), y.mean(), xerr=np.ptp(x) / 2, yerr=np.ptp(y) / 2, fmt="x",
                          color=GREY, markersize=6, elinewidth=0.8)
        _name(axes[-1], row["title"], x.mean(), y.mean(), GREY, "left")
    axes[0].set_ylabel("samples that are valid, %")
    handles = [_handle("o", "black", "samples from N(0, I)", hollow=True),
               _handle("o", "black", "samples from a prior fitted to real slices"),
               Line2D([], [], color=GREY, linestyle="--", label="real test slices")]
    handles += [_handle("x", GREY, "published")] if published else []
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure


def _name(ax: Axes, name: str, x: float, y: float, colour: str, ha: str) -> None:
    """A name beside a point, which its right or left end touches, or below it: "center"."""
    below = ha == "center"
    ax.annotate(name.replace(", ", ",\n"), (x, y), xytext={"left": (8, 0), "right": (-8, 0)}.get(
        ha, (0, -7)), textcoords="offset points", ha=ha, va="top" if below else "center",
        fontsize=7.5, color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8})


def _model_colours(points: pd.DataFrame) -> dict[str, str]:
    labels = list(dict.fromkeys(points["label"]))
    if len(labels) > len(MODEL_COLOURS):
        raise ValueError(f"expected at most {len(MODEL_COLOURS)} models, which have a colour each, "
                         f"found {labels}: draw fewer of them")
    return dict(zip(labels, MODEL_COLOURS))


def _handle(marker: str, colour: str, label: str, hollow: bool = False) -> Line2D:
    return Line2D([], [], marker=marker, linestyle="", color=colour, label=label,
                  markerfacecolor="white" if hollow else colour)


def dice_against_latents(points: pd.DataFrame, published: Sequence[Mapping] = ()) -> Figure:
    """Reconstruction against the number of values that a slice is described by.

    points: one row a model and size, with panel, label, latents, dice, dice_sd; each panel is a
    protocol, and a line joins the sizes of one label. published: rows with title, latents and dice
    (the lowest and the highest), drawn in the last panel. Raises ValueError for more labels than
    there are colours.
    """
    colours, panels = _model_colours(points), list(dict.fromkeys(points["panel"]))
    figure = new_figure(3.9)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel in zip(axes, panels):
        for (label, colour), marker in zip(colours.items(), "osD^vP*X"):
            rows = points[(points["panel"] == panel) & (points["label"] == label)]
            ax.errorbar(rows["latents"], rows["dice"], yerr=rows["dice_sd"], label=label,
                        color=colour, marker=marker, markersize=5, linewidth=1.3, elinewidth=0.8,
                        capsize=2)
        counts = sorted({*points.loc[points["panel"] == panel, "latents"]})
        ax.set(title=panel, xscale="log", xlabel="latent values a slice", xticks=counts,
               xticklabels=counts)
        ax.minorticks_off()
        ax.grid(alpha=0.3)
        sns.despine(ax=ax)
    if published:
        _draw_published(axes[-1], published)
    axes[0].set_ylabel("Dice of test slices")
    handles, names = axes[0].get_legend_handles_labels()
    if published:
        handles, names = [*handles, _handle("x", GREY, "")], [*names, "published"]
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False,
                  fontsize=7.5)
    return figure


def _draw_published(ax: Axes, published: Sequence[Mapping]) -> None:
    for row in published:
        ax.plot([row["latents"]] * 2, row["dice"], "x-", color=GREY, markersize=6)
        last = row["latents"] == max(other["latents"] for other in published)
        ax.annotate(row["title"], (row["latents"], np.mean(row["dice"])), fontsize=7, color=GREY,
                    xytext=(-6 if last else 6, 0), ha="right" if last else "left", va="center",
                    textcoords="offset points")
    counts = sorted({*ax.get_xticks(), *(row["latents"] for row in published)})
    ax.set_xticks(counts, [f"{count:,.0f}" for count in counts])
    ax.margins(x=0.15)
