"""The panels: what is drawn, and that each follows what it shows and nothing else."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hearts import picture
from matplotlib.figure import Figure
from PIL import Image, ImageColor
from test_exploration import small_atlas, with_priors

from cvae_utils import panels
from cvae_utils.exploration import STRIP_STEPS, Exploration
from cvae_utils.figures import save_figure
from cvae_utils.labels import COLOURS, STRUCTURES, Label, colourise, palette_rgb
from cvae_utils.panels import Histogram, Influence, Live, Plane

pytestmark = pytest.mark.filterwarnings("error")

BLACK, WHITE = [0, 0, 0], [255, 255, 255]
HEART = picture(32, cavity=0.15, outer=0.25, rv=0.12)


@pytest.fixture
def atlas(slices, split):
    return small_atlas(slices, split)


@pytest.fixture
def view(atlas):
    return Exploration(atlas).view()


def decoded(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def at(view, **values):
    """The view with z1=..., z3=... given."""
    u = view.u.copy()
    for name, value in values.items():
        u[int(name[1:])] = value
    return replace(view, u=u)


def test_png_holds_the_picture_as_it_is():
    random = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    assert (decoded(panels.png(random)) == random).all()


# ---------------------------------------------------------------------------------------- heart
def test_heart_has_the_colours_of_its_classes_under_the_outline(view):
    found = panels.heart_picture(replace(view, label_map=HEART, start_map=HEART))
    assert found.shape == (320, 320, 3)
    assert (found[5::10, 5::10] == colourise(HEART)).all()  # the middle of every pixel
    colours = {tuple(colour) for colour in found.reshape(-1, 3).tolist()}
    assert colours == {tuple(BLACK), *map(tuple, palette_rgb().tolist())}


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


@pytest.mark.parametrize(("side", "shown"), [(16, 320), (48, 336), (64, 320), (256, 256),
                                             (512, 512)])
def test_heart_is_enlarged_by_whole_pixels(view, side, shown):
    empty = np.zeros((side, side), dtype=np.uint8)
    assert panels.heart_picture(replace(view, label_map=empty, start_map=empty)).shape == (
        shown, shown, 3)


# ---------------------------------------------------------------------------------------- strip
def middle(k):
    """Tiles of 48 pixels with 3 between them."""
    return 3 + 24 + 51 * k


def test_every_tile_shows_its_heart():
    hearts = np.random.default_rng(0).integers(0, 4, (STRIP_STEPS, 16, 16)).astype(np.uint8)
    found = panels.strip_background(hearts)
    assert found.shape == (panels.STRIP_HEIGHT, middle(12) + 24 + 3, 3)
    for k, heart in enumerate(hearts):
        tile = found[17:65, middle(k) - 24:middle(k) + 24]
        assert (tile[1::3, 1::3] == colourise(heart)).all()


def test_values_stand_under_their_tiles():
    foot = panels.strip_background(np.zeros((STRIP_STEPS, 16, 16), dtype=np.uint8))[-16:]
    written = (foot != 255).any(axis=(0, 2))
    columns = [np.flatnonzero(written[middle(k) - 25:middle(k) + 25]) for k in range(STRIP_STEPS)]
    assert all(len(found) and found.mean() == pytest.approx(24.5, abs=3) for found in columns)
    assert foot[:, :middle(6)].mean() < foot[:, middle(6) + 1:].mean()  # there, a minus sign each


@pytest.mark.parametrize(("value", "k"), [(-3, 0), (0, 6), (3, 12), (1.5, 9), (-0.25, 5.5),
                                          (-7, 0), (4.2, 12)])
def test_mark_is_in_the_middle_of_the_tile_of_the_value(value, k):
    background = panels.strip_background(np.zeros((STRIP_STEPS, 16, 16), dtype=np.uint8))
    before = background.copy()
    found = panels.strip_picture(background, value)
    assert (background == before).all()
    marked = (found != background).any(axis=-1)
    columns = np.flatnonzero(marked.any(axis=0))
    assert (columns.min() + columns.max()) / 2 == pytest.approx(middle(k), abs=1)
    assert len(columns) == pytest.approx(14, abs=1)  # the head of the mark
    across = np.flatnonzero(marked[40])  # where it crosses the tile
    assert len(across) == 2 and across.mean() == pytest.approx(middle(k), abs=1)
    assert found[40, across].tolist() == [list(ImageColor.getrgb(panels.MARK))] * 2


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


@pytest.fixture
def axes():
    return Figure().subplots()


def test_influence_marks_the_selected_bar_and_the_dice_of_the_heart(axes, atlas, view):
    panel = Influence(axes, atlas, view.coordinates)
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels == ["z3", "z1", "z0", "z5", "z4", "z2"]
    active = [label for label, bar in zip(labels, axes.patches)
              if bar.get_facecolor() == axes.patches[0].get_facecolor()]
    assert active == ["z3", "z0", "z5"]
    panel.show(replace(view, dimension=5, dice_to_mean=0.66))
    assert panel.bar.get_x() + panel.bar.get_width() / 2 == pytest.approx(3)
    assert panel.bar.get_height() == atlas.ranking["mean_dice"][3]
    assert np.array(panel.dot.get_data()).tolist() == [[3], [0.66]]


def test_histogram_is_of_the_selected_dimension(axes, atlas, view):
    mu = atlas.posterior.mu
    mu[:, 3] = 0.01  # all slices in one bin, far above the normal curve
    panel = Histogram(axes, atlas, view.coordinates)
    panel.show(at(view, z3=-1.5))
    heights, edges, _ = panel.steps.get_data()
    assert heights.max() == 1 and (heights > 0).sum() == 1
    k = heights.argmax()
    assert edges[k] <= 0.01 <= edges[k + 1]
    density = 1 / (edges[k + 1] - edges[k])
    assert panel.curve.get_ydata().max() == pytest.approx(0.3989 / density, rel=1e-3)
    assert panel.text.get_text() == "z3 = −1.5" and panel.line.get_xdata() == [-1.5, -1.5]

    panel.show(at(view, z3=-0.04))
    assert panel.text.get_text() == "z3 = 0.0"

    panel.show(replace(view, dimension=1))
    heights = panel.steps.get_data()[0]
    expected, _ = np.histogram(mu[:, 1], edges, density=True)
    assert heights / heights.sum() == pytest.approx(expected / expected.sum())


def test_panels_along_axes_are_those_of_the_prior(atlas):
    """Of a fitted prior: its own ranking, and the training slices along the axis."""
    walk = Exploration(with_priors(atlas))
    walk.use("gaussian")
    walk.move(1, -1.5)
    view = walk.view()
    influence = Influence(Figure().subplots(), atlas, view.coordinates)
    labels = [text.get_text() for text in influence.ax.get_xticklabels()]
    assert labels == ["axis 3", "axis 1", "axis 2", "axis 4", "axis 5", "axis 6"]
    influence.show(view)
    assert influence.bar.get_x() + 0.4 == 2 and influence.bar.get_height() == pytest.approx(0.5)
    colours = [bar.get_facecolor() for bar in influence.ax.patches[:6]]
    assert [colour == colours[0] for colour in colours] == [True] * 3 + [False] * 3  # active

    histogram = Histogram(Figure().subplots(), atlas, view.coordinates)
    histogram.show(view)
    assert histogram.text.get_text() == "axis 2 = −1.5"
    assert histogram.ax.get_xlabel() == "value in SD of the prior"
    heights, edges, _ = histogram.steps.get_data()
    # The second axis is dimension 1, one long, from -0.5.
    expected, _ = np.histogram(atlas.posterior.sample()[:, 1] + 0.5, edges, density=True)
    assert heights / heights.sum() == pytest.approx(expected / expected.sum(), abs=0.02)
    texts = [ax.get_title(loc="left") for part in panels.twin(view, atlas, "").subfigs
             for ax in part.axes]
    assert "axis 2 from -3 to 3, the others where they are" in texts


@pytest.mark.parametrize(("value", "shown"), [(3.2, 3.2), (9.0, 3.5), (-9.0, -3.5)])
def test_value_beyond_the_histogram_stays_at_its_edge(axes, atlas, view, value, shown):
    np.clip(atlas.posterior.mu, -3, 3, out=atlas.posterior.mu)
    panel = Histogram(axes, atlas, view.coordinates)
    panel.show(at(view, z3=value))
    assert panel.line.get_xdata()[0] == pytest.approx(shown)
    assert panel.text.get_text() == f"z3 = {value:.1f}".replace("-", "−")


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
def test_twin_carries_the_stamp_and_every_measure(atlas, view, tmp_path):
    figure = panels.twin(view, atlas, "a title")
    assert figure.get_supxlabel() == atlas.stamp and figure.get_suptitle() == "a title"
    written = {text.get_text() for part in figure.subfigs for ax in part.axes for text in ax.texts}
    assert len(view.measures) >= 7 and {text for row in view.measures for text in row} <= written
    save_figure(figure, tmp_path / "twin.png")
    assert (tmp_path / "twin.png").stat().st_size > 20_000


def test_measures_are_a_row_each_with_the_colours_of_the_classes():
    assert "<td>a&lt;b</td><td><b>c&gt;d</b></td>" in panels.measures_html([("a<b", "c>d")])
    found = panels.measures_html([("LV area", "64 mm²"), ("anatomy", "valid")])
    assert found.count("<tr>") == 2
    assert "<td>LV area</td><td><b>64 mm²</b></td>" in found
    assert "<td>anatomy</td><td><b>valid</b></td>" in found
    assert all(COLOURS[label] in found and label.name in found for label in STRUCTURES)
