"""A walk through a small latent space: where it leads, and what is measured there."""

from dataclasses import replace

import numpy as np
import pytest
from atlases import CENTRE, TURN, halved, heart, small_atlas, unit, with_priors

from cvae_utils import shape_metrics
from cvae_utils.explorer.walk import STRIP_STEPS, Exploration, SliceSearch, training_rows
from cvae_utils.labels import Label
from cvae_utils.model import encoding


@pytest.fixture
def walk(atlas):
    return Exploration(atlas)


@pytest.fixture
def turned(atlas):
    """A walk along the axes of the fitted Gaussian."""
    made = Exploration(with_priors(atlas))
    made.use("gaussian")
    return made


@pytest.fixture
def labelled(atlas, slices):
    """A walk that can start from slices of 32 or 16 pixels a side; it notes what was asked for."""
    def labels(size):
        made.sizes.append(size)
        return {32: slices, 16: halved(slices)}[size]

    made = Exploration(atlas, labels)
    made.sizes = []
    return made


# ------------------------------------------------------------------------------ going somewhere
@pytest.mark.parametrize(("kind", "centre", "axes", "order", "label"), [
    ("standard", np.zeros(6), np.eye(6), [3, 0, 5, 1, 4, 2], "z0"),  # the active ones first
    ("gaussian", CENTRE, TURN, [0, 1, 2, 3, 4, 5], "axis 1"),
])
def test_moves_go_along_the_axes_and_back_undoes_them(atlas, kind, centre, axes, order, label):
    walk, model = Exploration(with_priors(atlas)), atlas.run.model
    walk.use(kind)
    before = view = walk.view()
    assert walk.z == pytest.approx(centre) and walk.start_name == "mean heart"
    assert walk.order == order and view.dimension == order[0] and view.value == 0
    assert (view.label_map == heart(model, centre)).all() and view.dice_to_mean == 1
    walk.move(4, -1.0)
    walk.move(0, 0.5)
    view = walk.view()
    assert view.u == pytest.approx([0.5, 0, 0, 0, -1, 0], abs=1e-6)
    assert walk.z == pytest.approx(centre + 0.5 * axes[:, 0] - axes[:, 4])
    assert (view.dimension, view.value, view.label) == (0, 0.5, label)
    assert (view.label_map == heart(model, walk.z)).all()
    assert (view.start_map == before.label_map).all()
    assert view.dice_to_mean == shape_metrics.dice_per_slice(view.label_map[None],
                                                             before.label_map[None])[0] < 1
    walk.back()
    assert walk.z == pytest.approx(centre) and walk.u == pytest.approx(np.zeros(6), abs=1e-6)
    assert view.u[4] == -1  # what was seen stays as it was


def test_random_start_is_a_sample_of_the_prior(turned):
    turned.use("mixture")
    generator, drawn = np.random.default_rng(0), []
    for _ in range(20):
        turned.to_random(generator)
        drawn.append(turned.z - CENTRE)
    assert np.abs(drawn) == pytest.approx(np.tile([1, 0, 0, 0, 0, 0], (20, 1)), abs=1e-3)
    assert {-1, 1} == {round(float(z[0])) for z in drawn}
    assert turned.start_name == "a sample of the fitted mixture of 2"


def test_point_and_coordinates_stay_what_they_are_to_the_last_digit(walk, turned):
    z = np.linspace(-1, 1, 6).astype(np.float32)
    for where in (walk, turned):
        where.begin(z, "here")
        assert where.z.tobytes() == z.tobytes()
        before = where.u
        for value in np.linspace(-3, 3, 20):
            where.move(where.order[0], value)
        others = where.order[1:]
        assert (where.u[others] == before[others]).all()
        for point in (where.z, where.u, where.view().u):
            point += 1  # a copy: else its coordinates would not follow
        where.back()
        assert where.z.tobytes() == z.tobytes()
    assert walk.u.tobytes() == z.tobytes()
    assert turned.u == pytest.approx(np.linalg.solve(TURN, z - CENTRE))


# ------------------------------------------------------------------------------------- the strip
def test_strip_stays_while_only_the_selected_dimension_moves(walk, table):
    first = walk.view()
    walk.move(3, 1.0)
    second = walk.view()
    assert second.strip is first.strip and second.path is first.path
    walk.move(0, 1.0)
    third = walk.view()
    assert (third.strip != first.strip).any()
    walk.dimension = 3  # selected, and not moved
    assert (walk.view().strip != third.strip).any()
    walk.open(small_atlas(table, posterior=encoding.Posterior(
        -walk.atlas.posterior.mu, walk.atlas.posterior.logvar)))  # the same z in another plane
    assert (walk.view().path != first.path).any()


@pytest.mark.parametrize("k", [0, 6, 9, 12])
def test_tile_at_the_current_value_is_the_heart(walk, k):
    walk.begin(np.linspace(-1, 1, 6), "here")
    walk.move(5, -3 + k / 2)
    view = walk.view()
    assert view.strip.shape == (STRIP_STEPS, 32, 32) and view.path.shape == (STRIP_STEPS, 2)
    agreement = (view.strip == view.label_map).mean(axis=(1, 2))
    assert agreement.argmax() == k and agreement[k] > 0.998
    assert view.path[k] == pytest.approx(view.point, abs=1e-4)
    assert np.linalg.norm(np.diff(view.path, axis=0), axis=1).max() > 0.01


def test_sweep_goes_from_end_to_end_and_back(turned, atlas):
    turned.move(1, 1.0)
    turned.move(5, -0.5)  # three of dimension 5
    for found, value in zip(turned.sweep(4), (-3, 0, 3, 0)):
        z = CENTRE + unit(1, 1) + unit(5, 3 * value)
        assert (found == heart(atlas.run.model, z)).mean() > 0.998
    assert turned.u[5] == -0.5


# ---------------------------------------------------------------------------------- measurements
def test_search_agrees_with_dice_of_every_slice():
    maps = np.random.default_rng(0).integers(0, 4, (9, 16, 16)).astype(np.uint8)
    maps[1][maps[1] == Label.RV] = 0
    maps[2][maps[2] > Label.RV] = 0
    maps[-1] = 0
    search = SliceSearch(maps)
    assert [search(label_map) for label_map in maps[:-1]] == [(k, 1.0) for k in range(8)]
    half = np.where(np.arange(16) < 8, maps[2], 0)  # all it has lies in one slice's RV
    inside, all_of_it = (half == Label.RV).sum(), (maps[2] == Label.RV).sum()
    assert search(half) == (2, pytest.approx(2 * inside / (inside + all_of_it)))
    search = SliceSearch(maps[[0, 1, 2, 3, -1]])
    for target in maps:
        scores = np.nan_to_num(shape_metrics.dice_per_slice(
            np.broadcast_to(target, (5, 16, 16)), maps[[0, 1, 2, 3, -1]]))
        row, dice = search(target)
        assert dice == pytest.approx(scores.max()) and scores[row] == scores.max()


@pytest.fixture
def ring():
    """20 pixels of RV beside a square wall of 48 around 16 of LV, in 32 x 32."""
    label_map = np.zeros((32, 32), dtype=np.uint8)
    label_map[10:15, 6:10] = Label.RV
    label_map[10:18, 10:18] = Label.MYO
    label_map[12:16, 12:16] = Label.LV
    return label_map


@pytest.mark.parametrize(("crop_mm", "expected"), [
    # The wall of a ring of circles: sqrt(64 / pi) - sqrt(16 / pi) = 2.26 pixels.
    (64.0, ["80 mm²", "192 mm²", "64 mm²", "4.5 mm"]),  # a pixel of 2 mm
    (None, ["2.0 % of picture", "4.7 % of picture", "1.6 % of picture", "7.1 % of its side"]),
])
def test_sizes_are_in_mm_where_the_slice_is_known(walk, ring, crop_mm, expected):
    walk.begin(np.zeros(6), "a slice", crop_mm)
    measures = dict(walk.measure(ring))
    assert [measures[name] for name in ("RV area", "MYO area", "LV area", "wall thickness")
            ] == expected
    assert (measures["start"], measures["anatomy"]) == ("a slice", "valid")


def test_what_is_missing_or_broken_is_said(walk, ring):
    measures = dict(walk.measure(np.zeros((32, 32), dtype=np.uint8)))
    assert measures["LV area"] == "0.0 % of picture" and measures["anatomy"] == "no LV; no MYO"
    assert measures["wall thickness"] == "none"
    ring[13, 13] = 0
    assert dict(walk.measure(ring))["anatomy"] == (
        "hole in LV; hole in MYO and LV; LV touches background")


@pytest.mark.parametrize(("u", "said"), [
    ([3, -3, 3.04, 0, 0, 0], None),
    ([3.06, 0, 0, 0, 0, 0], "z0 3.1"),
    ([3.2, -4, 0, 0, 0, 5], "z0 3.2, z1 -4.0, z5 5.0"),
    ([3.2, -4, 5, 6, 7, 0], "z0 3.2, z1 -4.0, z2 5.0 and 2 more"),
])
def test_values_beyond_the_sliders_are_said(walk, turned, ring, u, said):
    walk.begin(np.array(u), "far away")
    assert dict(walk.measure(ring)).get("beyond ±3") == said
    turned.begin(CENTRE + unit(4, 1.75) + unit(5, 8.9), "far away")  # 3.5 and 2.97 steps
    assert dict(turned.measure(ring))["beyond ±3"] == "axis 1 3.5"


# -------------------------------------------------------------------------------- with the labels
def test_nearest_slice_is_one_of_those_trained_on(atlas, slices, split, labelled):
    row = split["train"][60]
    assert labelled.nearest(slices.aligned[row]).startswith("needs the labels")
    known = labelled.load_labels().table.iloc[row]
    assert labelled.nearest(slices.aligned[row]) == (
        f"Dice 1.00 ({known.patient} {known.phase}, slice {known.slice_index})")
    for row in split["test"][::9]:
        assert slices.table["patient"].iloc[row] not in labelled.nearest(slices.aligned[row])
    other = Exploration(replace(atlas, source="ACDC"), lambda size: slices)
    other.load_labels()
    assert other.nearest(slices.aligned[row]) == "needs the ACDC labels"


def test_training_slices_are_found_by_name_in_any_order(atlas, slices, split):
    train, last = split["train"], len(slices.table) - 1
    assert training_rows(atlas, slices).tolist() == train.tolist()
    older = replace(atlas, table=atlas.table.drop(columns="scan"))
    assert training_rows(older, slices).tolist() == train.tolist()
    turned = replace(slices, table=slices.table.iloc[::-1].reset_index(drop=True))
    assert training_rows(atlas, turned).tolist() == (last - train).tolist()
    lost = slices.table.drop(train[7]).reset_index(drop=True)
    assert training_rows(atlas, replace(slices, table=lost)) is None
    assert training_rows(atlas, replace(slices, source="ACDC")) is None


def test_scans_of_one_patient_are_told_apart(slices, split):
    """Two volumes of a patient whose phases are not known differ in their scan alone."""
    scan = np.where(slices.table["phase"] == "ED", "frame01", "frame12")
    both = replace(slices, table=slices.table.assign(phase="unknown", scan=scan))
    first = both.table.iloc[split["train"][0]]
    atlas = small_atlas(both.table.iloc[split["train"]])
    assert training_rows(atlas, both).tolist() == split["train"].tolist()
    walk = Exploration(atlas, lambda size: both)
    walk.load_labels()
    assert walk.nearest(slices.aligned[split["train"][0]]) == (
        f"Dice 1.00 ({first.patient} frame01, slice {first.slice_index})")
    nameless = replace(atlas, table=atlas.table.drop(columns="scan"))
    assert training_rows(nameless, both) is None  # which of the two it was, nobody knows


def test_labels_are_read_when_asked_for_and_again_at_another_size(labelled, slices, split, table):
    small = small_atlas(table, size=16)
    labelled.open(small)
    labelled.open(labelled.atlas)
    assert labelled.sizes == []
    for _ in range(2):
        assert labelled.load_labels().size == 16
    labelled.open(small_atlas(table, name="another of this size", size=16))
    assert labelled.sizes == [16]
    labelled.open(small_atlas(table))
    assert labelled.sizes == [16, 32] and labelled.slices.size == 32
    row = split["train"][3]
    assert labelled.nearest(slices.aligned[row]).startswith("Dice 1.00")
    labelled.open(small)
    assert labelled.nearest(halved(slices).aligned[row]).startswith("Dice 1.00")


# ------------------------------------------------------------------------------------- ED to ES
@pytest.fixture(params=["standard", "gaussian"])
def beating(request, atlas, slices):
    """A walk from a slice at ED, 100 mm wide, to the same at ES, 80 mm wide; the coordinates of
    both."""
    table = slices.table.copy()
    ed, es = (table.index[(table["patient"] == "patient003") & (table["slice_index"] == 4)
                          & (table["phase"] == phase)][0] for phase in ("ED", "ES"))
    table.loc[ed, "crop_mm"], table.loc[es, "crop_mm"] = 100, 80
    walk = Exploration(with_priors(atlas), lambda size: replace(slices, table=table))
    walk.use(request.param)
    walk.to_slice(ed, es)
    return walk, *walk.prior.to_axes(encoding.encode(atlas.run.model, slices.aligned[[ed, es]]).mu)


def test_way_leads_straight_from_ed_to_es(beating):
    walk, ed, es = beating
    assert np.abs(es - ed).max() > 0.1 and walk.has_way
    assert walk.start_name == "patient003 ED, slice 4"
    for share, u, crop_mm in ((0, ed, 100), (1, es, 80), (0.25, 0.75 * ed + 0.25 * es, 95),
                              (0, ed, 100)):
        walk.along(share)
        assert walk.u == pytest.approx(u, abs=1e-4) and walk.crop_mm == pytest.approx(crop_mm)
    assert walk.z == pytest.approx(walk.start, abs=1e-5)


def test_edit_on_the_way_is_kept_until_back(beating):
    walk, ed, es = beating
    walk.along(0.25)
    walk.move(2, 1.7)
    walk.along(1)
    expected = es.copy()
    expected[2] = 1.7 + 0.75 * (es - ed)[2]
    assert walk.u == pytest.approx(expected, abs=1e-4)
    walk.along(0.25)
    assert walk.u[2] == pytest.approx(1.7, abs=1e-4)
    walk.back()
    assert (walk.z == walk.start).all() and walk.crop_mm == 100
    walk.along(0.5)
    assert walk.u == pytest.approx((ed + es) / 2, abs=1e-4)


