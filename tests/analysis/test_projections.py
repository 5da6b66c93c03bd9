"""UMAP, t-SNE, votes of neighbours and overlaps, on clouds whose answers are known."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.manifold import TSNE
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_info, threadpool_limits

from cvae_utils.analysis import projections
from cvae_utils.analysis.projections import neighbour_accuracy


def blobs(centres, each=30, spread=0.1, seed=0):
    noise = np.random.default_rng(seed).normal(size=(len(centres), each, 2))
    return (np.array(centres, dtype=float)[:, None] + spread * noise).reshape(-1, 2)


# ------------------------------------------------------------------------- votes of the neighbours
@pytest.mark.parametrize("neighbours", [1, 4, 15])
def test_vote_is_that_of_a_classifier_from_which_the_patient_is_left_out(neighbours):
    draw = np.random.default_rng(1)
    points, patients = draw.normal(size=(90, 3)), draw.integers(12, size=90)
    labels = np.array(["a", "b", "c"])[draw.integers(3, size=90)]
    predicted = cross_val_predict(KNeighborsClassifier(neighbours), points, labels,
                                  groups=patients, cv=LeaveOneGroupOut())
    found = neighbour_accuracy(points, labels, patients, neighbours)
    assert found.accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_fewer_others_than_neighbours_all_vote():
    points, patients = np.arange(5.0)[:, None], np.array([0, 0, 1, 2, 3])
    labels = np.array(["b", "b", "a", "b", "a"])
    # Votes on 0 and 1: a b a; on 2: b b b a; on 3: b b a a, a tie, so a; on 4: b b a b.
    assert neighbour_accuracy(points, labels, patients).accuracy == 0
    labels[3] = "a"  # the tie was right
    # Votes on 0, 1: a a a; on 2: b b a a, a tie, so a; on 3 and 4 likewise.
    assert neighbour_accuracy(points, labels, patients).accuracy == 1 / 2


def test_labels_that_lie_apart_are_told_and_unknown_ones_left_out():
    points, patients = blobs([(0, 0), (5, 0), (0, 5)], each=40), np.tile(np.arange(10), 12)
    labels = np.repeat(["a", "b", "c"], 40).astype(object)
    found = neighbour_accuracy(points, labels, patients)
    assert (found.accuracy, found.error) == (1, 0)  # in every sample
    assert found.chance == pytest.approx(1 / 3, abs=0.05) and found.p == pytest.approx(1 / 201)
    assert str(found) == f"1.00 +- 0.00 (shuffled {found.chance:.2f}, p 0.005)"
    more = np.concatenate([points, points]), np.concatenate([labels, ["unknown"] * 120])
    assert neighbour_accuracy(*more, np.tile(patients, 2)) == found


@pytest.mark.parametrize(("labels", "patients", "why"), [
    (["NOR"] * 6, range(6), "all are of one class (NOR)"),
    ([0.0] * 6, range(6), "all are of one class (0.0)"),
    (["unknown"] * 6, range(6), "no class is known"),
    ([np.nan] * 6, range(6), "no class is known"),
    (["NOR", "DCM"] * 3, [1] * 6, "all are of one patient"),
    (["NOR", "unknown"] * 3, range(6), "all are of one class (NOR)"),
])
def test_vote_says_why_nothing_can_be_told(labels, patients, why):
    found = neighbour_accuracy(np.zeros((6, 2)), np.array(labels), np.array(patients))
    assert np.isnan(found[:4]).all() and str(found) == why


def strayed(times, slices_each=1):
    """Labels far apart, 10 patients each; 1 of "a" lies among "b". So many times, and slices."""
    away = 3 * np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][:times])  # and not among one another
    places = np.concatenate([blobs([(100, 0)], each=9 * times), away,
                             blobs([(0, 0)], each=10 * times)])
    labels = np.repeat(["a", "b"], 10 * times)
    return [np.repeat(x, slices_each, axis=0) for x in (places, labels, np.arange(20 * times))]


def test_standard_error_is_over_patients_and_not_over_slices():
    accuracy, error = neighbour_accuracy(*strayed(1), neighbours=5)[:2]
    assert accuracy == pytest.approx((0.9 + 1) / 2)
    assert error == pytest.approx(np.sqrt(0.9 * 0.1 / 10) / 2, rel=0.2)  # binomial, recall of "a"
    repeated = neighbour_accuracy(*strayed(1, slices_each=4), neighbours=5)[:2]
    assert repeated == pytest.approx((accuracy, error))  # more slices tell nothing new
    more, smaller = neighbour_accuracy(*strayed(4), neighbours=5)[:2]
    assert more == pytest.approx(accuracy) and smaller == pytest.approx(error / 2, rel=0.2)


def volumes(seed, patients=8, slices_each=5):
    """Noise in which each patient, and each of its two volumes, lies somewhere of its own."""
    draw = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 2 * slices_each)
    volume = np.repeat(np.arange(2 * patients), slices_each)
    points = (draw.normal(size=(patients, 3))[patient] + draw.normal(size=(2 * patients, 3))[volume]
              + 0.3 * draw.normal(size=(len(patient), 3)))
    return points, patient, volume


def test_shuffles_know_that_slices_of_a_patient_and_of_a_volume_are_alike():
    """Of noise, p is below 0.05 in 5 % of all tries; neighbours of the same patient do not vote."""
    small = {"group": 0, "phase": 0}
    for seed in range(40):
        points, patient, volume = volumes(seed)
        groups = np.random.default_rng(seed).permutation(np.arange(8) % 2)[patient]
        for name, labels in (("group", groups), ("phase", volume % 2)):
            small[name] += neighbour_accuracy(points, labels, patient, draws=2).p < 0.05
    assert max(small.values()) <= 5  # of 40; more in 1 of 70 tries
    points, patient, volume = volumes(0, patients=16)
    moved = points + np.where(volume % 2, 4, 0)[:, None]  # every patient alike
    assert neighbour_accuracy(moved, volume % 2, patient).p < 0.01


# ------------------------------------------------------------------------------------ clouds
def test_overlap_by_hand():
    data = np.arange(6.0)[:, None]
    a, b = np.array([[0.9], [2.1]]), np.array([[2.1], [3.1], [4.1]])  # reach 1 2 and 2 3 4
    assert projections.reached(a, data, neighbours=1).tolist() == [False, True, True, *[False] * 3]
    assert projections.overlap(a, b, data, neighbours=1) == 1 / 2
    assert projections.overlap(b, b[:1], data, neighbours=1) == 1  # a part of it is inside it
    assert projections.overlap(a[:1], b[1:], data, neighbours=1) == 0
    assert projections.overlap(a[:1], b[1:], data, neighbours=15) == 1  # fewer points: all reached


def test_clusters_are_counted_and_the_scattered_left_out():
    stray = np.array([[x, y] for x in (-50.0, 55.0) for y in (-52.0, 57.0)])
    few = blobs([(10, -10)], each=12)
    points = np.concatenate([blobs([(0, 0), (10, 10)]), few, stray])
    assert projections.count_clusters(points) == 2
    assert projections.count_clusters(points, smallest=10) == 3
    sparse = np.random.default_rng(0).uniform(size=(25, 2))
    assert projections.count_clusters(sparse) == 0
    assert projections.count_clusters(points[:12]) == projections.count_clusters(points[:1]) == 0


# ------------------------------------------------------------------------------------- projections
@pytest.mark.parametrize(("mu", "weights"), [
    # Weights 1, w, w^2, w^3 of distances 0 to 3 must sum to log2(4) = 2: w = 0.5437. Scaled to 1.
    ([0, -1, 2, 3], 0.543689 ** np.arange(4) / 2),
    ([5, -55, 105, 155], 0.543689 ** np.arange(4) / 2),  # nearest first, and in any unit
    ([4, 4, 4, -4], [0.25] * 4),
])
def test_neighbours_weigh_as_much_as_umap_asks_for(mu, weights):
    plane = np.eye(4)  # so that the place is the weights themselves
    found = projections.place(np.zeros((1, 1)), np.array(mu, dtype=float)[:, None], plane, 4)
    assert found[0] == pytest.approx(weights, abs=1e-5)


def test_point_is_placed_among_its_neighbours_in_the_plane():
    mu = blobs([(0, 0), (10, 10)], each=20).astype(np.float32)
    plane = mu * 3 + 1
    z = np.array([[0, 0], [10, 10]], dtype=np.float32)
    assert projections.place(z, mu, plane) == pytest.approx(3 * z + 1, abs=1.5)
    alone = projections.place(z, mu[:1], plane[:1])  # one neighbour, and it decides
    assert alone == pytest.approx(np.repeat(plane[:1], 2, axis=0))


@pytest.mark.parametrize(("slices", "dimensions"), [(30, 4), (4, 8), (4, 2), (12, 1)])
def test_tsne_has_three_components_and_is_reproducible(slices, dimensions):
    mu = np.random.default_rng(0).normal(size=(slices, dimensions)).astype(np.float32)
    found = projections.fit_tsne(mu)
    assert found.shape == (slices, 3) and np.isfinite(found).all()
    assert (found == projections.fit_tsne(mu)).all()


def test_tsne_runs_on_one_thread_on_which_its_sums_repeat(monkeypatch):
    seen = []
    monkeypatch.setattr(TSNE, "fit_transform", lambda self, mu: seen.extend(
        pool["num_threads"] for pool in threadpool_info()))
    with threadpool_limits(2):
        projections.fit_tsne(np.zeros((9, 4)))
    assert seen and set(seen) == {1}


def test_too_few_slices_for_a_projection_are_named():
    with pytest.raises(ValueError, match="at least 3 slices, found 2; add patients"):
        projections.fit_umap(np.zeros((2, 6)))
    with pytest.raises(ValueError, match="at least 4 slices, found 3; add patients"):
        projections.fit_tsne(np.zeros((3, 6)))


def test_umap_is_asked_for_what_makes_it_reproducible(monkeypatch):
    """UMAP itself is run by the notebooks."""
    class Fake:
        def __init__(self, **options):
            self.options = options

        def fit(self, mu):
            self.shape = mu.shape
            return self

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Fake))
    monkeypatch.setattr(projections, "_keep_compiled", lambda: None)
    fitted = projections.fit_umap(np.zeros((40, 6)), seed=3)
    assert fitted.shape == (40, 6)
    assert fitted.options == dict(n_components=2, n_neighbors=15, init="spectral", random_state=3,
                                  n_jobs=1)
    assert projections.fit_umap(np.zeros((8, 6))).options["n_neighbors"] == 7  # all the others
    assert projections.fit_umap(np.zeros((3, 6))).options["init"] == "random"  # few eigenvectors


def test_what_numba_compiles_of_umap_is_kept_where_a_folder_can_be_written_to(monkeypatch):
    from umap import umap_, utils

    def no_folder(function):
        raise RuntimeError(f"cannot cache function {function}: no locator available")

    projections._keep_compiled()
    for function in (utils.fast_knn_indices, umap_.smooth_knn_dist,
                     umap_.compute_membership_strengths, utils.submatrix):
        assert Path(function.stats.cache_path).is_dir()
    monkeypatch.setattr(type(utils.submatrix), "enable_caching", no_folder)
    projections._keep_compiled()  # raises nothing
