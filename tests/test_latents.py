"""The latent space: on a tiny model, and on clouds and shapes whose answers are known."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hearts import picture
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from cvae_utils import latents, metrics
from cvae_utils.labels import Label
from cvae_utils.latents import DESCRIPTORS, REPORT_EFFECTS, Posterior
from cvae_utils.model import one_hot


# ------------------------------------------------------------------------------ encode and decode
def test_slices_are_encoded_and_decoded_whatever_the_batch(untrained, random_maps, monkeypatch):
    posterior = latents.encode(untrained, random_maps)
    assert posterior.mu.shape == posterior.logvar.shape == (5, 6)
    with torch.no_grad():
        mu, logvar = untrained.encode(one_hot(torch.from_numpy(random_maps)))
        maps = untrained.decode(mu).argmax(dim=1)
    assert posterior.mu == pytest.approx(mu.numpy(), abs=1e-5)
    assert posterior.logvar == pytest.approx(logvar.numpy(), abs=1e-5)
    rebuilt = latents.reconstruct(untrained, random_maps)
    assert rebuilt.dtype == np.uint8 and (rebuilt == maps.numpy()).mean() > 0.999

    monkeypatch.setattr(latents, "batch_size", lambda side: {32: 2}[side])  # 2, 2 and 1
    assert latents.encode(untrained, random_maps).mu == pytest.approx(posterior.mu, abs=1e-5)
    assert (latents.decode(untrained, posterior.mu) == rebuilt).mean() > 0.999


def test_no_slices_are_encoded_and_decoded_to_none(untrained, random_maps):
    assert latents.encode(untrained, random_maps[:0]).mu.shape == (0, 6)
    assert latents.reconstruct(untrained, random_maps[:0]).shape == (0, 32, 32)


@pytest.mark.parametrize(("side", "count"), [(64, 256), (256, 16), (700, 2), (2048, 1)])
def test_batch_holds_a_million_pixels_and_at_least_one_slice(side, count):
    assert latents.batch_size(side) == count


def test_posterior_is_sampled_with_its_mean_and_deviation():
    mu = np.tile(np.array([0, 3], dtype=np.float32), (20000, 1))
    posterior = Posterior(mu, np.tile(np.log(np.array([1, 0.25], dtype=np.float32)), (20000, 1)))
    z = posterior.sample(seed=1)
    assert z.mean(axis=0) == pytest.approx([0, 3], abs=0.03)
    assert z.std(axis=0) == pytest.approx([1, 0.5], rel=0.03)
    assert (z == posterior.sample(seed=1)).all() and (z != posterior.sample(seed=2)).any()


def test_prior_is_standard_normal_and_reproducible():
    z = latents.sample_prior(20000, 3, seed=1)
    assert z.shape == (20000, 3) and z.dtype == np.float32
    assert z.mean(axis=0) == pytest.approx(0, abs=0.03)
    assert z.std(axis=0) == pytest.approx(1, abs=0.03)
    assert (latents.sample_prior(20000, 3, seed=1) == z).all()
    assert (latents.sample_prior(20000, 3, seed=2) != z).any()


# ------------------------------------------------------------------------------------- traversals
def test_traversal_moves_one_dimension_from_end_to_end():
    z = latents.traverse(2, 4)
    assert z.shape == (50, 4)
    assert (z[0, 2], z[-1, 2]) == (-3, 3) and np.diff(z[:, 2]) == pytest.approx(6 / 49, abs=1e-6)
    assert not z[:, [0, 1, 3]].any()


def test_every_dimension_is_traversed(untrained):
    found = latents.traverse_all(untrained)
    assert found.shape == (6, 50, 32, 32)
    assert (found[4] == latents.decode(untrained, latents.traverse(4, 6))).all()
    coarse = latents.traverse_all(untrained, steps=8)  # every seventh of the 50 steps
    assert coarse.shape == (6, 8, 32, 32) and (coarse == found[:, ::7]).mean() > 0.999


def hearts(**ranges):
    """A traversal of five hearts (5, 64, 64); each keyword gives a measure at its two ends."""
    base = dict(cavity=(0.15, 0.15), outer=(0.25, 0.25), rv=(0.12, 0.12), shift=(0, 0)) | ranges
    steps = []
    for share in np.linspace(0, 1, 5):
        measures = {name: (1 - share) * a + share * b for name, (a, b) in base.items()}
        steps.append(picture(64, lv_shift=(measures.pop("shift"), 0), **measures))
    return np.stack(steps)


def test_influence_ranks_what_leaves_the_mean_shape():
    still, some, most = hearts(), hearts(cavity=(0.13, 0.17)), hearts(cavity=(0.09, 0.21))
    table = latents.influence(np.stack([some, still, most]), still[0])
    assert table["dimension"].tolist() == [2, 0, 1]
    assert table["mean_dice"].iloc[2] == 1 and table["variance"].iloc[2] == 0
    assert (np.diff(table["mean_dice"]) > 0).all() and (np.diff(table["variance"]) < 0).all()
    by_hand = metrics.dice_per_slice(most, np.stack([still[0]] * 5))
    assert table.loc[0, ["mean_dice", "variance"]].tolist() == pytest.approx(
        [by_hand.mean(), by_hand.var()])


@pytest.fixture
def known():
    """Effects of five dimensions that do one known thing each; the last does nothing."""
    traversals = np.stack([
        hearts(outer=(0.22, 0.28), cavity=(0.12, 0.18)),  # grows with its wall as it is
        hearts(shift=(0.06, -0.06)),  # the LV moves to the left
        hearts(cavity=(0.18, 0.12)),  # the wall thickens inwards
        hearts(rv=(0.16, 0.08)),  # the RV shrinks
        hearts(),
    ])
    training = pd.DataFrame({name: [-scale, 0, scale] for name, scale in
                             zip(DESCRIPTORS, np.linspace(0.02, 0.03, len(DESCRIPTORS)))})
    return latents.effects(traversals, training), training


def test_effects_are_changes_from_end_to_end_in_training_deviations(known):
    effect, training = known
    growth = np.pi * (0.28**2 - 0.22**2) / training["area_lv_myo"].std()
    assert effect.at[0, "area_lv_myo"] == pytest.approx(growth, rel=0.05)
    assert effect.at[1, "offset_x"] == pytest.approx(-0.12 / training["offset_x"].std(), rel=0.05)
    assert effect.at[2, "wall"] == pytest.approx(0.06 / training["wall"].std(), rel=0.1)
    assert effect.at[3, "area_rv"] < -0.5 and abs(effect.at[3, "area_lv"]) < 1e-9
    assert effect.loc[4].abs().max() < 1e-9


def test_effect_leaves_out_steps_without_the_structure():
    vanishing = hearts()
    vanishing[:2][vanishing[:2] == 1] = 0  # no RV in the first two steps
    flat = pd.DataFrame({name: [-1.0, 1.0] for name in DESCRIPTORS})
    effect = latents.effects(np.stack([vanishing, np.zeros_like(vanishing)]), flat)
    assert effect.at[0, "rv_eccentricity"] == pytest.approx(0, abs=1e-9)
    assert effect.at[0, "area_rv"] > 0
    assert (effect.loc[1] == 0).all()  # nothing to be seen, nothing changes


#: Sides of a rectangle of RV and its eccentricity, sqrt(1 - short^2 / long^2).
ROUND, OVAL, LONG = (4, 4), (5, 4), (5, 3)  # 0, 0.6, 0.8


@pytest.mark.parametrize(("sides", "change"), [
    ([ROUND, OVAL, LONG], 0.8),  # three points of equal distance: the slope of their ends
    ([None, None, ROUND, OVAL, LONG], 0.8),  # over half of the traversal, and not 1.6
    ([None, ROUND, ROUND, LONG, LONG], 0.96),  # slope 0.32 a step, and not 0.8 / 3
    ([LONG, ROUND, None, None], -0.8),  # half of the steps suffice
    ([ROUND, None, LONG, None, None], 0),  # less does not
])
def test_effect_counts_only_where_the_descriptor_is_defined(sides, change):
    maps = np.zeros((len(sides), 16, 16), dtype=np.uint8)
    for label_map, side in zip(maps, sides):
        if side is not None:
            label_map[3:3 + side[0], 2:2 + side[1]] = 1
    training = pd.DataFrame({name: [-1.0, 0.0, 1.0] for name in DESCRIPTORS})  # deviation 1
    found = latents.effects(maps[None], training)
    assert found.at[0, "rv_eccentricity"] == pytest.approx(change, abs=1e-9)


def test_dimension_is_named_by_its_strongest_effect(known):
    named = latents.name_dimensions(known[0])
    assert named["name"].iloc[1] == "LV offset in MYO, horizontal"
    assert named["effect"].iloc[1] < 0 and named["purity"].iloc[1] > 0.95
    assert named["name"].iloc[3] in ("RV size", "RV eccentricity")
    assert named["purity"].between(0, 1).all()


def test_purity_is_the_share_of_the_squared_effects():
    effect = pd.DataFrame(0.0, index=range(2), columns=list(DESCRIPTORS))
    effect.loc[0, ["wall", "area_lv"]] = [-2.0, 1.0]
    named = latents.name_dimensions(effect)
    assert named.loc[0].tolist() == ["wall thickness", -2.0, 0.8]
    assert named.loc[1, ["effect", "purity"]].tolist() == [0, 0]


@pytest.mark.parametrize(("second", "name"), [
    (1.6, "wall thickness / LV size"), (-1.6, "wall thickness / LV size"),  # 0.8 of the strongest
    (1.59, "wall thickness"),
])
def test_near_tie_is_named_after_a_slash(second, name):
    effect = pd.DataFrame(0.0, index=[7], columns=list(DESCRIPTORS))
    effect.loc[7, ["wall", "area_lv", "area_rv"]] = [-2.0, second, 1.5]  # a third is not named
    named = latents.name_dimensions(effect)
    assert named.loc[7, ["name", "effect"]].tolist() == [name, -2.0]
    assert named.at[7, "purity"] == pytest.approx(4 / (4 + second**2 + 2.25))


def test_report_effects_find_the_dimension_that_does_each(known):
    found = latents.report_effects(known[0]).set_index("report")
    assert list(found.index) == list(REPORT_EFFECTS)
    assert found.at["size of LV + MYO", "dimension"] == 0
    assert found.at["LV off-centre in MYO, horizontal", "dimension"] == 1
    assert found.at["thickness of MYO", "dimension"] == 2
    assert found.at["shape of RV", "dimension"] == 3
    assert found.at["LV off-centre in MYO, horizontal", "share"] == pytest.approx(1, abs=0.01)
    nothing = latents.report_effects(known[0] * 0)
    assert (nothing[["effect", "purity", "share"]] == 0).all(axis=None)


def test_without_an_rv_nothing_is_said_of_it(known):
    without = np.where((traversals := np.stack([hearts(rv=(0, 0)), hearts(
        rv=(0, 0), shift=(0.06, -0.06))])) == 1, 0, traversals)
    training = metrics.describe(without.reshape(-1, 64, 64))
    effect = latents.effects(without, training)
    assert np.isfinite(effect).all(axis=None)
    assert (effect[["area_rv", "rv_eccentricity"]] == 0).all(axis=None)
    assert latents.name_dimensions(effect)["name"].iloc[1] == "LV offset in MYO, horizontal"
    found = latents.report_effects(effect).set_index("report")
    assert len(found) == 7 and found.at["shape of RV", "effect"] == 0


def test_each_map_finds_the_picture_of_a_path_that_overlaps_it_best():
    path, maps = hearts(rv=(0.08, 0.16)), hearts(rv=(0.08, 0.16))[[3, 0]]
    assert latents.best_overlap(path, maps, Label.RV).tolist() == [1, 1]
    ends = latents.best_overlap(path[[0, -1]], maps, Label.RV)
    assert ends[1] == 1 and 0.5 < ends[0] < 1
    assert latents.best_overlap(path, maps[:0], Label.RV).shape == (0,)


@pytest.mark.parametrize(("values", "harsh"), [
    ([0, 2, 4, 6], 1), ([0, 1, 4, 3], 9 / 5), ([5, 5, 5], np.nan), ([5], np.nan), ([], np.nan)])
def test_harshness_is_the_largest_step_over_the_mean_one(values, harsh):
    assert latents.harshness(np.array(values)) == pytest.approx(harsh, nan_ok=True)


# --------------------------------------------------------------------------------------- measures
def blobs(centres, each=30, spread=0.1, seed=0):
    noise = np.random.default_rng(seed).normal(size=(len(centres), each, 2))
    return (np.array(centres, dtype=float)[:, None] + spread * noise).reshape(-1, 2)


def test_overlap_is_one_for_the_same_cloud_and_zero_far_apart():
    data = blobs([(0, 0), (10, 0)], each=100)
    left, right = data[:40], data[100:140]
    assert latents.overlap(left, left, data) == 1
    assert latents.overlap(left, right, data) == 0
    assert latents.overlap(left, left[:5], data) == 1  # a part of it is inside it
    assert latents.overlap(left, right, data[:10]) == 1  # fewer points than neighbours: all reached


def test_overlap_by_hand():
    data = np.arange(6.0)[:, None]
    a, b = np.array([[0.9], [2.1]]), np.array([[2.1], [3.1], [4.1]])  # reach 1 2 and 2 3 4
    assert latents.overlap(a, b, data, neighbours=1) == 1 / 2
    assert latents.reached(a, data, neighbours=1).tolist() == [False, True, True, *[False] * 3]


def test_neighbours_of_the_same_patient_do_not_vote():
    draw = np.random.default_rng(0)
    order = draw.permutation(400)
    patients = np.repeat(np.arange(40), 10)[order]
    points = blobs(draw.uniform(-10, 10, (40, 2)), each=10)[order]  # a tight cluster each
    labels = (np.arange(40) % 2)[patients]  # which tells nothing about where it is
    found = latents.neighbour_accuracy(points, labels, patients, 9)
    assert found.accuracy == pytest.approx(0.5, abs=0.15) and 0.04 < found.error < 0.15
    assert found.beats_chance is False and found.p > 0.1


def test_neighbours_tell_labels_that_lie_apart():
    points = blobs([(0, 0), (5, 0), (0, 5)], each=40)
    labels = np.repeat(["a", "b", "c"], 40)
    patients = np.tile(np.arange(10), 12)
    found = latents.neighbour_accuracy(points, labels, patients)
    assert (found.accuracy, found.error) == (1, 0)  # in every sample
    assert found.chance == pytest.approx(1 / 3, abs=0.05) and found.p == pytest.approx(1 / 201)
    assert found.beats_chance and found.shows
    assert str(found) == f"1.00 +- 0.00 (shuffled {found.chance:.2f}, p 0.005)"


@pytest.mark.parametrize("neighbours", [1, 4, 15])
def test_vote_is_that_of_a_classifier_from_which_the_patient_is_left_out(neighbours):
    draw = np.random.default_rng(1)
    points, patients = draw.normal(size=(90, 3)), draw.integers(12, size=90)
    labels = np.array(["a", "b", "c"])[draw.integers(3, size=90)]
    predicted = cross_val_predict(KNeighborsClassifier(neighbours), points, labels,
                                  groups=patients, cv=LeaveOneGroupOut())
    found = latents.neighbour_accuracy(points, labels, patients, neighbours)
    assert found.accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_fewer_others_than_neighbours_all_vote():
    points, patients = np.arange(5.0)[:, None], np.array([0, 0, 1, 2, 3])
    labels = np.array(["b", "b", "a", "b", "a"])
    # Votes on 0 and 1: a b a; on 2: b b b a; on 3: b b a a, a tie, so a; on 4: b b a b.
    assert latents.neighbour_accuracy(points, labels, patients).accuracy == 0
    labels[3] = "a"  # the tie was right
    # Votes on 0, 1: a a a; on 2: b b a a, a tie, so a; on 3 and 4 likewise.
    assert latents.neighbour_accuracy(points, labels, patients).accuracy == 1 / 2


def test_slices_of_unknown_class_are_left_out():
    points = blobs([(0, 0), (5, 0)], each=30)
    labels, patients = np.repeat(["NOR", "DCM"], 30).astype(object), np.tile(np.arange(10), 6)
    known = latents.neighbour_accuracy(points, labels, patients)
    more = np.concatenate([points, points]), np.concatenate([labels, ["unknown"] * 60])
    assert latents.neighbour_accuracy(*more, np.tile(patients, 2)) == known


@pytest.mark.parametrize(("labels", "patients", "why"), [
    (["NOR"] * 6, range(6), "all are of one class (NOR)"),
    ([0.0] * 6, range(6), "all are of one class (0.0)"),
    (["unknown"] * 6, range(6), "no class is known"),
    ([np.nan] * 6, range(6), "no class is known"),
    (["NOR", "DCM"] * 3, [1] * 6, "all are of one patient"),
    (["NOR", "unknown"] * 3, range(6), "all are of one class (NOR)"),
])
def test_vote_says_why_nothing_can_be_told(labels, patients, why):
    found = latents.neighbour_accuracy(np.zeros((6, 2)), np.array(labels), np.array(patients))
    assert np.isnan(found[:4]).all() and str(found) == why
    assert found.beats_chance is found.shows is found.above(found) is None


def volumes(seed, patients=8, slices_each=5):
    """Noise in which each patient, and each of its two volumes, lies somewhere of its own."""
    draw = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 2 * slices_each)
    volume = np.repeat(np.arange(2 * patients), slices_each)
    points = (draw.normal(size=(patients, 3))[patient] + draw.normal(size=(2 * patients, 3))[volume]
              + 0.3 * draw.normal(size=(len(patient), 3)))
    return points, patient, volume


def test_shuffles_know_that_slices_of_a_patient_and_of_a_volume_are_alike():
    """Of noise, p is below 0.05 in 5 % of all tries."""
    small = {"group": 0, "phase": 0}
    for seed in range(40):
        points, patient, volume = volumes(seed)
        groups = np.random.default_rng(seed).permutation(np.arange(8) % 2)[patient]
        for name, labels in (("group", groups), ("phase", volume % 2)):
            small[name] += latents.neighbour_accuracy(points, labels, patient, draws=2).p < 0.05
    assert max(small.values()) <= 5  # of 40; more in 1 of 70 tries


def test_phase_that_moves_every_patient_alike_is_told():
    points, patient, volume = volumes(0, patients=16)
    moved = points + np.where(volume % 2, 4, 0)[:, None]
    assert latents.neighbour_accuracy(moved, volume % 2, patient).beats_chance


@pytest.mark.parametrize(("accuracy", "shows"), [
    (0.71, True), (0.69, None), (0.51, None), (0.49, False)])
def test_class_shows_half_way_from_chance_to_one(accuracy, shows):
    assert latents.Vote(accuracy, 0.05, chance=0.2, p=0.5).shows is shows


def test_votes_are_told_apart_by_two_standard_errors():
    low, high = latents.Vote(0.5, 0.03, 0.2, 0), latents.Vote(0.61, 0.04, 0.2, 0)
    assert high.above(low) is True and low.above(high) is False
    assert latents.Vote(0.59, 0.04, 0.2, 0).above(low) is None


def strayed(times, slices_each=1):
    """Labels far apart, 10 patients each; 1 of "a" lies among "b". So many times, and slices."""
    away = 3 * np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][:times])  # and not among one another
    places = np.concatenate([blobs([(100, 0)], each=9 * times), away,
                             blobs([(0, 0)], each=10 * times)])
    labels = np.repeat(["a", "b"], 10 * times)
    return [np.repeat(x, slices_each, axis=0) for x in (places, labels, np.arange(20 * times))]


def test_standard_error_is_over_patients_and_not_over_slices():
    accuracy, error = latents.neighbour_accuracy(*strayed(1), neighbours=5)[:2]
    assert accuracy == pytest.approx((0.9 + 1) / 2)
    assert error == pytest.approx(np.sqrt(0.9 * 0.1 / 10) / 2, rel=0.2)  # binomial, recall of "a"
    repeated = latents.neighbour_accuracy(*strayed(1, slices_each=4), neighbours=5)[:2]
    assert repeated == pytest.approx((accuracy, error))  # more slices tell nothing new
    more, smaller = latents.neighbour_accuracy(*strayed(4), neighbours=5)[:2]
    assert more == pytest.approx(accuracy) and smaller == pytest.approx(error / 2, rel=0.2)


def test_accuracy_is_balanced_over_labels():
    points = np.zeros((50, 2)) + np.arange(50)[:, None] * 1e-6  # everybody in one place
    labels = np.array(["common"] * 45 + ["rare"] * 5)
    found = latents.neighbour_accuracy(points, labels, np.arange(50) % 5)
    assert found.accuracy == pytest.approx(0.5, abs=0.1)  # and not 0.9
    assert found.error < 0.1


def test_clusters_are_counted_and_the_scattered_left_out():
    stray = np.array([[x, y] for x in (-50.0, 55.0) for y in (-52.0, 57.0)])
    few = blobs([(10, -10)], each=12)
    points = np.concatenate([blobs([(0, 0), (10, 10)]), few, stray])
    assert latents.count_clusters(points) == 2
    assert latents.count_clusters(points, smallest=10) == 3
    sparse = np.random.default_rng(0).uniform(size=(25, 2))
    assert latents.count_clusters(sparse) == 0
    assert latents.count_clusters(points[:12]) == latents.count_clusters(points[:1]) == 0


def test_dimensions_of_two_gaussians_are_counted():
    normal = norm.ppf((np.arange(400) + 0.5) / 400)
    halves = np.where(np.arange(400) % 2, 3.0, -3.0)  # means six deviations apart
    z = np.column_stack([normal, normal + halves, 5 * normal + 2, 0.1 * (normal + halves)])
    assert latents.count_mixtures(z) == 2
    assert [latents.count_mixtures(z[:, [d]]) for d in range(4)] == [0, 1, 0, 1]
    assert np.isnan(latents.count_mixtures(z[:1])) and latents.count_mixtures(z[:2]) >= 0


def test_distance_to_normal_is_the_shift_of_a_shifted_normal():
    quantiles = norm.ppf((np.arange(1000) + 0.5) / 1000)
    z = np.random.default_rng(0).permutation(quantiles)[:, None] + np.array([[0.0, 1.0, -2.0]])
    assert latents.distance_to_normal(z) == pytest.approx([0, 1, 2])
    assert latents.distance_to_normal(np.zeros((1000, 1))) == pytest.approx(
        np.sqrt(2 / np.pi), abs=0.01)  # a collapsed dimension: the mean of |N(0, 1)|


# ------------------------------------------------------------------------------------ projections
@pytest.mark.parametrize(("slices", "dimensions"), [(4, 8), (4, 2), (12, 1)])
def test_tsne_of_few_slices_or_dimensions_is_laid_out(slices, dimensions):
    mu = np.random.default_rng(0).normal(size=(slices, dimensions)).astype(np.float32)
    found = latents.fit_tsne(mu)
    assert found.shape == (slices, 3) and np.isfinite(found).all()


def test_too_few_slices_for_a_projection_are_named():
    with pytest.raises(ValueError, match="at least 3 slices, found 2; add patients"):
        latents.fit_umap(np.zeros((2, 6)))
    with pytest.raises(ValueError, match="at least 4 slices, found 3; add patients"):
        latents.fit_tsne(np.zeros((3, 6)))


def test_tsne_has_three_components_and_is_reproducible():
    points = blobs([(0, 0), (10, 10)], each=15).astype(np.float32)
    mu = np.column_stack([points, points[:, ::-1]])
    found = latents.fit_tsne(mu)
    assert found.shape == (30, 3) and (found == latents.fit_tsne(mu)).all()


def test_weights_of_neighbours_sum_to_the_membership_that_umap_asks_for():
    """Four neighbours must sum to log2(4) = 2 before they are scaled to 1."""
    weights = latents._memberships(np.array([[0.0, 1, 2, 3], [5.0, 5.5, 6.0, 6.5]]))
    assert weights.sum(axis=1) == pytest.approx(1)
    assert weights[0] / weights[0, 0] == pytest.approx(
        (weights[0, 1] / weights[0, 0]) ** np.arange(4))  # an exponential of the distance
    assert 1 / weights[0, 0] == pytest.approx(2)
    assert weights[1] == pytest.approx(weights[0])  # neither the scale nor the nearest matters
    assert latents._memberships(np.zeros((1, 4))) == pytest.approx(0.25)


def test_point_is_placed_among_its_neighbours_in_the_plane():
    mu = blobs([(0, 0), (10, 10)], each=20).astype(np.float32)
    plane = mu * 3 + 1
    z = np.array([[0, 0], [10, 10]], dtype=np.float32)
    assert latents.place(z, mu, plane) == pytest.approx(3 * z + 1, abs=1.5)
    alone = latents.place(z, mu[:1], plane[:1])  # one neighbour, and it decides
    assert alone == pytest.approx(np.repeat(plane[:1], 2, axis=0))


def test_umap_is_asked_for_what_makes_it_reproducible(monkeypatch):
    """UMAP itself compiles for longer than all tests together; the notebooks run it."""
    class Fake:
        def __init__(self, **options):
            self.options = options

        def fit(self, mu):
            self.shape = mu.shape
            return self

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Fake))
    fitted = latents.fit_umap(np.zeros((40, 6)), seed=3)
    assert fitted.shape == (40, 6)
    assert fitted.options == dict(n_components=2, n_neighbors=15, init="spectral", random_state=3,
                                  n_jobs=1)
    assert latents.fit_umap(np.zeros((8, 6))).options["n_neighbors"] == 7  # all the others
    assert latents.fit_umap(np.zeros((3, 6))).options["init"] == "random"  # too few eigenvectors
