"""Every figure is drawn from small inputs without a warning, and what can be read off is right."""

import io
import itertools

import numpy as np
import pandas as pd
import pytest
from hearts import picture
from matplotlib.figure import Figure
from PIL import Image

from cvae_utils.analysis import published_protocol
from cvae_utils.figures import hearts, latent_space, learning, style, trade_off
from cvae_utils.figures.colours import colourise
from cvae_utils.figures.style import save_figure
from cvae_utils.labels import GROUPS, STRUCTURE_NAMES, Label

pytestmark = pytest.mark.filterwarnings("error")

DRAW = np.random.default_rng(0)
HEART = picture(32, cavity=0.15, outer=0.25, rv=0.12)
MAPS = np.stack([np.roll(HEART, shift, axis=0) for shift in range(24)])
WITHOUT_RV = np.where(MAPS == Label.RV, 0, MAPS)
BETAS = (1.0, 1000.0)
MR = DRAW.uniform(0, 255, (6, 20, 24))
GROUP = np.array(GROUPS)[np.arange(40) % 5]
BY_BETA = pd.DataFrame(
    {"valid_prior": [0.1, 0.98], "valid_real": 0.97, "test_dice": [0.92, 0.87],
     **{f"test_dice_{name}": [0.9, 0.8] for name in STRUCTURE_NAMES}},
    index=pd.Index(BETAS, name="beta"))
HISTORY = pd.DataFrame(
    {"epoch": [1, 2, 3], "train_loss": [1.5, 0.8, 0.6], "validation_loss": [1.4, 0.9, 0.95],
     "train_kl": [3.0, 1, 0], "validation_dice": [0.1, 0.4, 0.6],
     **{f"validation_{name}": [0.1, 0.5, 0.6] for name in STRUCTURE_NAMES}})
INFLUENCE = pd.DataFrame({"dimension": [3, 0, 1, 2], "mean_dice": [0.7, 0.8, 0.95, 1.0],
                          "variance": [0.02, 0.01, 0.001, 0.0]})
RELATIONS = pd.DataFrame({"LV size": [0.9, 0.1], "LV offset, vertical": [0.2, 0.0]}, index=[7, 3])
TABLE = pd.DataFrame(
    {"group": GROUP, "phase": np.where(np.arange(40) % 2, "ED", "ES"),
     **{name: DRAW.uniform(size=40) for name in ("level", "area_rv", "area_myo", "area_lv")}})
STEPS = pd.DataFrame({"gradient_BACKGROUND": [3.0] * 4, **{
    f"{kind}{name}": [1.0 if kind == "gradient_" else 0.5] * 4
    for name in STRUCTURE_NAMES for kind in ("", "area_", "gradient_")}})
POINTS = pd.DataFrame(
    [("A", "beta 1", "standard", 0.9, 0.2), ("A", "beta 1", "mixture", 0.9, 1),
     ("B", "here", "standard", 0.8, 0.5)],
    columns=["panel", "label", "prior", "dice", "valid"])
PUBLISHED = [{"title": "another model", "latents": 5000, "dice": (0.95, 0.96),
              "valid": (0.86, 0.97)}]
LATENTS = pd.DataFrame([("A", "PCA", 8, 0.8), ("A", "PCA", 32, 0.9), ("B", "here", 32, 0.95)],
                       columns=["panel", "label", "latents", "dice"]).assign(dice_sd=0.01)
CURVES = {name: (np.linspace(0, 1, 5), np.full(5, 100.0)) for name in ("linear", "cyclical")}
GAIN = pd.DataFrame({"linear": [1.0, 3.0], "cyclical": [-2.0, 0.0]})


def plane(dimensions=2):
    return DRAW.normal(size=(40, dimensions))


def by_beta(maps):
    return {beta: maps[:6] for beta in BETAS} | {"PCA": maps[:6]}


EVERY_FIGURE = {
    "patient": lambda: hearts.patient_slices(MR, "patient001"),
    "one slice": lambda: hearts.patient_slices(MR[:1], "patient001"),
    "phases": lambda: hearts.ed_and_es({"ED": MR[0], "ES": MR[1]}, {
        "ED": HEART[:20, :24], "ES": HEART[:20, :24]}, "slice 3"),
    "alignment": lambda: hearts.alignment_steps(HEART[4:], HEART, HEART, 30.0, "slice 3",
                                                (200, 100, 90)),
    "best": lambda: hearts.best_median_worst(MAPS, MAPS[::-1], np.linspace(0, 1, 24),
                                             np.arange(24) // 2, "test"),
    "prior samples": lambda: hearts.prior_samples(MAPS, np.arange(24) % 3 > 0, "samples"),
    "traversals": lambda: hearts.traversal_rows(MAPS.reshape(2, 12, 32, 32), ["z0", "z1"], 3.0),
    "priors": lambda: hearts.samples_by_prior({"a": MAPS[:9], "b": MAPS[9:18]},
                                              {"a": 0.125, "b": 1.0}, "priors"),
    "models": lambda: hearts.rebuilt_by_model(MAPS[:9], {"a": MAPS[:9], "b": MAPS[9:18]}, "models"),
    "latents": lambda: trade_off.dice_against_latents(LATENTS, PUBLISHED),
    "rebuilt": lambda: hearts.rebuilt_and_drawn(*[MAPS[:9]] * 4, "sharp"),
    "generation": lambda: trade_off.samples_by_beta(by_beta(MAPS), BY_BETA),
    "reconstruction": lambda: trade_off.reconstructions_by_beta(
        MAPS[:6], by_beta(MAPS), BY_BETA, {"PCA": 0.9}),
    "criteria": lambda: trade_off.broken_criteria(pd.DataFrame(
        {"real": [0.0, 1.25], "drawn": [40.0, 0.0]}, index=["hole", "gap"])),
    "trade-off": lambda: trade_off.reconstruction_against_validity(
        POINTS, {"A": 0.98, "B": 0.99}, PUBLISHED),
    "few dimensions": lambda: latent_space.latent_histograms(plane(2), np.zeros(2), [0], "beta"),
    "histograms": lambda: latent_space.latent_histograms(plane(32), np.zeros(32), [], "beta"),
    "umap": lambda: latent_space.umap_planes({b: plane() for b in BETAS}, GROUP,
                                             np.arange(40) % 2 == 0, {b: 3 for b in BETAS}),
    "influence": lambda: latent_space.influence_bars(INFLUENCE, [0, 1]),
    "relations": lambda: latent_space.relations(RELATIONS, "a run"),
    "landing": lambda: latent_space.traversals_in_plane(plane(), {"z0": plane()}, 3.0),
    "tsne": lambda: latent_space.tsne_clouds({b: plane(3) for b in BETAS}, GROUP),
    "planes": lambda: latent_space.coloured_planes({"UMAP": plane(), "t-SNE": plane()}, TABLE),
    "history": lambda: learning.training_history(HISTORY, 2, 9),
    "schedules": lambda: learning.beta_schedules(CURVES, GAIN),
    "classes": lambda: learning.class_phases(STEPS, dict.fromkeys(STRUCTURE_NAMES, 0.1)),
    "collapse": lambda: learning.posterior_collapse({"a": [HISTORY], "b": [HISTORY * 2, HISTORY]}),
}


@pytest.mark.parametrize("name", EVERY_FIGURE)
def test_figure_is_drawn_without_warnings_at_the_width_of_a_page(name):
    figure = EVERY_FIGURE[name]()
    assert isinstance(figure, Figure) and len(figure.axes) > 0
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=50)
    width, height = Image.open(buffer).size
    assert width == 450 and 80 < height < 800


def texts(found):
    return [text.get_text() for text in found]


# ------------------------------------------------------------------------------------- style
def test_figure_is_saved_at_its_size_with_its_stamp_at_the_foot(tmp_path):
    figure = style.new_figure(2.0)  # empty, so that all ink is the stamp's
    assert style.stamp_figure(figure, "Data: phantom") is figure
    assert save_figure(figure, tmp_path / "figures" / "a.png") is figure
    with Image.open(tmp_path / "figures" / "a.png") as saved:
        rows, columns = np.nonzero(np.asarray(saved.convert("L")) < 200)
        assert saved.size == (1170, 260)  # 9 x 2 inches at 130 dots
    assert rows.min() > 260 - 25 and columns.min() > 1170 - 120 and columns.max() > 1170 - 15
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["a.png"]


def test_figure_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    figure, path = style.new_figure(2.0), tmp_path / "a.png"
    path.write_bytes(b"old")

    def half(partial, **options):
        partial.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", half)
    with pytest.raises(OSError):
        save_figure(figure, path)
    assert path.read_bytes() == b"old"


# ------------------------------------------------------------------------------------ hearts
def test_tiles_are_the_maps_pixel_by_pixel_and_names_stand_at_their_middle():
    maps = DRAW.integers(0, 4, (2, 3, 32, 32)).astype(np.uint8)
    ax = Figure().subplots()
    hearts.show_tiles(ax, maps, ["a", "b"], ["x", "y", "z"])
    assert ax.get_yticks().tolist() == [18, 52] and ax.get_xticks().tolist() == [18, 52, 86]
    assert texts(ax.get_yticklabels()) == ["a", "b"]
    found = np.asarray(ax.images[0].get_array())
    assert found.shape == (2 + 2 * 34, 2 + 3 * 34, 3) and found.dtype == np.uint8
    between = np.ones(found.shape[:2], bool)
    for r, c in np.ndindex(2, 3):
        window = np.s_[2 + 34 * r:34 + 34 * r, 2 + 34 * c:34 + 34 * c]
        assert (found[window] == colourise(maps[r, c])).all()
        between[window] = False
    assert (found[between] == 205).all()


def test_samples_that_are_not_valid_are_crossed_out():
    valid = np.ones(24, dtype=bool)
    valid[[1, 14]] = False  # first row, second column; second row, third column
    ax = hearts.prior_samples(MAPS, valid, "samples", columns=12).axes[0]
    assert [np.column_stack(line.get_data()).tolist() for line in ax.lines] == [
        [[36, 2], [68, 34]], [[36, 34], [68, 2]],
        [[70, 36], [102, 68]], [[70, 68], [102, 36]],
    ]


def test_bars_are_20_mm_and_ranges_lie_at_their_values():
    def ends(line):
        return np.column_stack(line.get_data()).ravel().tolist()

    ax = hearts.rebuilt_by_model(MAPS[:2], {"a": MAPS[2:4]}, "", np.array([80, 160])).axes[0]
    assert [line.get_xdata()[1] - line.get_xdata()[0] for line in ax.lines] == [8, 4]  # of 32
    assert texts(ax.figure.legends[0].get_texts())[-1] == "20 mm"
    ax = hearts.traversal_rows(MAPS[:6].reshape(2, 3, 32, 32), ["z0", "z1"], 3.0, "value",
                               np.array([[True, True, True], [True, False, True]]),
                               np.array([[-3, 3], [-1.5, 9]])).axes[0]
    *crosses, first, second = ax.lines
    assert len(crosses) == 2 and [ends(line)[::2] for line in (first, second)] == [
        [18, 86], [35, 86]]  # from the middle of one column to that of another
    assert ax.get_xlabel() == "value"


def test_bands_need_three_seeds():
    def band(*seeds):
        runs = pd.concat([table.reset_index(names="beta") for table in seeds])
        return trade_off.samples_by_beta(by_beta(MAPS), BY_BETA, runs).axes[1].get_title()

    assert band(BY_BETA, BY_BETA) == ""
    assert band(*[BY_BETA] * 3).startswith("line: one seed; band: mean $")
    assert band(*[BY_BETA] * 3).endswith("of 3 seeds")
    some = band(*[BY_BETA] * 3, BY_BETA.iloc[:1], BY_BETA.iloc[:1])
    assert "of 3 to 5 seeds" in some
    assert f"= {BY_BETA.index[0]:g}: " in band(*[BY_BETA.iloc[:1]] * 3)


def test_planes_colour_only_the_slices_that_are_alike():
    ax = EVERY_FIGURE["umap"]().axes[0]
    assert sum(len(found.get_offsets()) for found in ax.collections[1:]) == 20
    assert ax.get_title().endswith("3 clumps")


def test_reconstructions_are_the_best_the_median_and_the_worst_with_errors_in_black():
    originals = MAPS[:9]
    rebuilt = originals.copy()
    rebuilt[4, 0, :5] = 3  # five wrong pixels in the slice of median Dice
    dice = np.array([0.5, 0.9, 0.1, 0.8, 0.55, 0.2, 0.7, 0.3, 0.6])
    ax = hearts.best_median_worst(originals, rebuilt, dice, np.arange(9), "test", 1).axes[0]
    assert texts(ax.get_xticklabels()) == ["best\nDice 0.900", "median\nDice 0.550",
                                                "worst\nDice 0.100"]
    shown = np.asarray(ax.images[0].get_array())
    for column, i in enumerate((1, 4, 2)):
        original, own, errors = (shown[y:y + 32, 2 + 34 * column:34 + 34 * column]
                                 for y in (2, 36, 70))
        assert (original == colourise(originals[i])).all()
        assert (own == colourise(rebuilt[i])).all()
        assert ((errors == 0).all(axis=-1) == (originals[i] != rebuilt[i])).all()
        assert (errors[16] == 200).any()  # where both agree on a structure


@pytest.mark.parametrize(("count", "shown"), [(1, 3), (2, 3), (4, 3), (8, 6), (24, 9)])
def test_few_reconstructions_are_all_shown(count, shown):
    figure = hearts.best_median_worst(MAPS[:count], MAPS[:count], np.linspace(1, 0, count),
                                      np.zeros(count), "")
    assert len(figure.axes[0].get_xticklabels()) == shown


def test_best_and_worst_are_of_different_patients():
    dice, patients = np.linspace(1, 0, 12), np.repeat([1, 2, 3, 4], 3)
    ax = hearts.best_median_worst(MAPS[:12], MAPS[:12], dice, patients, "", 2).axes[0]
    shown = [float(name.split()[-1]) for name in texts(ax.get_xticklabels())]
    assert shown == [round(x, 3) for x in (dice[0], dice[3], dice[5], dice[6], dice[8], dice[11])]


def test_names_of_rows_columns_and_panels_say_what_they_show():
    ax = hearts.traversal_rows(MAPS[:3][None], ["z0"], 3.0).axes[0]
    assert texts(ax.get_xticklabels()) == ["-3", "0", "3"]
    ax = EVERY_FIGURE["priors"]().axes[0]
    assert texts(ax.get_yticklabels()) == ["a\n12.5 % valid", "b\n100.0 % valid"]
    titles = [ax.get_title() for ax in EVERY_FIGURE["alignment"]().axes]
    assert titles[0] == "slice 3: original\n32 x 28 pixels"
    assert titles[2].startswith("rotated by -30°")
    figure = hearts.ed_and_es({"ES": MR[0]}, {"ES": HEART[:20, :24]}, "slice 3")
    assert [ax.get_title() for ax in figure.axes] == ["ES, MR image", "ES, segmentation"]


@pytest.mark.parametrize("draw", [
    lambda maps: hearts.alignment_steps(maps[0], maps[0], maps[0], 0.0, "", [100] * 3),
    lambda maps: trade_off.samples_by_beta(by_beta(maps), BY_BETA),
    lambda maps: hearts.traversal_rows(maps[None, :9], ["z0"], 3.0),
])
def test_legend_names_the_structures_that_are_shown(draw):
    for maps, names in ((MAPS, ["RV ", "MYO", "LV "]), (WITHOUT_RV, ["MYO", "LV "])):
        assert [name[:3] for name in texts(draw(maps).legends[0].get_texts())] == names
    assert not hearts.traversal_rows(0 * MAPS[None, :9], ["z0"], 3.0).legends


# ------------------------------------------------------------------------------------- learning
def test_best_epoch_is_marked_and_the_curve_of_an_absent_class_left_out():
    figure = learning.training_history(HISTORY.assign(validation_RV=np.nan), 2, 9)
    for ax in figure.axes:
        marked, = (line for line in ax.lines if "early stopping" in str(line.get_label()))
        assert marked.get_xdata()[0] == 2
        assert marked.get_label() == "epoch 2 of 3 is kept: early stopping"
    whole = learning.training_history(HISTORY, 3, 3).axes[0].get_legend_handles_labels()[1]
    assert whole[-1] == "epoch 3 of 3 is kept: early stopping did not act"
    assert texts(figure.axes[1].get_legend().get_texts())[:2] == ["MYO", "LV"]
    figure = trade_off.reconstructions_by_beta(MAPS[:6], by_beta(WITHOUT_RV),
                                               BY_BETA.assign(test_dice_RV=np.nan))
    assert texts(figure.axes[1].get_legend().get_texts()) == ["mean", "MYO", "LV"]
    assert texts(figure.legends[0].get_texts())[0].startswith("RV")  # the originals have one


def test_schedules_stand_beside_what_they_bring():
    left, right = EVERY_FIGURE["schedules"]().axes
    assert texts(right.get_yticklabels()) == ["linear", "cyclical"]
    assert [line.get_color() for line in right.lines[:4:2]] == [
        line.get_color() for line in left.lines]
    assert right.lines[0].get_xdata() == pytest.approx([1, 3])
    assert right.lines[1].get_xdata() == pytest.approx([2])  # the mean
    assert right.get_xlim()[0] == -right.get_xlim()[1] < -3
    collapse = EVERY_FIGURE["collapse"]().axes[0]  # a line for each seed
    assert [line.get_ydata().tolist() for line in collapse.lines] == [
        [3, 1, 0], [6, 2, 0], [3, 1, 0]]


def test_phases_show_shares_of_the_gradient():
    dice, gradient, _ = EVERY_FIGURE["classes"]().axes
    assert [line.get_ydata()[0] for line in gradient.lines] == pytest.approx([50] + [50 / 3] * 3)
    assert len(dice.lines) == 3  # background has no Dice
    without = learning.class_phases(STEPS, {"RV": 0.0, "MYO": 0.1, "LV": 0.1})
    assert [len(ax.lines) for ax in without.axes] == [2, 3, 4]
    assert texts(without.legends[0].get_texts()) == ["background", "MYO", "LV"]


# ---------------------------------------------------------------------------------- latent space
def is_grey(bar):
    return len(set(bar.get_facecolor()[:3])) == 1


def test_histograms_are_densities_beside_that_of_the_prior():
    z = np.column_stack([DRAW.normal(size=4000), np.full(4000, 2.01)])
    left, right = latent_space.latent_histograms(z, np.array([0.0, 2.0]), [0], "beta = 1").axes
    for ax in (left, right):
        assert sum(bar.get_height() * bar.get_width() for bar in ax.patches) == pytest.approx(1)
        assert max(ax.lines[0].get_ydata()) == pytest.approx(0.399, abs=0.001)
    assert sum(bar.get_height() > 0 for bar in right.patches) == 1
    assert right.get_title(loc="right") == "2.00"


@pytest.mark.parametrize("active", [[], [1], [2, 0]])
def test_active_dimensions_are_coloured_wherever_they_rank(active):
    axes = latent_space.latent_histograms(plane(3), np.zeros(3), active, "beta = 1").axes[:3]
    for k, ax in enumerate(axes):
        assert {is_grey(bar) for bar in ax.patches} == {k not in active}
    figure = latent_space.influence_bars(INFLUENCE, active)
    left, right = figure.axes
    names = {1: ["z1"], 2: ["z0", "z2"]}.get(len(active), ["z3", "z0", "z1", "z2"])
    others = [f"the {4 - len(names)}\nothers"] * (len(names) < 4)
    assert texts(left.get_xticklabels()) == texts(right.get_xticklabels()) == names + others
    departure = {"z3": 0.3, "z0": 0.2, "z1": 0.05, "z2": 0.0}
    heights = [bar.get_height() for bar in left.patches]
    assert heights[:len(names)] == pytest.approx([departure[name] for name in names])
    if others:
        left_out = [value for name, value in departure.items() if name not in names]
        assert heights[-1] == pytest.approx(np.mean(left_out)) and is_grey(left.patches[-1])
    assert f"{len(active)} of 4 are active" in figure.get_suptitle()


def test_relations_have_a_row_for_each_dimension_and_a_column_for_each_factor():
    (ax,) = EVERY_FIGURE["relations"]().axes
    assert texts(ax.get_yticklabels()) == ["z7", "z3"]
    assert texts(ax.get_xticklabels()) == ["LV size", "LV offset,\nvertical"]
    assert texts(ax.texts) == ["0.90", "0.20", "0.10", "0.00"]


@pytest.mark.parametrize(("changes", "left"), [
    ({}, 6), ({"phase": "ED"}, 5), ({"phase": "unknown", "group": "unknown"}, 5),
    ({"phase": np.where(np.arange(40) % 2, "ED", "unknown")}, 5), ({"level": 0.0}, 5),
    ({"area_rv": 0.0, "phase": "ES", "level": 0.0}, 3),
])
def test_planes_are_coloured_by_what_varies(changes, left):
    figure = latent_space.coloured_planes({"UMAP": plane()}, TABLE.assign(**changes))
    assert len(figure.axes) == left
    figure.draw_without_rendering()


# ------------------------------------------------------------------------------------- trade-off
def test_priors_of_a_model_are_joined_and_end_where_samples_do():
    figure = EVERY_FIGURE["trade-off"]()
    ours, other = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["A", "B"]
    assert ours.lines[0].get_ydata() == pytest.approx([20, 100])
    hollow, filled = (line.get_markerfacecolor() for line in ours.lines[1:3])
    assert hollow == "white" != filled
    assert {"samples from N(0, I)", "published"} < set(texts(figure.legends[0].get_texts()))
    assert "another model" in texts(other.texts) and "another model" not in texts(ours.texts)
    alone = trade_off.reconstruction_against_validity(POINTS[:2], {"A": 0.98})
    assert "published" not in texts(alone.legends[0].get_texts())
    many = pd.concat([POINTS.assign(label=f"model {n}") for n in range(9)])
    with pytest.raises(ValueError, match="at most 8 models.*draw fewer"):
        trade_off.reconstruction_against_validity(many, {"A": 0.98, "B": 0.99})


def test_sizes_of_a_model_are_joined_and_published_ones_stand_in_the_last_panel():
    ours, other = EVERY_FIGURE["latents"]().axes
    assert ours.lines[0].get_xydata() == pytest.approx(np.array([[8, 0.8], [32, 0.9]]))
    assert texts(ours.get_xticklabels()) == ["8", "32"] and ours.get_xscale() == "log"
    assert "another model" in texts(other.texts) and not texts(ours.texts)
    many = pd.concat([LATENTS.assign(label=f"model {n}") for n in range(9)])
    with pytest.raises(ValueError, match="at most 8 models.*draw fewer"):
        trade_off.dice_against_latents(many)


def test_names_do_not_lie_on_each_other():
    figure = trade_off.reconstruction_against_validity(POINTS[:2].assign(valid=0.5), {"A": 0.98},
                                                       published_protocol.PUBLISHED)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    assert len(boxes) == 1 + len(published_protocol.PUBLISHED)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_criteria_are_written_as_numbers():
    assert texts(EVERY_FIGURE["criteria"]().axes[0].texts) == ["0", "40.0", "1.2", "0"]
