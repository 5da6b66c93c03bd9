"""What a trained VAE is worth, and how it was learnt."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cvae_utils import evaluation, metrics
from cvae_utils.dataset import Slices
from cvae_utils.evaluation import evaluate, learning_phases
from cvae_utils.model import one_hot


@pytest.fixture
def phases():
    """Twenty steps: all fall until step 3; LV is learnt at 4, MYO from 6 to 9, RV from 10 on."""
    steps = pd.DataFrame({
        "RV": [0.1, 0.1, *[0.0] * 8, 0.1, 0.2, *[0.4] * 8],
        "MYO": [0.2, 0.1, 0, 0, 0, 0, 0.2, 0.3, 0.4, *[0.6] * 11],
        "LV": [0.5, 0.3, 0.1, 0, 0.4, *[0.8] * 15],
    })
    steps.loc[15, "LV"] = 0.7  # when nothing new is learnt
    return steps


@pytest.mark.parametrize(("falls", "step", "to", "dip"), [
    (None, 0, 0, 0),  # LV's fall before all are lowest does not count, nor does that of step 15
    ("LV", 5, 0.3, 0),  # nothing else rises yet
    ("LV", 7, 0.3, 0.5),  # MYO rises
    ("MYO", 11, 0.2, 0.4),  # RV rises
    ("LV", 14, 0.3, 0),  # everything has risen
    ("MYO", 8, 0.1, 0),  # the one that rises itself does not count
])
def test_dip_is_a_fall_while_another_structure_rises(phases, falls, step, to, dip):
    if falls:
        phases.loc[step, falls] = to
    assert learning_phases(phases, window=1)["dip"] == pytest.approx(dip)


def test_order_and_noise_of_constructed_steps(phases):
    found = learning_phases(phases, window=1)
    assert found["order"] == ["LV", "MYO", "RV"]
    assert found["half_step"] == {"LV": 4, "MYO": 7, "RV": 11}  # and not 0, before the minimum
    assert found["noise"] == pytest.approx(0.1)
    smooth = learning_phases(phases, window=2)
    assert smooth["half_step"] == {"LV": 5, "MYO": 8, "RV": 12}
    assert smooth["noise"] == pytest.approx(0.05)
    turned = learning_phases(phases.rename(columns={"LV": "RV", "RV": "LV"}), window=1)
    assert turned["order"] == ["RV", "MYO", "LV"]
    assert found["final"] == pytest.approx({"RV": 0.4, "MYO": 0.6, "LV": 0.8})


def test_structure_that_no_slice_has_is_not_learnt(phases):
    found = learning_phases(phases.assign(RV=1.0), ("MYO", "LV"), window=1)  # rightly absent
    assert found["order"] == ["LV", "MYO"] and found["half_step"] == {"LV": 4, "MYO": 7}
    assert set(found["final"]) == {"MYO", "LV"} and found["noise"] == pytest.approx(0.1)
    alone = learning_phases(phases, ("LV",), window=1)
    assert alone["order"] == ["LV"] and np.isnan(alone["dip"])


# ------------------------------------------------------------------------------------- evaluate
def test_evaluation_is_what_the_model_itself_gives(run, slices, split):
    model, maps = run.model, slices.aligned[split["test"]]
    with torch.no_grad():
        mu, logvar = model.encode(one_hot(torch.from_numpy(maps)))
        rebuilt = model.decode(mu).argmax(dim=1).numpy()
        train_mu, train_logvar = model.encode(
            one_hot(torch.from_numpy(slices.aligned[split["train"]])))
    dice = []
    for a, b in zip(rebuilt, maps):
        present = [c for c in (1, 2, 3) if (a == c).any() or (b == c).any()]
        dice.append(np.mean([2 * ((a == c) & (b == c)).sum() / ((a == c).sum() + (b == c).sum())
                             for c in present]))
    prior = torch.distributions.Normal(0, 1)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(train_mu, torch.exp(train_logvar / 2)), prior).mean(dim=0)
    test_kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, torch.exp(logvar / 2)), prior).sum(dim=1).mean()

    found = evaluate(model, slices, split, samples=20)
    assert found["test_dice"] == pytest.approx(np.mean(dice), abs=1e-4) and np.mean(dice) > 0.3
    assert found["test_kl"] == pytest.approx(test_kl.item(), rel=1e-3)
    assert found["train_kl"] == pytest.approx(kl.sum().item(), rel=1e-3)
    assert found["active_dimensions"] == (kl > 0.1).sum() > 0
    order = found["kl_order"]
    assert (np.diff(kl[order]) <= 1e-6).all()
    assert found["mu_sd"] == pytest.approx(train_mu[:, order].std(dim=0, correction=0).tolist(),
                                           rel=1e-3)
    assert found["valid_real"] == metrics.is_valid(maps).mean()
    assert found["valid_real_open_wall"] == metrics.is_valid(maps, True).mean()
    assert found["samples"] == 20 and (20 * found["valid_prior"]).is_integer()


def test_evaluation_counts_each_part_by_its_own_slices(untrained, slices, split, monkeypatch):
    """A model that returns what it is given rebuilds every slice perfectly."""
    monkeypatch.setattr(evaluation.latents, "reconstruct", lambda vae, maps: maps)
    found = evaluate(untrained, slices, split, samples=1)
    assert all(found[f"{part}_dice"] == 1 for part in ("validation", "test", "unrotated"))

    monkeypatch.setattr(evaluation.latents, "reconstruct",
                        lambda vae, maps: slices.aligned[split["test"]][:len(maps)])
    found = evaluate(untrained, slices, split, samples=1)
    assert found["test_dice"] == 1 and found["test_dice_LV"] == 1
    assert 0.2 < found["unrotated_dice"] < 0.95 and found["validation_dice"] < 0.95


def bars(*counts):
    """Label maps (N, 32, 32) with so many pixels of RV, MYO and LV each."""
    maps = np.zeros((len(counts), 32 * 32), dtype=np.uint8)
    for row, of_each in zip(maps, counts):
        row[:sum(of_each)] = np.repeat([1, 2, 3], of_each)
    return maps.reshape(-1, 32, 32)


def test_spread_and_lack_of_rv_by_hand(untrained, monkeypatch):
    real = bars((0, 10, 20), (0, 10, 20), (8, 14, 30), (8, 14, 30))  # deviations 4, 2, 5
    drawn = bars((0, 10, 20), (4, 10, 40), (0, 10, 20), (0, 10, 40))  # sqrt(3), 0, 10
    other = bars((100, 1, 0), (1, 50, 0))  # of training and validation: does not matter
    maps = np.concatenate([other, real])
    asked = []
    monkeypatch.setattr(evaluation.latents, "reconstruct", lambda vae, maps: maps)
    monkeypatch.setattr(evaluation.latents, "decode", lambda vae, z: (asked.append(z), drawn)[1])
    found = evaluate(untrained, Slices(maps, maps, None, None, "", ""),
                     {"train": [0, 1], "validation": [1], "test": [2, 3, 4, 5]}, 4, seed=3)
    assert found["spread_prior"] == pytest.approx((np.sqrt(3) / 4 + 0 + 10 / 5) / 3)
    assert (found["no_rv_prior"], found["no_rv_real"]) == (3 / 4, 2 / 4)
    assert len(asked) == 1 and (asked[0] == evaluation.latents.sample_prior(4, 6, seed=3)).all()


def test_stored_results_are_those_of_the_stored_weights(run, slices, split):
    found = evaluate(run.model, slices, split, samples=20)
    assert found.keys() == run.results.keys() and found["kl_order"] == run.results["kl_order"]
    for name in found:
        assert found[name] == pytest.approx(run.results[name]), name


def test_slices_on_disk_score_as_those_in_memory_in_blocks_of_any_size(
        run, slices, split, monkeypatch):
    assert isinstance(slices.aligned, np.memmap) and len(split["test"]) > 32
    in_memory = replace(slices, aligned=np.array(slices.aligned),
                        unrotated=np.array(slices.unrotated))
    expected = evaluate(run.model, in_memory, split, 20)
    assert evaluate(run.model, slices, split, 20) == expected
    monkeypatch.setattr(evaluation.latents, "BATCH_PIXELS", 2 * 32**2)  # blocks of 32 slices
    found = evaluate(run.model, slices, split, 20)
    assert {k: pytest.approx(v, rel=1e-3, abs=1e-4) for k, v in found.items()} == expected
