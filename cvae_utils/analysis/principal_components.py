"""Principal components of label maps: the linear baselines of a VAE.

Label maps are (N, S, S) uint8. A slice is a point in 4 S^2 dimensions: its one-hot map, or the
signed distance map of each class (Leventon et al. 2000), whose components move outlines and do not
fade them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from cvae_utils import shape_metrics
from cvae_utils.labels import CLASS_COUNT

#: Distances (pixels) among which the validation slices choose where distance maps are clipped.
CLIPS = (2.0, 3.0, 5.0, 8.0, 12.0)


@dataclass(frozen=True)
class Pca:
    """Mean and K orthonormal components of one-hot or distance maps, strongest first.

    mean: (S, S, 4) float32
    components: (K, S, S, 4) float32; the sum of squares of each is 1
    sd: (K,) float32, of the scores of the maps it was fitted to; scores / sd are whitened
    clip: where the distance maps were clipped, in pixels; 0 for one-hot maps
    """

    mean: np.ndarray
    components: np.ndarray
    sd: np.ndarray
    clip: float = 0.0

    @classmethod
    def fit(cls, maps: np.ndarray, components: int, clip: float = 0.0) -> "Pca":
        """The exact PCA of label maps (N, S, S), by scikit-learn; `first` of it is a smaller fit.

        clip: of signed_distances; 0 takes one-hot maps. Raises ValueError for more components than
        N - 1, in which N slices can vary.
        """
        return cls._of(_points(maps, clip), maps.shape[1:], components, clip)

    @classmethod
    def fit_distances(cls, training: np.ndarray, validation: np.ndarray, counts: Sequence[int],
                      clips: Sequence[float] = CLIPS) -> "dict[int, Pca]":
        """{count: its PCA of the distance maps of training slices (N, S, S)}, each clipped where
        the validation slices are then rebuilt with the highest mean Dice."""
        widest, found = max(clips), {}
        distances = widest * signed_distances(training, widest)  # clipped further below
        for clip in clips:
            points = (np.clip(distances, -clip, clip) / clip).reshape(len(training), -1)
            fit = cls._of(points, training.shape[1:], max(counts), clip)
            for count in counts:
                part = fit.first(count)
                dice = np.nanmean(shape_metrics.dice_per_slice(
                    part.decode(part.encode(validation)), validation))
                found.setdefault(count, []).append((dice, part))
        return {count: max(tried, key=lambda pair: pair[0])[1] for count, tried in found.items()}

    @classmethod
    def _of(cls, points: np.ndarray, size: tuple[int, int], components: int, clip: float) -> "Pca":
        from sklearn.decomposition import PCA

        if not 1 <= components < len(points):
            raise ValueError(f"components: expected 1 to {len(points) - 1}, which is all that "
                             f"{len(points)} slices vary in, found {components}; ask for fewer, or "
                             "fit more slices")
        # Exact as the full decomposition is, and several times as fast for a few components.
        found = PCA(components, svd_solver="arpack", random_state=0).fit(points)
        shape = (*size, CLASS_COUNT)
        return cls(found.mean_.reshape(shape), found.components_.reshape(components, *shape),
                   np.sqrt(found.explained_variance_), clip)

    def first(self, count: int) -> "Pca":
        """The same with its strongest `count` components alone."""
        if not 1 <= count <= len(self.sd):
            raise ValueError(f"count: expected 1 to {len(self.sd)}, the components of this fit, "
                             f"found {count}; fit with more components")
        return Pca(self.mean, self.components[:count], self.sd[:count], self.clip)

    def encode(self, maps: np.ndarray) -> np.ndarray:
        """Label maps (N, S, S) -> scores (N, K) float32."""
        if maps.shape[1:] != self.mean.shape[:2]:
            raise ValueError(f"expected label maps of shape (N, {len(self.mean)}, "
                             f"{len(self.mean)}), found {maps.shape}")
        components = self.components.reshape(len(self.sd), -1)
        return (_points(maps, self.clip) - self.mean.ravel()) @ components.T

    def decode(self, scores: np.ndarray) -> np.ndarray:
        """Scores (N, K) -> label maps (N, S, S) uint8: each pixel takes its largest class."""
        values = scores @ self.components.reshape(len(self.sd), -1) + self.mean.ravel()
        return values.reshape(-1, *self.mean.shape).argmax(axis=-1).astype(np.uint8)


def signed_distances(maps: np.ndarray, clip: float) -> np.ndarray:
    """Label maps (N, S, S) -> signed distance maps (N, S, S, 4) float32, from -1 to 1.

    The distance in pixels from the centre of a pixel to the outline of each class, positive inside
    it, clipped at +-clip and divided by it; an outline lies half way between two pixels. A class
    that is absent is far away everywhere.
    """
    found = np.empty((*maps.shape, CLASS_COUNT), dtype=np.float32)
    for label_map, distances in zip(maps, found):
        for label in range(CLASS_COUNT):
            inside = label_map == label
            if inside.any() and not inside.all():
                both = distance_transform_edt(inside), distance_transform_edt(~inside)
                distances[..., label] = np.where(inside, both[0] - 0.5, 0.5 - both[1])
            else:
                distances[..., label] = clip if inside.any() else -clip
    return np.clip(found, -clip, clip) / clip


def _points(maps: np.ndarray, clip: float) -> np.ndarray:
    """Label maps (N, S, S) -> (N, 4 S^2) float32: distance maps, or one-hot maps if clip is 0."""
    points = signed_distances(maps, clip) if clip else np.eye(CLASS_COUNT, dtype=np.float32)[maps]
    return points.reshape(len(maps), -1)
