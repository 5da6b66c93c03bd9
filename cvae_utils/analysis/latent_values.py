"""How latent values are distributed beside N(0, 1)."""

import numpy as np


def distance_to_normal(z: np.ndarray) -> np.ndarray:
    """Wasserstein-1 distance of each dimension's values to N(0, 1), (Z,); z: (N, Z).

    Against the quantiles of N(0, 1) at (i + 1/2) / N, in units of the prior's standard deviation.
    """
    from scipy.stats import norm

    quantiles = norm.ppf((np.arange(len(z)) + 0.5) / len(z))
    return np.abs(np.sort(z, axis=0) - quantiles[:, None]).mean(axis=0)


def modes_apart(z: np.ndarray, seed: int = 0) -> np.ndarray:
    """Whether the values of each dimension lie in two groups, (Z,) bool; z: (N, Z).

    Two Gaussians are fitted. They are apart if Ashman's D = |m1 - m2| sqrt(2 / (s1^2 + s2^2)) is
    above 2 (Ashman et al. 1994) and each has at least a tenth of the values: a skewed dimension,
    which two Gaussians fit better than one, is no mixture. A single slice has no two groups.
    """
    if len(z) < 2:
        return np.zeros(z.shape[1], dtype=bool)
    from sklearn.mixture import GaussianMixture

    found = []
    for column in z.T[:, :, None]:  # (N, 1) each
        fit = GaussianMixture(2, random_state=seed).fit(column)
        distance = abs(np.diff(fit.means_[:, 0])[0]) * np.sqrt(2 / fit.covariances_.sum())
        found.append(distance > 2 and fit.weights_.min() >= 0.1)
    return np.array(found)
