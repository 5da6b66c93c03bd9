"""Models beside each other, the report and real slices; what is judged once is kept."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cvae_utils import shape_metrics
from cvae_utils.analysis import comparisons, latent_priors, sample_quality
from cvae_utils.analysis.comparisons import Judge
from cvae_utils.analysis.principal_components import Pca
from cvae_utils.data import splits
from cvae_utils.model.encoding import decode


# ----------------------------------------------------------------------------------- a judge
@pytest.fixture
def judge(slices, split):
    return Judge(slices, split, samples=20, seed=0)


@pytest.fixture
def own(run, tmp_path):
    """The finished run, in a folder of its own, with one result."""
    return replace(run, folder=tmp_path, results={"test_dice": 0.5, "test_kl": 7.0})


def unable(run):
    """The same run without a model: nothing new can be drawn from it."""
    return replace(run, model=None)


def test_real_slices_are_judged_with_pixels_of_their_own(judge, slices, split):
    own, copies = judge.real("test"), judge.real("train")
    assert copies["nearest"] == 0 and copies["coverage"] == 1 and copies["frechet"] < 1e-6
    mm = slices.table["crop_mm"].to_numpy()[split["test"]] / 32
    broken = sample_quality.criteria(judge.part("test"), mm)
    assert own["valid_sixteen"] == (~broken.any(axis=1)).mean()
    assert own["nearest"] > 0 and own.keys() == copies.keys()


def test_drawn_slices_are_judged_beside_as_many_real_ones(judge, slices, split):
    drawn = np.roll(judge.part("train"), 2, axis=1)
    found = judge.drawn(drawn)
    assert found["valid"] == shape_metrics.is_valid(drawn).mean()
    mm = slices.table["crop_mm"].iloc[split["train"]].median() / 32
    assert found["valid_sixteen"] == (~sample_quality.criteria(drawn, mm).any(axis=1)).mean()
    for part in ("validation", "test"):
        few = sample_quality.beside_training(drawn[:len(split[part])], judge.reference)
        assert few == {name: found[f"{part}_{name}"] for name in few}
    least = max(len(split["test"]), len(split["validation"]))
    with pytest.raises(ValueError, match=f"at least {least} drawn slices.*found 3; draw more"):
        judge.drawn(drawn[:3])


def test_a_run_is_judged_once_by_what_it_draws(judge, own, slices, split):
    found = judge.run(own, "gaussian")
    count = max(20, *map(len, split.values()))
    prior = latent_priors.of(own, "gaussian", slices, split)
    assert found == judge.drawn(decode(own.model, prior.sample(count, 0)))
    cooler = judge.drawn(decode(own.model, prior.sample(count, 0, 0.5)))
    assert judge.run(own, "gaussian", 0.5) == cooler != found
    assert Judge(slices, split, 20, 0).run(unable(own), "gaussian") == found
    for again, kind in ((judge, "standard"), (Judge(slices, split, 1000, 0), "gaussian"), (
            Judge(slices, split | {"test": split["train"]}, 20, 0), "gaussian")):
        with pytest.raises(AttributeError):  # another prior, number or split is drawn anew
            again.run(unable(own), kind)


@pytest.mark.parametrize("change", [{"seed": 1}, {"data": "another"}])
def test_run_of_another_seed_or_data_set_is_refused_and_nothing_kept(judge, own, change):
    with pytest.raises(ValueError, match="expected a run of seed 0 .*: make a Judge of its slices"):
        judge.run(replace(own, config=own.config | change), "gaussian")
    assert not list(own.folder.iterdir())


def test_rows_are_one_a_prior_and_hold_results_and_what_is_drawn(judge, own):
    rows = judge.rows("a model", own)
    assert [row["prior"] for row in rows] == ["standard", "gaussian", "mixture"]
    for row in rows:
        assert row == {"model": "a model", "beta": 10.0, "seed": 0, "prior": row["prior"],
                       "temperature": 1.0,
                       **own.results, **judge.run(own, row["prior"])}
    plain = replace(own, config=own.config | {"beta": 0.0})
    row, = judge.rows("plain", plain, ["gaussian"])
    assert np.isnan(row["test_kl"]) and row["test_dice"] == 0.5  # its KL means nothing


def test_principal_components_have_rows_like_those_of_a_run(judge, own, slices, split, tmp_path):
    basis = Pca.fit(judge.part("train"), 6)
    rows = judge.linear_rows("PCA", basis, tmp_path / "kept")
    assert [row["prior"] for row in rows] == ["gaussian", "mixture"]
    maps = slices.unrotated[split["test"]]
    dice = shape_metrics.dice_per_slice(basis.decode(basis.encode(maps)), maps)
    assert rows[0]["unrotated_dice"] == pytest.approx(dice.mean())
    assert np.isnan(rows[0]["beta"]) and set(judge.run(own, "gaussian")) < set(rows[0])


def test_principal_components_of_every_seed_are_measured_once(slices, tmp_path, monkeypatch):
    judges, bases, found = {}, {}, {}
    for seed in (0, 1):
        split = splits.split(slices.table, seed=seed)
        judges[seed] = Judge(slices, split, 20, seed)
        bases[seed] = Pca.fit(judges[seed].part("train"), 6)
    for seed in (0, 1):
        found[seed] = judges[seed].linear_rows("PCA", bases[seed], tmp_path)
    assert found[0][0]["test_dice"] != found[1][0]["test_dice"]
    with monkeypatch.context() as patch:  # a density is fitted once for all temperatures
        patch.setattr(latent_priors, "fit", None)
        cooler = judges[0].linear_rows("PCA", bases[0], tmp_path, 0.5)
        assert cooler[0]["temperature"] == 0.5 != found[0][0]["temperature"]
    monkeypatch.setattr(Pca, "decode", None)
    for seed in (0, 1):
        again = judges[seed].linear_rows("another name", bases[seed], tmp_path)
        pd.testing.assert_frame_equal(pd.DataFrame(again), pd.DataFrame(found[seed]).assign(
            model="another name"))
    with pytest.raises(TypeError):  # other components are measured anew
        judges[0].linear_rows("PCA", bases[0].first(3), tmp_path)


# ------------------------------------------------------------------------------------- tables
def test_report_stands_beside_what_was_measured():
    run = {**{f"{part}_dice{end}": value for part in ("test", "unrotated") for end, value in
              (("", 0.8714), ("_RV", 0.85), ("_MYO", 0.83), ("_LV", 0.93))},
           "active_dimensions": 4, "mu_sd": [1.1, 0.9, 0.5, 0.01], "valid_prior": 0.982,
           "valid_real": 0.967}
    by_slice = run | {"test_dice": 0.9, "unrotated_dice_RV": 0.7, "valid_prior": 1.0,
                      "mu_sd": [0.1, 1.4, 0.8, 0.2, 0.3], "active_dimensions": 3}
    table = comparisons.beside_report(run, by_slice, 1808)
    assert list(table.columns) == ["quantity", "report", "by patient", "by slice"]
    rows = {quantity: rest for quantity, *rest in table.itertuples(index=False)}
    assert len(rows) == len(table) == 15
    assert rows["slices with LV"] == ["2785", "1808", "1808"]
    assert rows["Dice, mean over slices"] == ["0.75", "0.871", "0.900"]
    assert rows["Dice, not rotated, mean over slices"] == ["0.69", "0.871", "0.871"]
    assert rows["Dice, not rotated, RV"] == ["not given", "0.850", "0.700"]
    assert rows["active dimensions"] == ["3 dominate", "4 of 4", "3 of 5"]
    assert rows["SD of mu, largest"] == ["not given", "1.10", "1.40"]
    assert rows["SD of mu, three strongest"] == ["not given", "1.10, 0.90, 0.50",
                                                 "0.10, 1.40, 0.80"]  # strongest by their KL
    assert rows["SD of mu, smallest"] == ["not given", "0.01", "0.10"]
    assert rows["valid samples from N(0, I)"] == ["not given", "98.2 %", "100.0 %"]
    assert rows["valid real test slices"] == ["not given", "96.7 %", "96.7 %"]


def test_numbers_of_several_seeds_become_mean_and_deviation():
    rows = pd.DataFrame({"model": ["a", "a", "b"], "dice": [0.9, 0.92, 0.5],
                         "kl": [1.0, 3.0, np.nan]})
    table = comparisons.mean_sd(rows, "model", {"dice": "Dice", "kl": "KL"}, "{:.2f}")
    assert table["Dice"].to_dict() == {"a": "0.91 +- 0.01", "b": "0.50"}
    assert table["KL"].to_dict() == {"a": "2.00 +- 1.41", "b": ""}


def test_drawn_slices_are_compared_with_the_real_ones_of_their_seed():
    rows = pd.DataFrame({"seed": [1, 0], "valid": [0.99, 0.97], "valid_open_wall": [0.995, 0.99],
                         "test_coverage": [0.6, 0.8], "test_nearest": [0.1, 0.1]}, index=[5, 5])
    real = pd.DataFrame({"seed": [0, 1], "valid": [0.98, 0.98], "coverage": [0.8, 0.7],
                         "nearest": [0.1, 0.2]})
    found = comparisons.beside_real(rows, real, "test")
    assert found["more_valid"].tolist() == pytest.approx([0.01, -0.01])
    assert found["more_coverage"].tolist() == pytest.approx([-0.1, 0.0])
    assert found["distance"].tolist() == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize(("change", "expected"), [
    ({}, True), ({"more_valid": -0.001}, False), ({"valid_open_wall": 0.989}, False),
    ({"more_coverage": -0.051}, False), ({"distance": 0.89}, False)])
def test_what_passes_as_real(change, expected):
    limits = {"more_valid": 0.0, "valid_open_wall": 0.99, "more_coverage": -0.05, "distance": 0.9}
    assert comparisons.passes(pd.DataFrame([limits | change])).tolist() == [expected]
