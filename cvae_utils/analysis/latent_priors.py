"""The latent prior: N(0, I) of the training, or a density fitted to the encoded training slices.

The KL term pulls q(z|x) towards N(0, I), but at a low beta the slices together, the aggregate
posterior q(z) = mean of q(z|x), stay far from it (Tomczak and Welling 2018). A density fitted to
q(z) afterwards draws where the decoder has learnt to draw (Ghosh et al. 2020).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_arrays
from scipy import linalg

from cvae_utils.analysis.dimensions import LIMIT, STEPS, traverse
from cvae_utils.analysis.run_results import key_for
from cvae_utils.cache import kept
from cvae_utils.data.slices import Slices, read_rows
from cvae_utils.files import DataError, write_bytes
from cvae_utils.model import augmentation
from cvae_utils.model.encoding import Posterior, encode
from cvae_utils.model.runs import Run
from cvae_utils.profiles import number

KINDS = ("standard", "gaussian", "mixture")
FITTED = KINDS[1:]
ENDING = ".safetensors"  # of the files that hold the fitted ones
TITLES = {"standard": "N(0, I)", "gaussian": "fitted Gaussian", "mixture": "fitted mixture"}
#: Numbers of Gaussians among which the validation slices choose.
COMPONENTS = (1, 2, 4, 8, 16)
#: Of the mixture, where hearts are drawn to be looked at; notebook 06 chooses it on validation.
TEMPERATURE = 0.8
#: Points that stand for the posterior of one slice.
DRAWS = 5
#: Of a model that was trained on deformed slices, as many copies of each training slice, deformed
#: so strongly: a mixture of a few hundred slices alone lies closer to them than new hearts do.
COPIES, WARP = 5, 0.5
#: Added to the variances of a fit, as a share of the mean variance, so that none can vanish.
RIDGE = 1e-3


@dataclass(frozen=True)
class Prior:
    """A mixture of K Gaussians over z, and coordinates in which it is white.

    weights: (K,), means: (K, Z), covariances: (K, Z, Z). axes: (Z, Z), a column for each principal
    axis, one standard deviation long: z = mean + axes u, and u has mean 0 and covariance I. They
    are ordered by `signal` (Z,), the share of the variance along an axis that tells slices apart,
    which is not the noise of q(z|x): 1 is all, 0 an axis that ignores the picture.
    """

    kind: str
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    axes: np.ndarray
    signal: np.ndarray

    @property
    def title(self) -> str:
        count = f" of {len(self.weights)}" if self.kind == "mixture" else ""
        return TITLES[self.kind] + count

    @property
    def latent_dim(self) -> int:
        return self.means.shape[1]

    @property
    def mean(self) -> np.ndarray:
        """Mean of the whole density, (Z,)."""
        return self.weights @ self.means

    def sample(self, count: int, seed: int = 0, temperature: float = 1.0) -> np.ndarray:
        """z ~ prior, (count, Z) float32.

        temperature: factor of the standard deviations of each Gaussian (Kingma and Dhariwal 2018).
        Below 1, draws keep closer to codes of real slices. Raises ValueError if it is no number
        above 0.
        """
        temperature = number("temperature", temperature, zero=False)
        generator = np.random.default_rng(seed)
        noise = generator.standard_normal((count, self.latent_dim), dtype=np.float32) * temperature
        which = generator.choice(len(self.weights), size=count, p=self.weights)
        roots = np.linalg.cholesky(self.covariances)
        return (self.means[which] + np.einsum("nij,nj->ni", roots[which], noise)).astype(np.float32)

    def traverse(self, axis: int, steps: int = STEPS, limit: float = LIMIT) -> np.ndarray:
        """z (steps, Z) along one principal axis, from -limit to limit standard deviations, through
        the mean."""
        return self.from_axes(traverse(axis, self.latent_dim, steps, limit))

    def from_axes(self, u: np.ndarray) -> np.ndarray:
        """Coordinates along the principal axes (..., Z), in standard deviations -> z."""
        return (self.mean + u @ self.axes.T).astype(np.float32)

    def to_axes(self, z: np.ndarray) -> np.ndarray:
        """z (..., Z) -> its coordinates along the principal axes, in standard deviations."""
        return ((z - self.mean) @ np.linalg.inv(self.axes).T).astype(np.float32)


def standard(latent_dim: int) -> Prior:
    """N(0, I). Its axes are the latent dimensions themselves."""
    eye = np.eye(latent_dim)
    return Prior("standard", np.ones(1), np.zeros((1, latent_dim)), eye[None], eye,
                 np.full(latent_dim, np.nan))


def fit(kind: str, training: Posterior, validation: Posterior, seed: int = 0,
        draws: int = DRAWS) -> Prior:
    """Fit a prior, one of FITTED, to q(z|x) of the training slices, (N, Z).

    gaussian: one Gaussian with the mean and the full covariance of q(z). mixture: Gaussians with
    full covariances, by expectation maximisation (scikit-learn) of `draws` points a slice, as many
    as give the validation slices the highest likelihood. A log-variance of minus infinity is an
    encoder without noise. Slices that are no more than the dimensions vary in fewer directions than
    there are; along the others, the density has the noise of q(z|x) and the ridge alone. Raises
    ValueError for another kind, or for fewer than two training slices.
    """
    if kind not in FITTED:
        raise ValueError(f"kind: expected one of {FITTED}, found {kind!r}")
    count, latent_dim = training.mu.shape
    if count < 2:
        raise ValueError(f"expected at least 2 training slices, which have a covariance, found "
                         f"{count}: use the standard prior, or add patients")
    # Law of total variance: what tells slices apart, and what q(z|x) adds around each.
    between = np.cov(training.mu, rowvar=False, dtype=np.float64).reshape(latent_dim, latent_dim)
    within = np.exp(training.logvar.astype(np.float64)).mean(axis=0)
    ridge = RIDGE * np.trace(between) / latent_dim
    axes, signal = _principal_axes(between, within + ridge)
    if kind == "gaussian":
        covariance = between + np.diag(within + ridge)
        return Prior(kind, np.ones(1), training.mu.mean(axis=0, dtype=np.float64)[None],
                     covariance[None], axes, signal)
    best = _choose_mixture(_points(training, draws, seed), _points(validation, DRAWS, seed + 1),
                           ridge, seed)
    return Prior(kind, best.weights_, best.means_, best.covariances_, axes, signal)


def _points(posterior: Posterior, draws: int, seed: int) -> np.ndarray:
    """Points of q(z|x), so many a slice; one is enough where there is no noise."""
    draws = draws if np.isfinite(posterior.logvar).any() else 1
    return np.concatenate([posterior.sample(seed=[seed, draw]) for draw in range(draws)]
                          ).astype(np.float64)


def _choose_mixture(training: np.ndarray, validation: np.ndarray, ridge: float, seed: int):
    from sklearn.mixture import GaussianMixture

    # No more than leave a full covariance twice as many points as it has directions.
    fitted = [GaussianMixture(count, reg_covar=ridge, random_state=seed, max_iter=200,
                              tol=1e-2).fit(training) for count in COMPONENTS
              if count == 1 or len(training) >= 2 * count * training.shape[1]]
    return max(fitted, key=lambda mixture: mixture.score(validation))


def _principal_axes(between: np.ndarray, within: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Axes (Z, Z) in which between + diag(within) is white, and the share of between along each.

    Plain principal axes of the sum would mix dimensions that ignore the picture, which are N(0, 1)
    by themselves, with those that carry it. So: the generalised eigenvalues of between against
    within, which are signal to noise; where the noise is the same in all directions, these are the
    plain principal axes.
    """
    ratio, vectors = linalg.eigh(between, np.diag(within))  # v' within v = 1, v' between v = ratio
    order = np.argsort(-ratio)
    ratio, vectors = np.maximum(ratio[order], 0), vectors[:, order]
    # u = (v / sqrt(1 + ratio))' z is white, and this is its inverse.
    axes = within[:, None] * vectors * np.sqrt(1 + ratio)
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))])
    return axes * signs, ratio / (1 + ratio)


def of(run: Run, kind: str, slices: Slices, split: dict[str, np.ndarray]) -> Prior:
    """A prior of a run, of KINDS: N(0, I), or one that is fitted to its training slices."""
    return (standard(run.model.latent_dim) if kind == "standard" else
            load_or_fit(run, kind, slices, split))


def load_or_fit(run: Run, kind: str, slices: Slices, split: dict[str, np.ndarray]) -> Prior:
    """The prior that lies in the run's folder if it was fitted to this split, else it is fitted and
    kept there. Raises DataError if the file is broken."""
    key = key_for(slices, split, code=[fit_to_run, save])
    return load(kept(run.folder, f"prior-{kind}", key,
                     lambda path: save(path, fit_to_run(run, kind, slices, split)), ENDING))


def fit_to_run(run: Run, kind: str, slices: Slices, split: dict[str, np.ndarray]) -> Prior:
    """A prior fitted to the codes of a run's training slices, deformed if it has seen such."""
    training, validation = (read_rows(slices.aligned, split[part])
                            for part in ("train", "validation"))
    copies, draws = [training], DRAWS
    if run.config["profile"]["augment"]:
        copies, draws = [augmentation.deformed(training, WARP, n) for n in range(COPIES)], 1
    encoded = [_encode(run, maps) for maps in (*copies, validation)]
    training = Posterior(*map(np.concatenate, zip(*encoded[:-1])))
    return fit(kind, training, encoded[-1], run.config["seed"], draws)


def _encode(run: Run, maps: np.ndarray) -> Posterior:
    """q(z|x), which has no noise for a plain auto-encoder."""
    found = encode(run.model, maps)
    return found if run.config["beta"] else Posterior(found.mu, np.full_like(found.mu, -np.inf))


def save(path: Path, prior: Prior) -> None:
    """Write a prior to one file."""
    arrays = {name: np.ascontiguousarray(getattr(prior, name), dtype=np.float32)
              for name in ("weights", "means", "covariances", "axes", "signal")}
    write_bytes(path, save_arrays(arrays, metadata={"kind": prior.kind}))


def load(path: Path) -> Prior:
    """Read a prior. Raises DataError if the file is broken."""
    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name).astype(np.float64) for name in file.keys()}
            kind = file.metadata()["kind"]
        arrays["weights"] /= arrays["weights"].sum()  # to the last digit, for the draws
        return Prior(kind, **arrays)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: expected a fitted prior, found a broken file ({error}). Delete "
                        "it: it is then fitted again.") from error
