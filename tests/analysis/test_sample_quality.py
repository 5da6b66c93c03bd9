"""Distances between clouds, copies of training slices and the sixteen criteria, by hand."""

import numpy as np
import pytest
from hearts import picture, square_heart
from scipy.linalg import sqrtm

from cvae_utils import shape_metrics
from cvae_utils.analysis import sample_quality as quality
from cvae_utils.analysis.sample_quality import Reference, beside_training
from cvae_utils.labels import Label

RV, MYO, LV = Label.RV, Label.MYO, Label.LV
CLEAN = dict(cavity=0.15, outer=0.25, rv=0.12)


def rows_of(rv=0, myo=0, lv=0):
    """A label map (8, 8) with so many pixels of each class, each class in a row of its own."""
    found = np.zeros((8, 8), dtype=np.uint8)
    for row, (label, count) in enumerate({RV: rv, MYO: myo, LV: lv}.items()):
        found[2 * row, :count] = label
    return found


# ------------------------------------------------------------------------------------ descriptors
def column(points, name):
    return points[:, list(shape_metrics.DESCRIPTORS).index(name)].tolist()


def test_descriptors_count_the_training_slices_standard_deviations():
    reference = Reference(np.stack([rows_of(lv=1, rv=0), rows_of(lv=3, rv=2)]))
    assert reference.points.shape == (2, len(shape_metrics.DESCRIPTORS))
    assert column(reference.points, "area_lv") == pytest.approx([-1, 1])
    found = reference.of(np.stack([rows_of(lv=4), rows_of(lv=2, rv=3)]))
    assert column(found, "area_lv") == pytest.approx([2, 0])
    assert column(found, "area_rv") == pytest.approx([-1, 2])  # none is an area of 0


def test_what_is_undefined_takes_the_training_mean():
    square, longer = rows_of(), rows_of(rv=3)
    square[0, 0] = RV  # eccentricity 0
    reference = Reference(np.stack([square, longer, rows_of(lv=2), rows_of(myo=2)]))
    assert column(reference.points, "rv_eccentricity") == pytest.approx([-1, 1, 0, 0])
    assert column(reference.of(rows_of(lv=5)[None]), "rv_eccentricity") == [0]
    assert np.isfinite(reference.of(rows_of()[None])).all()


def test_what_never_varies_in_training_stays_in_its_own_unit():
    training = np.repeat(picture(**CLEAN)[None], 7, axis=0)
    reference = Reference(training)
    assert np.abs(reference.points).max() < 1e-9
    bigger = picture(**CLEAN | dict(cavity=0.2))
    described = shape_metrics.describe(np.stack([bigger, training[0]])).to_numpy()
    assert reference.of(bigger[None])[0] == pytest.approx(described[0] - described[1])


# ------------------------------------------------------------------------------------------ clouds
STEPS = np.array([-1.0, 0, 1])  # mean 0, standard deviation 1


def along(degrees, centre=(0, 0)):
    """STEPS on a line through the centre."""
    turn = np.radians(degrees)
    return STEPS[:, None] * [np.cos(turn), np.sin(turn)] + centre


@pytest.mark.parametrize(("a", "b", "expected"), [
    (STEPS[:, None], STEPS[:, None], 0),
    (STEPS[:, None], 5 + 2 * STEPS[:, None], 5**2 + (2 - 1) ** 2),
    (STEPS[:, None], np.array([[-1.0], [-1], [0], [1], [1]]), 0),  # of N - 1: equal at any N
    (along(20), along(20, centre=(0, 3)), 3**2),
    # On lines that cross at angle t the covariances are u u' and v v': 1 + 1 - 2 |cos t|.
    (along(0), along(90), 2),
    (along(10), along(70), 1),
])
def test_frechet_distance_by_hand(a, b, expected):
    assert quality.frechet_distance(a, b) == pytest.approx(expected, abs=1e-12)
    assert quality.frechet_distance(b, a) == pytest.approx(expected, abs=1e-12)


def test_frechet_distance_is_its_formula():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(40, 4)) @ draw.normal(size=(4, 4)), draw.normal(size=(30, 4))
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert quality.frechet_distance(a, b) == pytest.approx(expected)


@pytest.mark.parametrize(("neighbours", "fake", "density", "coverage"), [
    # Radii of 0, 1, 3, 10: 1, 1, 2, 7 to the first neighbour, 3, 2, 3, 9 to the second.
    (1, [0.5, 4, 20], (2 + 2 + 0) / 3, 4 / 4),
    (1, [0.5, 0.6, 20], (2 + 2 + 0) / 3, 2 / 4),
    (1, [2], 1, 1 / 4),  # on the rim of 1's ball: outside
    (2, [4.5], 2 / 2, 2 / 4),
    (2, [-50, 50], 0, 0),
])
def test_density_and_coverage_by_hand(neighbours, fake, density, coverage):
    real = np.array([[0.0], [1], [3], [10]])
    found = quality.density_coverage(real, np.array(fake, dtype=float)[:, None], neighbours)
    assert found == pytest.approx((density, coverage))


@pytest.mark.parametrize(("described", "neighbours", "expected"), [
    # Neighbours lie 1 apart, pairs (1 + 10 + 11 + 9 + 10 + 1) / 6 = 7.
    ([0, 1, 10, 11], 1, 1 / 7),
    ([0, 10, 1, 11], 1, 10 / 7),  # 0 lies next to 10, and 1 next to 11
    ([0, 1, 10, 11], 3, 1), ([0, 1, 10, 11], 5, 1),  # all the others
    ([0, 0, 0, 0], 1, np.nan),  # all alike
])
def test_neighbours_are_told_by_what_describes_them(described, neighbours, expected):
    points, described = (np.array(x, dtype=float)[:, None] for x in ([0, 1, 10, 11], described))
    found = quality.neighbour_distance(points, described, neighbours)
    assert found == pytest.approx(expected, nan_ok=True)


# ---------------------------------------------------------------------------------- nearest slice
def test_nearest_training_slice_by_hand():
    training = np.stack([rows_of(lv=2, myo=2), rows_of(lv=4)])
    maps = np.stack([training[1], rows_of(lv=2), rows_of(rv=1), rows_of()])
    # Dice of LV 2 to LV 4 is 2/3; to LV 2 and MYO 2 it is 1 and 0, mean 1/2.
    assert quality.nearest_training(maps, training) == pytest.approx([0, 1 / 3, 1, 1])


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_blocks_of_slices_do_not_matter(monkeypatch, block):
    monkeypatch.setattr(quality, "BLOCK", block)
    draw = np.random.default_rng(0)
    maps, training = (draw.integers(0, 4, (count, 6, 6)).astype(np.uint8) for count in (5, 7))
    for label in (RV, MYO, LV):  # each is missing here and there, on either side and on both
        maps[int(label)][maps[int(label)] == label] = 0
        training[int(label)][training[int(label)] == label] = 0
    maps[4] = 0
    dice = [shape_metrics.dice_per_slice(np.broadcast_to(one, training.shape), training)
            for one in maps]
    assert quality.nearest_training(maps, training) == pytest.approx(1 - np.max(dice, axis=1))
    described = shape_metrics.describe(training)
    expected = ((described - described.mean()) / described.std(ddof=0)).fillna(0)
    assert Reference(training).points == pytest.approx(expected.to_numpy())


# ---------------------------------------------------------------------------------------- criteria
def painted(*strokes):
    """square_heart with strokes (rows, columns, label) over it."""
    heart = square_heart()
    for rows, columns, label in strokes:
        heart[rows, columns] = label
    return heart


def bar(lv, myo, length):
    """A straight MYO (height myo, length) round an LV (height lv), a length in 64 x 64."""
    heart = np.zeros((64, 64), dtype=np.uint8)
    heart[20:20 + myo, 2:2 + length] = MYO
    top = 20 + (myo - lv) // 2
    heart[top:top + lv, 6:length - 2] = LV
    return heart


ALL = slice(None)
NO_LV, OPEN = (slice(16, 24), slice(18, 26), MYO), (ALL, slice(26, 30), 0)


@pytest.mark.parametrize(("heart", "mm", "expected"), [
    (painted(), 2, set()),
    (painted((ALL, slice(14), 0)), 2, set()),  # no RV
    (painted(NO_LV), 2, set()),
    (0 * square_heart(), 2, set()),
    (np.roll(square_heart(), (-12, -6), axis=(0, 1)), 2, set()),  # at the border
    (picture(32, **CLEAN), 150 / 32, set()),
    (picture(128, **CLEAN), 150 / 128, set()),
    # 0.95 pixels deep, of MYO in one: what resampling may do is no concavity.
    (painted((10, 20, MYO)), 2, {"MYO in parts"}),
    # Holes are no concavities, however large.
    (painted((slice(17, 22), slice(8, 12), 0)), 20, {"hole in RV"}),
    (painted((slice(18, 22), slice(20, 24), MYO)), 20, {"hole in LV", "MYO in parts"}),
    (painted(OPEN), 2, {"LV touches background"}),
    (painted((20, 18, 0)), 2,
     {"gap between LV and MYO", "hole in MYO and LV", "LV touches background"}),
    (painted((20, 13, 0)), 2, {"gap between RV and MYO"}),
    # What RV and MYO enclose here is LV, and what is background, RV alone encloses.
    (painted((20, 13, LV), (20, 10, 0)), 1, {"LV in parts", "LV touches RV", "hole in RV"}),
    # Deepest is the notch's inner end: 2 pixels from the LV's rim, 3 from the RV's far one.
    (painted((slice(16, 19), slice(21, 23), MYO)), 1.9, set()),
    (painted((slice(16, 19), slice(21, 23), MYO)), 2.1, {"LV concave"}),
    (painted((slice(18, 22), slice(6, 11), 0)), 9.9, set()),
    (painted((slice(18, 22), slice(6, 11), 0)), 10.1, {"RV concave"}),
    (painted((slice(12, 15), slice(20, 22), 0)), 0.1, {"MYO concave"}),
    # A = 2 x 44, P = 2 x (1 + 43): 4 pi A / P^2 is 0.14, of LV and MYO together 0.43.
    (bar(lv=2, myo=10, length=50), 2, {"LV not round"}),
    # A = 3 x 60, P = 2 x (2 + 59): 0.15. LV, one pixel high, has no inside: P = 50, 0.26.
    (bar(lv=1, myo=3, length=60), 2, {"MYO not round"}),
])
def test_criteria_are_broken_alone(heart, mm, expected):
    """The nine that shape_metrics.broken_rules knows have their tests there."""
    table = quality.criteria(heart[None], mm)
    assert list(table.columns) == list(quality.CRITERIA) and len(quality.CRITERIA) == 16
    assert set(table.dtypes.astype(str)) == {"bool"}
    assert set(table.columns[table.iloc[0]]) == expected


def test_every_map_has_its_own_spacing_and_only_structures_that_are_there_are_concave():
    notched = painted((slice(16, 19), slice(21, 23), MYO))
    alone = np.where(notched == MYO, 0, notched)
    table = quality.criteria(np.stack([notched, notched, alone]), np.array([1.9, 2.1, 3.0]))
    assert table["LV concave"].tolist() == [False, True, True]
    assert not table["MYO concave"].any()


@pytest.mark.parametrize(("mask", "depth"), [
    *[(mask, 0) for mask in ("#", "##", "####", "#/#/#", "#  /#  ")],  # in one line
    # A corner with arms of 1: (6, 2) is two pixels from the outside of either arm, and farther from
    # the diagonal; of 4: (4, 4), and the hull's edge from (0, 3) to (5, 8).
    ("/".join(["#"] * 8 + ["#" * 9]), 2),
    ("/".join(["####"] * 5 + ["#" * 9] * 4), 3 / np.sqrt(2)),
    ("/".join(["#" * 9] * 9), 0),
])
def test_depth_of_a_concavity_is_to_the_nearest_edge_of_the_hull(mask, depth):
    heart = np.zeros((1, 9, 9), dtype=np.uint8)
    for label_row, row in zip(heart[0], mask.split("/")):
        label_row[:len(row)][np.array(list(row)) == "#"] = LV
    limit = 4 / depth if depth else 1000  # mm a pixel, at which it is 4 mm deep
    found = [quality.criteria(heart, mm)["LV concave"][0] for mm in (0.99 * limit, 1.01 * limit)]
    assert found == [False, depth > 0]


# --------------------------------------------------------------------------------- whole judgement
def test_training_slices_beside_themselves_are_copies():
    training = np.stack([picture(32, **CLEAN | dict(cavity=0.12 + step / 100, rv=rv))
                         for step, rv in enumerate((0.1, 0.12, 0.13, 0.0, 0.11, 0.14, 0.15, 0.12))])
    found = quality.valid_shares(training, 2.0) | beside_training(training, Reference(training))
    assert all(type(value) is float for value in found.values())
    assert found.pop("density") > 0.5
    assert found == pytest.approx({
        "valid": 1, "valid_open_wall": 1, "valid_sixteen": 1, "no_rv": 1 / 8, "frechet": 0,
        "coverage": 1, "nearest": 0, "specificity": 0}, abs=1e-9)


def test_shares_by_hand():
    # Whole, without RV, open, with a gap that the nine rules let pass, without LV.
    maps = np.stack([painted(), painted((ALL, slice(14), 0)), painted(OPEN), painted((20, 13, 0)),
                     painted(NO_LV)])
    assert quality.valid_shares(maps, 2.0) == {"valid": 3 / 5, "valid_open_wall": 4 / 5,
                                       "valid_sixteen": 2 / 5}
    assert shape_metrics.is_valid(maps).mean() == 3 / 5
    assert beside_training(maps, Reference(maps), neighbours=2)["no_rv"] == 1 / 5


def test_distances_by_hand():
    training = np.stack([rows_of(count, count, count) for count in (1, 2, 3)])
    maps, reference = training[[0, 2]], Reference(training)
    found = beside_training(maps, reference, neighbours=1)
    assert found["frechet"] == quality.frechet_distance(reference.of(maps), reference.points) > 0
    expected = quality.density_coverage(reference.points, reference.of(maps), 1)
    assert (found["density"], found["coverage"]) == expected
    far = np.stack([maps[0], maps[1], rows_of(lv=1)])  # Dice 1 of LV alone, 0 of RV and MYO
    found = beside_training(far, reference, neighbours=1)
    assert found["nearest"] == 0 and found["specificity"] == pytest.approx((0 + 0 + 2 / 3) / 3)
    # Of three training slices, each has two neighbours.
    assert beside_training(far, reference) == beside_training(far, reference, neighbours=2)


# --------------------------------------------------------------------------------------- bad input
MAPS, CLOUD = np.zeros((3, 8, 8), dtype=np.uint8), np.zeros((4, 2))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Reference(MAPS[:1]), "at least 2 square label maps.*give more slices"),
    (lambda: Reference(MAPS[0]), r"map\[None\]"),
    (lambda: beside_training(MAPS[:1], Reference(MAPS)), "at least 2 square"),
    (lambda: Reference(MAPS).of(MAPS[:, 1:, 1:]), r"size \(8, 8\), found \(7, 7\)"),
    (lambda: quality.nearest_training(MAPS, MAPS[:, :4, :4]), r"size \(4, 4\)"),
    (lambda: quality.nearest_training(MAPS[:0], MAPS), "at least 1 square"),
    (lambda: quality.criteria(MAPS[:, :4], 1), r"\(3, 4, 8\)"),
    (lambda: quality.criteria(MAPS, np.ones(2)), "or 3 of them"),
    (lambda: quality.criteria(MAPS, 0), "above 0"),
    (lambda: quality.criteria(MAPS, np.nan), "above 0"),
    (lambda: quality.frechet_distance(CLOUD, CLOUD[:1]), "at least 2 points"),
    (lambda: quality.frechet_distance(CLOUD, CLOUD[:, :1]), "one D"),
    (lambda: quality.density_coverage(CLOUD, CLOUD, 4), "found 4 and 4"),
    (lambda: quality.density_coverage(CLOUD, CLOUD, 0), "1 neighbour or more"),
    (lambda: quality.density_coverage(CLOUD, CLOUD[:0], 1), "at least 1 points"),
    (lambda: quality.neighbour_distance(CLOUD[:1], CLOUD[:1]), "at least 2 points"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
