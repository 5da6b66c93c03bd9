"""UMAP and t-SNE of latent values, and what is near what in them.

scikit-learn and UMAP are imported where they are used: they take seconds.
"""

import contextlib
from typing import NamedTuple

import numpy as np
import pandas as pd

from cvae_utils.labels import UNKNOWN

#: UMAP in a plane, and t-SNE in space, begin at eigenvectors: one more slice than components.
FEWEST_UMAP, FEWEST_TSNE = 3, 4
#: Shuffles of the labels that tell what a vote finds by chance.
SHUFFLES = 200


def fit_umap(mu: np.ndarray, seed: int = 0):
    """Fitted UMAP to two components; its `embedding_` is (N, 2), `transform` maps new points.

    15 neighbours, or all the others where there are fewer. Raises ValueError for fewer than three
    slices.
    """
    _expect_slices(mu, FEWEST_UMAP, "UMAP in a plane")
    from umap import UMAP

    _keep_compiled()
    neighbours = min(15, len(mu) - 1)
    # The start at eigenvectors of the neighbourhood needs more points than there are eigenvectors.
    start = "spectral" if len(mu) > FEWEST_UMAP + 1 else "random"
    # One job, because only then does the random state decide the result.
    return UMAP(n_components=2, n_neighbors=neighbours, init=start, random_state=seed,
                n_jobs=1).fit(mu)


def _keep_compiled() -> None:
    """Keep on disk what numba compiles of UMAP, which else is compiled anew in every process."""
    from umap import umap_, utils

    with contextlib.suppress(RuntimeError):  # no place for a cache: then it is compiled anew
        for function in [*vars(umap_).values(), *vars(utils).values()]:
            if hasattr(function, "enable_caching"):  # which numba compiles
                function.enable_caching()


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
    from threadpoolctl import threadpool_limits

    perplexity = min(30, (len(mu) - 1) / 3)
    start = "pca" if mu.shape[1] >= 3 else "random"
    # Threads add up their sums in another order, and then the random state does not decide.
    with threadpool_limits(1):
        return TSNE(n_components=3, perplexity=perplexity, init=start, random_state=seed,
                    n_jobs=1).fit_transform(mu)


class Vote(NamedTuple):
    """How well the neighbours of a slice tell its class: see neighbour_accuracy.

    accuracy: balanced over the classes; error: its standard error; chance: the mean accuracy after
    the labels were shuffled; p: the share of shuffles that do as well as the labels themselves,
    which count as one of them: its least value is 1 / (1 + SHUFFLES).
    All are NaN if nothing can be told; lacking then says why.
    """

    accuracy: float
    error: float
    chance: float
    p: float
    lacking: str = ""

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
    generator = np.random.default_rng(0)
    right = _elected(codes, voters, counts) == codes
    accuracy = _balanced(right, codes)
    drawn = (np.concatenate([rows_of[i] for i in generator.integers(len(names), size=len(names))])
             for _ in range(draws))
    error = np.std([_balanced(right[rows], codes[rows]) for rows in drawn])
    runs = [_runs(codes[rows]) for rows in rows_of]
    shuffled = (_shuffled(rows_of, runs, generator) for _ in range(SHUFFLES))
    chances = np.array([_balanced(_elected(other, voters, counts) == other, other)
                        for other in shuffled])
    # The labels as they are count as one of their own shuffles.
    p = (1 + (chances >= accuracy - 1e-12).sum()) / (1 + SHUFFLES)
    return Vote(accuracy, float(error), float(chances.mean()), float(p))


def _elected(codes: np.ndarray, voters: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The most frequent code of each slice's voters, the smallest of a tie, (N,)."""
    given = np.where(counts, codes[voters], -1)
    return np.argmax([(given == code).sum(axis=1) for code in range(codes.max() + 1)], axis=0)


def _balanced(right: np.ndarray, codes: np.ndarray) -> float:
    """Share of slices that are right, (N,) bool, mean over the classes that occur."""
    there = np.bincount(codes)
    return float((np.bincount(codes, right)[there > 0] / there[there > 0]).mean())


def _runs(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which run of equal codes (N,) each is in, (N,), and the code of each run, (runs,)."""
    starts = np.append(True, codes[1:] != codes[:-1])
    return np.cumsum(starts) - 1, codes[starts]


def _shuffled(rows_of: list[np.ndarray], runs: list[tuple], generator: np.random.Generator):
    """Codes (N,) in which each patient's runs have those of another one."""
    other = np.empty(sum(map(len, rows_of)), dtype=int)
    for rows, (run, _), giver in zip(rows_of, runs, generator.permutation(len(runs))):
        given = runs[giver][1]
        other[rows] = given[(run + generator.integers(len(given))) % len(given)]
    return other


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
