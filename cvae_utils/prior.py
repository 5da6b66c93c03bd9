"""The latent prior: N(0, I) of the training, or a density fitted to the encoded training slices.

The KL term pulls q(z|x) towards N(0, I), but at a low beta the slices together, the aggregate
posterior q(z) = mean of q(z|x), stay far from it (Tomczak and Welling 2018). A density fitted to
q(z) afterwards draws where the decoder has learnt to draw (Ghosh et al. 2020).
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from scipy import linalg
from scipy.special import logsumexp

from cvae_utils import augment
from cvae_utils.dataset import Slices, read_rows
from cvae_utils.latents import LIMIT, STEPS, Posterior, encode, traverse
from cvae_utils.runs import Run
from cvae_utils.storage import DataError, code_stamp, write_bytes

KINDS = ("standard", "gaussian", "mixture")
FITTED = KINDS[1:]
FILE = "prior-{}.safetensors"  # of a kind that is fitted, in the run's folder
TITLES = {"standard": "N(0, I)", "gaussian": "fitted Gaussian", "mixture": "fitted mixture"}
#: Numbers of Gaussians among which the validation slices choose.
COMPONENTS = (1, 2, 4, 8, 16)
#: Points that stand for the posterior of one slice.
DRAWS = 5
#: Of a model that was trained on deformed slices, as many deformed copies of each training slice,
#: half as strongly: a mixture of a few hundred slices alone lies closer to them than new hearts do.
COPIES, WARP = 5, 0.5
#: Added to the variances of a fit, as a share of the mean variance, so that none can vanish.
RIDGE = 1e-3


@dataclass(frozen=True)
class Prior:
    """A mixture of K Gaussians over z, and coordinates in which it is white.

    weights: (K,), means: (K, Z), covariances: (K, Z, Z). axes: (Z, Z), a column for each principal
    axis, one standard deviation long: z = mean + axes u, and u has mean 0 and covariance I. They
    are ordered by `signal` (Z,), the share of the variance along an axis that tells slices apart,
    which is not the noise of q(z|x): 1 is all, 0 an axis that ignores the picture. scores: mean
    log-density of the validation slices in nats, by number of Gaussians, where K was chosen.
    """

    kind: str
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    axes: np.ndarray
    signal: np.ndarray
    scores: dict[int, float] = field(default_factory=dict)

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

    def sample(self, count: int, seed: int = 0) -> np.ndarray:
        """z ~ prior, (count, Z) float32."""
        generator = np.random.default_rng(seed)
        noise = generator.standard_normal((count, self.latent_dim), dtype=np.float32)
        which = generator.choice(len(self.weights), size=count, p=self.weights)
        roots = np.linalg.cholesky(self.covariances)
        return (self.means[which] + np.einsum("nij,nj->ni", roots[which], noise)).astype(np.float32)

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """log p(z) in nats, (N,); z: (N, Z)."""
        parts = []
        for weight, mean, covariance in zip(self.weights, self.means, self.covariances):
            root = np.linalg.cholesky(covariance)
            white = linalg.solve_triangular(root, (z - mean).T, lower=True)  # (Z, N)
            parts.append(np.log(weight) - 0.5 * (white**2).sum(axis=0)
                         - np.log(np.diag(root)).sum() - 0.5 * len(mean) * np.log(2 * np.pi))
        return logsumexp(parts, axis=0)

    def traverse(self, axis: int, steps: int = STEPS, limit: float = LIMIT) -> np.ndarray:
        """z (steps, Z) along one principal axis, from -limit to limit standard deviations, through
        the mean."""
        return self.from_axes(traverse(axis, self.latent_dim, steps, limit))

    def from_axes(self, u: np.ndarray) -> np.ndarray:
        """Coordinates along the principal axes (..., Z), in standard deviations -> z."""
        return (self.mean + u @ self.axes.T).astype(np.float32)

    def to_axes(self, z: np.ndarray) -> np.ndarray:
        """z (..., Z) -> its coordinates along the principal axes, in standard deviations."""
        return np.linalg.solve(self.axes, np.moveaxis(z - self.mean, -1, 0).reshape(
            self.latent_dim, -1)).T.reshape(z.shape).astype(np.float32)


def standard(latent_dim: int) -> Prior:
    """N(0, I). Its axes are the latent dimensions themselves."""
    eye = np.eye(latent_dim)
    return Prior("standard", np.ones(1), np.zeros((1, latent_dim)), eye[None], eye,
                 np.full(latent_dim, np.nan))


def fit(kind: str, training: Posterior, validation: Posterior, seed: int = 0,
        draws: int = DRAWS) -> Prior:
    """Fit a prior to q(z|x) of the training slices, (N, Z).

    standard: N(0, I), nothing is fitted. gaussian: one Gaussian with the mean and the full
    covariance of q(z). mixture: Gaussians with full covariances, by expectation maximisation
    (scikit-learn) of `draws` points a slice, as many as give the validation slices the highest
    likelihood. A log-variance of minus infinity is an encoder without noise. Of no more slices than
    dimensions, the slices vary in fewer directions than there are; along the others, the density
    has the noise of q(z|x) and the ridge alone. Raises ValueError for another kind, or for fewer
    than two training slices.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {KINDS}, found {kind!r}")
    count, latent_dim = training.mu.shape
    if kind == "standard":
        return standard(latent_dim)
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
    best, scores = _choose_mixture(_points(training, draws, seed),
                                   _points(validation, DRAWS, seed + 1), ridge, seed)
    return Prior(kind, best.weights_, best.means_, best.covariances_, axes, signal, scores)


def _points(posterior: Posterior, draws: int, seed: int) -> np.ndarray:
    """Points of q(z|x), so many a slice; one is enough where there is no noise."""
    draws = draws if np.isfinite(posterior.logvar).any() else 1
    return np.concatenate([posterior.sample(seed=[seed, draw]) for draw in range(draws)]
                          ).astype(np.float64)


def _choose_mixture(training: np.ndarray, validation: np.ndarray, ridge: float, seed: int):
    from sklearn.mixture import GaussianMixture

    fitted = {}
    for components in COMPONENTS:
        if components > 1 and len(training) < 2 * components * training.shape[1]:
            break  # fewer points than a full covariance has directions, twice over
        fitted[components] = GaussianMixture(components, reg_covar=ridge, random_state=seed,
                                             max_iter=200, tol=1e-2).fit(training)
    scores = {n: float(mixture.score(validation)) for n, mixture in fitted.items()}
    return fitted[max(scores, key=scores.get)], scores


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


def load_or_fit(run: Run, kind: str, slices: Slices, split: dict[str, np.ndarray]) -> Prior:
    """The prior that lies in the run's folder, else it is fitted and kept there.

    Raises DataError if the file is broken.
    """
    path = run.folder / FILE.format(kind)
    key = code_stamp(augment, sys.modules[__name__])
    found = load(path, key)
    if found is None:
        training, validation = (read_rows(slices.aligned, split[part])
                                for part in ("train", "validation"))
        copies, draws = [training], DRAWS
        if strength := WARP * run.config["profile"]["augment"]:
            copies, draws = [augment.deformed(training, strength, n) for n in range(COPIES)], 1
        encoded = [_encode(run, maps) for maps in (*copies, validation)]
        training = Posterior(*map(np.concatenate, zip(*encoded[:-1])))
        save(path, fit(kind, training, encoded[-1], run.config["seed"], draws), key)
        found = load(path, key)  # rounded as it will be the next time
    return found


def _encode(run: Run, maps: np.ndarray) -> Posterior:
    """q(z|x), which has no noise for a plain auto-encoder."""
    found = encode(run.model, maps)
    return found if run.config["beta"] else Posterior(found.mu, np.full_like(found.mu, -np.inf))


def save(path: Path, prior: Prior, key: str) -> None:
    """Write a prior to one file. key: what it was fitted with, for `load`."""
    arrays = {name: np.ascontiguousarray(getattr(prior, name), dtype=np.float32)
              for name in ("weights", "means", "covariances", "axes", "signal")}
    notes = {"kind": prior.kind, "key": key, "scores": json.dumps(prior.scores)}
    write_bytes(path, save_arrays(arrays, metadata=notes))


def load(path: Path, key: str | None = None) -> Prior | None:
    """Read a prior; None if there is none, or none with this key (any, where key is None).

    Raises DataError if the file is broken.
    """
    if not path.is_file():
        return None
    raw = path.read_bytes()
    try:
        arrays = {name: value.astype(np.float64) for name, value in load_arrays(raw).items()}
        header = json.loads(raw[8:8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
        if key is not None and header["key"] != key:
            return None
        arrays["weights"] /= arrays["weights"].sum()  # to the last digit, for the draws
        scores = {int(n): score for n, score in json.loads(header["scores"]).items()}
        return Prior(header["kind"], **arrays, scores=scores)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: expected a fitted prior, found a broken file ({error}). Delete "
                        "it: it is then fitted again.") from error
