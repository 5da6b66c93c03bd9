"""What dimensions do: traversals and effects, on hearts whose measures are known."""

import numpy as np
import pandas as pd
import pytest
from hearts import picture

from cvae_utils import shape_metrics
from cvae_utils.analysis import dimensions
from cvae_utils.labels import Label
from cvae_utils.model import encoding
from cvae_utils.shape_metrics import DESCRIPTORS


def test_traversal_moves_one_dimension_from_end_to_end(untrained):
    z = dimensions.traverse(2, 6)
    assert z.shape == (50, 6)
    assert (z[0, 2], z[-1, 2]) == (-3, 3) and np.diff(z[:, 2]) == pytest.approx(6 / 49, abs=1e-6)
    assert not np.delete(z, 2, axis=1).any()
    found = dimensions.traverse_all(untrained)
    assert found.shape == (6, 50, 32, 32)
    assert (found[2] == encoding.decode(untrained, z)).all()
    coarse = dimensions.traverse_all(untrained, steps=8)  # every seventh of the 50 steps
    assert coarse.shape == (6, 8, 32, 32) and (coarse == found[:, ::7]).mean() > 0.999


def hearts(**ranges):
    """A traversal of five hearts (5, 64, 64); each keyword gives a measure at its two ends."""
    base = dict(cavity=(0.15, 0.15), outer=(0.25, 0.25), rv=(0.12, 0.12), shift=(0, 0)) | ranges
    steps = []
    for share in np.linspace(0, 1, 5):
        measures = {name: (1 - share) * a + share * b for name, (a, b) in base.items()}
        steps.append(picture(64, lv_shift=(measures.pop("shift"), 0), **measures))
    return np.stack(steps)


def test_influence_ranks_what_leaves_the_mean_shape():
    still, some, most = hearts(), hearts(cavity=(0.13, 0.17)), hearts(cavity=(0.09, 0.21))
    table = dimensions.influence(np.stack([some, still, most]), still[0])
    assert table["dimension"].tolist() == [2, 0, 1]
    dice = shape_metrics.dice_per_slice(most, np.stack([still[0]] * 5))
    assert table.loc[0, ["mean_dice", "variance"]].tolist() == pytest.approx(
        [dice.mean(), dice.var()])
    assert table.loc[2, ["mean_dice", "variance"]].tolist() == [1, 0]


# ---------------------------------------------------------------------------------------- effects
@pytest.fixture
def known():
    """Effects of five dimensions that do one known thing each; the last does nothing."""
    traversals = np.stack([
        hearts(outer=(0.22, 0.28), cavity=(0.12, 0.18)),  # grows with its wall as it is
        hearts(shift=(0.06, -0.06)),  # the LV moves to the left
        hearts(cavity=(0.18, 0.12)),  # the wall thickens inwards
        hearts(rv=(0.16, 0.08)),  # the RV shrinks
        hearts(),
    ])
    training = pd.DataFrame({name: [-scale, 0, scale] for name, scale in
                             zip(DESCRIPTORS, np.linspace(0.02, 0.03, len(DESCRIPTORS)))})
    return dimensions.effects(traversals, training), training.std()


def test_effects_are_changes_from_end_to_end_in_training_deviations(known):
    effect, sd = known
    growth = np.pi * (0.28**2 - 0.22**2) / sd["area_lv_myo"]
    assert effect.at[0, "area_lv_myo"] == pytest.approx(growth, rel=0.05)
    assert effect.at[1, "offset_x"] == pytest.approx(-0.12 / sd["offset_x"], rel=0.05)
    assert effect.at[2, "wall"] == pytest.approx(0.06 / sd["wall"], rel=0.1)
    assert effect.at[3, "area_rv"] < -0.5 and abs(effect.at[3, "area_lv"]) < 1e-9
    assert effect.loc[4].abs().max() < 1e-9


#: Sides of a rectangle of RV and its eccentricity, sqrt(1 - short^2 / long^2).
ROUND, OVAL, LONG = (4, 4), (5, 4), (5, 3)  # 0, 0.6, 0.8


@pytest.mark.parametrize(("sides", "change"), [
    ([ROUND, OVAL, LONG], 0.8),  # three points of equal distance: the slope of their ends
    ([None, None, ROUND, OVAL, LONG], 0.8),  # over half of the traversal, and not 1.6
    ([None, ROUND, ROUND, LONG, LONG], 0.96),  # slope 0.32 a step, and not 0.8 / 3
    ([LONG, ROUND, None, None], -0.8),  # half of the steps suffice
    ([ROUND, None, LONG, None, None], 0),  # less does not
    ([None] * 3, 0),
])
def test_effect_counts_only_where_the_descriptor_is_defined(sides, change):
    maps = np.zeros((len(sides), 16, 16), dtype=np.uint8)
    for label_map, side in zip(maps, sides):
        if side is not None:
            label_map[3:3 + side[0], 2:2 + side[1]] = Label.RV
    training = pd.DataFrame({name: [-1.0, 0.0, 1.0] for name in DESCRIPTORS})  # deviation 1
    found = dimensions.effects(maps[None], training)
    assert found.at[0, "rv_eccentricity"] == pytest.approx(change, abs=1e-9)
    assert np.isfinite(found).all(axis=None)


# ------------------------------------------------------------------------------------------ names
@pytest.mark.parametrize(("others", "name"), [
    ([1.0, 0.0], "wall thickness"),
    ([1.6, 1.5], "wall thickness / LV size"),  # 0.8 of the strongest; a third is not named
    ([-1.6, 0.0], "wall thickness / LV size"),
    ([1.59, 0.0], "wall thickness"),
])
def test_dimension_is_named_by_its_strongest_effect_and_a_near_tie(others, name):
    effect = pd.DataFrame(0.0, index=[7, 8], columns=list(DESCRIPTORS))
    effect.loc[7, ["wall", "area_lv", "area_rv"]] = [-2.0, *others]
    named = dimensions.name_dimensions(effect)
    assert named.loc[7, ["name", "effect"]].tolist() == [name, -2.0]
    assert named.at[7, "purity"] == pytest.approx(4 / (4 + np.square(others).sum()))
    assert named.loc[8].tolist() == ["no effect", 0, 0]


def test_moves_tell_dimensions_apart_and_which_way_they_go():
    effect = pd.DataFrame(0.0, index=range(5), columns=list(DESCRIPTORS))
    effect.loc[0, ["wall", "area_lv"]] = [-2.0, 0.5]
    effect.loc[1, ["wall", "area_lv"]] = [-2.0, -1.7]
    effect.loc[2, ["wall", "area_rv", "offset_y"]] = [-1.0, 0.2, 0.5]  # y points down
    effect.loc[3, "wall"] = 3.0
    assert dimensions.describe_moves(effect) == [
        "thinner wall, larger LV", "thinner wall, smaller LV", "thinner wall, wall thicker above",
        "thicker wall", "no effect"]
    assert dimensions.MOVES.keys() == DESCRIPTORS.keys()


def test_three_words_are_the_most():
    effect = pd.DataFrame(1.0, index=range(3), columns=list(DESCRIPTORS))
    effect.loc[1, "area_lv"] = -0.1
    words = dimensions.describe_moves(effect)
    assert words[0] == words[2] == "larger LV, larger MYO, larger RV" != words[1]


def test_report_effects_find_the_dimension_that_does_each(known):
    found = dimensions.report_effects(known[0]).set_index("report")
    assert found["dimension"].to_dict() | {
        "size of LV + MYO": 0, "LV off-centre in MYO, horizontal": 1, "thickness of MYO": 2,
        "shape of RV": 3} == found["dimension"].to_dict()
    assert list(found.index) == list(dimensions.REPORT_EFFECTS)
    off_centre = found.loc["LV off-centre in MYO, horizontal"]
    assert off_centre["share"] == pytest.approx(1, abs=0.01)
    assert off_centre["effect"] < 0 and off_centre["purity"] > 0.95
    nothing = dimensions.report_effects(known[0] * 0)
    assert (nothing[["effect", "purity", "share"]] == 0).all(axis=None)


def test_without_an_rv_nothing_is_said_of_it():
    without = np.stack([hearts(rv=(0, 0)), hearts(rv=(0, 0), shift=(0.06, -0.06))])
    training = shape_metrics.describe(without.reshape(-1, 64, 64))
    effect = dimensions.effects(without, training)
    assert np.isfinite(effect).all(axis=None)
    assert (effect[["area_rv", "rv_eccentricity"]] == 0).all(axis=None)
    assert dimensions.name_dimensions(effect)["name"][1] == "LV offset in MYO, horizontal"
    found = dimensions.report_effects(effect).set_index("report")
    assert len(found) == 7 and found.at["shape of RV", "effect"] == 0


def test_each_map_finds_the_picture_of_a_path_that_overlaps_it_best():
    path, maps = hearts(rv=(0.08, 0.16)), hearts(rv=(0.08, 0.16))[[3, 0]]
    assert dimensions.best_overlap(path, maps, Label.RV).tolist() == [1, 1]
    ends = dimensions.best_overlap(path[[0, -1]], maps, Label.RV)
    assert ends[1] == 1 and 0.5 < ends[0] < 1
    assert dimensions.best_overlap(path, maps[:0], Label.RV).shape == (0,)


@pytest.mark.parametrize(("values", "harsh"), [
    ([0, 2, 4, 6], 1), ([0, 1, 4, 3], 9 / 5), ([5, 5, 5], np.nan), ([5], np.nan), ([], np.nan)])
def test_harshness_is_the_largest_step_over_the_mean_one(values, harsh):
    assert dimensions.harshness(np.array(values)) == pytest.approx(harsh, nan_ok=True)
