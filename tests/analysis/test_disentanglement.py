"""Disentanglement: on a grid of two factors, whose correlations are known, and on a phantom."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, spearmanr
from sklearn.metrics import adjusted_mutual_info_score

from cvae_utils import shape_metrics
from cvae_utils.analysis import disentanglement
from cvae_utils.analysis.disentanglement import measure, mutual_information, spearman
from cvae_utils.files import DataError
from cvae_utils.labels import Label


@pytest.fixture
def factors():
    """Every pair of 40 values, 1600 rows: variances are equal, and the correlation is 0."""
    values = norm.ppf((np.arange(40) + 0.5) / 40)
    return pd.DataFrame({"a": np.repeat(values, 40), "b": np.tile(values, 40)})


def turned(factors, degrees):
    """The two factors as the axes of a plane that is turned, (N, 2)."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return factors.to_numpy() @ np.array([[cos, -sin], [sin, cos]])


def noise(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns))


# ------------------------------------------------------------------------------------- the limits
def test_factors_themselves_are_fully_disentangled_and_noise_is_not(factors):
    mu = np.column_stack([noise(1600, 1), -5 * factors["b"], factors["a"] + 2])
    assert measure(mu, factors) == pytest.approx(
        {"mig": 1, "sap": 1, "modularity": 1, "spearman": 1}, abs=0.01)
    found = measure(noise(1600, 8), factors)
    assert found["mig"] < 0.01 and found["sap"] < 0.01 and found["spearman"] < 0.1


def test_turning_two_factors_into_each_other_entangles_them(factors):
    """The correlations are cos and sin, so the gap of their squares is cos of twice the angle, and
    that of the mutual information of Gaussians, -log(1 - r^2) / 2, is log cos - log sin."""
    angles = np.array([0, 20, 30, 35, 40, 45, 60])
    found = pd.DataFrame([measure(turned(factors, angle), factors) for angle in angles], angles)
    by_hand = np.abs(np.cos(np.radians(2 * angles)))
    assert found["sap"].tolist() == pytest.approx(by_hand.tolist(), abs=1e-9)
    assert found.at[60, "mig"] == pytest.approx(found.at[30, "mig"], abs=0.02)
    for angle in (30, 40):
        gap = -np.log(np.tan(np.radians(angle)))
        assert found.at[angle, "mig"] * np.log(20) == pytest.approx(gap, abs=0.1)
    for name in ("mig", "modularity"):
        falling = found.loc[[0, 35, 40, 45], name]
        assert (np.diff(falling) < -0.02).all()
        assert falling[0] == pytest.approx(1) and falling[45] == pytest.approx(0, abs=0.05)


def test_factor_in_two_dimensions_has_no_gap(factors):
    mu = factors[["a", "a", "b"]].to_numpy()
    assert measure(mu, factors) == pytest.approx(
        {"mig": 0.5, "sap": 0.5, "modularity": 1, "spearman": 1}, abs=1e-3)  # "a" has 0, "b" 1


def test_monotone_curve_changes_sap_alone(factors):
    bent = np.exp(2 * factors.to_numpy())
    before, after = measure(factors.to_numpy(), factors), measure(bent, factors)
    by_hand = np.corrcoef(factors["a"], bent[:, 0])[0, 1] ** 2
    assert after == pytest.approx(before | {"sap": by_hand}) and by_hand < 0.6


# ----------------------------------------------------------------------------- mutual information
def test_mutual_information_is_adjusted_for_chance(factors):
    """Against scikit-learn, whose expected value is exact, with bins of pandas."""
    mu = np.column_stack([factors["a"] + factors["b"] / 2, factors["a"] ** 2]) + noise(1600, 2) / 9
    found = mutual_information(mu, factors) / disentanglement.entropies(factors)
    cut = [pd.qcut(column, 20, labels=False) for column in (*mu.T, factors["a"], factors["b"])]
    for dimension in (0, 1):
        for column, name in ((2, "a"), (3, "b")):
            exact = adjusted_mutual_info_score(cut[dimension], cut[column], average_method="max")
            assert found.at[dimension, name] == pytest.approx(max(exact, 0), abs=0.006)
    assert found.at[1, "a"] > 0.3 and found.at[1, "b"] == 0  # exactly


def test_weak_dependence_cannot_be_told_from_chance():
    x, y = noise(800, 2).T
    correlated = {r: mutual_information(np.column_stack([r * y + np.sqrt(1 - r**2) * x]),
                                        pd.DataFrame({"y": y})).iat[0, 0] for r in (0.1, 0.5)}
    assert correlated[0.1] == 0
    by_chance = mutual_information(noise(800, 200, seed=1), pd.DataFrame({"y": y})) > 0
    assert by_chance.mean().item() < 0.03  # and not half of them
    assert correlated[0.5] == pytest.approx(-np.log(1 - 0.5**2) / 2, abs=0.08)  # two Gaussians


def test_what_bins_tell_by_hand(factors):
    halves = np.arange(1600) % 2
    more = factors.assign(half=halves, quarter=halves * factors["b"].gt(0))
    found = disentanglement.entropies(more)
    assert found[["a", "half"]].tolist() == pytest.approx([np.log(20), np.log(2)])
    assert found["quarter"] == pytest.approx(-(np.log(1 / 4) + 3 * np.log(3 / 4)) / 4)
    # A dimension that decides a factor has all of its entropy, and one beside it nothing.
    above = pd.DataFrame({"above": factors["a"] > 0}, dtype=float)
    assert mutual_information(factors.to_numpy(), above)["above"].tolist() == pytest.approx(
        [np.log(2), 0], abs=1e-12)
    # Of 20 equal values, a dimension tells 10 pairs apart: log 10 of log 20.
    value = pd.DataFrame({"value": np.tile(np.arange(20.0), 4000)})
    found = mutual_information(value.to_numpy() // 2, value)
    assert found.iat[0, 0] == pytest.approx(np.log(10), abs=0.002)


# ---------------------------------------------------------------------- from tables to one number
@pytest.mark.parametrize(("information", "value"), [
    ([[2, 1, 1], [0, 0, 3]], (1 - (1 + 1) / (4 * 2) + 1) / 2),
    ([[2, 1, 1], [0, 0, 3], [0, 0, 0]], (1 - (1 + 1) / (4 * 2) + 1) / 2),  # carries nothing
    ([[2, 2, 2]], 0),
    ([[2], [1]], np.nan),  # nothing else to carry
    ([[0, 0]], np.nan),
])
def test_modularity_by_hand(information, value):
    found = disentanglement.modularity(pd.DataFrame(information, dtype=float))
    assert found == pytest.approx(value, nan_ok=True)


def test_gap_is_between_the_two_largest():
    information = pd.DataFrame({"a": [3.0, 1, 2], "b": [0.0, 0.5, 0]})
    assert disentanglement.gap(information).tolist() == [1, 0.5]
    assert disentanglement.gap(information[:1]).tolist() == [3, 0]  # a dimension without rivals


def test_only_active_dimensions_count(factors):
    mu = np.column_stack([factors["a"], factors["a"] + factors["b"], factors["b"], factors["b"]])
    assert measure(mu, factors)["modularity"] == pytest.approx(3 / 4, abs=0.01)  # but for the sum
    alone = measure(mu, factors, active=[0, 2])
    assert alone == measure(factors.to_numpy(), factors) and min(alone.values()) > 0.99
    assert spearman(mu, factors, active=[3, 1]).index.tolist() == [3, 1]
    of_sum = measure(mu, factors, active=[1])
    assert of_sum["sap"] == pytest.approx(1 / 2)  # R^2 with a and with b
    assert of_sum["spearman"] == pytest.approx(spearman(mu, factors).loc[1].mean())


def test_rank_correlation_is_that_of_scipy_without_its_sign(factors):
    mu = np.column_stack([-factors["a"] + noise(1600, 1)[:, 0], np.round(factors["b"])])
    found = spearman(mu, factors)
    exact = [[abs(spearmanr(column, factors[name]).statistic) for name in factors]
             for column in mu.T]
    assert found.to_numpy() == pytest.approx(np.array(exact))
    assert found.at[0, "a"] > 0.6 and found.at[1, "b"] > 0.9


# ------------------------------------------------------------------------------------------ input
def test_rows_without_a_factor_are_left_out_for_it_alone(factors):
    mu = turned(factors, 30)
    defined = noise(1600, 1)[:, 0] > 0
    partly = factors.assign(a=factors["a"].where(defined))
    mu[~defined] *= -100
    for table in (spearman, mutual_information):
        found = table(mu, partly)
        assert found["a"].tolist() == table(mu[defined], factors[defined])["a"].tolist()
        assert found["b"].tolist() == table(mu, factors)["b"].tolist()


def test_constant_dimension_has_nothing_and_constant_factor_is_left_out(factors):
    mu = np.column_stack([factors.to_numpy(), np.full(1600, 0.3)])
    row = pd.Series(np.arange(1600.0))
    more = factors.assign(flat=0.3, empty=np.nan, rare=row.where(row < 39))  # in too few rows
    assert (mutual_information(mu, more).loc[2] == 0).all()
    assert (spearman(mu, more).loc[2] == 0).all()
    assert list(spearman(mu, more)) == disentanglement.measurable(more) == ["a", "b"]
    assert measure(mu, more) == pytest.approx(measure(mu[:, :2], factors))
    assert disentanglement.measurable(more.assign(rare=row.where(row < 40))) == ["a", "b", "rare"]
    assert not disentanglement.measurable(more[["flat", "empty", "rare"]])
    assert disentanglement.measurable(factors[:40]) and not disentanglement.measurable(factors[:39])


@pytest.mark.parametrize(("change", "message"), [
    (lambda mu, f: (mu[:-1], f), r"mu of shape \(1599, 2\) and factors of 1600 rows"),
    (lambda mu, f: (mu[:, 0], f), r"expected mu \(N, Z\).*shape \(1600,\)"),
    (lambda mu, f: (mu, f[[]]), r"expected a factor.*found 1600 rows of \[\]"),
    (lambda mu, f: (mu[:39], f[:39]), r"at least 40 rows, found 39 rows of \['a', 'b'\]"),
    (lambda mu, f: (mu, f * 0), "expected a factor that varies"),
    (lambda mu, f: (np.where(mu == mu[3], np.nan, mu), f), r"expected finite mu.*\[0, 1\]"),
    (lambda mu, f: (mu, f, [2]), r"dimensions 0 to 1, found \[2\]"),
    (lambda mu, f: (mu, f, []), r"at least one of the dimensions 0 to 1, found \[\]"),
])
def test_input_that_does_not_fit_is_named(factors, change, message):
    for function in (measure, spearman):
        with pytest.raises(ValueError, match=message):
            function(*change(factors.to_numpy(), factors))


# ------------------------------------------------------------------------------ what makes a slice
@pytest.fixture(scope="module")
def drawn(source, slices):
    return disentanglement.phantom_factors(source.root, slices.table)


def test_factors_are_those_of_each_slice(drawn, slices):
    """Held against what is measured on the pictures, in their order."""
    seen = shape_metrics.describe(slices.aligned)
    cavity = shape_metrics.describe(np.where(slices.aligned == Label.LV, Label.LV, 0))
    for name, measured, least in (
            ("lv_radius", seen["area_lv"], 0.99), ("wall_thickness", seen["wall"], 0.98),
            ("rv_width", seen["area_rv"], 0.85),
            ("second_cos", cavity["extent_x"] / cavity["extent_y"], 0.75),
            # The LV lies away from the thick side of the wall.
            ("wall_asymmetry", -seen["offset_x"], 0.7), ("wall_tilt", -seen["offset_y"], 0.7)):
        assert drawn[name].corr(measured, method="spearman") > least, name
    assert drawn["lv_radius"].to_numpy() == pytest.approx(
        np.sqrt(seen["area_lv"] / np.pi), abs=0.01)  # the same unit
    some = drawn[["lv_radius", "wall_thickness", "rv_width", "wall_asymmetry", "wall_tilt"]]
    shape = seen[["area_lv", "wall", "area_rv", "offset_x", "offset_y"]].to_numpy()
    good, poor = measure(shape, some), measure(noise(len(drawn), 5), some)
    assert all(good[name] > poor[name] + 0.25 for name in ("mig", "sap", "spearman"))


def test_factors_follow_from_the_file_row_by_row(drawn, source, slices):
    keys = ["patient", "phase", "z"]
    table = slices.table.rename(columns={"slice_index": "z"})
    row = table.merge(pd.read_csv(source.root / "factors.csv"), on=keys, suffixes=("", "_drawn"))
    assert (row[keys] == table[keys]).all(axis=None)
    assert (drawn["wall_thickness"] * row["crop_mm"]).tolist() == pytest.approx(
        row["wall_thickness_mm"].tolist())
    has_rv = shape_metrics.areas(slices.aligned)[:, 0] > 0
    assert ((drawn["rv_width"] > 0) == has_rv).all() and len(drawn) / 2 < has_rv.sum() < len(drawn)
    # Without RV, its shape and all directions are undefined.
    others = drawn.drop(columns=["lv_radius", "wall_thickness", "rv_width"])
    assert others[~has_rv].isna().all(axis=None) and others[has_rv].notna().all(axis=None)
    for name, size, angle in (("second", row["eccentricity"] ** 2 / 4, 2 * row["axis_deg"]),
                              ("scar", row["scar_depth"], row["scar_deg"])):
        found = drawn[f"{name}_cos"] + 1j * drawn[f"{name}_sin"]
        by_hand = size * np.exp(1j * np.radians(angle))
        assert found[has_rv].tolist() == pytest.approx(by_hand[has_rv].tolist())
    assert set(row.loc[has_rv & (row["scar_depth"] > 0), "group"]) == {"MINF"}
    some = np.random.default_rng(0).permutation(len(drawn))[:50]
    found = disentanglement.phantom_factors(source.root, slices.table.iloc[some])
    pd.testing.assert_frame_equal(found, drawn.iloc[some].reset_index(drop=True))


def test_table_of_another_data_set_is_refused(source, slices, tmp_path):
    with pytest.raises(DataError, match="expected a phantom with its factors.csv, found none in"):
        disentanglement.phantom_factors(tmp_path, slices.table)
    other = slices.table.assign(patient=slices.table["patient"].replace("patient002", "patient999"))
    count = (slices.table["patient"] == "patient002").sum()
    with pytest.raises(DataError, match=rf"found {count} of {len(other)}.*patient patient999, "
                                        r"phase ED, z \d+; give"):
        disentanglement.phantom_factors(source.root, other)
