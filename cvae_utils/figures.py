"""One function per figure of the report: arrays in, Figure out. Nothing here trains or loads.

Figures are made without pyplot, so they also work in a widget's callback. Label maps are
(..., S, S) uint8; MR images (..., H, W). `save_figure` is the one place that writes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colors, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.stats import norm
from skimage.measure import find_contours

from cvae_utils.labels import (
    COLOURS,
    GROUP_COLOURS,
    LONG_NAMES,
    STRUCTURE_NAMES,
    STRUCTURES,
    Label,
    colourise,
    groups_of,
)
from cvae_utils.storage import complete_file

WIDTH = 9.0  # inches
DPI = 130  # about 1170 pixels wide: sharp at the width of a README
GREY = "#666666"
#: Training and validation, or any pair: Okabe and Ito's blue and vermilion.
PAIR = ("#0072B2", "#D55E00")
STYLE = {"font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "xtick.labelsize": 8,
         "ytick.labelsize": 8, "legend.fontsize": 8, "figure.titlesize": 10.5}


def use_style() -> None:
    """Set the font sizes of all figures made from now on."""
    rcParams.update(STYLE)


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """A figure with room kept between its parts; sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained", dpi=100)


def stamp_figure(figure: Figure, stamp: str) -> Figure:
    """Write at the foot of a figure which data it was made from; returns it."""
    figure.supxlabel(stamp, fontsize=6.5, color=GREY, x=0.995, ha="right")
    return figure


def save_figure(figure: Figure, path: Path) -> Figure:
    """Write a figure as PNG; the file appears only when complete. Returns the figure."""
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=DPI, format="png", facecolor="white")
    return figure


def tile(maps: np.ndarray, gap: int = 2) -> np.ndarray:
    """Label maps (R, C, S, S) -> one RGB picture, R rows and C columns, grey lines between."""
    rows, columns, side, _ = maps.shape
    cell = side + gap
    picture = np.full((rows * cell + gap, columns * cell + gap, 3), 205, dtype=np.uint8)
    for r in range(rows):
        for c in range(columns):
            y, x = gap + r * cell, gap + c * cell
            picture[y:y + side, x:x + side] = colourise(maps[r, c])
    return picture


def show_tiles(ax: Axes, maps: np.ndarray, row_names: Sequence[str] = (),
               column_names: Sequence[str] = ()) -> None:
    """Draw `tile` of maps (R, C, S, S) with names at the rows and above the columns."""
    rows, columns, side, _ = maps.shape
    ax.imshow(tile(maps), interpolation="nearest")
    middle = 2 + side / 2 + np.arange(max(rows, columns)) * (side + 2)
    ax.set_yticks(middle[:len(row_names)], row_names)
    ax.set_xticks(middle[:len(column_names)], column_names)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def class_legend(figure: Figure, *maps: np.ndarray, loc: str = "outside lower left") -> None:
    """Name the colours of the structures that occur in these label maps; of all, without maps."""
    shown = [label for label in STRUCTURES
             if not maps or any((part == label).any() for part in maps)]
    handles = [Patch(facecolor=COLOURS[label], edgecolor=GREY, linewidth=0.5,
                     label=f"{label.name} ({LONG_NAMES[label]})") for label in shown]
    if handles:
        figure.legend(handles=handles, loc=loc, ncols=3, frameon=False, fontsize=7.5,
                      columnspacing=1.2, handlelength=1.4)


def _show_image(ax: Axes, image: np.ndarray) -> None:
    low, high = np.percentile(image, (1, 99.5))
    ax.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    ax.set_axis_off()


def _outline(ax: Axes, label_map: np.ndarray) -> None:
    """The border of each structure as a line over a light fill, so that the image shows through."""
    fill = np.dstack([colourise(label_map), np.where(label_map > 0, 90, 0).astype(np.uint8)])
    ax.imshow(fill, interpolation="nearest")
    for label in STRUCTURES:
        for line in find_contours((label_map == label).astype(float), 0.5):
            ax.plot(line[:, 1], line[:, 0], color=COLOURS[label], linewidth=1.4)


def _show_map(ax: Axes, label_map: np.ndarray, frame: bool = True) -> None:
    ax.imshow(colourise(label_map), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=frame, color=GREY, linewidth=0.5)


def fig01_patient_slices(images: np.ndarray, title: str) -> Figure:
    """All MR slices of one patient at ED; images: (Z, H, W)."""
    columns = min(5, len(images))
    rows = -(-len(images) // columns)
    figure = new_figure(rows * WIDTH / columns * images.shape[1] / images.shape[2] + 0.6)
    for k, ax in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if k < len(images):
            _show_image(ax, images[k])
            ax.set_title(f"slice {k + 1} of {len(images)}")
        ax.set_axis_off()
    figure.suptitle(title)
    return figure


def fig02_ed_es(images: Mapping[str, np.ndarray], maps: Mapping[str, np.ndarray],
                title: str) -> Figure:
    """One slice at each phase, ED and ES, with its segmentation; both {phase: (H, W)}."""
    figure = new_figure(WIDTH / 4 + 0.9, WIDTH * len(images) / 2)
    axes = iter(figure.subplots(1, 2 * len(images)))
    for phase in images:
        for segmented in (False, True):
            ax = next(axes)
            _show_image(ax, images[phase])
            if segmented:
                _outline(ax, maps[phase])
            ax.set_title(f"{phase}, segmentation" if segmented else f"{phase}, MR image")
    figure.suptitle(title)
    class_legend(figure, *maps.values())
    return figure


def fig03_alignment(original: np.ndarray, cropped: np.ndarray, rotated: np.ndarray,
                    angle_deg: float, title: str) -> Figure:
    """One slice: original (H, W), centred and cropped (S, S), centred, rotated, cropped (S, S)."""
    figure = new_figure(WIDTH / 3 + 0.9)
    names = ("original", "centred on LV, cropped", f"rotated by {-angle_deg:.0f}°, cropped")
    for ax, label_map, name in zip(figure.subplots(1, 3), (original, cropped, rotated), names):
        _show_map(ax, label_map)
        ax.set_title(f"{name}\n{label_map.shape[1]} x {label_map.shape[0]} pixels")
        if label_map is not original:
            middle = (label_map.shape[0] - 1) / 2
            ax.axhline(middle, color=GREY, linewidth=0.7, linestyle=":")
            ax.axvline(middle, color=GREY, linewidth=0.7, linestyle=":")
    figure.suptitle(title)
    class_legend(figure, original)
    return figure


def fig04_generation(samples: Mapping[float | str, np.ndarray], table: pd.DataFrame) -> Figure:
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


def fig05_reconstruction(originals: np.ndarray, rebuilt: Mapping[float | str, np.ndarray],
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


def latent_histograms(z: np.ndarray, distance: np.ndarray, active: Sequence[int],
                      title: str) -> Figure:
    """Figures 6 and 7: one histogram per dimension of z (N, Z), with the density of N(0, 1).

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


def fig08_umap(points: Mapping[float, np.ndarray], groups: np.ndarray) -> Figure:
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


def fig09_training(history: pd.DataFrame, best_epoch: int) -> Figure:
    """Loss (training, validation) and Dice per class, epoch by epoch, early stop marked."""
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
                   label=f"early stopping keeps epoch {best_epoch} of {len(history)}")
        ax.legend(frameon=False, loc="best" if ax is left else "lower right")
        ax.grid(alpha=0.3)
        sns.despine(ax=ax)
    left.yaxis.set_major_formatter("{x:.2g}")
    left.yaxis.set_minor_formatter("{x:.2g}")
    return figure


def reconstructions(originals: np.ndarray, rebuilt: np.ndarray, dice: np.ndarray,
                    title: str, each: int = 3) -> Figure:
    """Figures 10 and 11: best, median and worst slices by Dice, with the wrong pixels in black.

    originals, rebuilt: (N, S, S); dice: (N,). each: of the best, and so on; fewer where there are
    not three times as many slices.
    """
    each = min(each, max(1, len(dice) // 3))
    order = np.argsort(-dice, kind="stable")
    middle = (len(order) - each) // 2
    chosen = np.concatenate([order[:each], order[middle:middle + each], order[-each:]])
    figure = new_figure(WIDTH * 3 / (3 * each) + 0.75)
    ax = figure.subplots()
    names = [f"{kind}\n{dice[i]:.3f}" for kind, i in
             zip(np.repeat(["best", "median", "worst"], each), chosen)]
    show_tiles(ax, np.stack([originals[chosen], rebuilt[chosen], originals[chosen]]),
               ["original", "reconstruction", "errors"], names)
    # The third row is painted over: grey where both agree on a structure, black where they differ.
    side = originals.shape[-1]
    for column, i in enumerate(chosen):
        x, y = 2 + column * (side + 2), 2 + 2 * (side + 2)
        shade = np.where(originals[i] != rebuilt[i], 0, np.where(originals[i] > 0, 200, 255))
        ax.images[0].get_array()[y:y + side, x:x + side] = shade[..., None]
    figure.suptitle(title)
    class_legend(figure, originals[chosen], rebuilt[chosen])
    return figure


def fig12_samples(maps: np.ndarray, valid: np.ndarray, title: str, columns: int = 12) -> Figure:
    """Samples from the prior (N, S, S); those that are not valid, (N,) bool, are crossed out."""
    rows = len(maps) // columns
    side = maps.shape[-1]
    figure = new_figure(WIDTH * rows / columns + 0.85)
    ax = figure.subplots()
    show_tiles(ax, maps[:rows * columns].reshape(rows, columns, side, side))
    for k in np.flatnonzero(~valid[:rows * columns]):
        y, x = (2 + np.array(divmod(k, columns)) * (side + 2))
        ax.plot([x, x + side], [y, y + side], color="black", linewidth=1)
        ax.plot([x, x + side], [y + side, y], color="black", linewidth=1)
    figure.suptitle(title)
    class_legend(figure, maps)
    return figure


def fig13_traversals(traversals: np.ndarray, names: Sequence[str], limit: float) -> Figure:
    """Traversals (D, steps, S, S) from -limit to limit, a row per dimension, a column a step."""
    rows, columns = traversals.shape[:2]
    figure = new_figure(WIDTH * 0.86 * rows / columns + 0.85)
    ax = figure.subplots()
    values = np.linspace(-limit, limit, columns)
    show_tiles(ax, traversals, names, [f"{value:.1f}" for value in values])
    class_legend(figure, traversals)
    return figure


def fig14_influence(table: pd.DataFrame, active: Sequence[int]) -> Figure:
    """Mean Dice to the mean shape and its variance, a bar per dimension of latents.influence.

    active: the dimensions that carry information, in colour; the others are grey.
    """
    figure = new_figure(4.4)
    top, bottom = figure.subplots(2, 1, sharex=True)
    place = np.arange(len(table))
    colours = np.where(table["dimension"].isin(active), PAIR[0], "#BBBBBB")
    for ax, column, label in ((top, "mean_dice", "mean Dice to\nthe mean shape"),
                              (bottom, "variance", "variance of that Dice")):
        ax.bar(place, table[column], color=colours)
        ax.set_ylabel(label)
        sns.despine(ax=ax)
    top.set_ylim(0, 1)
    bottom.set_xticks(place, [f"z{d}" for d in table["dimension"]], rotation=90)
    bottom.set_xlabel("traversed dimension, most influential first")
    figure.suptitle(f"Active dimensions ({len(active)}) in blue")
    return figure


def fig15_traversed_umap(data: np.ndarray, groups: np.ndarray,
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


def fig16_tsne(points: Mapping[float, np.ndarray], groups: np.ndarray) -> Figure:
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
