"""Alignment of hearts whose angle, place and size are known."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hearts import paint
from scipy import ndimage

from cvae_utils import shape_metrics
from cvae_utils.data.acdc import read_frame
from cvae_utils.data.alignment import (
    MARGIN_PIXELS,
    METHODS,
    align_volume,
    centroid_mm,
    half_side_mm,
    resample,
    rotation,
    rv_angle,
    slice_angles,
)
from cvae_utils.files import REPOSITORY
from cvae_utils.labels import Label

SIZE = 128


def volume(*hearts, shape=(150, 130), spacing=(1.0, 1.0), centre=(70.0, 62.0)):
    """Labels (X, Y, Z), one slice a heart of these keywords in mm; and the spacing (3,)."""
    x = np.arange(shape[0])[:, None] * spacing[0] - centre[0]
    y = np.arange(shape[1])[None, :] * spacing[1] - centre[1]
    slices = [paint(x, y, **heart) if heart else np.zeros(shape, np.uint8) for heart in hearts]
    return np.stack(slices, axis=2), np.array([*spacing, 8.0])


def heart(turn_deg=0.0, cavity=18.0, outer=26.0, rv=16.0):
    return dict(turn_deg=turn_deg, cavity=cavity, outer=outer, rv=rv)


def remaining_deg(maps):
    return np.degrees(slice_angles(maps, (1, 1)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.5, 1.0)])
@pytest.mark.parametrize("turn_deg", [0, 20, -35, 90, 120, -100, 175])
def test_turned_heart_is_straightened_to_within_a_degree(turn_deg, spacing):
    labels, spacing_mm = volume(heart(turn_deg), spacing=spacing)
    result = align_volume(labels, spacing_mm, SIZE)
    assert result.angle_deg == pytest.approx([turn_deg], abs=1)
    assert remaining_deg(result.aligned) == pytest.approx([0], abs=1)
    assert remaining_deg(result.unrotated) == pytest.approx([turn_deg], abs=1)
    middle = (SIZE - 1) / 2
    for maps in (result.aligned, result.unrotated):
        assert np.abs(centroid_mm(maps == Label.LV, (1, 1)) - middle).max() < 0.5  # half a pixel
    x, y = centroid_mm(result.aligned == Label.RV, (1, 1)) - middle
    assert x < -10 and abs(y) < 1  # to the left


def test_angle_is_positive_when_the_rv_lies_lower():
    assert rv_angle(np.zeros(2), np.array([-1.0, 1.0])) == pytest.approx(np.pi / 4)
    assert rv_angle(np.zeros(2), np.array([-1.0, -1.0])) == pytest.approx(-np.pi / 4)
    assert np.isnan(rv_angle(np.zeros(2), np.full(2, np.nan)))
    # The rotation carries left to where the RV was seen, without a mirror.
    assert rotation(np.pi / 2) @ [-1, 0] == pytest.approx(np.array([0, 1]))
    assert np.linalg.det(rotation(0.7)) == pytest.approx(1)


def test_anisotropic_pixels_are_measured_in_mm():
    mask = np.zeros((4, 6))
    mask[1, 2] = mask[1, 4] = 1
    assert centroid_mm(mask, np.array([2.0, 1.5])).tolist() == [6.0, 1.5]
    assert np.isnan(centroid_mm(np.zeros((4, 6)), np.ones(2))).all()


def test_slice_without_rv_takes_the_angle_of_the_volume_and_a_volume_without_stays():
    result = align_volume(*volume(heart(30), heart(30, rv=0), heart(30)), 64)
    assert result.angle_deg == pytest.approx([30, 30, 30], abs=1)
    result = align_volume(*volume(heart(30, rv=0)), 64)
    assert result.angle_deg == [0] and (result.aligned == result.unrotated).all()


def test_slices_without_lv_are_dropped():
    rv_alone = heart(cavity=0, outer=0, rv=16)
    result = align_volume(*volume(None, heart(), rv_alone, heart()), 64)
    assert result.slice_index.tolist() == [1, 3]
    assert result.aligned.shape == result.unrotated.shape == (2, 64, 64)
    result = align_volume(*volume(None, heart(cavity=0)), 64)
    assert result.aligned.shape == result.unrotated.shape == (0, 64, 64)
    assert len(result.slice_index) == len(result.angle_deg) == 0 and np.isnan(result.crop_mm)


def test_crop_is_that_of_the_widest_slice_and_keeps_relative_sizes():
    labels, spacing = volume(heart(10), heart(-50, cavity=9, outer=13, rv=8))
    result, alone = (align_volume(each, spacing, SIZE) for each in (labels, labels[:, :, :1]))
    assert result.crop_mm == pytest.approx(alone.crop_mm)
    # The RV's far side is outer + rv from the centre.
    assert result.crop_mm == pytest.approx(2 * (26 + 16 + MARGIN_PIXELS), abs=1.5)
    for maps in (result.aligned, result.unrotated):
        big, small = shape_metrics.areas(maps)
        assert big / small == pytest.approx([4, 4, 4], rel=0.05)
        maps[:, 1:-1, 1:-1] = 0
        assert not maps.any()  # every label is inside


def tiny_map():
    """A 2 x 2 LV with its centroid at (5.5, 4.5), and RV pixels 4.5 to the left, 2.5 below."""
    tiny = np.zeros((1, 10, 12), dtype=np.uint8)
    tiny[0, 4:6, 5:7] = Label.LV
    tiny[0, 4:8, 1:5] = Label.RV
    return tiny


@pytest.mark.parametrize(("spacing", "turn_deg", "expected"), [
    ((1.0, 1.0), 0, 4.5 + 2),
    ((2.0, 2.0), 0, 9 + 4),
    ((1.0, 4.0), 0, 10 + 2 * 2.5),  # y reaches further; the margin is in mean pixels
    ((1.0, 1.0), 90, 4.5 + 2),
    # The corner at (-4.5, 2.5) comes to lie at ((-4.5 - 2.5) / sqrt 2, ...).
    ((1.0, 1.0), 45, 7 / np.sqrt(2) + 2),
])
def test_half_side_of_the_crop_by_hand(spacing, turn_deg, expected):
    spacing = np.array(spacing)
    centre = np.array([[5.5, 4.5]]) * spacing
    found = half_side_mm(tiny_map(), centre, np.radians([turn_deg]), spacing)
    assert found == pytest.approx(expected)


def test_area_method_keeps_a_wall_that_nearest_breaks():
    labels, spacing = volume(heart(25, cavity=24.4, outer=26))
    walls = {method: align_volume(labels, spacing, 32, method).aligned[0] == Label.MYO
             for method in ("nearest", "area")}
    parts = {method: ndimage.label(wall, np.ones((3, 3)))[1] for method, wall in walls.items()}
    assert parts["area"] < parts["nearest"]


def test_crop_beyond_the_grid_is_background():
    tiny = tiny_map()[0]
    for method in METHODS:
        found = resample(tiny, np.array([5.5, 4.5]), 0.0, 20.0, 40, np.ones(2), method)
        assert shape_metrics.areas(found[None]).tolist() == shape_metrics.areas(tiny[None]).tolist()


def test_an_installation_that_cannot_be_written_to_is_used_without_a_cache(tmp_path):
    package = shutil.copytree(REPOSITORY / "cvae_utils", tmp_path / "site" / "cvae_utils",
                              ignore=shutil.ignore_patterns("__pycache__"))
    (package / "data" / "__pycache__").write_text("")  # no folder can be made, not even by root
    program = ("import numpy as np; from cvae_utils.data.alignment import resample;"
               "print(resample(np.eye(2, dtype=np.uint8), np.zeros(2), 0, 1, 1, np.ones(2)))")
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(package.parent), "HOME": "/dev/null",
                          "XDG_CACHE_HOME": "/dev/null", "PYTHONDONTWRITEBYTECODE": "1"})
    assert ended.stdout == "[[0]]\n", ended.stderr


def weights_by_scipy(label_map, centre_mm, angle, half_mm, size, spacing_mm, fine):
    """Mean weight of each class in each pixel, (4, S, S): one-hot maps in doubles through SciPy."""
    ticks = ((np.arange(size * fine) + 0.5) / (size * fine) - 0.5) * 2 * half_mm
    x, y = np.meshgrid(ticks, ticks)
    cos, sin = np.cos(angle), np.sin(angle)
    columns = (cos * x + sin * y + centre_mm[0]) / spacing_mm[0]
    rows = (-sin * x + cos * y + centre_mm[1]) / spacing_mm[1]
    weights = np.array([
        ndimage.map_coordinates((label_map == label).astype(float), [rows, columns], order=1)
        for label in (Label.RV, Label.MYO, Label.LV)])
    weights = weights.reshape(3, size, fine, size, fine).mean(axis=(2, 4))
    return np.concatenate([1 - weights.sum(axis=0, keepdims=True), weights])


@pytest.mark.parametrize(("shape", "centre", "half_mm"), [
    ((40, 50), (31.0, 24.0), 22.0),
    ((40, 50), (3.2, 38.7), 30.0),  # much of the crop lies beyond the grid
    ((1, 50), (20.1, 0.0), 6.0),
    ((9, 7), (4.4, 5.1), 7.7),
])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 1.1)])
@pytest.mark.parametrize("turn_deg", [0, 33.3, -171])
@pytest.mark.parametrize(("method", "size"), [("linear", 17), ("linear", 64), ("area", 5),
                                              ("area", 24), ("area", 96)])
def test_weights_are_those_of_scipy(shape, centre, half_mm, spacing, turn_deg, method, size):
    label_map = np.random.default_rng(size).integers(0, 4, shape).astype(np.uint8)
    label_map = ndimage.median_filter(label_map, 3)  # some uniform regions, some edges
    spacing, centre, angle = np.array(spacing), np.array(centre), np.radians(turn_deg)
    # By its definition: an odd number of points a side, about two to a pixel of the grid.
    fine = 1 if method == "linear" else 2 * int(np.ceil(2 * half_mm / size / spacing.min())) - 1
    weights = weights_by_scipy(label_map, centre, angle, half_mm, size, spacing, fine)
    found = resample(label_map, centre, angle, half_mm, size, spacing, method)
    assert found.shape == (size, size) and found.dtype == np.uint8
    second, first = np.sort(weights, axis=0)[-2:]
    clear = first - second > 1e-9  # of two classes of one weight, either may be taken
    assert (found == weights.argmax(axis=0))[clear].all() and clear.mean() > 0.8
    assert (np.take_along_axis(weights, found[None].astype(int), axis=0) > first - 1e-9).all()


def test_of_equal_weights_the_smaller_label_is_taken():
    pair = np.array([[Label.LV, Label.RV]] * 2, dtype=np.uint8)
    middle = np.array([0.5, 0.5])
    assert resample(pair, middle, 0.0, 0.5, 1, np.ones(2), "linear").tolist() == [[Label.RV]]


@pytest.mark.parametrize("method", METHODS)
def test_maps_need_not_lie_in_one_piece_of_memory(method):
    whole = np.random.default_rng(0).integers(0, 4, (30, 40)).astype(np.uint8)
    wide = np.kron(whole, np.ones((2, 2), dtype=np.uint8))
    found = [resample(maps, np.array([20.0, 12.0]), 0.4, 9.0, 16, np.ones(2), method)
             for maps in (whole, np.asfortranarray(whole), wide[::2, ::2])]
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match="nearest.*found 'cubic'"):
        align_volume(*volume(heart()), 32, "cubic")


# ------------------------------------------------------------------ what does not matter, islands
def same(a, b, unrotated=True):
    assert (a.aligned == b.aligned).all() and a.crop_mm == b.crop_mm
    if unrotated:
        assert (a.unrotated == b.unrotated).all()
        assert a.angle_deg == pytest.approx(b.angle_deg)


def three_hearts(**where):
    return volume(heart(40), heart(25, cavity=12, outer=18), heart(30, cavity=7, outer=11, rv=0),
                  **where)


def test_the_field_of_view_does_not_matter_not_even_at_the_border_of_the_heart():
    labels, spacing = three_hearts(spacing=(1.5, 1.25))
    expected = align_volume(labels, spacing, 64)
    used = [np.flatnonzero(labels.any(axis=axes)) for axes in ((1, 2), (0, 2))]
    flush = labels[used[0][0]:used[0][-1] + 1, used[1][0]:used[1][-1] + 1]
    assert flush[0].any() and flush[-1].any() and flush[:, 0].any() and flush[:, -1].any()
    same(align_volume(flush, spacing, 64), expected)
    same(align_volume(np.pad(labels, ((9, 0), (3, 20), (0, 0))), spacing, 64), expected)
    area = shape_metrics.areas(align_volume(flush, spacing, 64).aligned)[0] * (
        expected.crop_mm / 64) ** 2
    assert area == pytest.approx(shape_metrics.areas(labels.T)[0] * 1.5 * 1.25, rel=0.02)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_aligned_slices_do_not_depend_on_right_angles_in_the_plane(turns):
    labels, spacing = three_hearts(spacing=(1.5, 1.25))
    expected = align_volume(labels, spacing, 64)
    turned = np.rot90(labels, turns, axes=(0, 1))
    other = np.array([*(spacing[:2][::-1] if turns % 2 else spacing[:2]), spacing[2]])
    found = align_volume(turned, other, 64)
    same(found, expected, unrotated=False)
    off = (found.angle_deg - expected.angle_deg) % 360
    assert np.ptp(off) < 1e-9 and off[0] == pytest.approx({1: 270, 2: 180, 3: 90}[turns])


@pytest.mark.parametrize("label", [Label.LV, Label.MYO, Label.RV])
@pytest.mark.parametrize("where", [np.s_[140:144, 120:124], np.s_[0:2, 60:62], np.s_[70:71, 127:]])
def test_an_island_far_from_the_heart_is_reported_and_changes_nothing(label, where):
    labels, spacing = three_hearts()
    expected = align_volume(labels, spacing, 64)
    labels[(*where, 1)] = label
    found = align_volume(labels, spacing, 64)
    same(found, expected)
    pixels = labels[(*where, 1)].size
    assert found.notices == {1: f"ignored, for it lies far from the heart: {pixels} of {label.name}"
                                " (pixels)"}
    assert not expected.notices


def test_an_island_in_an_apical_slice_is_far_though_the_base_reaches_there():
    for cavity in (5, 2):  # the latter is smaller than the island, which is still one
        labels, spacing = volume(heart(30), heart(30, cavity=cavity, outer=8, rv=0))
        expected = align_volume(labels, spacing, 64)
        labels[90:95, 60:66, 1] = Label.LV  # 25 mm from the centre, where the base has its wall
        found = align_volume(labels, spacing, 64)
        same(found, expected)
        assert list(found.notices) == [1] and "30 of LV" in found.notices[1]


def test_lv_without_a_wall_of_its_own_makes_no_slice():
    labels, spacing = volume(heart(30), heart(30, cavity=0, outer=8, rv=0), None, None)
    expected = align_volume(labels, spacing, 64)
    labels[92, 62, 1] = Label.LV  # in a slice of wall alone, where the base has its wall
    labels[70, 62, 3] = Label.LV  # in an empty slice, under the middle of the heart
    found = align_volume(labels, spacing, 64)
    same(found, expected)
    assert found.slice_index.tolist() == [0] and list(found.notices) == [1, 3]


def test_a_heart_with_a_missing_slice_loses_nothing():
    labels, spacing = volume(heart(30), None, heart(30, cavity=9, outer=13, rv=0))
    found = align_volume(labels, spacing, 64)
    assert found.slice_index.tolist() == [0, 2] and not found.notices


def test_a_slice_with_an_island_of_lv_alone_has_no_lv():
    labels, spacing = three_hearts()
    more = np.pad(labels, ((0, 0), (0, 0), (0, 1)))
    more[140:142, 120:122, 3] = Label.LV
    found = align_volume(more, spacing, 64)
    same(found, align_volume(labels, spacing, 64))
    assert found.slice_index.tolist() == [0, 1, 2] and list(found.notices) == [3]


def test_an_rv_a_little_apart_from_the_wall_is_no_island():
    labels, spacing = volume(heart(0, rv=0))
    labels[20:36, 50:75] = Label.RV
    found = align_volume(labels, spacing, 64)  # a gap of 9 mm
    assert not found.notices and (found.aligned == Label.RV).any()


@pytest.mark.real_data
def test_real_slices_are_straightened(real_source):
    checked = 0
    for frame in real_source.frames[:40]:
        labels = read_frame(frame)
        aligned = align_volume(labels.data, labels.spacing_mm, SIZE, unrotated=False).aligned
        clear = shape_metrics.areas(aligned)[:, 0] > 300  # an RV big enough to have a direction
        checked += clear.sum()
        assert np.abs(remaining_deg(aligned[clear])).max() < 1
    assert checked > 150
