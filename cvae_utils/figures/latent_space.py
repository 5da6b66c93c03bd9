"""Figures of latent values: histograms, planes, clouds, influence of dimensions."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colors, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import norm

from cvae_utils.figures.colours import GROUP_COLOURS
from cvae_utils.figures.style import GREY, PAIR, WIDTH, new_figure
from cvae_utils.labels import STRUCTURE_NAMES, groups_of


def latent_histograms(z: np.ndarray, distance: np.ndarray, active: Sequence[int],
                      title: str) -> Figure:
    """One histogram per dimension of z (N, Z), with the density of N(0, 1).

    distance: (Z,), written into each panel: the distance of its values to N(0, 1). active: the
    dimensions that carry information, in colour; the others are grey.
    """
    columns = min(8, z.shape[1])
    rows = -(-z.shape[1] // columns)
    figure = new_figure(rows * 1.15 + 0.8)
    reach = float(np.clip(np.abs(z).max(), 3.5, 12))
    edges, ticks = np.linspace(-reach, reach, 61), np.linspace(-reach, reach, 200)
    for dimension, ax in enumerate(figure.subplots(rows, columns, sharex=True, sharey=True,
                                                   squeeze=False).flat):
        if dimension >= z.shape[1]:
            ax.set_axis_off()
            continue
        ax.hist(z[:, dimension], edges, density=True, alpha=0.7,
                color=PAIR[0] if dimension in active else "#999999")
        ax.plot(ticks, norm.pdf(ticks), color="black", linewidth=0.9)
        ax.set_title(f"z{dimension}", pad=2, fontsize=8, loc="left")
        ax.set_title(f"{distance[dimension]:.2f}", pad=2, fontsize=7, color=GREY, loc="right")
        ax.set_yticks([])
        if dimension >= z.shape[1] - columns:
            ax.set_xlabel("value")
    figure.supylabel("probability density", fontsize=9)
    figure.suptitle(title)
    return figure


def umap_planes(points: Mapping[float, np.ndarray], groups: np.ndarray, coloured: np.ndarray,
                clumps: Mapping[float, int]) -> Figure:
    """UMAP of the training slices at several beta; points: {beta: (N, 2)}; groups: (N,).

    coloured: (N,) bool, slices that are alike but for their group; the others are grey. clumps:
    {beta: how many are named in the title}.
    """
    figure = new_figure(WIDTH / len(points) + 0.7)
    axes = figure.subplots(1, len(points), squeeze=False).flat
    for ax, (beta, plane) in zip(axes, points.items()):
        ax.scatter(*plane[~coloured].T, s=4, color="#CCCCCC", linewidths=0)
        _group_scatter(ax, plane[coloured], groups[coloured], size=16)
        ax.set(title=rf"$\beta$ = {beta:g}: {clumps[beta]} clumps", xlabel="UMAP 1",
               ylabel="UMAP 2")
    _group_legend(figure, groups)
    return figure


def _group_scatter(ax: Axes, plane: np.ndarray, groups: np.ndarray, size: float = 7) -> None:
    for group in groups_of(groups):
        chosen = groups == group
        ax.scatter(*plane[chosen].T, s=size, color=GROUP_COLOURS[group], linewidths=0, alpha=0.75)
    ax.set_xticks([])
    ax.set_yticks([])


def _group_legend(figure: Figure, groups: np.ndarray) -> None:
    handles = [Line2D([], [], marker="o", linestyle="", color=GROUP_COLOURS[g], label=g)
               for g in groups_of(groups)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)


def influence_bars(table: pd.DataFrame, active: Sequence[int]) -> Figure:
    """How far each traversal leaves the mean shape, and how much it varies in that: a bar for each
    dimension of dimensions.influence that is active, and one for all the others.

    That one is their mean, its line ends at the largest. With no active dimension, the four most
    influential ones are shown.
    """
    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2)
    own = table["dimension"].isin(active) if len(active) else table.index < 4
    names = [f"z{d}" for d in table["dimension"][own]]
    for ax, column, label in ((left, 1 - table["mean_dice"], "1 - mean Dice to the mean shape"),
                              (right, table["variance"], "variance of that Dice")):
        ax.bar(names, column[own], color=PAIR[0])
        others = column[~own]
        if len(others):
            ax.bar(f"the {len(others)}\nothers", others.mean(), color="#BBBBBB",
                   yerr=[[0], [others.max() - others.mean()]], ecolor=GREY, capsize=3)
        ax.set_ylabel(label)
        ax.tick_params(axis="x", rotation=90 if len(names) > 12 else 0)
        sns.despine(ax=ax)
    figure.suptitle(f"Each dimension alone, from -3 to 3; {len(active)} of {len(table)} are active")
    return figure


def relations(table: pd.DataFrame, title: str) -> Figure:
    """How closely each latent dimension, a row of `table` (Z, F), goes with each factor, a column:
    0 to 1, which is dark."""
    figure = new_figure(0.28 * len(table) + 1.9)
    ax = figure.subplots()
    sns.heatmap(table.rename("z{}".format), vmin=0, vmax=1, cmap="Blues", annot=True, fmt=".2f",
                annot_kws={"size": 8}, linewidths=1, cbar=False, ax=ax)
    ax.set_xticks(ax.get_xticks(), [name.replace(", ", ",\n") for name in table], rotation=40,
                  ha="right")
    ax.tick_params(length=0, rotation=0, axis="y")
    figure.suptitle(title)
    return figure


def traversals_in_plane(data: np.ndarray, traversed: Mapping[str, np.ndarray],
                        limit: float) -> Figure:
    """Where traversed images land in the UMAP plane; data (N, 2), traversed {name: (steps, 2)}."""
    figure = new_figure(WIDTH / len(traversed) + 0.9)
    shade = None
    for ax, (name, points) in zip(figure.subplots(1, len(traversed), squeeze=False).flat,
                                  traversed.items()):
        ax.scatter(*data.T, s=4, color="#CCCCCC", linewidths=0)
        ax.plot(*points.T, color="black", linewidth=0.8, zorder=3)
        shade = ax.scatter(*points.T, c=np.linspace(-limit, limit, len(points)), cmap="cividis",
                           s=26, edgecolors="black", linewidths=0.4, zorder=4)
        ax.set(title=name, xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
    figure.colorbar(shade, ax=figure.axes, label="value of the dimension", shrink=0.8)
    return figure


def tsne_clouds(points: Mapping[float, np.ndarray], groups: np.ndarray) -> Figure:
    """t-SNE with three components as clouds in space, one a beta; points: {beta: (N, 3)}."""
    figure = new_figure(WIDTH / len(points) + 0.4)
    for number, (beta, cloud) in enumerate(points.items(), start=1):
        with rc_context({"grid.color": "#E0E0E0"}):
            ax = figure.add_subplot(1, len(points), number, projection="3d")
        for group in groups_of(groups):
            ax.scatter(*cloud[groups == group].T, s=7, color=GROUP_COLOURS[group], linewidths=0,
                       alpha=0.75)
        ax.set(xlabel="t-SNE 1", ylabel="t-SNE 2", zlabel="t-SNE 3",
               xticklabels=[], yticklabels=[], zticklabels=[])
        ax.set_title(rf"$\beta$ = {beta:g}", loc="left")
        for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
            axis.labelpad = -10
            axis.set_pane_color("#FAFAFA")
        ax.set_box_aspect((1, 1, 0.85), zoom=1.15)
    _group_legend(figure, groups)
    return figure


def coloured_planes(planes: Mapping[str, np.ndarray], table: pd.DataFrame,
                    by: Sequence[str] = ()) -> Figure:
    """Each plane {name: (N, 2)} coloured by group, phase, slice level and the area of each class.

    table: N rows with group, phase, level, and area_rv, area_myo, area_lv in shares of the crop.
    What is the same for all slices is left out, and so is a phase that is not known of all. A row
    is a plane; with `by`, the starts of the names of some colourings, a row is one of these.
    """
    shown = {"group": table["group"]} | _colourings(table)
    shown = {name: values for name, values in shown.items()
             if not by or name.startswith(tuple(by))}
    shape = (len(shown), len(planes)) if by else (len(planes), len(shown))
    figure = new_figure(shape[0] * 0.85 * WIDTH / max(shape[1], 3) + 0.9 if by else
                        shape[0] * WIDTH / 6 + 0.9,
                        max(4.0, WIDTH * min(1, shape[1] / (3 if by else 6))))
    axes = figure.subplots(*shape, squeeze=False)
    for row, plane in zip(axes.T if by else axes, planes.values()):
        for ax, (name, values) in zip(row, shown.items()):
            if name == "group":
                _group_scatter(ax, plane, values.to_numpy(), size=4)
            else:
                # Few outliers, of either side, must not take the whole scale.
                scale = colors.Normalize(*np.percentile(
                    values, (2, 98) if values.nunique() > 2 else (0, 100)))
                ax.scatter(*plane.T, s=4, c=values, cmap="cividis", norm=scale, linewidths=0)
            ax.set(xticks=[], yticks=[])
    for ax, title in zip(axes[0], planes if by else shown):
        ax.set_title(title)
    for ax, title in zip(axes[:, 0], shown if by else planes):
        ax.set_ylabel(title)
    _group_legend(figure, table["group"])
    return figure


def _colourings(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Title and values of all that varies over the rows of a slice table with areas."""
    values = {"level\n(yellow: apex)": table["level"]}
    if set(table["phase"]) == {"ED", "ES"}:
        values = {"phase\n(yellow: ES)": (table["phase"] == "ES").astype(float)} | values
    values |= {f"{name} area\n(yellow: large)": table[f"area_{name.lower()}"]
               for name in STRUCTURE_NAMES}
    return {title: column for title, column in values.items() if column.nunique() > 1}
