"""Dice, validity, descriptors and KL against values worked out by hand."""

import numpy as np
import pytest
from hearts import picture, square_heart

from cvae_utils import metrics
from cvae_utils.labels import Label
from cvae_utils.metrics import describe, dice_per_class, dice_per_slice, is_valid

RV, MYO, LV = Label.RV, Label.MYO, Label.LV
RING = dict(cavity=0.15, outer=0.25)


# ------------------------------------------------------------------------------------------- Dice
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


def test_dice_scores_each_slice_by_itself():
    a = np.concatenate([one_row(3, 3), one_row(3, 0)])
    b = np.concatenate([one_row(3, 3), one_row(0, 3)])
    assert dice_per_class(a, b)[:, 2].tolist() == [1, 0]
    with pytest.raises(ValueError, match="one shape"):
        dice_per_class(a, b[:1])  # would broadcast


def test_mean_by_class_leaves_absent_classes_out():
    scores = np.array([[1.0, np.nan, 0.5], [np.nan, np.nan, 1.0]])
    assert metrics.mean_by_class(scores) == pytest.approx(
        {"RV": 1.0, "MYO": np.nan, "LV": 0.75}, nan_ok=True)


# --------------------------------------------------------------------------------------- validity
def no_rv(heart):
    heart[heart == RV] = 0


def no_lv(heart):
    heart[heart == LV] = MYO


def no_myo(heart):
    heart[heart != LV] = 0


def second_lv(heart):
    heart[13, 15] = LV


def second_myo(heart):
    heart[2, 2] = MYO


def second_rv(heart):
    heart[20, 30] = RV  # against the wall on the other side


def hole_in_lv(heart):
    heart[16, 18] = heart[17, 19] = MYO  # joined to the wall by its corner alone


def hole_in_rv(heart):
    heart[20, 10] = 0


def hole_in_wall(heart):
    heart[14, 20] = 0


def open_wall(heart):
    heart[20, 26:30] = 0


def rv_reaches_lv(heart):
    heart[20, 14:18] = RV


def rv_apart(heart):
    heart[:, 13] = 0


def rv_at_a_corner(heart):
    heart[heart == RV] = 0
    heart[8:12, 10:14] = RV  # its corner touches that of the wall


def rv_joined_at_a_corner(heart):
    heart[13, 5] = RV


def corner_open(heart):
    heart[12:16, 14:18] = 0  # the LV's corner meets background across a diagonal
    heart[heart == RV] = 0


def wall_at_the_border(heart):
    heart[:] = np.roll(heart, (-12, -6), axis=(0, 1))


@pytest.mark.parametrize("edit", [
    np.copy, no_rv, rv_at_a_corner, rv_joined_at_a_corner, corner_open, wall_at_the_border,
])
def test_heart_of_squares_is_valid(edit):
    heart = square_heart()
    edit(heart)
    assert is_valid(heart[None]).tolist() == [True]


@pytest.mark.parametrize("rv", [0.0, 0.12])
def test_heart_of_circles_is_valid(rv):
    assert is_valid(picture(**RING, rv=rv)[None]).tolist() == [True]


@pytest.mark.parametrize("edit, rule", [
    (no_lv, "no LV"), (no_myo, "no MYO"), (second_lv, "LV in 2 parts"),
    (second_myo, "MYO in 2 parts"), (second_rv, "RV in 2 parts"), (hole_in_lv, "hole in LV"),
    (hole_in_rv, "hole in RV"), (hole_in_wall, "hole in MYO and LV"),
    (rv_reaches_lv, "LV touches RV"), (rv_apart, "RV apart from MYO"),
])
def test_each_broken_rule_alone_makes_a_map_invalid_and_is_named(edit, rule):
    heart = square_heart()
    edit(heart)
    # The rule LV-background is left out, so that it does not answer for the others.
    assert is_valid(heart[None], open_wall_allowed=True).tolist() == [False]
    assert rule in metrics.broken_rules(heart, open_wall_allowed=True)


def test_valid_heart_breaks_no_rule_and_an_open_wall_breaks_one():
    heart = square_heart()
    assert metrics.broken_rules(heart) == []
    open_wall(heart)
    assert metrics.broken_rules(heart) == ["LV touches background"]
    assert metrics.broken_rules(heart, open_wall_allowed=True) == []


def test_open_wall_is_valid_only_where_it_is_allowed():
    closed, opened = square_heart(), square_heart()
    open_wall(opened)
    cut = square_heart()[:, :26]  # the picture ends where the LV does
    assert is_valid(np.stack([closed, opened])).tolist() == [True, False]
    assert is_valid(np.stack([closed, opened]), open_wall_allowed=True).tolist() == [True, True]
    assert not is_valid(cut[None])[0] and is_valid(cut[None], open_wall_allowed=True)[0]


def test_nothing_is_not_a_heart():
    assert is_valid(np.zeros((1, 8, 8), dtype=np.uint8)).tolist() == [False]
    assert is_valid(np.zeros((0, 8, 8), dtype=np.uint8)).shape == (0,)


# ------------------------------------------------------------------------------------ descriptors
@pytest.mark.parametrize("side", [64, 128])
def test_ring_of_circles_has_its_measures_at_every_size(side):
    found = describe(picture(side, **RING)[None]).iloc[0]
    assert list(found.index) == list(metrics.DESCRIPTORS)
    exact = {
        "area_lv": np.pi * 0.15**2, "area_myo": np.pi * (0.25**2 - 0.15**2), "area_rv": 0,
        "area_lv_myo": np.pi * 0.25**2, "wall": 0.10, "offset_x": 0, "offset_y": 0,
        "extent_x": 0.50, "extent_y": 0.50,
    }
    for name, value in exact.items():
        assert found[name] == pytest.approx(value, rel=0.03, abs=1e-12), name
    assert np.isnan(found["rv_eccentricity"])


def test_offset_is_positive_to_the_right_and_down():
    found = describe(picture(256, **RING, lv_shift=(0.04, -0.02))[None]).iloc[0]
    assert found["offset_x"] == pytest.approx(0.04, abs=1e-3)
    assert found["offset_y"] == pytest.approx(-0.02, abs=1e-3)


def ellipse(side, long, short, turn_deg, label):
    ticks = (np.arange(side) + 0.5) / side - 0.5
    x, y = np.meshgrid(ticks, ticks)
    turn = np.radians(turn_deg)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return np.where((u / long) ** 2 + (v / short) ** 2 < 1, label, 0).astype(np.uint8)[None]


@pytest.mark.parametrize("pixels", [1, 3])
def test_pixels_are_squares_and_not_points(pixels):
    """A square of side a has the variance a^2 / 12, however few pixels it is made of."""
    heart = np.zeros((1, 16, 16), dtype=np.uint8)
    heart[0, 5:5 + pixels, 5:5 + pixels] = MYO
    assert describe(heart)["extent_x"][0] == pytest.approx(4 * pixels / 16 / np.sqrt(12))


def test_extents_are_the_diameters_of_an_ellipse():
    found = describe(ellipse(128, 0.3, 0.2, 0, MYO)).iloc[0]
    assert found["extent_x"] == pytest.approx(0.6, rel=0.01)
    assert found["extent_y"] == pytest.approx(0.4, rel=0.01)


@pytest.mark.parametrize("turn_deg", [0, 30, 90, 135])
@pytest.mark.parametrize(("long", "short"), [(0.2, 0.1), (0.3, 0.06)])
def test_eccentricity_is_that_of_the_ellipse_however_it_is_turned(long, short, turn_deg):
    found = describe(ellipse(128, long, short, turn_deg, RV)).iloc[0]
    assert found["rv_eccentricity"] == pytest.approx(np.sqrt(1 - (short / long) ** 2), abs=0.01)
    assert np.isnan(found["extent_x"]) and found["area_lv"] == 0


def test_areas_count_pixels():
    assert metrics.areas(one_row(3, 3, 3, 2, 0, 1)).tolist() == [[1, 1, 3]]


# --------------------------------------------------------------------------------------------- KL
def test_kl_per_dimension_by_hand():
    mu = np.array([[0.0, 1.0, 0.0, 2.0], [0.0, 1.0, 0.0, 0.0]])
    logvar = np.array([[0.0, 0.0, 1.0, 0.0]] * 2)
    # 0; 1/2; (e - 2) / 2; the mean of 2 and 0
    assert metrics.kl_per_dimension(mu, logvar) == pytest.approx([0, 0.5, (np.e - 2) / 2, 1])


# ---------------------------------------------------------------------------------- comparing two
def test_each_patient_counts_once_in_a_difference():
    a, b = np.array([0.9, 0.7, 0.5, 0.8, np.nan]), np.array([0.5, 0.5, 0.5, 0.6, 0.1])
    patients = np.array(["p", "p", "q", "r", "s"])  # differences 0.3, 0, 0.2; the last is left out
    mean, error = metrics.patient_difference(a, b, patients)
    assert mean == pytest.approx(0.5 / 3)
    assert error == pytest.approx(np.std([0.3, 0, 0.2], ddof=1) / np.sqrt(3))


def test_difference_of_one_patient_has_no_error():
    mean, error = metrics.patient_difference(np.array([0.9, 0.7]), np.array([0.5, 0.5]), ["p", "p"])
    assert mean == pytest.approx(0.3) and np.isnan(error)
    assert np.isnan(metrics.patient_difference(np.array([np.nan]), np.array([0.5]), ["p"])).all()


@pytest.mark.parametrize(("value", "error", "mark", "is_above"), [
    (0.5, 0.1, 0.2, True), (0.5, 0.1, 0.8, False), (0.5, 0.1, 0.4, None), (0.5, 0.1, 0.6, None),
    (0.5, 0, 0.4, True), (0.5, np.nan, 0, None), (np.nan, 0.1, 0, None)])
def test_number_is_above_a_mark_by_two_standard_errors(value, error, mark, is_above):
    assert metrics.above(value, error, mark) is is_above


@pytest.mark.parametrize(("answers", "together"), [
    ([True, True], True), ([True, False, None], False), ([True, None], None), ([], True)])
def test_all_hold_unless_one_does_not_or_cannot_be_told(answers, together):
    assert metrics.all_of(answers) is together


def test_structures_that_occur_are_named():
    assert metrics.structures_in(one_row(0, 1, 2, 3)) == ("RV", "MYO", "LV")
    assert metrics.structures_in(one_row(3, 3, 2, 0)) == ("MYO", "LV")
    assert metrics.structures_in(one_row(0)) == ()
