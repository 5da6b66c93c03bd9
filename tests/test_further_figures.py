"""Figures beyond the report's: what they show, and that nothing is drawn for what is not there."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hearts import picture

from cvae_utils import further_figures, protocol
from cvae_utils.figures import save_figure

HEARTS = np.stack([picture(32, cavity=0.12, outer=0.2, rv=r) for r in (0, 0.1, 0.15)])


@pytest.fixture
def points():
    rows = [("A", "VAE", "beta 1", "standard", 0.9, 0.2), ("A", "VAE", "beta 1", "mixture", 0.9, 1),
            ("B", "here", "here", "standard", 0.8, 0.5)]
    table = pd.DataFrame(rows, columns=["panel", "family", "label", "prior", "dice", "valid"])
    return table.assign(dice_sd=0.01, valid_sd=0.0, note=table["label"])


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_pareto_joins_the_priors_of_a_model_and_ends_where_samples_do(points, tmp_path):
    figure = further_figures.fig21_pareto(points, {"A": 0.98, "B": 0.99}, protocol.PUBLISHED)
    ours, published = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["A", "B"]
    joined = ours.lines[0].get_ydata()
    assert joined == pytest.approx([80, 0.1])  # % not valid; none of a thousand is 0.1 or less
    assert ours.yaxis_inverted() and ours.get_yscale() == "log"
    assert "beta 1" in texts(ours) and "hierarchical NVAE" in texts(published)
    assert "hierarchical NVAE" not in texts(ours)
    save_figure(figure, tmp_path / "pareto.png")
    alone = further_figures.fig21_pareto(points[points["panel"] == "A"], {"A": 0.98})
    assert "published" not in [t.get_text() for t in alone.legends[0].get_texts()]


def test_names_of_models_with_one_dice_do_not_lie_on_each_other(points):
    near = points[points["panel"] == "A"].assign(dice=0.9)
    many = pd.concat([near.assign(label=name, note=f"a model, {name}") for name in "abcd"])
    figure = further_figures.fig21_pareto(many, {"A": 0.98})
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 5  # and that of real slices
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_more_families_than_colours_are_refused(points):
    many = pd.concat([points.assign(family=f"family {n}") for n in range(9)])
    with pytest.raises(ValueError, match="at most 8 families.*draw fewer"):
        further_figures.fig21_pareto(many, {"A": 0.98, "B": 0.99})


def test_schedules_stand_beside_what_they_gain(tmp_path):
    curves = {name: (np.linspace(0, 1, 5), np.full(5, 100.0)) for name in ("linear", "cyclical")}
    gain = pd.DataFrame({"none": [0.01, 0.03], "cyclical": [-0.02, 0.0]})
    figure = further_figures.fig18_schedules(curves, gain)
    left, right = figure.axes
    assert [t.get_text() for t in right.get_yticklabels()] == ["none", "cyclical"]
    assert right.lines[0].get_color() not in {line.get_color() for line in left.lines}
    assert right.lines[0].get_xdata() == pytest.approx([0.01, 0.03])
    assert right.lines[1].get_xdata() == pytest.approx([0.02])  # the mean
    save_figure(figure, tmp_path / "schedules.png")


def test_rows_of_samples_are_named_with_their_share(tmp_path):
    figure = further_figures.fig17_priors({"N(0, I)": HEARTS, "fitted": HEARTS},
                                          {"N(0, I)": 0.125, "fitted": 1.0}, "priors")
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == ["N(0, I)\n12.5 % valid", "fitted\n100.0 % valid"]
    four = further_figures.fig19_sharp(HEARTS, HEARTS, HEARTS, HEARTS, "sharp")
    assert len(four.axes[0].get_yticklabels()) == 4
    save_figure(figure, tmp_path / "priors.png")


def test_criteria_are_written_as_numbers():
    broken = pd.DataFrame({"real": [0.0, 1.25], "drawn": [40.0, 0.0]}, index=["hole", "gap"])
    assert texts(further_figures.fig20_criteria(broken).axes[0]) == ["0", "40.0", "1.2", "0"]


def test_phases_show_shares_of_the_gradient():
    steps = pd.DataFrame({"gradient_BACKGROUND": [3.0] * 4, **{
        f"{kind}{name}": [0.5] * 4 for name in ("RV", "MYO", "LV")
        for kind in ("", "area_")}, **{f"gradient_{n}": [1.0] * 4 for n in ("RV", "MYO", "LV")}})
    figure = further_figures.fig22_phases(steps, {"RV": 0.1, "MYO": 0.1, "LV": 0.1})
    gradient = figure.axes[1]
    assert [line.get_ydata()[0] for line in gradient.lines] == pytest.approx([50, 50 / 3, 50 / 3,
                                                                              50 / 3])
    assert len(figure.axes[0].lines) == 3  # background has no Dice
    without = further_figures.fig22_phases(steps, {"RV": 0.0, "MYO": 0.1, "LV": 0.1})
    assert [len(ax.lines) for ax in without.axes] == [2, 3, 4]
    assert [text.get_text() for text in without.legends[0].get_texts()] == [
        "background", "MYO", "LV"]


def test_collapse_has_a_line_for_each_way():
    history = pd.DataFrame({"epoch": [1, 2], "train_kl": [1.0, 0.0], "validation_dice": [0.1, 0.2]})
    figure = further_figures.fig23_collapse({"a": history, "b": history * 2})
    assert figure.axes[0].lines[1].get_ydata() == pytest.approx([2, 0])
