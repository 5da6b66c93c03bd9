"""The latent prior: what is fitted, what is drawn, and the coordinates in which it is white."""

import numpy as np
import pytest

from cvae_utils import prior
from cvae_utils.latents import Posterior
from cvae_utils.storage import DataError

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
        return Posterior(mu.astype(np.float32),
                         np.tile(np.log([0.01, 0.04, 1.0]).astype(np.float32), (count, 1)))

    return draw(600), draw(200)


@pytest.fixture(scope="module", params=prior.KINDS)
def fitted(request, two_clumps):
    return prior.fit(request.param, *two_clumps)


def test_gaussian_has_the_moments_of_the_aggregate_posterior():
    """Two slices at -1 and 1, each with variance 0.5: mean 0, variance 2 + 0.5 (ddof 1)."""
    two = posterior([[-1, 3], [1, 3], [-1, 3], [1, 3]], np.log(0.5))
    found = prior.fit("gaussian", two, two)
    assert found.means[0] == pytest.approx([0, 3])
    assert found.covariances[0] == pytest.approx(np.diag([4 / 3 + 0.5, 0.5]), abs=2e-3)


def test_mixture_takes_as_many_gaussians_as_the_validation_slices_like_best(two_clumps):
    found = prior.fit("mixture", *two_clumps)
    assert len(found.weights) >= 2 and found.title == f"fitted mixture of {len(found.weights)}"
    assert max(found.scores, key=found.scores.get) == len(found.weights)
    assert found.scores[2] > found.scores[1] + 0.5
    assert np.abs(found.sample(500, 1)[:, 0]).min() > 1  # nothing between the clumps
    gaussian = prior.fit("gaussian", *two_clumps).sample(500, 1)
    assert (np.abs(gaussian[:, 0]) < 1).mean() > 0.1  # where one Gaussian has its middle


def test_few_slices_are_fitted_by_few_gaussians(two_clumps):
    few = Posterior(*(part[:20] for part in two_clumps[0]))
    assert set(prior.fit("mixture", few, few).scores) == {1, 2, 4, 8, 16}
    bare = posterior(few.mu)  # one point a slice, and no noise: 20 points
    assert set(prior.fit("mixture", bare, bare).scores) == {1, 2}


def test_samples_have_the_moments_of_the_density_and_one_seed_gives_one_sample(fitted):
    z = fitted.sample(20000, seed=3)
    assert z.dtype == np.float32 and z.shape == (20000, 3)
    assert z.mean(axis=0) == pytest.approx(fitted.mean, abs=0.15)
    white = fitted.to_axes(z)
    assert np.cov(white, rowvar=False) == pytest.approx(np.eye(3), abs=0.12)
    assert np.array_equal(fitted.sample(5, seed=3), fitted.sample(5, seed=3))
    assert not np.array_equal(fitted.sample(5, seed=3), fitted.sample(5, seed=4))


def test_log_density_is_that_of_the_mixture():
    """Two Gaussians in one dimension, by hand."""
    two = prior.Prior("mixture", np.array([0.25, 0.75]), np.array([[0.0], [2.0]]),
                      np.array([[[1.0]], [[4.0]]]), np.eye(1), np.ones(1))
    x = 1.0
    by_hand = (0.25 * np.exp(-x**2 / 2) + 0.75 / 2 * np.exp(-((x - 2) / 2) ** 2 / 2)
               ) / np.sqrt(2 * np.pi)
    assert two.log_density(np.array([[x]])) == pytest.approx([np.log(by_hand)])
    standard = prior.standard(2).log_density(np.array([[0, 0], [3, 4]]))
    assert standard == pytest.approx([-np.log(2 * np.pi), -np.log(2 * np.pi) - 12.5])


def test_coordinates_along_the_axes_go_there_and_back(fitted):
    z = fitted.sample(7, seed=1)
    assert fitted.from_axes(fitted.to_axes(z)) == pytest.approx(z, abs=1e-4)
    assert fitted.to_axes(z[0]) == pytest.approx(fitted.to_axes(z)[0], abs=1e-5)
    assert fitted.from_axes(np.zeros(3)) == pytest.approx(fitted.mean, abs=1e-6)
    one = fitted.from_axes(np.eye(3)[0]) - fitted.mean
    assert one == pytest.approx(fitted.axes[:, 0], abs=1e-5)


def test_traversal_goes_along_one_axis_through_the_mean(fitted):
    walk = fitted.traverse(1, steps=5, limit=2.0)
    assert walk.shape == (5, 3) and walk[2] == pytest.approx(fitted.mean, abs=1e-5)
    assert fitted.to_axes(walk)[:, 1] == pytest.approx([-2, -1, 0, 1, 2], abs=1e-4)
    assert fitted.to_axes(walk)[:, [0, 2]] == pytest.approx(0, abs=1e-4)


def test_axes_are_in_the_order_of_what_they_tell_of_the_slice(two_clumps):
    """The ignored dimension has more variance than it tells: it comes last, with no signal."""
    found = prior.fit("gaussian", *two_clumps)
    assert np.abs(found.axes).argmax(axis=0).tolist() == [0, 1, 2]
    assert found.signal == pytest.approx([16.25 / 16.26, 4 / 4.04, 0], abs=0.01)
    assert (np.diff(found.signal) <= 0).all()
    assert (found.axes[[0, 1, 2], [0, 1, 2]] > 0).all()  # no arbitrary sign


def test_without_noise_the_axes_are_the_principal_axes():
    generator = np.random.default_rng(0)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    mu = (generator.standard_normal((500, 2)) * [3, 1]) @ turn.T
    found = prior.fit("gaussian", posterior(mu), posterior(mu))
    lengths = np.linalg.norm(found.axes, axis=0)
    assert lengths == pytest.approx([3, 1], rel=0.1)
    assert np.abs(found.axes / lengths) == pytest.approx(np.abs(turn), abs=0.1)


def test_standard_prior_is_the_latent_space_itself():
    z = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    assert np.array_equal(prior.standard(5).to_axes(z), z)
    assert prior.standard(5).title == "N(0, I)"


def test_fit_refuses_what_it_cannot_do(two_clumps):
    with pytest.raises(ValueError, match="standard.*found 'flow'"):
        prior.fit("flow", *two_clumps)
    one = Posterior(*(part[:1] for part in two_clumps[0]))
    with pytest.raises(ValueError, match="at least 2 training slices.*found 1: use the standard"):
        prior.fit("mixture", one, one)
    assert prior.fit("standard", one, one).latent_dim == 3


@pytest.mark.parametrize("kind", prior.FITTED)
@pytest.mark.parametrize("logvar", [-2.0, -np.inf])
def test_fewer_slices_than_dimensions_vary_in_fewer_directions(kind, logvar, tmp_path):
    mu = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    few = Posterior(mu, np.full_like(mu, logvar))
    prior.save(tmp_path / "prior", prior.fit(kind, few, few), "")
    found = prior.load(tmp_path / "prior")
    assert (found.signal > 0.01).sum() == 3  # four points span three directions
    z = found.sample(50)
    assert np.isfinite(z).all() and np.isfinite(found.log_density(z)).all()
    assert found.from_axes(found.to_axes(z)) == pytest.approx(z, abs=1e-3)


def test_file_holds_the_prior_and_answers_to_its_key(fitted, tmp_path):
    path = tmp_path / "prior"
    assert prior.load(path, "a") is None
    prior.save(path, fitted, "a")
    found = prior.load(path, "a")
    assert prior.load(path, "b") is None and prior.load(path).kind == fitted.kind
    assert found.scores == fitted.scores and found.weights.sum() == pytest.approx(1, abs=1e-12)
    assert found.sample(9, 2) == pytest.approx(fitted.sample(9, 2), abs=1e-4)
    assert found.axes == pytest.approx(fitted.axes, abs=1e-5)


@pytest.mark.parametrize("content", [b"", b"nothing", bytes(100)])
def test_broken_file_is_named_with_the_remedy(tmp_path, content):
    path = tmp_path / "prior"
    path.write_bytes(content)
    with pytest.raises(DataError, match="prior: expected a fitted prior.*Delete it"):
        prior.load(path)
