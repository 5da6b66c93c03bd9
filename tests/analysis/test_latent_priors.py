"""The latent prior: what is fitted, what is drawn, and the coordinates in which it is white."""

from dataclasses import replace

import numpy as np
import pytest

from cvae_utils.analysis import latent_priors
from cvae_utils.files import DataError
from cvae_utils.model import augmentation, encoding
from cvae_utils.model.encoding import Posterior

NOISELESS = -np.inf


def posterior(mu, logvar=NOISELESS):
    mu = np.asarray(mu, dtype=np.float32)
    return Posterior(mu, np.broadcast_to(np.float32(logvar), mu.shape))


@pytest.fixture(scope="module")
def two_clumps():
    """Encoded slices in two clumps, at -4 and 4 along the first of three dimensions; the third is
    ignored: its q(z|x) is N(0, 1)."""
    generator = np.random.default_rng(0)

    def draw(count):
        mu = generator.standard_normal((count, 3)) * [0.5, 2.0, 0.0]
        mu[:, 0] += np.where(np.arange(count) % 2, 4, -4)
        return posterior(mu, np.log([0.01, 0.04, 1.0]))

    return draw(600), draw(200)


@pytest.fixture(scope="module", params=latent_priors.KINDS)
def prior(request, two_clumps):
    return (latent_priors.standard(3) if request.param == "standard" else
            latent_priors.fit(request.param, *two_clumps))


# ----------------------------------------------------------------------------------- what is fitted
def test_gaussian_has_the_moments_of_the_aggregate_posterior():
    """Slices at -1 and 1, each with variance 0.5: mean 0, variance 4/3 (ddof 1) + 0.5."""
    two = posterior([[-1, 3], [1, 3], [-1, 3], [1, 3]], np.log(0.5))
    found = latent_priors.fit("gaussian", two, two)
    assert found.means[0] == pytest.approx([0, 3])
    assert found.covariances[0] == pytest.approx(np.diag([4 / 3 + 0.5, 0.5]), abs=2e-3)


def test_mixture_takes_as_many_gaussians_as_the_validation_slices_like_best(two_clumps):
    found = latent_priors.fit("mixture", *two_clumps)
    assert len(found.weights) >= 2 and found.title == f"fitted mixture of {len(found.weights)}"
    assert np.abs(found.sample(500, 1)[:, 0]).min() > 1  # nothing between the clumps
    cold = found.sample(500, 1, temperature=1e-9)  # the Gaussians' means alone
    assert np.abs(cold[:, None] - found.means).max(axis=2).min(axis=1).max() < 1e-6
    gaussian = latent_priors.fit("gaussian", *two_clumps).sample(500, 1)
    assert (np.abs(gaussian[:, 0]) < 1).mean() > 0.1  # where one Gaussian has its middle
    bare = posterior(two_clumps[0].mu[:20])  # no noise, so 20 points: no more Gaussians than two
    assert len(latent_priors.fit("mixture", bare, bare).weights) <= 2


def test_axes_are_in_the_order_of_what_they_tell_of_the_slice(two_clumps):
    """The ignored dimension has more variance than it tells: it comes last, with no signal."""
    found = latent_priors.fit("gaussian", *two_clumps)
    assert np.abs(found.axes).argmax(axis=0).tolist() == [0, 1, 2]
    assert found.signal == pytest.approx([16.25 / 16.26, 4 / 4.04, 0], abs=0.01)
    assert (np.diff(found.signal) <= 0).all()
    assert (found.axes[[0, 1, 2], [0, 1, 2]] > 0).all()  # no arbitrary sign


def test_without_noise_the_axes_are_the_principal_axes():
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    mu = (np.random.default_rng(0).standard_normal((500, 2)) * [3, 1]) @ turn.T
    found = latent_priors.fit("gaussian", posterior(mu), posterior(mu))
    lengths = np.linalg.norm(found.axes, axis=0)
    assert lengths == pytest.approx([3, 1], rel=0.1)
    assert np.abs(found.axes / lengths) == pytest.approx(np.abs(turn), abs=0.1)


@pytest.mark.parametrize("kind", latent_priors.FITTED)
@pytest.mark.parametrize("logvar", [-2.0, NOISELESS])
def test_fewer_slices_than_dimensions_vary_in_fewer_directions(kind, logvar):
    few = posterior(np.random.default_rng(0).normal(size=(4, 9)), logvar)
    found = latent_priors.fit(kind, few, few)
    assert (found.signal > 0.01).sum() == 3  # four points span three directions
    z = found.sample(50)
    assert np.isfinite(z).all()
    assert found.from_axes(found.to_axes(z)) == pytest.approx(z, abs=1e-3)


def test_fit_refuses_what_it_cannot_do(two_clumps):
    with pytest.raises(ValueError, match="expected one of .*gaussian.*found 'flow'"):
        latent_priors.fit("flow", *two_clumps)
    one = Posterior(*(part[:1] for part in two_clumps[0]))
    with pytest.raises(ValueError, match="at least 2 training slices.*found 1: use the standard"):
        latent_priors.fit("mixture", one, one)


# ------------------------------------------------------------------------------ samples and axes
def test_samples_have_the_moments_of_the_density_and_one_seed_gives_one_sample(prior):
    z = prior.sample(20000, seed=3)
    assert z.dtype == np.float32 and z.shape == (20000, 3)
    assert z.mean(axis=0) == pytest.approx(prior.mean, abs=0.15)
    assert np.cov(prior.to_axes(z), rowvar=False) == pytest.approx(np.eye(3), abs=0.12)
    assert np.array_equal(prior.sample(5, seed=3), prior.sample(5, seed=3))
    assert not np.array_equal(prior.sample(5, seed=3), prior.sample(5, seed=4))


def test_coordinates_along_the_axes_go_there_and_back(prior):
    z = prior.sample(7, seed=1)
    assert prior.from_axes(prior.to_axes(z)) == pytest.approx(z, abs=1e-4)
    assert prior.to_axes(z[0]) == pytest.approx(prior.to_axes(z)[0], abs=1e-5)
    one = prior.from_axes(np.eye(3)[0]) - prior.mean
    assert one == pytest.approx(prior.axes[:, 0], abs=1e-5)
    walk = prior.traverse(1, steps=5, limit=2.0)
    assert walk.shape == (5, 3) and walk[2] == pytest.approx(prior.mean, abs=1e-5)
    steps = np.outer([-2, -1, 0, 1, 2], [0, 1, 0])
    assert prior.to_axes(walk) == pytest.approx(steps, abs=1e-4)
    if prior.kind == "standard":  # the latent space itself
        assert np.array_equal(prior.to_axes(z), z) and prior.title == "N(0, I)"


# ------------------------------------------------------------------------------------------- files
def test_file_holds_the_prior(prior, tmp_path):
    latent_priors.save(tmp_path / "prior", prior)
    found = latent_priors.load(tmp_path / "prior")
    assert found.kind == prior.kind and found.weights.sum() == pytest.approx(1, abs=1e-12)
    assert found.sample(9, 2) == pytest.approx(prior.sample(9, 2), abs=1e-4)
    assert found.axes == pytest.approx(prior.axes, abs=1e-5)


@pytest.mark.parametrize("content", [b"", b"nothing", bytes(100)])
def test_broken_file_is_named_with_the_remedy(tmp_path, content):
    (tmp_path / "prior").write_bytes(content)
    with pytest.raises(DataError, match="prior: expected a fitted prior.*Delete it"):
        latent_priors.load(tmp_path / "prior")


# ------------------------------------------------------------------------------------- of a run
@pytest.fixture
def own(run, tmp_path):
    """The finished run, in a folder of its own."""
    return replace(run, folder=tmp_path)


def test_prior_of_a_run_is_fitted_to_its_training_slices_once(own, slices, split):
    found = latent_priors.of(own, "gaussian", slices, split)
    mu = encoding.encode(own.model, slices.aligned[split["train"]]).mu
    assert found.mean == pytest.approx(mu.mean(axis=0), abs=1e-4)
    again = latent_priors.of(replace(own, model=None), "gaussian", slices, split)
    assert np.array_equal(again.sample(3), found.sample(3))
    turned = split | {"train": split["test"], "test": split["train"]}
    other = latent_priors.of(own, "gaussian", slices, turned)  # it does not pass for this one
    assert not np.allclose(other.mean, found.mean)
    file, = own.folder.iterdir()
    assert file.name.startswith("prior-gaussian-") and file.suffix == latent_priors.ENDING
    assert latent_priors.of(own, "standard", slices, split).kind == "standard"


def test_prior_of_a_plain_auto_encoder_is_fitted_to_mu_alone(own, slices, split):
    plain = replace(own, config=own.config | {"beta": 0.0})
    mu = encoding.encode(own.model, slices.aligned[split["train"]]).mu
    found = latent_priors.of(plain, "gaussian", slices, split)
    ridge = latent_priors.RIDGE * np.cov(mu.T).trace() / 6 * np.eye(6)
    assert found.covariances[0] == pytest.approx(np.cov(mu.T) + ridge, rel=1e-3, abs=1e-4)


def test_prior_of_a_model_of_deformed_slices_is_fitted_to_deformed_slices(own, slices, split):
    bent = replace(own, config=own.config | {"profile": own.config["profile"] | {"augment": 1.0}})
    copies = [augmentation.deformed(slices.aligned[split["train"]], latent_priors.WARP, n)
              for n in range(latent_priors.COPIES)]
    mu = encoding.encode(own.model, np.concatenate(copies)).mu
    found = latent_priors.of(bent, "gaussian", slices, split)
    assert found.mean == pytest.approx(mu.mean(axis=0), abs=1e-4)


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf, "0.8"])
def test_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature: expected a number above 0"):
        latent_priors.standard(2).sample(3, 0, temperature)
