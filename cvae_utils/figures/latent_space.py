"""Figures of latent values: histograms, planes, clouds, influence of dimensions."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colors
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


def umap_planes(points: Mapping[float, np.ndarray], groups: np.ndarray) -> Figure:
    """UMAP of the training slices at several beta; points: {beta: (N, 2)}; groups: (N,)."""
    figure = new_figure(WIDTH / len(points) + 0.7)
    axes = figure.subplots(1, len(points), squeeze=False).flat
    for ax, (beta, plane) in zip(axes, points.items()):
        _group_scatter(ax, plane, groups)
        ax.set(title=rf"$\beta$ = {beta:g}", xlabel="UMAP 1", ylabel="UMAP 2")
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


def traversals_in_plane(data: np.ndarray, groups: np.ndarray,
                        traversed: Mapping[str, np.ndarray], limit: float) -> Figure:
    """Where traversed images land in the UMAP plane; data (N, 2), traversed {name: (steps, 2)}."""
    figure = new_figure(WIDTH / len(traversed) + 1.1)
    shade = None
    for ax, (name, points) in zip(figure.subplots(1, len(traversed), squeeze=False).flat,
                                  traversed.items()):
        _group_scatter(ax, data, groups, size=4)
        ax.plot(*points.T, color="black", linewidth=0.5, alpha=0.5)
        shade = ax.scatter(*points.T, c=np.linspace(-limit, limit, len(points)), cmap="cividis",
                           s=22, edgecolors="black", linewidths=0.4, zorder=3)
        ax.set(title=name, xlabel="UMAP 1", ylabel="UMAP 2")
    figure.colorbar(shade, ax=figure.axes, label="value of the dimension", shrink=0.8)
    _group_legend(figure, groups)
    return figure


def tsne_clouds(points: Mapping[float, np.ndarray], groups: np.ndarray) -> Figure:
    """t-SNE with three components as its three planes, a row per beta; points: {beta: (N, 3)}."""
    figure = new_figure(len(points) * WIDTH / 3 * 0.95 + 0.6)
    planes = ((0, 1), (0, 2), (1, 2))
    for row, (beta, cloud) in zip(figure.subplots(len(points), 3, squeeze=False), points.items()):
        for ax, (a, b) in zip(row, planes):
            _group_scatter(ax, cloud[:, (a, b)], groups)
            ax.set(xlabel=f"t-SNE {a + 1}", ylabel=f"t-SNE {b + 1}")
        row[0].set_title(rf"$\beta$ = {beta:g}", loc="left")
    _group_legend(figure, groups)
    return figure


def coloured_planes(planes: Mapping[str, np.ndarray], table: pd.DataFrame) -> Figure:
    """Each plane {name: (N, 2)} coloured by group, phase, slice level and the area of each class.

    table: N rows with group, phase, level, and area_rv, area_myo, area_lv in shares of the crop.
    What is the same for all slices is left out, and so is a phase that is not known of all.
    """
    shown = _colourings(table)
    figure = new_figure(len(planes) * WIDTH / 6 + 0.9, max(4.0, WIDTH * (len(shown) + 1) / 6))
    for row, (plane_name, plane) in zip(
            figure.subplots(len(planes), len(shown) + 1, squeeze=False), planes.items()):
        _group_scatter(row[0], plane, table["group"].to_numpy(), size=4)
        for ax, values in zip(row[1:], shown.values()):
            # Few outliers, of either side, must not take the whole scale.
            scale = colors.Normalize(*np.percentile(values, (2, 98) if values.nunique() > 2 else
                                                    (0, 100)))
            ax.scatter(*plane.T, s=4, c=values, cmap="cividis", norm=scale, linewidths=0)
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(plane_name)
    for ax, title in zip(figure.axes, ("group", *shown)):
        ax.set_title(title)
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
