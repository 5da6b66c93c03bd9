"""Every figure is drawn from small inputs without a warning, and what can be read off is right."""

import io

import numpy as np
import pandas as pd
import pytest
from hearts import picture
from matplotlib.figure import Figure
from PIL import Image

from cvae_utils import figures
from cvae_utils.figures import reconstructions, save_figure, show_tiles, stamp_figure, tile
from cvae_utils.labels import GROUPS, STRUCTURE_NAMES, colourise

pytestmark = pytest.mark.filterwarnings("error")

DRAW = np.random.default_rng(0)
HEART = picture(32, cavity=0.15, outer=0.25, rv=0.12)
MAPS = np.stack([np.roll(HEART, shift, axis=0) for shift in range(24)])
BETAS = (1.0, 1000.0)
MR = DRAW.uniform(0, 255, (6, 20, 24))
GROUP = np.array(GROUPS)[np.arange(40) % 5]
STUDY = pd.DataFrame(
    {"valid_prior": [0.1, 0.98], "valid_real": 0.97, "test_dice": [0.92, 0.87],
     **{f"test_dice_{name}": [0.9, 0.8] for name in STRUCTURE_NAMES}},
    index=pd.Index(BETAS, name="beta"))
HISTORY = pd.DataFrame(
    {"epoch": [1, 2, 3], "train_loss": [1.5, 0.8, 0.6], "validation_loss": [1.4, 0.9, 0.95],
     **{f"validation_{name}": [0.1, 0.5, 0.6] for name in STRUCTURE_NAMES}})
INFLUENCE = pd.DataFrame({"dimension": [3, 0, 1, 2], "mean_dice": [0.7, 0.8, 0.95, 1.0],
                          "variance": [0.02, 0.01, 0.001, 0.0]})
TABLE = pd.DataFrame(
    {"group": GROUP, "phase": np.where(np.arange(40) % 2, "ED", "ES"),
     **{name: DRAW.uniform(size=40) for name in ("level", "area_rv", "area_myo", "area_lv")}})


def plane(dimensions=2):
    return DRAW.normal(size=(40, dimensions))


EVERY_FIGURE = {
    "fig01": lambda: figures.fig01_patient_slices(MR, "patient001"),
    "fig01 of one slice": lambda: figures.fig01_patient_slices(MR[:1], "patient001"),
    "fig02": lambda: figures.fig02_ed_es({"ED": MR[0], "ES": MR[1]},
                                         {"ED": HEART[:20, :24], "ES": HEART[:20, :24]}, "slice 3"),
    "fig03": lambda: figures.fig03_alignment(HEART[4:], HEART, HEART, 30.0, "slice 3"),
    "fig04": lambda: figures.fig04_generation({b: MAPS[:6] for b in BETAS}, STUDY),
    "fig05": lambda: figures.fig05_reconstruction(MAPS[:6], {b: MAPS[:6] for b in BETAS}, STUDY),
    "fig06": lambda: figures.latent_histograms(plane(6), np.arange(6) / 10, range(6), "beta = 1"),
    "fig07": lambda: figures.latent_histograms(plane(32), np.arange(32) / 10, [], "beta = 1000"),
    "fig08": lambda: figures.fig08_umap({b: plane() for b in BETAS}, GROUP),
    "fig09": lambda: figures.fig09_training(HISTORY, 2),
    "fig10": lambda: reconstructions(MAPS, MAPS[::-1], np.linspace(0, 1, 24), "test slices"),
    "fig12": lambda: figures.fig12_samples(MAPS, np.arange(24) % 3 > 0, "samples"),
    "fig13": lambda: figures.fig13_traversals(MAPS.reshape(2, 12, 32, 32), ["z0", "z1"], 3.0),
    "fig14": lambda: figures.fig14_influence(INFLUENCE, [0, 1]),
    "fig15": lambda: figures.fig15_traversed_umap(plane(), GROUP, {"z0: size": plane()}, 3.0),
    "fig16": lambda: figures.fig16_tsne({b: plane(3) for b in BETAS}, GROUP),
    "planes": lambda: figures.coloured_planes({"UMAP": plane(), "t-SNE": plane()}, TABLE),
}


@pytest.mark.parametrize("name", EVERY_FIGURE)
def test_figure_is_drawn_without_warnings_at_the_width_of_a_page(name):
    figure = EVERY_FIGURE[name]()
    assert isinstance(figure, Figure) and len(figure.axes) > 0
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=50)
    width, height = Image.open(buffer).size
    assert width == 450 and 80 < height < 800


def test_saved_figure_has_its_width(tmp_path):
    figure = figures.fig09_training(HISTORY, 2)
    path = tmp_path / "figures" / "fig09.png"
    assert save_figure(figure, path) is figure and figure.get_supxlabel() == ""
    with Image.open(path) as saved:
        assert saved.size == (1170, 468)  # 9 x 3.6 inches at 130 dots
    assert [p.name for p in path.parent.iterdir()] == ["fig09.png"]


def test_stamp_stands_small_at_the_foot_on_the_right(tmp_path):
    figure = figures.new_figure(2.0)  # empty, so that all ink is the stamp's
    assert stamp_figure(figure, "Data: phantom") is figure
    assert figure.get_supxlabel() == "Data: phantom"
    save_figure(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        rows, columns = np.nonzero(np.asarray(saved.convert("L")) < 200)
    assert rows.min() > 260 - 25 and columns.min() > 1170 - 120 and columns.max() > 1170 - 15


def test_figure_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    figure = figures.fig09_training(HISTORY, 2)
    path = tmp_path / "fig09.png"
    path.write_bytes(b"old")

    def half(partial, **options):
        partial.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", half)
    with pytest.raises(OSError):
        save_figure(figure, path)
    assert path.read_bytes() == b"old"


def test_tiles_are_the_maps_pixel_by_pixel():
    maps = DRAW.integers(0, 4, (2, 3, 5, 5)).astype(np.uint8)
    found = tile(maps, gap=2)
    assert found.shape == (2 + 2 * 7, 2 + 3 * 7, 3) and found.dtype == np.uint8
    between = np.ones(found.shape[:2], bool)
    for r in range(2):
        for c in range(3):
            window = np.s_[2 + 7 * r:7 + 7 * r, 2 + 7 * c:7 + 7 * c]
            assert (found[window] == colourise(maps[r, c])).all()
            between[window] = False
    assert (found[between] == 205).all()


def test_names_stand_at_the_middle_of_their_rows_and_columns():
    ax = Figure().subplots()
    show_tiles(ax, MAPS[:6].reshape(2, 3, 32, 32), ["a", "b"], ["x", "y", "z"])
    assert ax.get_yticks().tolist() == [18, 52] and ax.get_xticks().tolist() == [18, 52, 86]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


def test_samples_that_are_not_valid_are_crossed_out():
    valid = np.ones(24, dtype=bool)
    valid[[1, 14]] = False  # first row, second column; second row, third column
    ax = figures.fig12_samples(MAPS, valid, "samples", columns=12).axes[0]
    lines = [np.column_stack(line.get_data()).tolist() for line in ax.lines]
    assert lines == [
        [[36, 2], [68, 34]], [[36, 34], [68, 2]],
        [[70, 36], [102, 68]], [[70, 68], [102, 36]],
    ]


def test_reconstructions_are_the_best_the_median_and_the_worst_with_errors_in_black():
    originals = MAPS[:9]
    rebuilt = originals.copy()
    rebuilt[4, 0, :5] = 3  # five wrong pixels in the slice of median Dice
    dice = np.array([0.5, 0.9, 0.1, 0.8, 0.55, 0.2, 0.7, 0.3, 0.6])
    figure = reconstructions(originals, rebuilt, dice, "test slices", each=1)
    ax = figure.axes[0]
    names = [t.get_text() for t in ax.get_xticklabels()]
    assert names == ["best\n0.900", "median\n0.550", "worst\n0.100"]
    shown = np.asarray(ax.images[0].get_array())
    rows = [shown[2 + 34 * r:34 + 34 * r] for r in range(3)]
    cells = [[row[:, 2 + 34 * c:34 + 34 * c] for c in range(3)] for row in rows]
    for column, i in enumerate((1, 4, 2)):
        assert (cells[0][column] == colourise(originals[i])).all()
        assert (cells[1][column] == colourise(rebuilt[i])).all()
        black = (cells[2][column] == 0).all(axis=-1)
        assert (black == (originals[i] != rebuilt[i])).all()
    assert (cells[2][1] == 0).all(axis=-1).sum() == 5
    assert (cells[2][0][HEART.shape[0] // 2] == 200).any()


def test_best_epoch_is_marked_in_both_panels():
    figure = figures.fig09_training(HISTORY, 2)
    for ax in figure.axes:
        marked = [line for line in ax.lines if "early stopping" in str(line.get_label())]
        assert [line.get_xdata()[0] for line in marked] == [2]
        assert marked[0].get_label() == "early stopping keeps epoch 2 of 3"


def test_histograms_are_densities_beside_that_of_the_prior():
    z = np.column_stack([DRAW.normal(size=4000), np.full(4000, 2.01)])
    left, right = figures.latent_histograms(z, np.array([0.0, 2.0]), [0], "beta = 1").axes[:2]
    for ax in (left, right):
        assert sum(bar.get_height() * bar.get_width() for bar in ax.patches) == pytest.approx(1)
        assert max(ax.lines[0].get_ydata()) == pytest.approx(0.399, abs=0.001)
    assert sum(bar.get_height() > 0 for bar in right.patches) == 1
    assert right.get_title(loc="right") == "2.00"


def is_grey(bar):
    return len(set(bar.get_facecolor()[:3])) == 1


@pytest.mark.parametrize("active", [[], [1], [2, 0]])
def test_histograms_of_active_dimensions_are_coloured(active):
    figure = figures.latent_histograms(plane(3), np.zeros(3), active, "beta = 1")
    coloured = [k for k, ax in enumerate(figure.axes[:3]) if not any(map(is_grey, ax.patches))]
    assert coloured == sorted(active)
    assert all(is_grey(bar) for k in {0, 1, 2} - set(active) for bar in figure.axes[k].patches)


def test_active_dimensions_are_coloured_wherever_they_rank():
    figure = figures.fig14_influence(INFLUENCE, active=[2, 3])  # the first and the last bar
    top, bottom = figure.axes
    assert [bar.get_height() for bar in top.patches] == [0.7, 0.8, 0.95, 1.0]
    for ax in (top, bottom):
        assert [is_grey(bar) for bar in ax.patches] == [False, True, True, False]
    assert "(2)" in figure.get_suptitle()
    assert [t.get_text() for t in bottom.get_xticklabels()] == ["z3", "z0", "z1", "z2"]


def test_traversal_has_a_column_a_step_with_its_value():
    ax = figures.fig13_traversals(MAPS[:3][None], ["z0"], 3.0).axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["-3.0", "0.0", "3.0"]
    assert (np.asarray(ax.images[0].get_array()) == tile(MAPS[:3][None])).all()


def test_rotation_is_given_against_the_angle_of_the_heart():
    axes = figures.fig03_alignment(HEART[4:], HEART, HEART, 30.0, "slice 3").axes
    titles = [ax.get_title() for ax in axes]
    assert titles[0] == "original\n32 x 28 pixels" and titles[2].startswith("rotated by -30°")


# ------------------------------------------------------------------------------ what is not there
WITHOUT_RV = np.where(MAPS == 1, 0, MAPS)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("draw", [
    lambda maps: figures.fig03_alignment(maps[0], maps[0], maps[0], 0.0, ""),
    lambda maps: figures.fig04_generation({b: maps[:6] for b in BETAS}, STUDY),
    lambda maps: reconstructions(maps, maps, np.linspace(0, 1, 24), ""),
    lambda maps: figures.fig12_samples(maps, np.ones(24, dtype=bool), ""),
    lambda maps: figures.fig13_traversals(maps[None, :9], ["z0"], 3.0),
])
def test_legend_names_the_structures_that_are_shown(draw):
    assert [name[:3] for name in legend(draw(MAPS))] == ["RV ", "MYO", "LV "]
    assert [name[:3] for name in legend(draw(WITHOUT_RV))] == ["MYO", "LV "]


def test_nothing_is_named_where_no_structure_is_shown():
    assert not figures.fig13_traversals(0 * MAPS[None, :9], ["z0"], 3.0).legends


def test_curve_of_a_class_that_does_not_occur_is_left_out():
    axes = figures.fig09_training(HISTORY.assign(validation_RV=np.nan), 2).axes
    assert [text.get_text() for text in axes[1].get_legend().get_texts()][:2] == ["MYO", "LV"]
    figure = figures.fig05_reconstruction(MAPS[:6], {b: WITHOUT_RV[:6] for b in BETAS},
                                          STUDY.assign(test_dice_RV=np.nan))
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == [
        "mean", "MYO", "LV"]
    assert legend(figure)[0].startswith("RV")  # the originals have one


def test_one_phase_alone_has_two_panels(tmp_path):
    figure = figures.fig02_ed_es({"ES": MR[0]}, {"ES": HEART[:20, :24]}, "slice 3")
    assert [ax.get_title() for ax in figure.axes] == ["ES, MR image", "ES, segmentation"]
    save_figure(figure, tmp_path / "fig02.png")


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_few_reconstructions_are_all_shown(count, tmp_path):
    figure = reconstructions(MAPS[:count], MAPS[:count], np.linspace(1, 0, count), "")
    each = max(1, count // 3)
    assert len(figure.axes[0].get_xticklabels()) == 3 * each
    save_figure(figure, tmp_path / "few.png")


def test_two_dimensions_have_two_panels(tmp_path):
    figure = figures.latent_histograms(plane(2), np.zeros(2), [0], "beta = 1")
    assert len(figure.axes) == 2
    save_figure(figure, tmp_path / "two.png")


@pytest.mark.parametrize(("changes", "left"), [
    ({}, 6), ({"phase": "ED"}, 5), ({"phase": "unknown", "group": "unknown"}, 5),
    ({"phase": np.where(np.arange(40) % 2, "ED", "unknown")}, 5), ({"level": 0.0}, 5),
    ({"area_rv": 0.0, "phase": "ES", "level": 0.0}, 3),
])
def test_planes_are_coloured_by_what_varies(changes, left, tmp_path):
    figure = figures.coloured_planes({"UMAP": plane()}, TABLE.assign(**changes))
    assert len(figure.axes) == left
    save_figure(figure, tmp_path / "planes.png")
