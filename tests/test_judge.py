"""Distances between clouds, copies of training slices and the sixteen criteria, by hand."""

import numpy as np
import pytest
from hearts import picture, square_heart
from scipy.linalg import sqrtm

from cvae_utils import judge, metrics
from cvae_utils.judge import CRITERIA, Reference, density_coverage, frechet_distance
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
    return points[:, list(metrics.DESCRIPTORS).index(name)].tolist()


def test_descriptors_count_the_training_slices_standard_deviations():
    reference = Reference(np.stack([rows_of(lv=1, rv=0), rows_of(lv=3, rv=2)]))
    assert reference.points.shape == (2, len(metrics.DESCRIPTORS))
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
    bigger = picture(**CLEAN | dict(cavity=0.2))[None]
    difference = metrics.describe(bigger).to_numpy() - metrics.describe(training[:1]).to_numpy()
    assert reference.of(bigger) == pytest.approx(difference)


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
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-12)
    assert frechet_distance(b, a) == pytest.approx(expected, abs=1e-12)


def test_frechet_distance_is_its_formula():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(40, 4)) @ draw.normal(size=(4, 4)), draw.normal(size=(30, 4))
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert frechet_distance(a, b) == pytest.approx(expected)


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
    found = density_coverage(real, np.array(fake, dtype=float)[:, None], neighbours)
    assert found == pytest.approx((density, coverage))


# ---------------------------------------------------------------------------------- nearest slice
def test_nearest_training_slice_by_hand():
    training = np.stack([rows_of(lv=2, myo=2), rows_of(lv=4)])
    maps = np.stack([training[1], rows_of(lv=2), rows_of(rv=1), rows_of()])
    # Dice of LV 2 to LV 4 is 2/3; to LV 2 and MYO 2 it is 1 and 0, mean 1/2.
    assert judge.nearest_training(maps, training) == pytest.approx([0, 1 / 3, 1, 1])


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_nearest_training_slice_is_that_of_every_pair(monkeypatch, block):
    monkeypatch.setattr(judge, "BLOCK", block)
    draw = np.random.default_rng(0)
    maps, training = (draw.integers(0, 4, (count, 6, 6)).astype(np.uint8) for count in (5, 7))
    for label in (RV, MYO, LV):  # each is missing here and there, on either side and on both
        maps[int(label)][maps[int(label)] == label] = 0
        training[int(label)][training[int(label)] == label] = 0
    maps[4] = 0
    pairs = [metrics.dice_per_slice(np.repeat(one[None], len(training), axis=0), training)
             for one in maps]
    assert judge.nearest_training(maps, training) == pytest.approx(1 - np.max(pairs, axis=1))


def test_reference_is_the_same_in_blocks(monkeypatch):
    training = np.stack([picture(32, **CLEAN | dict(cavity=c)) for c in (0.12, 0.14, 0.17)])
    whole = Reference(training).points
    monkeypatch.setattr(judge, "BLOCK_BYTES", 2 * 4 * 32**2)
    assert Reference(training).points == pytest.approx(whole)


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


@pytest.mark.parametrize(("heart", "mm", "expected"), [
    (painted(), 2, set()),
    (painted((ALL, slice(14), 0)), 2, set()),  # no RV
    (painted((slice(16, 24), slice(18, 26), MYO)), 2, set()),  # no LV
    (0 * square_heart(), 2, set()),
    (np.roll(square_heart(), (-12, -6), axis=(0, 1)), 2, set()),  # at the border
    (painted((20, 30, RV)), 2, {"RV in parts"}),
    # 0.95 pixels deep, of MYO in one: what resampling may do is no concavity.
    (painted((10, 20, MYO)), 2, {"MYO in parts"}),
    (painted((14, 20, LV)), 2, {"LV in parts"}),
    (painted((16, 18, MYO), (17, 19, MYO)), 2, {"hole in LV"}),
    (painted((20, 10, 0)), 2, {"hole in RV"}),
    (painted((14, 20, 0)), 2, {"hole in MYO and LV"}),
    (painted((slice(12, 28), slice(14, 18), RV)), 2, {"LV touches RV"}),
    (painted((ALL, slice(26, 30), 0)), 2, {"LV touches background"}),
    (painted((ALL, 13, 0)), 2, {"RV apart from MYO"}),
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
def test_each_criterion_is_broken_alone(heart, mm, expected):
    table = judge.criteria(heart[None], mm)
    assert list(table.columns) == list(CRITERIA) and len(CRITERIA) == 16
    assert set(table.dtypes.astype(str)) == {"bool"}
    assert set(table.columns[table.iloc[0]]) == expected


@pytest.mark.parametrize("side", [32, 64, 128])
def test_heart_of_circles_breaks_no_criterion(side):
    heart = picture(side, **CLEAN)
    assert not judge.criteria(heart[None], 150 / side).any(axis=None)


def test_a_map_without_myo_has_no_myo_that_is_concave():
    heart = painted((slice(16, 19), slice(21, 23), MYO))
    heart[heart == MYO] = 0
    broken = judge.criteria(heart[None], 3).iloc[0]
    assert broken["LV concave"] and not broken["MYO concave"]


def test_holes_are_no_concavities():
    heart = painted((slice(17, 22), slice(8, 12), 0), (slice(18, 22), slice(20, 24), MYO))
    broken = judge.criteria(heart[None], 20).iloc[0]
    assert broken["hole in RV"] and broken["hole in LV"]
    assert not broken[["LV concave", "RV concave", "MYO concave"]].any()


def test_every_map_has_its_own_spacing():
    notched = painted((slice(16, 19), slice(21, 23), MYO))
    table = judge.criteria(np.stack([notched] * 3), np.array([1.9, 2.1, 1.0]))
    assert table["LV concave"].tolist() == [False, True, False]


@pytest.mark.parametrize("mask", ["#", "##", "####", "#/#/#", "#  /#  "])
def test_pixels_in_one_line_have_no_depth(mask):
    rows = np.array([list(row) for row in mask.split("/")]) == "#"
    assert judge._depth(rows) == 0


@pytest.mark.parametrize(("width", "depth"), [
    (1, 2),  # (6, 2) is two pixels from the outside of either arm, and farther from the diagonal
    (4, 3 / np.sqrt(2)),  # (4, 4), and the hull's edge from (0, 3) to (5, 8)
    (9, 0),
])
def test_depth_of_a_corner_is_to_the_nearest_edge_of_its_hull(width, depth):
    corner = np.zeros((9, 9), dtype=bool)
    corner[:, :width] = corner[9 - width:] = True
    assert judge._depth(corner) == pytest.approx(depth)


# --------------------------------------------------------------------------------- whole judgement
def test_training_slices_judged_by_themselves_are_copies():
    training = np.stack([picture(32, **CLEAN | dict(cavity=0.12 + step / 100, rv=rv))
                         for step, rv in enumerate((0.1, 0.12, 0.13, 0.0, 0.11, 0.14, 0.15, 0.12))])
    found = judge.judge(training, Reference(training), 2.0)
    assert all(type(value) is float for value in found.values())
    assert found.pop("density") > 0.5
    assert found == pytest.approx({
        "valid": 1, "valid_open_wall": 1, "valid_sixteen": 1, "no_rv": 1 / 8, "frechet": 0,
        "coverage": 1, "nearest": 0, "specificity": 0, "spread": 1}, abs=1e-9)


def test_shares_of_a_judgement_by_hand():
    maps = np.stack([
        painted(), painted((ALL, slice(14), 0)),
        painted((ALL, slice(26, 30), 0)),  # open wall
        painted((20, 13, 0)),  # gap between RV and MYO, which the nine rules let pass
        painted((slice(16, 24), slice(18, 26), MYO)),  # no LV
    ])
    found = judge.valid_shares(maps, 2.0)
    assert [found[name] for name in ("valid", "valid_open_wall", "valid_sixteen")] == [
        3 / 5, 4 / 5, 2 / 5]
    assert judge.beside_training(maps, Reference(maps), neighbours=2)["no_rv"] == 1 / 5
    assert found["valid"] == metrics.is_valid(maps).mean()
    assert found["valid_open_wall"] == metrics.is_valid(maps, open_wall_allowed=True).mean()


def test_distances_of_a_judgement_by_hand():
    training = np.stack([rows_of(count, count, count) for count in (1, 2, 3)])
    maps = training[[0, 2]]
    found = judge.beside_training(maps, reference := Reference(training), neighbours=1)
    assert found["spread"] == pytest.approx(1 / np.sqrt(2 / 3))  # deviations -1, 1 of -1, 0, 1
    assert found["frechet"] == frechet_distance(reference.of(maps), reference.points) > 0
    expected = density_coverage(reference.points, reference.of(maps), 1)
    assert (found["density"], found["coverage"]) == expected
    far = np.stack([maps[0], maps[1], rows_of(lv=1)])  # Dice 1 of LV alone, 0 of RV and MYO
    found = judge.beside_training(far, reference, neighbours=1)
    assert found["nearest"] == 0 and found["specificity"] == pytest.approx((0 + 0 + 2 / 3) / 3)


# --------------------------------------------------------------------------------------- bad input
MAPS, CLOUD = np.zeros((3, 8, 8), dtype=np.uint8), np.zeros((4, 2))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Reference(MAPS[:1]), "at least 2 square label maps.*give more slices"),
    (lambda: Reference(MAPS[0]), r"map\[None\]"),
    (lambda: judge.judge(MAPS[:1], Reference(MAPS), 1), "at least 2 square"),
    (lambda: Reference(MAPS).of(MAPS[:, 1:, 1:]), r"size \(8, 8\), found \(7, 7\)"),
    (lambda: judge.nearest_training(MAPS, MAPS[:, :4, :4]), r"size \(4, 4\)"),
    (lambda: judge.nearest_training(MAPS[:0], MAPS), "at least 1 square"),
    (lambda: judge.criteria(MAPS[:, :4], 1), r"\(3, 4, 8\)"),
    (lambda: judge.criteria(MAPS, np.ones(2)), "or 3 of them"),
    (lambda: judge.criteria(MAPS, 0), "above 0"),
    (lambda: judge.criteria(MAPS, np.nan), "above 0"),
    (lambda: frechet_distance(CLOUD, CLOUD[:1]), "at least 2 points"),
    (lambda: frechet_distance(CLOUD, CLOUD[:, :1]), "one D"),
    (lambda: density_coverage(CLOUD, CLOUD, 4), "found 4 and 4"),
    (lambda: density_coverage(CLOUD, CLOUD, 0), "1 neighbour or more"),
    (lambda: density_coverage(CLOUD, CLOUD[:0], 1), "at least 1 points"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------------------------------- neighbours
def test_neighbours_are_told_by_what_describes_them():
    """Slices at 0, 1, 10, 11: neighbours lie 1 apart, pairs (1 + 10 + 11 + 9 + 10 + 1) / 6 = 7."""
    x = np.array([[0.0], [1], [10], [11]])
    assert judge.neighbour_distance(x, x, neighbours=1) == pytest.approx(1 / 7)
    crossed = np.array([[0.0], [10], [1], [11]])  # 0 next to 10, and 1 next to 11
    assert judge.neighbour_distance(crossed, x, neighbours=1) == pytest.approx(10 / 7)
    assert judge.neighbour_distance(x, x, neighbours=3) == pytest.approx(1)
    assert judge.neighbour_distance(x, x, neighbours=5) == pytest.approx(1)  # all the others
    assert np.isnan(judge.neighbour_distance(x, 0 * x))  # all alike
    with pytest.raises(ValueError, match="at least 2 points"):
        judge.neighbour_distance(x[:1], x[:1])


def test_few_training_slices_are_all_neighbours():
    found = judge.judge(MAPS, Reference(MAPS), 1)
    assert found == judge.valid_shares(MAPS, 1) | judge.beside_training(MAPS, Reference(MAPS), 2)


def test_spread_is_of_the_areas_that_vary():
    hearts = np.stack([picture(32, cavity=0.1 + k / 100, outer=0.25) for k in range(4)])
    reference = Reference(hearts)
    found = judge.beside_training(hearts, reference)
    assert found["spread"] == pytest.approx(1) and found["no_rv"] == 1  # and not 2/3
    assert np.isfinite(reference.points).all()
    assert np.isnan(judge.beside_training(hearts[[0, 0]], Reference(hearts[[0, 0]]))["spread"])
