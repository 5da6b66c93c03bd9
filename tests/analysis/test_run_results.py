"""What a trained VAE is worth: against the model itself, and by hand on models that are made up."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hearts import picture

from cvae_utils import shape_metrics
from cvae_utils.analysis import run_results
from cvae_utils.analysis.run_results import evaluate
from cvae_utils.data.slices import Slices
from cvae_utils.model import encoding
from cvae_utils.model.network import one_hot


class TwoHearts(torch.nn.Module):
    """Draws the first of two maps (32, 32) where z is negative, to which it encodes everything, and
    the second where z is positive."""

    size, latent_dim = 32, 1

    def __init__(self, maps):
        super().__init__()
        self.scores = torch.nn.Parameter(one_hot(torch.from_numpy(np.stack(maps))))

    def encode(self, x):
        return torch.full((len(x), 1), -2.0), torch.zeros(len(x), 1)

    def decode(self, z):
        return self.scores[(z[:, 0] > 0).long()]


def test_evaluation_is_what_the_model_itself_gives(run, slices, split):
    model, maps = run.model, slices.aligned[split["test"]]
    with torch.no_grad():
        mu, logvar = model.encode(one_hot(torch.from_numpy(maps)))
        rebuilt = model.decode(mu).argmax(dim=1).numpy()
        train_mu, train_logvar = model.encode(
            one_hot(torch.from_numpy(slices.aligned[split["train"]])))
    normal, divergence = torch.distributions.Normal, torch.distributions.kl_divergence
    kl = divergence(normal(train_mu, torch.exp(train_logvar / 2)), normal(0, 1)).mean(dim=0)
    test_kl = divergence(normal(mu, torch.exp(logvar / 2)), normal(0, 1)).sum(dim=1).mean()

    found = evaluate(model, slices, split, samples=20)
    dice = shape_metrics.dice_per_slice(rebuilt, maps).mean()
    assert found["test_dice"] == pytest.approx(dice, abs=1e-4) and dice > 0.3
    assert found["test_kl"] == pytest.approx(test_kl.item(), rel=1e-3)
    assert found["train_kl"] == pytest.approx(kl.sum().item(), rel=1e-3)
    assert found["active_dimensions"] == (kl > 0.1).sum() > 0
    order = found["kl_order"]
    assert (np.diff(kl[order]) <= 1e-6).all()
    assert found["mu_sd"] == pytest.approx(train_mu[:, order].std(dim=0, correction=0).tolist(),
                                           rel=1e-3)
    assert found["valid_real"] == shape_metrics.is_valid(maps).mean()
    assert found["valid_real_open_wall"] == shape_metrics.is_valid(maps, True).mean()
    assert found["samples"] == 20 and (20 * found["valid_prior"]).is_integer()


def test_each_part_is_counted_by_its_own_slices(slices, split):
    heart = picture(32, cavity=0.1, outer=0.2, rv=0.1)
    found = evaluate(TwoHearts([heart, heart]), slices, split, samples=3)
    for part, maps in (("test", slices.aligned[split["test"]]),
                       ("validation", slices.aligned[split["validation"]]),
                       ("unrotated", slices.unrotated[split["test"]])):
        dice = shape_metrics.dice_per_class(np.broadcast_to(heart, maps.shape), maps)
        assert found[f"{part}_dice"] == pytest.approx(np.nanmean(dice, axis=1).mean()), part
        assert [found[f"{part}_dice_{name}"] for name in ("RV", "MYO", "LV")] == pytest.approx(
            np.nanmean(dice, axis=0).tolist())
    assert [found[f"{part}_kl"] for part in split] == [2, 2, 2]  # (-2)^2 / 2
    assert (found["active_dimensions"], found["mu_sd"]) == (1, [0])
    assert (found["valid_prior"], found["no_rv_prior"], found["spread_prior"]) == (1, 0, 0)


def bars(*counts):
    """Label maps (N, 32, 32) with so many pixels of RV, MYO and LV each."""
    maps = np.zeros((len(counts), 32 * 32), dtype=np.uint8)
    for row, of_each in zip(maps, counts):
        row[:sum(of_each)] = np.repeat([1, 2, 3], of_each)
    return maps.reshape(-1, 32, 32)


def test_spread_and_lack_of_rv_by_hand():
    real = bars((0, 10, 20), (0, 10, 20), (8, 14, 30), (8, 14, 30))  # deviations 4, 2, 5
    other = bars((100, 1, 0), (1, 50, 0))  # of training and validation: does not matter
    maps = np.concatenate([other, real])
    share = (encoding.sample_prior(50, 1, seed=3) > 0).mean()  # of the second heart
    sd = np.sqrt(share * (1 - share))  # of what differs by 1 between the two
    model = TwoHearts(bars((0, 10, 20), (3, 10, 40)))
    slices = Slices(maps, maps, None, None, "", "")
    split = {"train": [0, 1], "validation": [1], "test": [2, 3, 4, 5]}
    found = evaluate(model, slices, split, 50, seed=3)
    assert found["spread_prior"] == pytest.approx(sd * (3 / 4 + 0 + 20 / 5) / 3)
    assert found["no_rv_prior"] == pytest.approx(1 - share) and found["no_rv_real"] == 2 / 4


def test_slices_on_disk_score_as_those_in_memory_in_blocks_of_any_size(
        run, slices, split, monkeypatch):
    assert isinstance(slices.aligned, np.memmap) and len(split["test"]) > 32
    in_memory = replace(slices, aligned=np.array(slices.aligned),
                        unrotated=np.array(slices.unrotated))
    expected = evaluate(run.model, in_memory, split, 20)
    assert evaluate(run.model, slices, split, 20) == expected
    monkeypatch.setattr(encoding, "BATCH_PIXELS", 2 * 32**2)  # blocks of 32 slices
    found = evaluate(run.model, slices, split, 20)
    assert {k: pytest.approx(v, rel=1e-3, abs=1e-4) for k, v in found.items()} == expected


def test_results_are_measured_once_and_again_for_other_samples_split_or_a_damaged_file(
        run, slices, split, tmp_path):
    own = replace(run, folder=tmp_path, results={})
    kept = replace(own, model=None)  # of which nothing can be measured
    found = run_results.measured(own, slices, split).results
    assert found == evaluate(run.model, slices, split, 20, seed=0)
    assert run_results.measured(kept, slices, split).results == found
    more = own.config | {"profile": own.config["profile"] | {"samples": 21}}
    turned = split | {"train": split["test"], "test": split["train"]}
    for change, part in (({"config": more}, split), ({"config": own.config | {"seed": 1}}, split),
                         ({}, turned)):
        with pytest.raises(AttributeError):
            run_results.measured(replace(kept, **change), slices, part)
    file, = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:40])
    assert run_results.measured(own, slices, split).results == found
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
