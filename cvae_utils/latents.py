"""The latent space: encode, sample, traverse, rank and name its dimensions, project it.

Latent arrays are NumPy float32, (N, Z); label maps (N, S, S) uint8.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from cvae_utils import metrics
from cvae_utils.labels import STRUCTURES, UNKNOWN, Label
from cvae_utils.metrics import DESCRIPTORS
from cvae_utils.model import ConvVAE, one_hot

#: Traversals of the report: one dimension from -3 to 3 in 50 steps, the others at 0.
LIMIT, STEPS = 3.0, 50
#: Pixels of label maps that pass the model at a time: 256 slices of 64 x 64, 16 of 256 x 256.
BATCH_PIXELS = 2**20

#: A descriptor whose standard deviation over the training slices is no more than this is constant.
CONSTANT = 1e-9
#: UMAP in a plane, and t-SNE in space, begin at eigenvectors: one more slice than components.
FEWEST_UMAP, FEWEST_TSNE = 3, 4
#: Shuffles of the labels that tell what a vote finds by chance, and the share of them that may do
#: as well as the labels themselves do.
SHUFFLES, SIGNIFICANT = 200, 0.01

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
    for start in range(0, len(maps) or 1, step):  # no maps make one empty batch
        batch = torch.from_numpy(np.ascontiguousarray(maps[start:start + step])).to(device)
        parts.append([t.float().cpu().numpy() for t in model.encode(one_hot(batch))])
    return Posterior(*(np.concatenate(part) for part in zip(*parts)))


@torch.inference_mode()
def decode(model: ConvVAE, z: np.ndarray) -> np.ndarray:
    """Latent points (N, Z) -> arg-max label maps (N, S, S) uint8."""
    device = next(model.parameters()).device
    parts, step = [], batch_size(model.size)
    for start in range(0, len(z) or 1, step):
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
    steps has effect 0; so has one that has no such standard deviation, because it is undefined or
    the same in all training slices (the RV's, where no slice has an RV).
    """
    position = np.linspace(-LIMIT, LIMIT, traversals.shape[1])
    rows = []
    for maps in traversals:
        described = metrics.describe(maps)[list(DESCRIPTORS)]
        rows.append({name: _change(position, described[name].to_numpy()) for name in DESCRIPTORS})
    sd = training[list(DESCRIPTORS)].std()
    return (pd.DataFrame(rows) / sd.where(sd > CONSTANT)).fillna(0.0)


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


def best_overlap(path: np.ndarray, maps: np.ndarray, structure: Label) -> np.ndarray:
    """Dice of each map's structure with that of the picture that overlaps it best, (N,).

    path: (K, S, S), a traversal; maps: (N, S, S), which all have the structure. (0,) for no maps.
    """
    column = STRUCTURES.index(structure)
    return np.array([np.nanmax(metrics.dice_per_class(
        path, np.broadcast_to(label_map, path.shape))[:, column]) for label_map in maps])


def harshness(values: np.ndarray) -> float:
    """Largest step between neighbouring values over the mean one, 1 for even steps; values: (K,).

    NaN where nothing changes: for fewer than two values, or equal ones.
    """
    steps = np.abs(np.diff(values))
    return float(steps.max() / steps.mean()) if steps.any() else np.nan


def fit_umap(mu: np.ndarray, seed: int = 0):
    """Fitted UMAP to two components; its `embedding_` is (N, 2), `transform` maps new points.

    15 neighbours, or all the others where there are fewer. Raises ValueError for fewer than three
    slices.
    """
    _expect_slices(mu, FEWEST_UMAP, "UMAP in a plane")
    from umap import UMAP  # here: it compiles for seconds, and only notebooks 03 and 05 need it

    neighbours = min(15, len(mu) - 1)
    # The start at eigenvectors of the neighbourhood needs more points than there are eigenvectors.
    start = "spectral" if len(mu) > FEWEST_UMAP + 1 else "random"
    # One job, because only then does the random state decide the result.
    return UMAP(n_components=2, n_neighbors=neighbours, init=start, random_state=seed,
                n_jobs=1).fit(mu)


def _expect_slices(points: np.ndarray, least: int, what: str) -> None:
    if len(points) < least:
        raise ValueError(f"{what}: expected at least {least} slices, found {len(points)}; add "
                         "patients to the data set")


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
    """t-SNE with three components, (N, 3); raises ValueError for fewer than four slices.

    It starts at the three strongest principal components, or at random if mu, (N, Z), has fewer.
    """
    _expect_slices(mu, FEWEST_TSNE, "t-SNE with three components")
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(mu) - 1) / 3)
    start = "pca" if mu.shape[1] >= 3 else "random"
    return TSNE(n_components=3, perplexity=perplexity, init=start, random_state=seed,
                n_jobs=1).fit_transform(mu)


class Vote(NamedTuple):
    """How well the neighbours of a slice tell its class: see neighbour_accuracy.

    accuracy: balanced over the classes; error: its standard error; chance: the mean accuracy after
    the labels were shuffled; p: the share of shuffles that do as well as the labels themselves.
    All are NaN if nothing can be told; lacking then says why.
    """

    accuracy: float
    error: float
    chance: float
    p: float
    lacking: str = ""

    @property
    def beats_chance(self) -> bool | None:
        """Whether the labels do better than nearly all shuffled ones; None if nothing is told."""
        return None if self.lacking else self.p < SIGNIFICANT

    @property
    def shows(self) -> bool | None:
        """Whether a class shows: the accuracy is at least half-way from chance to 1.

        None within two standard errors of that mark, and where nothing can be told.
        """
        return metrics.above(self.accuracy, self.error, (1 + self.chance) / 2)

    def above(self, other: "Vote") -> bool | None:
        """Whether this accuracy is the larger one; None within two standard errors."""
        return metrics.above(self.accuracy - other.accuracy, float(np.hypot(self.error,
                                                                            other.error)))

    def __str__(self) -> str:
        return self.lacking or (f"{self.accuracy:.2f} +- {self.error:.2f} (shuffled "
                                f"{self.chance:.2f}, p {self.p:.3f})")


def neighbour_accuracy(points: np.ndarray, labels: np.ndarray, patients: np.ndarray,
                       neighbours: int = 15, draws: int = 200) -> Vote:
    """Balanced accuracy of k nearest neighbours of other patients, and of shuffled labels.

    points: (N, D); labels, patients: (N,). Slices of one patient resemble each other, so a
    patient's own slices must not vote, and the standard error is over bootstrap samples of
    patients, not slices. Fewer slices of other patients than neighbours all vote; a tie goes to
    the smallest label. Slices of which the label is not known (labels.UNKNOWN, NaN) are left out.

    Chance is what shuffled labels reach, on average: of many patients about one over the number of
    classes, of few less, because a patient's own slices do not vote. Shuffled are runs of equal
    labels along a patient's rows (all of them have the group; one volume has a phase, neighbouring
    slices a level): they get the labels of another patient's runs, beginning at any of them and
    going round. So groups are shuffled over patients, the phases of whole volumes within them, and
    slices depend on each other after a shuffle as they do before.
    """
    labels, patients = np.asarray(labels), np.asarray(patients)
    known = ~pd.isna(labels) & (labels != UNKNOWN)
    classes, codes = np.unique(labels[known], return_inverse=True)
    names, patients = np.unique(patients[known], return_inverse=True)
    if lacking := _lacking(classes, names):
        return Vote(np.nan, np.nan, np.nan, np.nan, lacking)
    voters, counts = _voters(np.asarray(points)[known], patients, neighbours)
    rows_of = [np.flatnonzero(patients == patient) for patient in range(len(names))]
    runs = [_runs(codes[rows]) for rows in rows_of]
    generator = np.random.default_rng(0)

    def elect(codes: np.ndarray) -> np.ndarray:
        """Whether the most frequent label of the voters is a slice's own, (N,)."""
        given = np.where(counts, codes[voters], -1)
        votes = [(given == code).sum(axis=1) for code in range(len(classes))]
        return np.argmax(votes, axis=0) == codes

    def balanced(right: np.ndarray, codes: np.ndarray) -> float:
        there = np.bincount(codes, minlength=len(classes))
        found = np.bincount(codes, right, minlength=len(classes))
        return float((found[there > 0] / there[there > 0]).mean())

    def shuffled() -> np.ndarray:
        other = np.empty_like(codes)
        for rows, (run, _), giver in zip(rows_of, runs, generator.permutation(len(runs))):
            given = runs[giver][1]
            other[rows] = given[(run + generator.integers(len(given))) % len(given)]
        return other

    right = elect(codes)
    resampled = (np.concatenate([rows_of[i] for i in generator.integers(
        len(rows_of), size=len(rows_of))]) for _ in range(draws))
    error = np.std([balanced(right[rows], codes[rows]) for rows in resampled])
    chances = np.array([balanced(elect(other), other) for other in
                        (shuffled() for _ in range(SHUFFLES))])
    accuracy = balanced(right, codes)
    # The labels as they are count as one of their own shuffles.
    p = (1 + (chances >= accuracy - 1e-12).sum()) / (1 + SHUFFLES)
    return Vote(accuracy, float(error), float(chances.mean()), float(p))


def _runs(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which run of equal codes (N,) each is in, (N,), and the code of each run, (runs,)."""
    starts = np.append(True, codes[1:] != codes[:-1])
    return np.cumsum(starts) - 1, codes[starts]


def _lacking(classes: np.ndarray, patients: np.ndarray) -> str:
    """Why a vote between these classes of these patients tells nothing; empty if it may."""
    if not len(classes):
        return "no class is known"
    if len(classes) == 1:
        return f"all are of one class ({classes[0]})"
    return "all are of one patient" if len(patients) == 1 else ""


def _voters(points: np.ndarray, patients: np.ndarray, neighbours: int):
    """Rows of the nearest slices of other patients, (N, k), and which of them count, (N, k) bool:
    all, unless other patients have fewer."""
    from sklearn.neighbors import NearestNeighbors

    # With so many more, enough are left once the patient's own are taken out.
    count = min(len(points), neighbours + int(np.bincount(patients).max()))
    nearest = NearestNeighbors(n_neighbors=count).fit(points).kneighbors(
        points, return_distance=False)
    others = patients[nearest] != patients[:, None]
    first = np.argsort(~others, axis=1, kind="stable")[:, :neighbours]
    return tuple(np.take_along_axis(found, first, axis=1) for found in (nearest, others))


def count_clusters(points: np.ndarray, smallest: int = 20) -> int:
    """Number of HDBSCAN clusters of at least `smallest` points; points: (N, D)."""
    if len(points) < smallest:
        return 0
    from sklearn.cluster import HDBSCAN

    return int(HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(points).max() + 1)


def count_mixtures(z: np.ndarray, seed: int = 0) -> float:
    """In how many dimensions two Gaussians fit better than one, by the BIC; z: (N, Z).

    NaN for fewer than two slices. Of few slices, two Gaussians may fit better by chance: count
    those of as many samples of N(0, 1), too.
    """
    if len(z) < 2:
        return np.nan
    from sklearn.mixture import GaussianMixture

    return sum(
        GaussianMixture(2, random_state=seed).fit(column).bic(column)
        < GaussianMixture(1, random_state=seed).fit(column).bic(column)
        for column in z.T[:, :, None])  # (N, 1) each


def reached(points: np.ndarray, data: np.ndarray, neighbours: int = 15) -> np.ndarray:
    """Which data points (N, D) are among the nearest `neighbours` of a point of a cloud (n, D),
    (N,) bool."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(neighbours, len(data))).fit(data)
    found = np.zeros(len(data), dtype=bool)
    found[search.kneighbors(points, return_distance=False)] = True
    return found


def overlap(points_a: np.ndarray, points_b: np.ndarray, data: np.ndarray,
            neighbours: int = 15) -> float:
    """How much of the data's neighbourhood two clouds share, 0 (none) to 1 (the same).

    Each cloud (n, D) reaches the data points (N, D) that are among the nearest `neighbours` of
    one of its points; the result is the number reached by both over the smaller of the numbers
    reached by each. Clouds that reach more than half of the data each overlap whatever they are.
    """
    a, b = (reached(points, data, neighbours) for points in (points_a, points_b))
    return float((a & b).sum() / min(a.sum(), b.sum()))


def distance_to_normal(z: np.ndarray) -> np.ndarray:
    """Wasserstein-1 distance of each dimension's values to N(0, 1), (Z,); z: (N, Z).

    Against the quantiles of N(0, 1) at (i + 1/2) / N, in units of the prior's standard deviation.
    """
    from scipy.stats import norm

    quantiles = norm.ppf((np.arange(len(z)) + 0.5) / len(z))
    return np.abs(np.sort(z, axis=0) - quantiles[:, None]).mean(axis=0)
