"""The z of a slice by optimisation: against what can be worked out, and against the encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cvae_utils import shape_metrics
from cvae_utils.analysis import latent_priors, refinement
from cvae_utils.analysis.latent_priors import Prior
from cvae_utils.model import encoding, losses
from cvae_utils.model.network import one_hot


@pytest.fixture(scope="module")
def prior(run, slices, split):
    posteriors = (encoding.encode(run.model, slices.aligned[split[part]])
                  for part in ("train", "validation"))
    return latent_priors.fit("gaussian", *posteriors)


def loss(model, maps, z, prior, beta):
    """By the definition, slice by slice, (N,)."""
    found = []
    for label_map, point in zip(maps, torch.from_numpy(z)):
        target = one_hot(torch.from_numpy(label_map[None]))
        with torch.no_grad():
            terms = losses.loss_terms(model.decode(point[None]), target, point[None], point[None])
        normal = torch.distributions.MultivariateNormal(
            torch.tensor(prior.means[0]), torch.tensor(prior.covariances[0]))
        found.append(float(terms.cross_entropy + 1 - terms.soft_dice.mean()
                           - beta * normal.log_prob(point.double()) / 256**2))
    return np.array(found)


def test_refined_z_has_a_lower_loss_and_rebuilds_unseen_slices_better(run, slices, split, prior):
    maps = slices.aligned[split["test"]]
    mu, z = encoding.encode(run.model, maps).mu, refinement.refine(run.model, maps, prior, 10.0)
    assert z.shape == mu.shape and z.dtype == np.float32
    before, after = (loss(run.model, maps, point, prior, 10.0) for point in (mu, z))
    assert (after < before).mean() > 0.9 and after.mean() < before.mean()
    dice = [shape_metrics.dice_per_slice(encoding.decode(run.model, point), maps).mean()
            for point in (mu, z)]
    assert dice[1] > dice[0] + 0.005
    assert not any(weights.grad is not None for weights in run.model.parameters())


def test_without_steps_it_is_the_mean_and_no_maps_make_no_points(run, slices, split, prior):
    maps = slices.aligned[split["test"]][:3]
    assert np.array_equal(refinement.refine(run.model, maps, prior, 10.0, steps=0),
                          encoding.encode(run.model, maps).mu)
    assert refinement.refine(run.model, maps[:0], prior, 10.0).shape == (0, run.model.latent_dim)


def test_a_slice_has_the_same_z_whatever_it_is_refined_with(run, slices, split, prior, monkeypatch):
    maps = slices.aligned[split["test"]]
    together = refinement.refine(run.model, maps, prior, 10.0)
    monkeypatch.setattr(encoding, "BATCH_PIXELS", 2 * 32**2)
    assert refinement.refine(run.model, maps[2:5], prior, 10.0) == pytest.approx(together[2:5],
                                                                                abs=1e-3)


def test_the_prior_pulls_as_hard_as_beta_says(run, slices, split, prior):
    """At a beta beyond all measure only the prior counts: its mean, and of a mixture the nearer."""
    maps, size = slices.aligned[split["test"]][:4], run.model.latent_dim
    far = np.full((1, size), 3.0)
    mixture = Prior("mixture", np.array([0.5, 0.5]), np.concatenate([far, -far]),
                    np.tile(np.eye(size), (2, 1, 1)), np.eye(size), np.ones(size))
    # As wide in every direction, so that a few steps suffice.
    one = replace(prior, covariances=np.eye(size)[None])
    for density, expected in ((one, prior.means), (mixture, np.sign(encoding.encode(
            run.model, maps).mu.sum(axis=1, keepdims=True)) * 3)):
        z = refinement.refine(run.model, maps, density, 1e9, steps=400)
        assert z == pytest.approx(np.broadcast_to(expected, z.shape), abs=0.05)


def test_results_are_measured_once(run, slices, split, tmp_path):
    own = replace(run, folder=tmp_path)
    found = refinement.refined(own, slices, split)
    z = refinement.refine(run.model, slices.aligned[split["test"]],
                          latent_priors.of(own, "gaussian", slices, split), run.config["beta"])
    rebuilt = encoding.decode(run.model, z)
    maps = slices.aligned[split["test"]]
    assert found["test_dice"] == pytest.approx(shape_metrics.dice_per_slice(rebuilt, maps).mean())
    assert found["test_valid"] == shape_metrics.is_valid(rebuilt).mean()
    assert refinement.refined(replace(own, model=None), slices, split) == found
    with pytest.raises(AttributeError):
        refinement.refined(replace(own, model=None), slices, split, steps=1)
