"""Figures of hearts: slices, reconstructions, samples, traversals."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from skimage.measure import find_contours

from cvae_utils.figures.colours import COLOURS, LONG_NAMES, colourise
from cvae_utils.figures.style import GREY, WIDTH, new_figure
from cvae_utils.labels import STRUCTURES, Label

#: Pixels between the label maps of a picture of several.
GAP = 2
#: The colour of the line that tells where training slices lie.
RANGE = "#009E73"


def tile(maps: np.ndarray) -> np.ndarray:
    """Label maps (R, C, S, S) -> one RGB picture, R rows and C columns, grey lines between."""
    rows, columns, side, _ = maps.shape
    before, after, none, grey = (GAP, 0), (0, GAP), (0, 0), {"constant_values": 205}
    cells = np.pad(colourise(maps), (none, none, before, before, none), **grey)
    picture = cells.swapaxes(1, 2).reshape(rows * (side + GAP), columns * (side + GAP), 3)
    return np.pad(picture, (after, after, none), **grey)


def _corner(side: int, row: int, column: int) -> tuple[int, int]:
    """x and y of the upper left pixel of a map in such a picture."""
    return GAP + column * (side + GAP), GAP + row * (side + GAP)


def show_tiles(ax: Axes, maps: np.ndarray, row_names: Sequence[str] = (),
               column_names: Sequence[str] = (), side_mm=None) -> None:
    """Draw `tile` of maps (R, C, S, S) with names at the rows and above the columns.

    side_mm: side of the pictures, for a bar of 20 mm: one number, which the first picture shows, or
    (C,), one for each column, at the foot of the first row.
    """
    rows, columns, side, _ = maps.shape
    for column, mm in enumerate(np.atleast_1d(() if side_mm is None else side_mm)):
        x, y = _corner(side, 0, column)
        ax.plot([x + 0.06 * side, x + (0.06 + 20 / mm) * side], [y + 0.94 * side] * 2,
                color="black", linewidth=1.6, solid_capstyle="butt")
    ax.imshow(tile(maps), interpolation="nearest")
    middle = GAP + side / 2 + np.arange(max(rows, columns)) * (side + GAP)
    ax.set_yticks(middle[:len(row_names)], row_names)
    ax.set_xticks(middle[:len(column_names)], column_names)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _cross_out(ax: Axes, side: int, valid: np.ndarray) -> None:
    """A cross over each picture that is not valid, (R, C) bool."""
    for row, column in np.argwhere(~valid):
        x, y = _corner(side, row, column)
        for heights in ([y, y + side], [y + side, y]):
            ax.plot([x, x + side], heights, color="black", linewidth=1)


def class_legend(figure: Figure, *maps: np.ndarray, loc: str = "outside lower left",
                 bar: bool = False) -> None:
    """Name the colours of the structures that occur in these label maps; of all, without maps.
    bar: whether there is a bar of 20 mm, to be named, too."""
    shown = [label for label in STRUCTURES
             if not maps or any((part == label).any() for part in maps)]
    handles = [Patch(facecolor=COLOURS[label], edgecolor=GREY, linewidth=0.5,
                     label=f"{label.name} ({LONG_NAMES[label]})") for label in shown]
    if bar:
        handles.append(Line2D([], [], color="black", linewidth=1.6, label="20 mm"))
    if handles:
        # With a bar in two rows, so that the data stamp has its place beside them.
        figure.legend(handles=handles, loc=loc, ncols=2 if bar else 3, frameon=False, fontsize=7.5,
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


def _show_map(ax: Axes, label_map: np.ndarray) -> None:
    ax.imshow(colourise(label_map), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color=GREY, linewidth=0.5)


def draw_smooth(ax: Axes, scores: np.ndarray, crop_mm: float = 0.0) -> None:
    """A heart with smooth outlines: where two classes have the same score.

    scores: (4, H, H), of the classes, on a grid of some four points a pixel; crop_mm: side of the
    picture, for a bar of 20 mm, or 0 for none.
    """
    side = scores.shape[-1]
    at = (np.arange(side) + 0.5) / side
    for own in (Label.RV,), (Label.MYO, Label.LV), (Label.LV,):  # LV lies on top of both
        inside = np.isin(range(len(scores)), own)
        margin = scores[inside].max(axis=0) - scores[~inside].max(axis=0)
        if margin.max() > 0:
            ax.contourf(at, at, margin, levels=[0, margin.max()], colors=[COLOURS[own[0]]],
                        antialiased=True)
    ax.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set(color=GREY, linewidth=0.5)
    if crop_mm:
        _bar(ax, 20 / crop_mm, 1)


def heart_and_strip(scores: np.ndarray, strip: np.ndarray, values: Sequence[float], name: str,
                    crop_mm: float, broken: Sequence[str] = ()) -> Figure:
    """One heart, and what one coordinate does to it.

    scores: (4, H, H); strip: (K, 4, H, H), at these values of the coordinate called `name`; broken:
    the rules of anatomy that the heart breaks.
    """
    figure = new_figure(4.6)
    top, bottom = figure.subfigures(2, 1, height_ratios=(3, 1))
    ax = top.subplots()
    draw_smooth(ax, scores, crop_mm)
    ax.set_title("not valid: " + "; ".join(broken) if broken
                 else "valid: breaks none of nine rules of anatomy")
    for tile_ax, one, value in zip(bottom.subplots(1, len(strip)), strip, values):
        draw_smooth(tile_ax, one)
        tile_ax.set_xlabel(f"{value:g}")
    bottom.suptitle(name, fontsize=9)
    class_legend(figure)
    return figure


def patient_slices(images: np.ndarray, title: str, mm_per_pixel: float = 0.0) -> Figure:
    """All MR slices of one patient at ED; images: (Z, H, W). mm_per_pixel: for a bar of 20 mm."""
    columns = min(5, len(images))
    rows = -(-len(images) // columns)
    figure = new_figure(rows * WIDTH / columns * images.shape[1] / images.shape[2] + 0.6)
    for k, ax in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if k < len(images):
            _show_image(ax, images[k])
            ax.set_title(f"slice {k + 1} of {len(images)}")
        if mm_per_pixel and k == 0:
            _bar(ax, 20 / mm_per_pixel, images.shape[1], "white")
        ax.set_axis_off()
    figure.suptitle(title)
    return figure


def ed_and_es(images: Mapping[str, np.ndarray], maps: Mapping[str, np.ndarray],
              title: str, mm_per_pixel: float = 0.0) -> Figure:
    """One slice at each phase, ED and ES, with its segmentation; both {phase: (H, W)}.
    mm_per_pixel: for a bar of 20 mm."""
    figure = new_figure(WIDTH / 4 + 0.9, WIDTH * len(images) / 2)
    axes = iter(figure.subplots(1, 2 * len(images)))
    for phase in images:
        for segmented in (False, True):
            ax = next(axes)
            _show_image(ax, images[phase])
            if segmented:
                _outline(ax, maps[phase])
            elif mm_per_pixel:
                _bar(ax, 20 / mm_per_pixel, len(images[phase]), "white")
            ax.set_title(f"{phase}, segmentation" if segmented else f"{phase}, MR image")
    figure.suptitle(title)
    class_legend(figure, *maps.values())
    return figure


def alignment_steps(original: np.ndarray, cropped: np.ndarray, rotated: np.ndarray,
                    angle_deg: float, title: str, mm: Sequence[float]) -> Figure:
    """One slice: original (H, W), centred and cropped (S, S), centred, rotated, cropped (S, S).

    mm: the side of each picture, of the original the longer one, for a bar of 20 mm.
    """
    figure = new_figure(WIDTH / 3 + 0.9)
    names = (f"{title}: original", "centred on LV, cropped",
             f"rotated by {-angle_deg:.0f}°, cropped")
    for ax, label_map, name, side_mm in zip(figure.subplots(1, 3), (original, cropped, rotated),
                                            names, mm):
        ax.set_title(f"{name}\n{label_map.shape[1]} x {label_map.shape[0]} pixels")
        pixels = max(label_map.shape)
        missing = pixels - np.array(label_map.shape)  # to a square, so that the frames are alike
        _show_map(ax, np.pad(label_map, [(n // 2, n - n // 2) for n in missing]))
        _bar(ax, 20 / side_mm * pixels, pixels)
        if label_map is not original:
            for line in (ax.axhline, ax.axvline):
                line((pixels - 1) / 2, color=GREY, linewidth=0.7, linestyle=":")
    class_legend(figure, original)
    return figure


def _bar(ax: Axes, length: float, side: float, colour: str = "black") -> None:
    """A bar of 20 mm in the lower left corner of a picture of this side, both in its units."""
    ax.plot([0.04 * side, 0.04 * side + length], [0.95 * side] * 2, color=colour, linewidth=2)
    ax.text(0.04 * side, 0.93 * side, "20 mm", fontsize=7, va="bottom", color=colour)


def best_median_worst(originals: np.ndarray, rebuilt: np.ndarray, dice: np.ndarray,
                      patients: np.ndarray, title: str, each: int = 3,
                      side_mm: np.ndarray | None = None) -> Figure:
    """Best, median and worst slices by Dice, with the wrong pixels in black.

    originals, rebuilt: (N, S, S); dice, patients: (N,); side_mm: (N,), of their pictures. each: of
    the best, and so on, of different patients as far as there are so many; fewer where there are
    not three times as many slices.
    """
    each = min(each, max(1, len(dice) // 3))
    best_first = np.argsort(-dice, kind="stable")
    from_middle = np.abs(np.arange(len(dice)) - (len(dice) - 1) / 2)
    median_first = best_first[np.argsort(from_middle, kind="stable")]
    picked = [_of_different(ranked, patients, each)
              for ranked in (best_first, median_first, best_first[::-1])]
    chosen = np.concatenate([rows[np.argsort(-dice[rows], kind="stable")] for rows in picked])
    names = [f"{kind}\nDice {dice[i]:.3f}" for kind, i in
             zip(np.repeat(["best", "median", "worst"], each), chosen)]
    figure = _tiles_figure(
        WIDTH / each + 0.75, np.stack([originals[chosen], rebuilt[chosen], originals[chosen]]),
        ["original", "reconstruction", "errors (black)"], names, title,
        None if side_mm is None else np.asarray(side_mm)[chosen])
    # The third row is painted over: grey where both agree on a structure, black where they differ.
    side = originals.shape[-1]
    for column, i in enumerate(chosen):
        x, y = _corner(side, 2, column)
        shade = np.where(originals[i] != rebuilt[i], 0, np.where(originals[i] > 0, 200, 255))
        figure.axes[0].images[0].get_array()[y:y + side, x:x + side] = shade[..., None]
    return figure


def _of_different(ranked: np.ndarray, patients: np.ndarray, count: int) -> np.ndarray:
    """The first rows of a ranking, each of another patient; then, if these are too few, others."""
    first = np.sort(np.unique(np.asarray(patients)[ranked], return_index=True)[1])
    rest = np.setdiff1d(np.arange(len(ranked)), first)
    return ranked[np.concatenate([first, rest])[:count]]


def prior_samples(maps: np.ndarray, valid: np.ndarray, title: str, columns: int = 12,
                  side_mm: float | None = None) -> Figure:
    """Samples from the prior (N, S, S); those that are not valid, (N,) bool, are crossed out.
    side_mm: of a usual picture."""
    rows, side = len(maps) // columns, maps.shape[-1]
    shown = maps[:rows * columns].reshape(rows, columns, side, side)
    figure = _tiles_figure(WIDTH * rows / columns + 0.85, shown, title=title, side_mm=side_mm)
    _cross_out(figure.axes[0], side, valid[:rows * columns].reshape(rows, columns))
    return figure


def traversal_rows(traversals: np.ndarray, names: Sequence[str], limit: float, value: str = "",
                   valid: np.ndarray | None = None, reach: np.ndarray | None = None,
                   side_mm: float | None = None) -> Figure:
    """Traversals (D, steps, S, S) from -limit to limit, a row per dimension, a column a step.

    value: what the columns are values of. valid: (D, steps) bool, the others are crossed out.
    reach: (D, 2), from where to where the training slices lie, drawn as a line below each row.
    side_mm: of a usual picture.
    """
    rows, columns, side = traversals.shape[:3]
    values = [f"{x:g}" for x in np.linspace(-limit, limit, columns).round(2)]
    figure = _tiles_figure(WIDTH * 0.86 * rows / columns + 1.0, traversals, names, values,
                           side_mm=side_mm)
    ax = figure.axes[0]
    ax.xaxis.set_label_position("top")
    ax.set_xlabel(value)
    if valid is not None:
        _cross_out(ax, side, valid)
    for row, ends in enumerate([] if reach is None else np.clip(reach, -limit, limit)):
        # The middle of a column is where its value lies.
        x = GAP + side / 2 + (ends + limit) / (2 * limit) * (columns - 1) * (side + GAP)
        y = _corner(side, row, 0)[1] + 0.97 * side
        ax.plot(x, [y, y], color=RANGE, linewidth=2.5, solid_capstyle="butt")
    return figure


def rebuilt_by_model(originals: np.ndarray, rebuilt: Mapping[str, np.ndarray], title: str,
                     side_mm: np.ndarray | None = None) -> Figure:
    """Originals (C, S, S), and a row of what each model rebuilds of them; rebuilt: {name: (C, S,
    S)}; side_mm: (C,), of the pictures."""
    return _tiles_figure(0.75 + 0.62 * (1 + len(rebuilt)), np.stack([originals, *rebuilt.values()]),
                         ["original", *rebuilt], title=title, side_mm=side_mm)


def samples_by_prior(samples: Mapping[str, np.ndarray], valid: Mapping[str, float],
                     title: str, side_mm: float | None = None) -> Figure:
    """A row of drawn slices for each prior; samples: {name: (C, S, S)}, valid: {name: share};
    side_mm: of a usual picture."""
    return _tiles_figure(0.75 + 0.72 * len(samples), np.stack(list(samples.values())),
                         [f"{name}\n{100 * valid[name]:.1f} % valid" for name in samples],
                         title=title, side_mm=side_mm)


def rebuilt_and_drawn(test: np.ndarray, rebuilt: np.ndarray, drawn: np.ndarray, nearest: np.ndarray,
                      title: str, valid: np.ndarray | None = None,
                      side_mm: np.ndarray | None = None) -> Figure:
    """What one model rebuilds and draws: four rows of label maps (C, S, S).

    nearest: the training slice that is most like each drawn one. valid: (4, C) bool, the others are
    crossed out. side_mm: (C,), of the pictures of `test`.
    """
    figure = _tiles_figure(3.5, np.stack([test, rebuilt, drawn, nearest]),
                           ["unseen patients", "rebuilt", "drawn", "nearest\ntraining slice"],
                           title=title, side_mm=side_mm)
    if valid is not None:
        _cross_out(figure.axes[0], test.shape[-1], valid)
    return figure


def _tiles_figure(height: float, maps: np.ndarray, row_names: Sequence[str] = (),
                  column_names: Sequence[str] = (), title: str = "", side_mm=None) -> Figure:
    """A figure of label maps (R, C, S, S) alone: see show_tiles."""
    figure = new_figure(height)
    show_tiles(figure.subplots(), maps, row_names, column_names, side_mm)
    if title:
        figure.suptitle(title)
    class_legend(figure, maps, bar=side_mm is not None)
    return figure
