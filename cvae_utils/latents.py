"""The latent space: encode, sample, traverse, rank and name its dimensions, project it.

Latent arrays are NumPy float32, (N, Z); label maps (N, S, S) uint8.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from cvae_utils import metrics
from cvae_utils.metrics import DESCRIPTORS
from cvae_utils.model import ConvVAE, one_hot

#: Traversals of the report: one dimension from -3 to 3 in 50 steps, the others at 0.
LIMIT, STEPS = 3.0, 50
#: Pixels of label maps that pass the model at a time: 256 slices of 64 x 64, 16 of 256 x 256.
BATCH_PIXELS = 2**20

#: The effects that the report names, and the descriptors that measure each.
REPORT_EFFECTS = {
    "size of LV + MYO": ("area_lv_myo",),
    "shape of RV": ("area_rv", "rv_eccentricity"),
    "thickness of MYO": ("wall",),
    "LV off-centre in MYO, vertical": ("offset_y",),
    "LV off-centre in MYO, horizontal": ("offset_x",),
    "LV + MYO size, horizontal": ("extent_x",),
    "LV + MYO size, vertical": ("extent_y",),
}


def batch_size(side: int) -> int:
    """Slices of so many pixels a side that are encoded or decoded at a time."""
    return max(1, BATCH_PIXELS // side**2)


class Posterior(NamedTuple):
    """q(z|x) of N slices: mean and log-variance, each (N, Z)."""

    mu: np.ndarray
    logvar: np.ndarray

    def sample(self, seed: int = 0) -> np.ndarray:
        """One z a slice, (N, Z)."""
        noise = np.random.default_rng(seed).standard_normal(self.mu.shape, dtype=np.float32)
        return self.mu + np.exp(0.5 * self.logvar) * noise


@torch.inference_mode()
def encode(model: ConvVAE, maps: np.ndarray) -> Posterior:
    """Label maps (N, S, S) -> q(z|x)."""
    device = next(model.parameters()).device
    parts, step = [], batch_size(model.size)
    for start in range(0, len(maps), step):
        batch = torch.from_numpy(np.ascontiguousarray(maps[start:start + step])).to(device)
        parts.append([t.float().cpu().numpy() for t in model.encode(one_hot(batch))])
    return Posterior(*(np.concatenate(part) for part in zip(*parts)))


@torch.inference_mode()
def decode(model: ConvVAE, z: np.ndarray) -> np.ndarray:
    """Latent points (N, Z) -> arg-max label maps (N, S, S) uint8."""
    device = next(model.parameters()).device
    parts, step = [], batch_size(model.size)
    for start in range(0, len(z), step):
        batch = torch.as_tensor(z[start:start + step], dtype=torch.float32, device=device)
        parts.append(model.decode(batch).argmax(dim=1).to(torch.uint8).cpu().numpy())
    return np.concatenate(parts)


def reconstruct(model: ConvVAE, maps: np.ndarray) -> np.ndarray:
    """Label maps (N, S, S) -> their reconstructions from mu, without sampling."""
    return decode(model, encode(model, maps).mu)


def sample_prior(count: int, latent_dim: int, seed: int = 0) -> np.ndarray:
    """z ~ N(0, I), (count, Z)."""
    return np.random.default_rng(seed).standard_normal((count, latent_dim), dtype=np.float32)


def traverse(dimension: int, latent_dim: int, steps: int = STEPS, limit: float = LIMIT):
    """z (steps, Z): `dimension` goes from -limit to limit, the others stay 0."""
    z = np.zeros((steps, latent_dim), dtype=np.float32)
    z[:, dimension] = np.linspace(-limit, limit, steps)
    return z


def traverse_all(model: ConvVAE, steps: int = STEPS) -> np.ndarray:
    """Decoded traversals of every dimension, (Z, steps, S, S) uint8."""
    return np.stack([decode(model, traverse(d, model.latent_dim, steps))
                     for d in range(model.latent_dim)])


def influence(traversals: np.ndarray, mean_shape: np.ndarray) -> pd.DataFrame:
    """How far each traversal leaves the mean shape (figure 14), strongest first.

    traversals: (Z, steps, S, S); mean_shape: (S, S), the decoded z = 0. Columns: dimension;
    mean_dice, the mean over the steps of the Dice to the mean shape (low is influential); and
    variance, its variance over the steps (high is influential).
    """
    scores = np.stack([
        metrics.dice_per_slice(maps, np.broadcast_to(mean_shape, maps.shape))
        for maps in traversals
    ])  # (Z, steps)
    table = pd.DataFrame({"dimension": np.arange(len(scores)), "mean_dice": scores.mean(axis=1),
                          "variance": scores.var(axis=1)})
    return table.sort_values("mean_dice", kind="stable").reset_index(drop=True)


def effects(traversals: np.ndarray, training: pd.DataFrame) -> pd.DataFrame:
    """What each dimension does to each shape descriptor, (Z, descriptors), from -3 to 3.

    The slope of a straight line through the descriptor along the traversal, times the part of the
    traversal over which it is defined, in standard deviations of the descriptor over the training
    slices (the columns of `training`, from metrics.describe). A line uses all steps, so that one
    odd picture at an end does not decide. A descriptor that is undefined in more than half of the
    steps has effect 0.
    """
    position = np.linspace(-LIMIT, LIMIT, traversals.shape[1])
    rows = []
    for maps in traversals:
        described = metrics.describe(maps)[list(DESCRIPTORS)]
        rows.append({name: _change(position, described[name].to_numpy()) for name in DESCRIPTORS})
    return pd.DataFrame(rows) / training[list(DESCRIPTORS)].std()


def _change(x: np.ndarray, y: np.ndarray) -> float:
    """Change of y along its straight line fit, from the first to the last x where y is defined."""
    defined = ~np.isnan(y)
    if defined.mean() < 0.5:
        return 0.0
    x, y = x[defined], y[defined]
    return float(np.polyfit(x, y, 1)[0] * (x[-1] - x[0]))


def name_dimensions(effect: pd.DataFrame) -> pd.DataFrame:
    """Name each dimension by its strongest effect; (Z) rows: name, effect, purity.

    effect: from `effects`. A second effect that is at least 0.8 of the strongest is named too,
    after a slash: such a tie decides nothing. purity is the square of the strongest effect as a
    share of the sum of the squares of all: 1 when nothing else changes.
    """
    rows = {}
    for dimension, values in effect.iterrows():
        first, second = values.abs().nlargest(2).index
        tie = abs(values[second]) >= 0.8 * abs(values[first])
        total = float((values**2).sum())
        rows[dimension] = {
            "name": (DESCRIPTORS[first] if total else "no effect")
                    + (f" / {DESCRIPTORS[second]}" if tie and total else ""),
            "effect": values[first], "purity": values[first]**2 / total if total else 0.0}
    return pd.DataFrame(rows).T.astype({"effect": float, "purity": float})


def report_effects(effect: pd.DataFrame) -> pd.DataFrame:
    """For each effect that the report names: which dimension does it here, and how purely.

    An effect with two descriptors (the RV's shape: its area or its eccentricity) is measured by
    the one that changes more.

    Columns: dimension (the one with the largest such effect), effect (training standard
    deviations from -3 to 3), purity (its share of that dimension's squared effects), share (that
    dimension's share of the squared effect over all dimensions).
    """
    rows = []
    for title, names in REPORT_EFFECTS.items():
        name = max(names, key=lambda n: effect[n].abs().max())
        squared = effect[name] ** 2
        dimension = int(squared.idxmax())
        total = float((effect.loc[dimension] ** 2).sum())
        rows.append({"report": title, "measured by": DESCRIPTORS[name], "dimension": dimension,
                     "effect": effect.at[dimension, name],
                     "purity": squared[dimension] / total if total else 0.0,
                     "share": squared[dimension] / squared.sum() if squared.sum() else 0.0})
    return pd.DataFrame(rows)


def fit_umap(mu: np.ndarray, seed: int = 0):
    """Fitted UMAP to two components; its `embedding_` is (N, 2), `transform` maps new points."""
    from umap import UMAP  # here: it compiles for seconds, and only notebooks 03 and 05 need it

    neighbours = min(15, len(mu) - 1)
    # One job, because only then does the random state decide the result.
    return UMAP(n_components=2, n_neighbors=neighbours, random_state=seed, n_jobs=1).fit(mu)


def place(z: np.ndarray, mu: np.ndarray, plane: np.ndarray, neighbours: int = 15) -> np.ndarray:
    """Where UMAP's `transform` starts: latent points z (M, Z) -> the plane (M, 2), at once.

    mu: (N, Z), the points that UMAP was fitted to, plane: (N, 2), where it put them. Each new
    point is the mean of its nearest neighbours there, weighted by the memberships of UMAP's fuzzy
    graph, exp(-(d - d_1) / s) with s such that they sum to log2(neighbours) (McInnes et al. 2018,
    section 3.1). The optimisation that `transform` adds is left out: no fitted UMAP is needed, and
    nothing is compiled. `atlas.placement_error` measures the difference.
    """
    squared = (z**2).sum(axis=1)[:, None] + (mu**2).sum(axis=1) - 2 * z @ mu.T  # (M, N)
    rows = np.argsort(squared, axis=1, kind="stable")[:, :neighbours]
    distance = np.sqrt(np.maximum(np.take_along_axis(squared, rows, axis=1), 0))
    return (_memberships(distance)[..., None] * plane[rows]).sum(axis=1)


def _memberships(distance: np.ndarray) -> np.ndarray:
    """Weights, of sum 1, of the neighbours at these distances, nearest first; both (M, k)."""
    beyond = distance - distance[:, :1]
    # The sum grows with s, so bisect for it. The scale is geometric: distances have any size.
    size = np.log(np.maximum(beyond[:, -1:], 1e-12))
    low, high = size - 12, size + 12
    for _ in range(40):
        middle = (low + high) / 2
        weights = np.exp(-beyond / np.exp(middle))
        too_wide = weights.sum(axis=1, keepdims=True) > np.log2(beyond.shape[1])
        low, high = np.where(too_wide, low, middle), np.where(too_wide, middle, high)
    return weights / weights.sum(axis=1, keepdims=True)


def fit_tsne(mu: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE with three components, (N, 3)."""
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(mu) - 1) / 3)
    return TSNE(n_components=3, perplexity=perplexity, init="pca", random_state=seed,
                n_jobs=1).fit_transform(mu)


def neighbour_accuracy(points: np.ndarray, labels: np.ndarray, patients: np.ndarray,
                       neighbours: int = 15, draws: int = 200) -> tuple[float, float]:
    """Balanced accuracy of k nearest neighbours of other patients, and its standard error.

    points: (N, D); labels, patients: (N,). Slices of one patient resemble each other, so a
    patient's own slices must not vote, and the standard error is over bootstrap samples of
    patients, not slices. Chance is one over the number of labels.
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    predicted = cross_val_predict(KNeighborsClassifier(neighbours), points, labels,
                                  groups=patients, cv=LeaveOneGroupOut())
    labels, patients = np.asarray(labels), np.asarray(patients)
    rows_of = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    generator, scores = np.random.default_rng(0), []
    for _ in range(draws):
        rows = np.concatenate([rows_of[i] for i in generator.integers(len(rows_of),
                                                                      size=len(rows_of))])
        recall = pd.Series(labels[rows] == predicted[rows]).groupby(labels[rows]).mean()
        scores.append(recall.mean())
    return float(balanced_accuracy_score(labels, predicted)), float(np.std(scores))


def count_clusters(points: np.ndarray, smallest: int = 20) -> int:
    """Number of HDBSCAN clusters of at least `smallest` points; points: (N, D)."""
    from sklearn.cluster import HDBSCAN

    return int(HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(points).max() + 1)


def count_mixtures(z: np.ndarray, seed: int = 0) -> int:
    """In how many dimensions two Gaussians fit better than one, by the BIC; z: (N, Z)."""
    from sklearn.mixture import GaussianMixture

    return sum(
        GaussianMixture(2, random_state=seed).fit(column).bic(column)
        < GaussianMixture(1, random_state=seed).fit(column).bic(column)
        for column in z.T[:, :, None])  # (N, 1) each


def overlap(points_a: np.ndarray, points_b: np.ndarray, data: np.ndarray,
            neighbours: int = 15) -> float:
    """How much of the data's neighbourhood two clouds share, 0 (none) to 1 (the same).

    Each cloud (n, D) reaches the data points (N, D) that are among the nearest `neighbours` of
    one of its points; the result is the number reached by both over the smaller of the numbers
    reached by each.
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(neighbours, len(data))).fit(data)
    a, b = (set(search.kneighbors(p, return_distance=False).ravel()) for p in (points_a, points_b))
    return len(a & b) / min(len(a), len(b))


def distance_to_normal(z: np.ndarray) -> np.ndarray:
    """Wasserstein-1 distance of each dimension's values to N(0, 1), (Z,); z: (N, Z).

    Against the quantiles of N(0, 1) at (i + 1/2) / N, in units of the prior's standard deviation.
    """
    from scipy.stats import norm

    quantiles = norm.ppf((np.arange(len(z)) + 0.5) / len(z))
    return np.abs(np.sort(z, axis=0) - quantiles[:, None]).mean(axis=0)
