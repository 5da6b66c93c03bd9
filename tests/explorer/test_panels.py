"""The panels: what is drawn, and that each follows what it shows and nothing else."""

import io
from dataclasses import replace

import numpy as np
import pytest
from atlases import with_priors
from hearts import picture
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from cvae_utils.explorer import panels
from cvae_utils.explorer.panels import Histogram, Influence, Live, Plane
from cvae_utils.explorer.walk import STRIP_STEPS, Exploration
from cvae_utils.figures.colours import COLOURS, colourise, palette_rgb
from cvae_utils.labels import STRUCTURES, Label

pytestmark = pytest.mark.filterwarnings("error")

BLACK, WHITE = [0, 0, 0], [255, 255, 255]
HEART = picture(32, cavity=0.15, outer=0.25, rv=0.12)


@pytest.fixture
def view(atlas):
    return Exploration(atlas).view()


@pytest.fixture
def axes():
    return Figure().subplots()


def decoded(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def at(view, **values):
    """The view with z1=..., z3=... given."""
    u = view.u.copy()
    for name, value in values.items():
        u[int(name[1:])] = value
    return replace(view, u=u)


# ---------------------------------------------------------------------------------------- heart
def test_heart_has_the_colours_of_its_classes_under_the_outline(view):
    found = panels.heart_picture(replace(view, label_map=HEART, start_map=HEART))
    assert found.shape == (320, 320, 3)
    assert (found[5::10, 5::10] == colourise(HEART)).all()  # the middle of every pixel
    colours = {tuple(colour) for colour in found.reshape(-1, 3).tolist()}
    assert colours == {tuple(BLACK), *map(tuple, palette_rgb().tolist())}
    assert (decoded(panels.png(found)) == found).all()
    wide = np.zeros((48, 48), dtype=np.uint8)  # enlarged by whole pixels
    assert panels.heart_picture(replace(view, label_map=wide, start_map=wide)).shape[0] == 336


def test_outline_is_that_of_the_start(view):
    start = np.zeros((32, 32), dtype=np.uint8)
    start[8:16, 8:16] = Label.LV
    rv = np.full((32, 32), Label.RV, dtype=np.uint8)
    found = panels.heart_picture(replace(view, label_map=rv, start_map=start))
    blue = list(ImageColor.getrgb(COLOURS[Label.RV]))
    # From the background across the border into the square, and out on the other side.
    assert found[77:83, 100].tolist() == [blue, blue, WHITE, BLACK, WHITE, blue]
    assert found[100, 157:163].tolist() == [blue, blue, WHITE, BLACK, WHITE, blue]
    assert (found == BLACK).all(axis=-1).sum() == 4 * 80 - 1  # two of the sides share a corner
    nowhere = panels.heart_picture(replace(view, label_map=rv, start_map=rv))
    assert (nowhere == blue).all()


# ---------------------------------------------------------------------------------------- strip
def middle(k):
    """Tiles of 48 pixels with 3 between them."""
    return 3 + 24 + 51 * k


def test_every_tile_shows_its_heart_over_its_value():
    hearts = np.random.default_rng(0).integers(0, 4, (STRIP_STEPS, 16, 16)).astype(np.uint8)
    found = panels.strip_background(hearts)
    assert found.shape == (panels.STRIP_HEIGHT, middle(12) + 24 + 3, 3)
    for k, heart in enumerate(hearts):
        tile = found[17:65, middle(k) - 24:middle(k) + 24]
        assert (tile[1::3, 1::3] == colourise(heart)).all()
    written = (found[-16:] != 255).any(axis=(0, 2))
    columns = [np.flatnonzero(written[middle(k) - 25:middle(k) + 25]) for k in range(STRIP_STEPS)]
    assert all(len(found) and found.mean() == pytest.approx(24.5, abs=3) for found in columns)


@pytest.mark.parametrize(("value", "k"), [(-3, 0), (0, 6), (1.5, 9), (-0.25, 5.5), (-7, 0),
                                          (4.2, 12)])
def test_mark_is_in_the_middle_of_the_tile_of_the_value(value, k):
    background = panels.strip_background(np.zeros((STRIP_STEPS, 16, 16), dtype=np.uint8))
    before = background.copy()
    found = panels.strip_picture(background, value)
    assert (background == before).all()
    marked = (found != background).any(axis=-1)
    columns = np.flatnonzero(marked.any(axis=0))  # the head of the mark
    assert (columns.min() + columns.max()) / 2 == pytest.approx(middle(k), abs=1)
    across = np.flatnonzero(marked[40])  # where it crosses the tile
    assert len(across) == 2 and across.mean() == pytest.approx(middle(k), abs=1)


# ------------------------------------------------------------------------------------- with axes
CHANGES = {
    "dimension": lambda view: replace(view, dimension=1),
    "value": lambda view: at(view, z3=1.0),
    "value of another dimension": lambda view: at(view, z1=1.0),
    "dice": lambda view: replace(view, dice_to_mean=0.5),
    "point": lambda view: replace(view, point=view.point + 0.5),
    "path": lambda view: replace(view, path=view.path + 0.5),
    "heart": lambda view: replace(view, label_map=view.label_map[::-1], strip=view.strip[::-1],
                                  start_map=view.start_map[::-1], measures=[]),
}


@pytest.mark.parametrize(("panel", "shown"), [
    (Influence, {"dimension", "dice"}), (Histogram, {"dimension", "value"}),
    (Plane, {"point", "path"}),
])
def test_panel_follows_what_it_shows_and_leaves_no_trace(panel, shown, atlas, view):
    live = Live(panel, atlas, view.coordinates)
    first = live.png(view)
    assert decoded(first).shape == (round(100 * panel.height), round(100 * panel.width), 3)
    for name, change in CHANGES.items():
        assert (live.png(change(view)) != first) == (name in shown), name
        assert live.png(view) == first
    assert Live(panel, atlas, view.coordinates).png(view) == first


@pytest.mark.parametrize(("kind", "label", "order", "active", "unit"), [
    ("standard", "z1", ["z3", "z1", "z0", "z5", "z4", "z2"], ["z3", "z0", "z5"], "value"),
    ("gaussian", "axis 2", [f"axis {k}" for k in (3, 1, 2, 4, 5, 6)],
     ["axis 3", "axis 1", "axis 2"], "value in SD of the prior"),
])
def test_influence_and_histogram_are_of_the_selected_coordinate(atlas, kind, label, order, active,
                                                                unit):
    walk = Exploration(with_priors(atlas))
    walk.use(kind)
    walk.move(1, -1.5)
    view = replace(walk.view(), dice_to_mean=0.66)
    influence, histogram = (panel(Figure().subplots(), atlas, view.coordinates)
                            for panel in (Influence, Histogram))
    assert [text.get_text() for text in influence.ax.get_xticklabels()] == order
    colour = influence.ax.patches[0].get_facecolor()
    assert [name for name, bar in zip(order, influence.ax.patches)
            if bar.get_facecolor() == colour] == active
    influence.show(view)
    place, dice = order.index(label), view.coordinates.effects.ranking["mean_dice"]
    assert influence.bar.get_x() + 0.4 == place and influence.bar.get_height() == dice[place]
    assert np.array(influence.dot.get_data()).tolist() == [[place], [0.66]]
    histogram.show(view)
    heights, edges, _ = histogram.steps.get_data()
    expected, _ = np.histogram(view.coordinates.values[:, 1], edges, density=True)
    assert heights / heights.sum() == pytest.approx(expected / expected.sum())
    assert histogram.text.get_text() == f"{label} = −1.5"
    assert histogram.line.get_xdata() == [-1.5, -1.5] and histogram.ax.get_xlabel() == unit


def test_histogram_shares_a_scale_with_the_normal_curve_and_keeps_its_edges(axes, atlas, view):
    mu = np.clip(atlas.posterior.mu, -3, 3, out=atlas.posterior.mu)
    mu[:, 3] = 0.01  # all slices in one bin, far above the normal curve
    panel = Histogram(axes, atlas, view.coordinates)
    for value, shown, text in ((-0.04, -0.04, "0.0"), (9.0, 3.5, "9.0"), (-9.0, -3.5, "−9.0")):
        panel.show(at(view, z3=value))
        assert panel.line.get_xdata() == pytest.approx([shown, shown])
        assert panel.text.get_text() == f"z3 = {text}"
    heights, edges, _ = panel.steps.get_data()
    k = heights.argmax()
    assert heights.max() == 1 and (heights > 0).sum() == 1 and edges[k] <= 0.01 <= edges[k + 1]
    density = 1 / (edges[k + 1] - edges[k])
    assert panel.curve.get_ydata().max() == pytest.approx(0.3989 / density, rel=1e-3)


def test_plane_shows_the_point_its_error_and_the_path(axes, atlas, view):
    panel = Plane(axes, atlas, view.coordinates)
    low, high = atlas.plane.min(axis=0), atlas.plane.max(axis=0)
    for limits, a, b in zip((axes.get_xlim(), axes.get_ylim()), low, high):
        assert limits[0] < a and b < limits[1]
    panel.show(replace(view, point=np.array([0.5, -0.25])))
    assert np.array(panel.point.get_data()).tolist() == [[0.5], [-0.25]]
    assert tuple(panel.circle.center) == (0.5, -0.25) and panel.circle.radius == 0.5
    assert np.column_stack(panel.path.get_data()) == pytest.approx(view.path)
    groups = [text.get_text() for text in axes.get_legend().get_texts()]
    drawn = {group: len(points.get_offsets()) for group, points in zip(groups, axes.collections)}
    assert drawn == atlas.table["group"].value_counts().to_dict()


# ---------------------------------------------------------------------------------- all of them
def test_twin_carries_the_stamp_and_every_measure(atlas, view):
    figure = panels.twin(view, atlas, "a title")
    assert figure.get_supxlabel() == atlas.stamp and figure.get_suptitle() == "a title"
    written = {text.get_text() for part in figure.subfigs for ax in part.axes
               for text in ax.texts}
    assert len(view.measures) >= 7 and {text for row in view.measures for text in row} <= written
    titles = [ax.get_title(loc="left") for part in figure.subfigs for ax in part.axes]
    assert "z3 from -3 to 3, the others where they are" in titles


def test_measures_are_a_row_each_with_the_colours_of_the_classes():
    found = panels.measures_html([("LV area", "64 mm²"), ("a<b", "c>d")])
    assert found.count("<tr>") == 2
    assert "<td>LV area</td><td><b>64 mm²</b></td>" in found
    assert "<td>a&lt;b</td><td><b>c&gt;d</b></td>" in found
    assert all(COLOURS[label] in found and label.name in found for label in STRUCTURES)
