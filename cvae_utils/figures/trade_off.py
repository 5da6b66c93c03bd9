"""Figures of reconstruction against generation."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from cvae_utils.figures.colours import COLOURS
from cvae_utils.figures.hearts import class_legend, show_tiles
from cvae_utils.figures.style import GREY, MODEL_COLOURS, WIDTH, new_figure
from cvae_utils.labels import STRUCTURE_NAMES, Label


def samples_by_beta(samples: Mapping[float | str, np.ndarray], table: pd.DataFrame) -> Figure:
    """Samples from N(0, I), a row per beta, and the share of valid ones.

    samples: {beta: (C, S, S)}, or the name of a baseline instead of beta; table: indexed by beta,
    with valid_prior and valid_real.
    """
    figure, left, right = _study_figure(samples)
    show_tiles(left, np.stack(list(samples.values())), _beta_names(samples))
    figure.suptitle("Samples from N(0, I), and how many are valid")
    _beta_curve(right, table, {"valid_prior": "samples from N(0, I)"}, "anatomically valid, %", 100)
    right.axhline(100 * table["valid_real"].iloc[0], color=GREY, linestyle="--", linewidth=1)
    right.annotate("real test slices", (table.index.min(), 100 * table["valid_real"].iloc[0]),
                   xytext=(0, -11), textcoords="offset points", color=GREY, fontsize=8)
    right.set_ylim(0, 104)
    return figure


def reconstructions_by_beta(originals: np.ndarray, rebuilt: Mapping[float | str, np.ndarray],
                            table: pd.DataFrame, baselines: Mapping[str, float] = {}) -> Figure:
    """Test slices and their reconstructions, a row per beta, and the Dice per class.

    originals: (C, S, S); rebuilt: {beta: (C, S, S)}, or the name of a baseline instead of beta;
    table: indexed by beta, with test_dice and test_dice_RV, _MYO, _LV. baselines: {name: mean Dice}
    become lines across.
    """
    rows = {"original": originals} | dict(rebuilt)
    figure, left, right = _study_figure(rows)
    show_tiles(left, np.stack(list(rows.values())), _beta_names(rows))
    figure.suptitle("Reconstructions of test slices, and their Dice")
    _beta_curve(right, table, {"test_dice": "mean"} | {f"test_dice_{n}": n for n in
                                                       STRUCTURE_NAMES}, "Dice of test slices", 1)
    for name, dice in baselines.items():
        right.axhline(dice, color=GREY, linestyle="--", linewidth=1, label=name)
    right.set_ylim(top=1)
    right.legend(frameon=False)
    return figure


def _study_figure(rows: Mapping[float | str, np.ndarray]) -> tuple[Figure, Axes, Axes]:
    columns = len(next(iter(rows.values())))
    figure = new_figure(WIDTH * 0.54 * len(rows) / columns + 1.0)
    left, right = figure.subplots(1, 2, width_ratios=(0.62, 0.38))
    class_legend(figure, *rows.values())
    return figure, left, right


def _beta_names(rows) -> list[str]:
    """Names of rows that are betas, or have a name of their own."""
    return [row if isinstance(row, str) else rf"$\beta$ = {row:g}" for row in rows]


def _beta_curve(ax: Axes, table: pd.DataFrame, columns: Mapping[str, str], label: str,
                scale: float) -> None:
    """One line a column over beta on a log axis; a class has its colour, anything else is black.

    A column without any value, the Dice of a class that does not occur, has no line.
    """
    markers = iter("osD^")
    for column, name in columns.items():
        if table[column].isna().all():
            continue
        colour = COLOURS[Label[name]] if name in STRUCTURE_NAMES else "black"
        ax.plot(table.index, scale * table[column], color=colour, marker=next(markers),
                linewidth=2 if colour == "black" else 1.3, markersize=5, label=name)
    ax.set(xscale="log", xlabel=r"$\beta$ (weight of the KL term)", ylabel=label)
    ax.grid(alpha=0.3)
    sns.despine(ax=ax)


#: Marker and title of each latent prior; that of N(0, I) is hollow.
PRIORS = {"standard": ("o", "prior N(0, I)"), "gaussian": ("s", "fitted Gaussian"),
          "mixture": ("D", "fitted mixture")}


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
    """Reconstruction against generation: test Dice and the share of samples that are not valid.

    points: one row a model and prior, with panel, label, prior, temperature, dice, dice_sd, valid;
    each panel is a protocol, and a line joins the priors of one label, which has a colour of its
    own. real: {panel: share of valid real slices}. published: rows with title, dice and valid (two
    numbers each, the lowest and the highest), drawn in the last panel. The axis of validity is
    logarithmic in what is not valid, and ends where a thousand samples do. Raises ValueError for
    more labels than there are colours.
    """
    colours, panels = _model_colours(points), list(dict.fromkeys(points["panel"]))
    figure = new_figure(4.8)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel in zip(axes, panels):
        for label, rows in points[points["panel"] == panel].groupby("label", sort=False):
            _draw_model(ax, rows, colours[label])
        mark = _not_valid(real[panel])
        ax.axhline(mark, color=GREY, linestyle="--", linewidth=1)
        ax.annotate("real test slices", (0.15, mark), xytext=(0, 3), fontsize=7.5, color=GREY,
                    xycoords=("axes fraction", "data"), textcoords="offset points")
        ax.set(title=panel, xlabel="Dice of test slices", yscale="log", ylim=(200, 0.08))
    for row in published:
        dice, broken = np.array(row["dice"]), np.sort(_not_valid(np.array(row["valid"])))
        middle = np.sqrt(broken.prod())
        # Of several settings only the range of each number is known: a cross, not a line.
        axes[-1].errorbar(dice.mean(), middle, xerr=np.ptp(dice) / 2,
                          yerr=np.abs(broken - middle)[:, None], fmt="x", color=GREY,
                          markersize=6, elinewidth=0.8)
        axes[-1].annotate(row["title"], (dice.mean(), broken.max()), xytext=(0, -11), ha="center",
                          fontsize=7, color=GREY, textcoords="offset points")
        axes[-1].margins(x=0.25)
    axes[0].set_yticks([100, 10, 1, 0.1], ["100", "10", "1", "0.1 or less"])
    axes[0].set_ylabel("samples that are not valid, %")
    handles = [_handle("o", colour, name) for name, colour in colours.items()]
    cooled = dict(points.loc[points["temperature"] != 1, ["prior", "temperature"]].to_numpy())
    handles += [_handle(marker, GREY, title + (f", temperature {cooled[kind]:g}"
                                               if kind in cooled else ""), kind == "standard")
                for kind, (marker, title) in PRIORS.items()]
    handles += [_handle("x", GREY, "published")] if published else []
    figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=7.5)
    figure.draw_without_rendering()  # from here on every text has its place
    for ax in axes:
        _apart([text for text in ax.texts if text.get_text()])
    return figure


def _draw_model(ax: Axes, rows: pd.DataFrame, colour: str) -> None:
    """The priors of one model, joined by a line."""
    broken = _not_valid(rows["valid"])
    ax.plot(rows["dice"], broken, color=colour, linewidth=0.8, alpha=0.6)
    for row, height in zip(rows.itertuples(), broken):
        ax.errorbar(row.dice, height, xerr=row.dice_sd, fmt=PRIORS[row.prior][0], color=colour,
                    markersize=5.5, elinewidth=0.8,
                    markerfacecolor="white" if row.prior == "standard" else colour)


def _model_colours(points: pd.DataFrame) -> dict[str, str]:
    labels = list(dict.fromkeys(points["label"]))
    if len(labels) > len(MODEL_COLOURS):
        raise ValueError(f"expected at most {len(MODEL_COLOURS)} models, which have a colour each, "
                         f"found {labels}: draw fewer of them")
    return dict(zip(labels, MODEL_COLOURS))


def _handle(marker: str, colour: str, label: str, hollow: bool = False) -> Line2D:
    return Line2D([], [], marker=marker, linestyle="", color=colour, label=label,
                  markerfacecolor="white" if hollow else colour)


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
    figure.legend(handles, names, loc="outside lower left", ncols=3, frameon=False, fontsize=7.5)
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
