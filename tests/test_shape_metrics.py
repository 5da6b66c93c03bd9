"""Dice, validity and descriptors against values worked out by hand."""

import numpy as np
import pytest
from hearts import picture, square_heart

from cvae_utils import shape_metrics
from cvae_utils.labels import Label
from cvae_utils.shape_metrics import describe, dice_per_class, dice_per_slice, is_valid

RV, MYO, LV = Label.RV, Label.MYO, Label.LV
RING = dict(cavity=0.15, outer=0.25)


# --------------------------------------------------------------------------- Dice and occurrence
def one_row(*values):
    """A label map of one row, as a batch (1, 1, W)."""
    return np.array([[values]], dtype=np.uint8)


@pytest.mark.parametrize(("predicted", "target", "expected", "mean"), [
    ((1, 2, 3, 0), (1, 2, 3, 0), (1, 1, 1), 1),
    ((1, 1, 0, 0), (0, 0, 1, 1), (0, np.nan, np.nan), 0),
    ((3, 3, 0, 0), (3, 3, 2, 0), (np.nan, 0, 1), 1 / 2),
    ((3, 3, 2, 0), (3, 3, 0, 0), (np.nan, 0, 1), 1 / 2),  # predicted but absent counts 0 too
    ((1, 1, 1, 3), (1, 0, 3, 3), (2 / 4, np.nan, 2 / 3), 7 / 12),
    ((0, 0, 0, 0), (0, 0, 0, 0), (np.nan, np.nan, np.nan), np.nan),
])
def test_dice_by_hand(predicted, target, expected, mean):
    maps = one_row(*predicted), one_row(*target)
    assert dice_per_class(*maps) == pytest.approx(np.array([expected]), nan_ok=True)
    assert dice_per_slice(*maps) == pytest.approx([mean], nan_ok=True)


def test_dice_scores_each_slice_by_itself_and_means_leave_absent_classes_out():
    a = np.concatenate([one_row(3, 3), one_row(3, 0)])
    b = np.concatenate([one_row(3, 3), one_row(0, 3)])
    assert dice_per_class(a, b)[:, 2].tolist() == [1, 0]
    with pytest.raises(ValueError, match="one shape"):
        dice_per_class(a, b[:1])  # would broadcast
    scores = np.array([[1.0, np.nan, 0.5], [np.nan, np.nan, 1.0]])
    assert shape_metrics.mean_by_class(scores) == pytest.approx(
        {"RV": 1.0, "MYO": np.nan, "LV": 0.75}, nan_ok=True)


def test_areas_count_pixels_and_structures_that_occur_are_named():
    assert shape_metrics.areas(one_row(3, 3, 3, 2, 0, 1)).tolist() == [[1, 1, 3]]
    assert shape_metrics.structures_in(one_row(0, 1, 2, 3)) == ("RV", "MYO", "LV")
    assert shape_metrics.structures_in(one_row(3, 3, 2, 0)) == ("MYO", "LV")
    assert shape_metrics.structures_in(one_row(0)) == ()


# --------------------------------------------------------------------------------------- validity
ALL, CAVITY, NO_RV = slice(None), (slice(16, 24), slice(18, 26)), (slice(None), slice(14), 0)
OPEN = "LV touches background"


@pytest.mark.parametrize(("strokes", "rules"), [
    ([], []),
    ([NO_RV], []),
    ([NO_RV, (slice(8, 12), slice(10, 14), RV)], []),  # its corner touches that of the wall
    ([(13, 5, RV)], []),  # joined to the RV at a corner
    ([NO_RV, (slice(12, 16), slice(14, 18), 0)], []),  # LV meets background across a diagonal
    ([(*CAVITY, MYO)], ["no LV"]),
    ([(ALL, ALL, 0), (*CAVITY, LV)], ["no MYO", OPEN]),
    ([(ALL, ALL, 0)], ["no LV", "no MYO"]),
    ([(13, 15, LV)], ["LV in 2 parts"]),
    ([(2, 2, MYO)], ["MYO in 2 parts"]),
    ([(20, 30, RV), (30, 30, RV)], ["RV in 3 parts"]),
    ([(16, 18, MYO), (17, 19, MYO)], ["hole in LV"]),  # joined to the wall by its corner alone
    ([(20, 10, 0)], ["hole in RV"]),
    ([(14, 20, 0)], ["hole in MYO and LV"]),
    ([(20, slice(14, 18), RV)], ["LV touches RV"]),
    ([(20, slice(26, 30), 0)], [OPEN]),
    ([(ALL, 13, 0)], ["RV apart from MYO"]),
])
def test_rules_that_a_heart_of_squares_breaks_are_named(strokes, rules):
    heart = square_heart()
    for rows, columns, label in strokes:
        heart[rows, columns] = label
    assert shape_metrics.broken_rules(heart) == rules
    assert is_valid(heart[None]).tolist() == [not rules]
    lenient = [rule for rule in rules if rule != OPEN]
    assert shape_metrics.broken_rules(heart, open_wall_allowed=True) == lenient
    assert is_valid(heart[None], open_wall_allowed=True).tolist() == [not lenient]


def test_validity_at_the_border_of_the_picture():
    assert is_valid(np.roll(square_heart(), (-12, -6), axis=(0, 1))[None]).all()
    cut = square_heart()[:, :26]  # the picture ends where the LV does
    assert shape_metrics.broken_rules(cut) == [OPEN]
    assert is_valid(np.stack([picture(**RING, rv=rv) for rv in (0.0, 0.12)])).all()
    assert is_valid(np.zeros((0, 8, 8), dtype=np.uint8)).shape == (0,)


# ------------------------------------------------------------------------------------ descriptors
@pytest.mark.parametrize("side", [64, 128])
def test_ring_of_circles_has_its_measures_at_every_size(side):
    found = describe(picture(side, **RING)[None]).iloc[0]
    assert list(found.index) == list(shape_metrics.DESCRIPTORS)
    exact = {
        "area_lv": np.pi * 0.15**2, "area_myo": np.pi * (0.25**2 - 0.15**2), "area_rv": 0,
        "area_lv_myo": np.pi * 0.25**2, "wall": 0.10, "offset_x": 0, "offset_y": 0,
        "extent_x": 0.50, "extent_y": 0.50, "rv_eccentricity": np.nan,
    }
    assert found.to_dict() == pytest.approx(exact, rel=0.03, abs=1e-12, nan_ok=True)


def test_offset_is_positive_to_the_right_and_down():
    found = describe(picture(256, **RING, lv_shift=(0.04, -0.02))[None]).iloc[0]
    assert found[["offset_x", "offset_y"]].tolist() == pytest.approx([0.04, -0.02], abs=1e-3)


@pytest.mark.parametrize("pixels", [1, 3])
def test_pixels_are_squares_and_not_points(pixels):
    """A square of side a has the variance a^2 / 12, however few pixels it is made of."""
    heart = np.zeros((1, 16, 16), dtype=np.uint8)
    heart[0, 5:5 + pixels, 5:5 + pixels] = MYO
    assert describe(heart)["extent_x"][0] == pytest.approx(4 * pixels / 16 / np.sqrt(12))


def ellipse(long, short, turn_deg, label, side=128):
    ticks = (np.arange(side) + 0.5) / side - 0.5
    x, y = np.meshgrid(ticks, ticks)
    turn = np.radians(turn_deg)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return np.where((u / long) ** 2 + (v / short) ** 2 < 1, label, 0).astype(np.uint8)[None]


def test_extents_are_the_diameters_of_an_ellipse():
    found = describe(ellipse(0.3, 0.2, 0, MYO)).iloc[0]
    assert found[["extent_x", "extent_y"]].tolist() == pytest.approx([0.6, 0.4], rel=0.01)


@pytest.mark.parametrize("turn_deg", [0, 30, 90, 135])
@pytest.mark.parametrize(("long", "short"), [(0.2, 0.1), (0.3, 0.06)])
def test_eccentricity_is_that_of_the_ellipse_however_it_is_turned(long, short, turn_deg):
    found = describe(ellipse(long, short, turn_deg, RV)).iloc[0]
    assert found["rv_eccentricity"] == pytest.approx(np.sqrt(1 - (short / long) ** 2), abs=0.01)
    assert np.isnan(found["extent_x"]) and found["area_lv"] == 0


def test_hd95_of_a_shifted_square_and_of_what_is_absent():
    here = np.zeros((2, 32, 32), dtype=np.uint8)
    here[:, 8:20, 8:20] = Label.LV
    there = np.zeros_like(here)
    there[0, 8:20, 11:23] = Label.LV  # three pixels to the right, of 2 mm
    found = shape_metrics.hd95(here, there, np.array([2.0, 1.0]))
    assert found[0, 2] == 6 and np.isnan(found).sum() == 5
    assert shape_metrics.hd95(here, here, np.ones(2))[:, 2].tolist() == [0, 0]
