"""The explorer's panels: a View of a latent point, in pictures that are redrawn at each move.

Each panel draws its background once, and then only what moves; `Live` makes PNG bytes of one for a
widget, `twin` puts all of them into one Figure.
"""

import functools
import html
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from scipy.stats import norm

from cvae_utils.analysis.dimensions import LIMIT
from cvae_utils.explorer.atlas import Atlas, Coordinates
from cvae_utils.explorer.walk import STRIP_STEPS, View
from cvae_utils.figures.colours import COLOURS, GROUP_COLOURS, colourise
from cvae_utils.figures.hearts import class_legend
from cvae_utils.figures.style import GREY, PAIR, new_figure, stamp_figure
from cvae_utils.labels import STRUCTURES, groups_of

HEART_PIXELS, TILE_PIXELS, TILE_GAP = 320, 48, 3
#: Above the tiles there is room for the mark, below them for the values.
STRIP_TOP, STRIP_FOOT = 14, 18
STRIP_WIDTH = STRIP_STEPS * (TILE_PIXELS + TILE_GAP) + TILE_GAP
STRIP_HEIGHT = STRIP_TOP + TILE_PIXELS + 2 * TILE_GAP + STRIP_FOOT
MARK = PAIR[1]
PANEL_DPI = 100


def png(picture: np.ndarray) -> bytes:
    """RGB picture (H, W, 3) uint8 -> PNG bytes, written fast rather than small."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png", compress_level=1)
    return buffer.getvalue()


# ---------------------------------------------------------------------------- heart and strip
def heart_picture(view: View) -> np.ndarray:
    """The heart in its colours, about HEART_PIXELS wide, under the outline of the start."""
    scale = max(1, round(HEART_PIXELS / len(view.label_map)))
    picture = _enlarge(colourise(view.label_map), scale)
    line, halo = _outline(view.start_map.tobytes(), len(view.start_map), scale)
    picture[halo] = 255  # a dark line alone would be lost on the dark blue of the RV
    picture[line] = 0
    return picture


def _enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


@functools.lru_cache(maxsize=4)
def _outline(content: bytes, side: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a label map changes, as a line and a halo around it: masks of the enlarged picture."""
    label_map = _enlarge(np.frombuffer(content, dtype=np.uint8).reshape(side, side), scale)
    line = np.zeros(label_map.shape, dtype=bool)
    line[1:] |= label_map[1:] != label_map[:-1]
    line[:, 1:] |= label_map[:, 1:] != label_map[:, :-1]
    return line, ndimage.binary_dilation(line, np.ones((3, 3)))


def strip_background(strip: np.ndarray) -> np.ndarray:
    """The traversal (K, S, S) in a row, with the values of the coordinate under it."""
    picture = np.full((STRIP_HEIGHT, STRIP_WIDTH, 3), 255, dtype=np.uint8)
    picture[STRIP_TOP:-STRIP_FOOT] = 205
    drawn = Image.fromarray(picture)
    pen = ImageDraw.Draw(drawn)
    for k, heart in enumerate(strip):
        tile = Image.fromarray(colourise(heart)).resize((TILE_PIXELS,) * 2, Image.BOX)
        drawn.paste(tile, (TILE_GAP + k * (TILE_PIXELS + TILE_GAP), STRIP_TOP + TILE_GAP))
        value = f"{2 * LIMIT * k / (STRIP_STEPS - 1) - LIMIT:.1f}".replace("-", "\N{MINUS SIGN}")
        pen.text((_middle(k), STRIP_HEIGHT - 2), value, anchor="mb", fill=GREY, font=_font(11))
    return np.asarray(drawn)


def _middle(position: float) -> float:
    """x of the middle of the tile at this position, in pixels; between two tiles if it is."""
    return TILE_GAP + TILE_PIXELS / 2 + position * (TILE_PIXELS + TILE_GAP)


def strip_picture(background: np.ndarray, value: float) -> np.ndarray:
    """The strip with a mark at the current value; beyond -3 or 3 it stays at the end."""
    share = (np.clip(value, -LIMIT, LIMIT) + LIMIT) / (2 * LIMIT)
    x = _middle(share * (STRIP_STEPS - 1))
    drawn = Image.fromarray(background)  # copies
    pen = ImageDraw.Draw(drawn)
    pen.line((x, STRIP_TOP - 2, x, STRIP_HEIGHT - STRIP_FOOT), fill=MARK, width=2)
    pen.polygon(((x - 7, 0), (x + 7, 0), (x, STRIP_TOP - 1)), fill=MARK)
    return np.asarray(drawn)


@functools.lru_cache
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), pixels)


# ---------------------------------------------------------------------------- panels with axes
class Influence:
    """A bar for the influence of each coordinate, the selected one marked; the heart's own Dice."""

    width, height = 4.0, 2.0  # inches

    def __init__(self, ax: Axes, atlas: Atlas, coordinates: Coordinates):
        self.ax = ax
        ranking = coordinates.effects.ranking
        dimensions = ranking["dimension"].tolist()
        self.place = {d: k for k, d in enumerate(dimensions)}
        self.dice = ranking["mean_dice"].to_numpy()
        colours = [PAIR[0] if d in coordinates.active else "#BBBBBB" for d in dimensions]
        ax.bar(range(len(dimensions)), self.dice, color=colours)
        ax.set_xticks(range(len(dimensions)), [coordinates.label(d) for d in dimensions],
                      rotation=90, fontsize=6)
        ax.tick_params(axis="x", length=0, pad=1)
        ax.tick_params(axis="y", labelsize=7)
        ax.set_ylim(0, 1.02)
        ax.set_xlim(-0.7, len(dimensions) - 0.3)
        ax.set_ylabel("mean Dice to\nthe mean shape", fontsize=8)
        ax.set_title("influence: low is strong  (blue: active)", fontsize=8, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        self.bar = ax.bar([0], [1], color=MARK)[0]
        self.dot = ax.plot([0], [0], "o", color="black", markersize=5, markeredgecolor="white")[0]
        self.moving = [self.bar, self.dot]

    def show(self, view: View) -> None:
        k = self.place[view.dimension]
        self.bar.set_x(k - 0.4)
        self.bar.set_height(self.dice[k])
        self.dot.set_data([k], [view.dice_to_mean])


class Histogram:
    """The training slices along the selected coordinate, and N(0, 1).

    A dimension shows their mu. An axis shows draws of q(z|x), which have variance 1 along it, or
    less where the ridge of the fit is more than the noise.
    """

    width, height = 2.6, 2.0

    def __init__(self, ax: Axes, atlas: Atlas, coordinates: Coordinates):
        self.ax, self.values = ax, coordinates.values
        reach = float(np.clip(np.abs(self.values).max(), 3.5, 12))
        self.edges = np.linspace(-reach, reach, 61)
        self.ticks = np.linspace(-reach, reach, 200)
        self.density = norm.pdf(self.ticks)
        ax.set(xlim=(-reach, reach), ylim=(0, 1.08), yticks=[])
        ax.tick_params(axis="x", labelsize=7)
        ax.set_xlabel("value" if coordinates.noun == "dimension" else "value in SD of the prior",
                      fontsize=8, labelpad=1)
        ax.set_ylabel("density", fontsize=8)
        ax.set_title("training slices (blue), N(0, 1) (black)", fontsize=8, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        self.steps = ax.stairs(np.zeros(60), self.edges, fill=True, color=PAIR[0], alpha=0.7)
        self.curve = ax.plot(self.ticks, self.density, color="black", linewidth=1)[0]
        self.line = ax.axvline(0, color=MARK, linewidth=2)
        self.text = ax.text(0.985, 0.96, "", transform=ax.transAxes, ha="right", va="top",
                            fontsize=9, color=MARK, weight="bold")
        self.moving = [self.steps, self.curve, self.line, self.text]

    def show(self, view: View) -> None:
        heights, _ = np.histogram(self.values[:, view.dimension], self.edges, density=True)
        # Each coordinate fills the panel; the axis has no ticks, the two share one scale.
        largest = max(heights.max(), self.density.max())
        self.steps.set_data(heights / largest)
        self.curve.set_ydata(self.density / largest)
        shown = np.clip(view.value, self.edges[0], self.edges[-1])
        self.line.set_xdata([shown, shown])
        value = round(view.value, 1) + 0.0  # without the sign of a negative zero
        self.text.set_text(f"{view.label} = {value:.1f}".replace("-", "\N{MINUS SIGN}"))


class Plane:
    """Where z is in UMAP's plane of the training slices, and where its strip runs."""

    width, height = 3.2, 3.2

    def __init__(self, ax: Axes, atlas: Atlas, coordinates: Coordinates):
        self.ax = ax
        groups = atlas.table["group"].to_numpy()
        for group in groups_of(groups):
            ax.scatter(*atlas.plane[groups == group].T, s=5, linewidths=0, alpha=0.7,
                       color=GROUP_COLOURS[group])
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel("UMAP 1", fontsize=8)
        ax.set_ylabel("UMAP 2", fontsize=8)
        # Above the axes, so that no point hides behind it.
        handles = [Line2D([], [], marker="o", linestyle="", markersize=4,
                          color=GROUP_COLOURS[group], label=group) for group in groups_of(groups)]
        ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(handles),
                  frameon=False, fontsize=7, handletextpad=0, columnspacing=0.8, borderaxespad=0.2)
        low, high = atlas.plane.min(axis=0), atlas.plane.max(axis=0)
        middle, half = (low + high) / 2, 0.56 * (high - low).max() or 1.0
        ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
        ax.set_aspect("equal")
        self.path = ax.plot([], [], color="black", linewidth=0.8, marker=".", markersize=3)[0]
        self.circle = ax.add_patch(Circle((0, 0), atlas.umap["error_p90"], fill=False,
                                          color=MARK, linewidth=1, linestyle="--"))
        self.point = ax.plot([], [], "o", color=MARK, markersize=9, markeredgecolor="black")[0]
        self.moving = [self.path, self.circle, self.point]

    def show(self, view: View) -> None:
        self.path.set_data(*view.path.T)
        self.circle.set_center(view.point)
        self.point.set_data(*view.point[:, None])


class Live:
    """One panel as PNG bytes for a widget: what does not move is drawn once and kept.

    pyplot is not used: its pictures get lost in the thread that widget callbacks run in.
    """

    def __init__(self, panel_class: type, atlas: Atlas, coordinates: Coordinates):
        figure = Figure((panel_class.width, panel_class.height), dpi=PANEL_DPI,
                        layout="constrained")
        self.canvas = FigureCanvasAgg(figure)
        self.panel = panel_class(figure.subplots(), atlas, coordinates)
        for artist in self.panel.moving:
            artist.set_animated(True)
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(figure.bbox)

    def png(self, view: View) -> bytes:
        self.canvas.restore_region(self.background)
        self.panel.show(view)
        for artist in self.panel.moving:
            self.panel.ax.draw_artist(artist)
        return png(np.asarray(self.canvas.buffer_rgba())[..., :3])


def measures_html(measures: Sequence[tuple[str, str]]) -> str:
    """The live measurements and the colours of the classes as a small HTML table."""
    rows = "".join(f"<tr><td>{html.escape(name)}</td><td><b>{html.escape(value)}</b></td></tr>"
                   for name, value in measures)
    keys = " ".join(f'<span style="color:{COLOURS[label]}">&#9632;</span>&nbsp;{label.name}'
                    for label in STRUCTURES)
    return (f'<div class="cvae-measures">{keys} <span>&#9633;</span>&nbsp;outline: start'
            f"<table>{rows}</table></div>")


def twin(view: View, atlas: Atlas, title: str) -> Figure:
    """All panels in one still figure, for where no kernel runs and for export."""
    figure = new_figure(7.2)
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(3.3, 1.05, 2.1))
    heart, plane, text = top.subplots(1, 3, width_ratios=(1, 1, 0.6))
    heart.imshow(heart_picture(view))
    heart.set_title("decoded heart, outline: start", fontsize=8)
    strip = middle.subplots()
    strip.imshow(strip_picture(strip_background(view.strip), view.value))
    strip.set_title(f"{view.label} from {-LIMIT:g} to {LIMIT:g}, the others where they are",
                    fontsize=8, loc="left")
    for ax in (heart, strip, text):
        ax.set_axis_off()
    for k, (name, value) in enumerate(view.measures):
        text.text(0, 0.96 - 0.125 * k, name, fontsize=7.5, color=GREY, transform=text.transAxes)
        text.text(0, 0.90 - 0.125 * k, value, fontsize=8.5, transform=text.transAxes)
    for panel_class, ax in zip((Plane, Influence, Histogram), (plane, *bottom.subplots(1, 2))):
        panel_class(ax, atlas, view.coordinates).show(view)
    figure.suptitle(title)
    class_legend(figure)
    return stamp_figure(figure, atlas.stamp)
