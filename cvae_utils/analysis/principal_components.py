"""Principal components of one-hot label maps: the linear baseline of a VAE.

Label maps are (N, S, S) uint8; a one-hot map is (S, S, 4), so a slice is a point in 4 S^2
dimensions.
"""

from dataclasses import dataclass

import numpy as np

from cvae_utils.labels import CLASS_COUNT


@dataclass(frozen=True)
class Pca:
    """Mean and K orthonormal components of one-hot maps, strongest first.

    mean: (S, S, 4) float32
    components: (K, S, S, 4) float32; the sum of squares of each is 1
    sd: (K,) float32, of the scores of the maps it was fitted to; scores / sd are whitened
    """

    mean: np.ndarray
    components: np.ndarray
    sd: np.ndarray

    @classmethod
    def fit(cls, maps: np.ndarray, components: int) -> "Pca":
        """The exact PCA of label maps (N, S, S), by scikit-learn; `first` of it is a smaller fit.

        Raises ValueError for more components than N - 1, in which N slices can vary.
        """
        from sklearn.decomposition import PCA

        if not 1 <= components < len(maps):
            raise ValueError(f"components: expected 1 to {len(maps) - 1}, which is all that "
                             f"{len(maps)} slices vary in, found {components}; ask for fewer, or "
                             "fit more slices")
        found = PCA(components, svd_solver="full").fit(_one_hot(maps))
        shape = (*maps.shape[1:], CLASS_COUNT)
        return cls(found.mean_.reshape(shape), found.components_.reshape(components, *shape),
                   np.sqrt(found.explained_variance_))

    def first(self, count: int) -> "Pca":
        """The same with its strongest `count` components alone."""
        if not 1 <= count <= len(self.sd):
            raise ValueError(f"count: expected 1 to {len(self.sd)}, the components of this fit, "
                             f"found {count}; fit with more components")
        return Pca(self.mean, self.components[:count], self.sd[:count])

    def encode(self, maps: np.ndarray) -> np.ndarray:
        """Label maps (N, S, S) -> scores (N, K) float32."""
        if maps.shape[1:] != self.mean.shape[:2]:
            raise ValueError(f"expected label maps of shape (N, {len(self.mean)}, "
                             f"{len(self.mean)}), found {maps.shape}")
        return (_one_hot(maps) - self.mean.ravel()) @ self.components.reshape(len(self.sd), -1).T

    def decode(self, scores: np.ndarray) -> np.ndarray:
        """Scores (N, K) -> label maps (N, S, S) uint8: each pixel takes its largest class."""
        values = scores @ self.components.reshape(len(self.sd), -1) + self.mean.ravel()
        return values.reshape(-1, *self.mean.shape).argmax(axis=-1).astype(np.uint8)


def _one_hot(maps: np.ndarray) -> np.ndarray:
    """Label maps (N, S, S) -> (N, 4 S^2) float32."""
    return np.eye(CLASS_COUNT, dtype=np.float32)[maps].reshape(len(maps), -1)
