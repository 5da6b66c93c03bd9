"""A walk through a small latent space: where it leads, and what is measured there."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cvae_utils import latents, metrics, prior
from cvae_utils.atlas import TABLE_COLUMNS, Atlas, Effects
from cvae_utils.exploration import STRIP_STEPS, Exploration, SliceSearch, training_rows
from cvae_utils.labels import Label
from cvae_utils.runs import Run, build_model


def lively_model(size=32, latent_dim=6):
    """Untrained, but each step of 0.1 in any dimension changes its heart, which has all classes."""
    torch.manual_seed(0)
    model = build_model({"size": size, "base_channels": 4, "latent_dim": latent_dim}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("to_logvar"):
                parameter.mul_(2.5)
    return model


def small_atlas(slices, split, size=32, latent_dim=6, **changed):
    """An atlas of a lively model: of dimensions 3, 1, 0, 5, 4, 2, the strongest first, 3, 0 and 5
    are active, and the training slices lie anywhere."""
    draw = np.random.default_rng(0)
    table = slices.table.iloc[split["train"]][list(TABLE_COLUMNS)].reset_index(drop=True)
    table["umap_1"], table["umap_2"] = draw.normal(size=(2, len(table)))
    mu = draw.normal(size=(len(table), latent_dim)).astype(np.float32)
    order = [d for d in (3, 1, 0, 5, 4, 2) if d < latent_dim]
    made = Atlas(
        name="small", posterior=latents.Posterior(mu, np.zeros_like(mu)), table=table,
        run=Run(lively_model(size, latent_dim), {"beta": 10.0}, None, None, {}, {}),
        ranking=pd.DataFrame({"dimension": order, "variance": 0.0,
                              "mean_dice": np.linspace(0.4, 0.9, len(order))}),
        names=[f"effect {d}" for d in range(latent_dim)],
        active=[d for d in (5, 0, 3) if d < latent_dim],
        umap={"error_median": 0.1, "error_p90": 0.5}, source="phantom", stamp="Data: small hearts")
    return replace(made, **changed)


#: Axes of the fitted priors: dimensions 4 and 1, and then mixtures, twice as long.
TURN = np.array([[0, 0, 2, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, -1, 1, 0],
                 [0.5, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 3]])
CENTRE = np.array([0.5, -0.5, 0.25, 0, 0.5, 0])


def with_priors(atlas, kinds=("gaussian", "mixture"), **changed):
    """The atlas with fitted priors: axes TURN around CENTRE, the first three tell something. The
    mixture is of two points, 1 to either side along the first dimension."""
    signal = np.array([0.9, 0.8, 0.5, 0.1, 0.05, 0])
    step = np.eye(6)[0]
    made = {"gaussian": prior.Prior("gaussian", np.ones(1), CENTRE[None], (TURN @ TURN.T)[None],
                                    TURN, signal),
            "mixture": prior.Prior("mixture", np.full(2, 0.5), CENTRE + [step, -step],
                                   np.stack([1e-8 * np.eye(6)] * 2), TURN, signal)}
    effects = Effects(pd.DataFrame({"dimension": [2, 0, 1, 3, 4, 5], "variance": 0.0,
                                    "mean_dice": np.linspace(0.3, 0.8, 6)}),
                      [f"deed {k}" for k in range(6)])
    return replace(atlas, priors={kind: made[kind] for kind in kinds}, axes=effects, **changed)


def halved(slices):
    """The same slices with half as many pixels a side."""
    return replace(slices, aligned=np.ascontiguousarray(slices.aligned[:, ::2, ::2]))


@pytest.fixture
def atlas(slices, split):
    return small_atlas(slices, split)


@pytest.fixture
def walk(atlas):
    return Exploration(atlas)


@pytest.fixture
def labelled(atlas, slices):
    """A walk that can start from slices of 32 or 16 pixels a side; it notes what was asked for."""
    sizes = []

    def labels(size):
        sizes.append(size)
        return {32: slices, 16: halved(slices)}[size]

    made = Exploration(atlas, labels)
    made.sizes = sizes
    return made


def unit(dimension, value):
    z = np.zeros(6, dtype=np.float32)
    z[dimension] = value
    return z


def heart(model, z):
    return latents.decode(model, np.asarray(z, dtype=np.float32)[None])[0]


# ------------------------------------------------------------------------------ going somewhere
def test_walk_begins_at_the_mean_heart_and_the_strongest_dimension(walk, atlas):
    view = walk.view()
    assert walk.order == [3, 0, 5, 1, 4, 2] and view.dimension == 3  # the active ones first
    assert not view.z.any() and view.value == 0 and walk.start_name == "mean heart"
    assert (view.label_map == heart(atlas.run.model, np.zeros(6))).all()
    assert (view.start_map == view.label_map).all() and view.dice_to_mean == 1


def test_move_selects_a_dimension_and_back_undoes_it(walk, atlas):
    walk.move(5, 1.5)
    walk.move(2, -0.5)
    view = walk.view()
    assert view.z.tolist() == [0, 0, -0.5, 0, 0, 1.5] and (view.dimension, view.value) == (2, -0.5)
    assert (view.label_map == heart(atlas.run.model, view.z)).all()
    assert (view.start_map == heart(atlas.run.model, np.zeros(6))).all()
    assert view.dice_to_mean == metrics.dice_per_slice(view.label_map[None],
                                                       view.start_map[None])[0] < 1
    walk.back()
    assert not walk.z.any() and walk.dimension == 2
    assert view.z[5] == 1.5  # what was seen stays as it was


def test_walk_does_not_move_the_point_that_it_began_at(walk, atlas):
    start = unit(1, 2.0)
    walk.begin(start, "here")
    walk.move(1, -1.0)
    assert start[1] == 2 and walk.start[1] == 2 and walk.start_name == "here"
    walk.back()
    walk.move(1, 3.0)
    assert walk.start[1] == 2
    assert (walk.view().start_map == heart(atlas.run.model, unit(1, 2.0))).all()


@pytest.mark.parametrize(("group", "phase", "name"), [
    ("DCM", "ES", "mean of DCM ES"), ("ARV", "", "mean of ARV"),
    ("", "ED", "mean of all groups ED"), ("", "", "mean of all groups"),
])
def test_walk_starts_from_the_mean_of_a_group(walk, atlas, group, phase, name):
    walk.move(0, 2.0)
    walk.to_group(group, phase)
    chosen = (atlas.table["group"].isin([group] if group else atlas.table["group"])
              & atlas.table["phase"].isin([phase] if phase else ["ED", "ES"]))
    assert walk.z == pytest.approx(atlas.posterior.mu[chosen].mean(axis=0), abs=1e-6)
    assert (walk.z == walk.start).all() and walk.start_name == name


def test_random_start_is_a_sample_of_the_prior(walk):
    walk.to_random(np.random.default_rng(3))
    assert walk.z == pytest.approx(np.random.default_rng(3).standard_normal(6))
    assert (walk.start == walk.z).all() and walk.start_name == "a sample of N(0, I)"


# ----------------------------------------------------------------------------- along other axes
@pytest.fixture
def turned(atlas):
    """A walk along the axes of the fitted Gaussian."""
    made = Exploration(with_priors(atlas))
    made.use("gaussian")
    return made


def test_walk_along_axes_begins_at_the_mean_of_the_prior(turned, atlas):
    view = turned.view()
    assert view.z == pytest.approx(CENTRE) and view.u == pytest.approx(np.zeros(6), abs=1e-6)
    assert (view.label_map == heart(atlas.run.model, CENTRE)).all() and view.dice_to_mean == 1
    assert turned.order == [0, 1, 2, 3, 4, 5] and (view.dimension, view.label) == (0, "axis 1")
    assert turned.start_name == "mean heart"


def test_move_along_an_axis_by_hand(turned, atlas):
    """Half of dimension 4 for each step of the first axis; the fifth is (0, 0, 1, 1, 0, 0)."""
    turned.move(0, 2.0)
    turned.move(4, -1.0)
    assert turned.z == pytest.approx(CENTRE + [0, 0, -1, -1, 1, 0])
    turned.move(0, 1.0)
    view = turned.view()
    assert view.z == pytest.approx(CENTRE + [0, 0, -1, -1, 0.5, 0])
    assert view.u == pytest.approx([1, 0, 0, 0, -1, 0]) and (view.dimension, view.value) == (0, 1)
    assert (view.label_map == heart(atlas.run.model, view.z)).all()
    turned.back()
    assert turned.z == pytest.approx(CENTRE) and turned.u == pytest.approx(np.zeros(6), abs=1e-6)


def test_start_from_anywhere_has_coordinates_and_stays_exactly_there(turned):
    z = np.linspace(-1, 1, 6).astype(np.float32)
    turned.begin(z, "here")
    assert (turned.z == z).all() and turned.u == pytest.approx(np.linalg.solve(TURN, z - CENTRE))
    turned.to_group("DCM", "")
    assert (turned.z == turned.atlas.group_mean("DCM")).all()


def test_moves_leave_the_other_coordinates_to_the_last_digit(turned):
    turned.begin(np.linspace(-1, 1, 6), "here")
    before, strip = turned.u, turned.view().strip
    for value in np.linspace(-3, 3, 50):
        turned.move(0, value)
        assert turned.view().strip is strip
    assert (turned.u[1:] == before[1:]).all()


def test_standard_coordinates_are_the_latent_point_to_the_last_digit(walk):
    generator = np.random.default_rng(0)
    for _ in range(20):
        z = generator.standard_normal(6).astype(np.float32)
        walk.begin(z, "here")
        assert walk.u.tobytes() == walk.z.tobytes() == z.tobytes()
        walk.move(2, 0.3)
        z[2] = 0.3
        assert walk.u.tobytes() == walk.z.tobytes() == z.tobytes()


def test_point_that_was_read_is_a_copy(turned):
    """Else it could be written into, and its coordinates would not follow."""
    for point in (turned.z, turned.u, turned.view().z, turned.view().u):
        point += 1
    assert turned.z == pytest.approx(CENTRE) and turned.u == pytest.approx(np.zeros(6), abs=1e-6)


def test_strip_and_sweep_go_along_the_axis(turned, atlas):
    turned.move(1, 1.0)
    turned.move(5, -0.5)  # three of dimension 5
    strip = turned.view().strip
    expected = [heart(atlas.run.model, CENTRE + unit(1, 1) + unit(5, 3 * value))
                for value in np.linspace(-3, 3, STRIP_STEPS)]
    assert (strip == expected).mean() > 0.998 and (strip[0] != strip[-1]).any()
    for found, value in zip(turned.sweep(4), (-3, 0, 3, 0)):
        assert (found == heart(atlas.run.model, CENTRE + unit(1, 1) + unit(5, 3 * value))
                ).mean() > 0.998


def test_random_start_is_a_sample_of_the_fitted_prior(turned):
    generator, drawn = np.random.default_rng(0), []
    turned.use("mixture")
    for _ in range(20):
        turned.to_random(generator)
        drawn.append(turned.z - CENTRE)
    assert np.abs(drawn) == pytest.approx(np.tile([1, 0, 0, 0, 0, 0], (20, 1)), abs=1e-3)
    assert {-1, 1} == {round(float(z[0])) for z in drawn}
    assert turned.start_name == "a sample of the fitted mixture of 2"


def test_fitted_prior_can_be_drawn_from_along_the_dimensions(turned):
    turned.use("mixture", "dimensions")
    assert turned.order == [3, 0, 5, 1, 4, 2] and not turned.z.any()
    turned.to_random(np.random.default_rng(0))
    assert np.abs(turned.z - CENTRE) == pytest.approx([1, 0, 0, 0, 0, 0], abs=1e-3)
    turned.move(4, 2.0)
    assert turned.z[4] == 2 and turned.view().label == "z4"


def test_values_beyond_the_sliders_are_those_of_the_axes(turned, ring):
    turned.begin(CENTRE + unit(4, 1.75) + unit(5, 8.9), "far away")  # 3.5 and 2.97 steps
    assert dict(turned.measure(ring))["beyond ±3"] == "axis 1 3.5"


def test_way_between_slices_is_straight_in_any_coordinates(atlas, slices):
    walk = Exploration(with_priors(atlas), lambda size: slices)
    walk.use("gaussian")
    walk.to_slice(0, 1)
    ed, es = latents.encode(atlas.run.model, slices.aligned[[0, 1]]).mu
    walk.along(0.5)
    assert walk.z == pytest.approx((ed + es) / 2, abs=1e-5)
    assert walk.u == pytest.approx(np.linalg.solve(TURN, walk.z - CENTRE), abs=1e-4)


@pytest.mark.parametrize(("asked", "said"), [
    (("flow",), "small: expected a prior of standard, gaussian, found 'flow'"),
    (("mixture", "dimensions"), "small: expected a prior of standard, gaussian, found 'mixture'"),
    (("gaussian", "angles"), "expected axes or dimensions, found 'angles'"),
])
def test_prior_that_the_run_has_not_is_refused_and_changes_nothing(atlas, asked, said):
    walk = Exploration(with_priors(atlas, ["gaussian"]))
    walk.use("gaussian")
    walk.move(0, 1.0)
    before = walk.z
    with pytest.raises(ValueError, match=said):
        walk.use(*asked)
    assert (walk.z == before).all()
    assert walk.prior.kind == "gaussian" and walk.view().label == "axis 1"


def test_prior_without_known_axes_can_still_be_drawn_from(atlas):
    walk = Exploration(replace(with_priors(atlas), axes=None))
    with pytest.raises(ValueError, match="expected the axes of a prior of standard"):
        walk.use("gaussian")
    walk.use("gaussian", "dimensions")
    assert walk.prior.kind == "gaussian" and walk.view().label == "z3"


def test_prior_is_kept_in_another_run_that_has_it(atlas):
    walk = Exploration(with_priors(atlas))
    walk.use("mixture")
    walk.move(2, 1.0)
    walk.open(with_priors(atlas, ["mixture"], name="other"))
    assert walk.prior.kind == "mixture" and walk.z == pytest.approx(CENTRE)
    walk.open(with_priors(atlas, ["gaussian"]))
    assert walk.prior.kind == "standard" and not walk.z.any() and walk.order[0] == 3
    walk.open(with_priors(atlas))
    assert walk.prior.kind == "standard"  # which was not chosen, but is what was last seen


# ------------------------------------------------------------------------------------- the strip
def test_strip_stays_while_only_the_selected_dimension_moves(walk, slices, split):
    first = walk.view()
    walk.move(3, 1.0)
    second = walk.view()
    assert second.strip is first.strip and second.path is first.path
    walk.move(0, 1.0)
    third = walk.view()
    assert third.strip is not first.strip and (third.strip != first.strip).any()
    walk.dimension = 3  # selected, and not moved
    fourth = walk.view()
    assert fourth.strip is not third.strip and (fourth.strip != third.strip).any()
    walk.open(small_atlas(slices, split, posterior=latents.Posterior(
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


def test_sweep_goes_from_end_to_end_and_back(walk, atlas):
    walk.move(3, 1.0)
    walk.move(1, 2.0)
    for found, value in zip(walk.sweep(4), (-3, 0, 3, 0)):
        assert (found == heart(atlas.run.model, unit(3, 1.0) + unit(1, value))).mean() > 0.998
    assert walk.z[1] == 2


# ------------------------------------------------------------------------------ the slice search
@pytest.fixture
def many_maps():
    """Random maps; the second lacks the RV, the third all but the RV, the last everything."""
    maps = np.random.default_rng(0).integers(0, 4, (9, 16, 16)).astype(np.uint8)
    maps[1][maps[1] == Label.RV] = 0
    maps[2][maps[2] > Label.RV] = 0
    maps[-1] = 0
    return maps


def test_search_agrees_with_dice_of_every_slice(many_maps):
    search = SliceSearch(many_maps[[0, 1, 2, 3, -1]])
    for target in many_maps:
        scores = np.nan_to_num(metrics.dice_per_slice(
            np.broadcast_to(target, (5, 16, 16)), many_maps[[0, 1, 2, 3, -1]]))
        row, dice = search(target)
        assert dice == pytest.approx(scores.max()) and scores[row] == scores.max()


def test_search_finds_a_slice_of_the_set_itself(many_maps):
    search = SliceSearch(many_maps)
    assert [search(label_map) for label_map in many_maps[:-1]] == [(k, 1.0) for k in range(8)]
    half = np.where(np.arange(16) < 8, many_maps[2], 0)  # all it has lies in one slice's RV
    inside, all_of_it = (half == Label.RV).sum(), (many_maps[2] == Label.RV).sum()
    assert search(half) == (2, pytest.approx(2 * inside / (inside + all_of_it)))


# ---------------------------------------------------------------------------------- measurements
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


@pytest.mark.parametrize(("z", "said"), [
    ([3, -3, 3.04, 0, 0, 0], None),
    ([3.06, 0, 0, 0, 0, 0], "z0 3.1"),
    ([3.2, -4, 0, 0, 0, 5], "z0 3.2, z1 -4.0, z5 5.0"),
    ([3.2, -4, 5, 6, 7, 0], "z0 3.2, z1 -4.0, z2 5.0 and 2 more"),
])
def test_values_beyond_the_sliders_are_said(walk, ring, z, said):
    walk.begin(np.array(z), "far away")
    assert dict(walk.measure(ring)).get("beyond ±3") == said


# -------------------------------------------------------------------------------- with the labels
def test_nearest_slice_needs_the_labels_of_the_same_data(atlas, slices, labelled, ring):
    def said(walk):
        return dict(walk.measure(ring))["nearest training slice"]

    assert said(labelled).startswith("needs the labels") and labelled.sizes == []
    labelled.load_labels()
    assert said(labelled).startswith("Dice 0.")
    other = Exploration(replace(atlas, source="ACDC"), lambda size: slices)
    other.load_labels()
    assert said(other) == "needs the ACDC labels"


@pytest.mark.parametrize("position", [0, 60, 105])
def test_nearest_slice_of_a_training_slice_is_itself(labelled, slices, split, position):
    row = split["train"][position]
    known = labelled.load_labels().table.iloc[row]
    assert labelled.nearest(slices.aligned[row]) == (
        f"Dice 1.00 ({known.patient} {known.phase}, slice {known.slice_index})")


def test_slice_that_was_not_trained_on_is_not_the_nearest(labelled, slices, split):
    labelled.load_labels()
    for row in split["test"][::9]:
        assert slices.table["patient"].iloc[row] not in labelled.nearest(slices.aligned[row])


def test_training_slices_are_found_by_name_in_any_order(atlas, slices, split):
    assert training_rows(atlas, slices).tolist() == split["train"].tolist()
    turned = replace(slices, table=slices.table.iloc[::-1].reset_index(drop=True))
    last = len(slices.table) - 1
    assert training_rows(atlas, turned).tolist() == (last - split["train"]).tolist()
    lost = slices.table.drop(split["train"][7]).reset_index(drop=True)
    assert training_rows(atlas, replace(slices, table=lost)) is None
    assert training_rows(atlas, replace(slices, source="ACDC")) is None


def test_scans_of_one_patient_are_told_apart(atlas, slices, split):
    """Two volumes of a patient whose phases are not known differ in their scan alone."""
    scan = np.where(slices.table["phase"] == "ED", "frame01", "frame12")
    table = slices.table.assign(phase="unknown", scan=scan)
    both = replace(slices, table=table)
    known = replace(atlas, table=atlas.table.assign(**table.iloc[split["train"]][
        ["phase", "scan"]].to_dict("list")))
    assert training_rows(known, both).tolist() == split["train"].tolist()
    nameless = replace(atlas, table=known.table.drop(columns="scan"))
    assert training_rows(nameless, both) is None  # which of the two it was, nobody knows
    walk = Exploration(known, lambda size: both)
    walk.load_labels()
    first = table.iloc[split["train"][0]]
    assert walk.nearest(slices.aligned[split["train"][0]]) == (
        f"Dice 1.00 ({first.patient} frame01, slice {first.slice_index})")


def test_walk_without_labels_says_how_to_get_them(walk):
    for start in (walk.load_labels, lambda: walk.to_slice(0)):
        with pytest.raises(ValueError, match=r"labels=study\.slices_of"):
            start()


def test_labels_are_read_when_asked_for_and_again_at_another_size(labelled, slices, split):
    small = small_atlas(slices, split, size=16)
    labelled.open(small)
    labelled.open(labelled.atlas)
    assert labelled.sizes == []
    for _ in range(2):
        assert labelled.load_labels().size == 16
    labelled.open(small_atlas(slices, split, name="another of this size", size=16))
    assert labelled.sizes == [16]
    labelled.open(small_atlas(slices, split))
    assert labelled.sizes == [16, 32] and labelled.slices.size == 32
    row = split["train"][3]
    assert labelled.nearest(slices.aligned[row]).startswith("Dice 1.00")
    labelled.open(small)
    assert labelled.nearest(halved(slices).aligned[row]).startswith("Dice 1.00")


def test_another_run_opens_at_its_mean_heart(walk, slices, split):
    walk.move(2, 1.0)
    other = small_atlas(slices, split, size=16, latent_dim=4, name="other")
    walk.open(other)
    view = walk.view()
    assert walk.latent_dim == 4 and walk.order == [3, 0, 1, 2] and view.dimension == 3
    assert view.z.tolist() == [0] * 4 and walk.start_name == "mean heart"
    assert (view.label_map == heart(other.run.model, np.zeros(4))).all()
    assert view.strip.shape == (STRIP_STEPS, 16, 16) and view.dice_to_mean == 1


# ------------------------------------------------------------------------------------- ED to ES
@pytest.fixture
def beating(atlas, slices):
    """A walk from a slice at ED, 100 mm wide, to the same at ES, 80 mm wide, and their mu."""
    table = slices.table.copy()
    ed, es = (table.index[(table["patient"] == "patient003") & (table["slice_index"] == 4)
                          & (table["phase"] == phase)][0] for phase in ("ED", "ES"))
    table.loc[ed, "crop_mm"], table.loc[es, "crop_mm"] = 100, 80
    walk = Exploration(atlas, lambda size: replace(slices, table=table))
    walk.to_slice(ed, es)
    return walk, *latents.encode(atlas.run.model, slices.aligned[[ed, es]]).mu


def test_way_leads_from_ed_to_es(beating):
    walk, ed, es = beating
    assert np.abs(es - ed).max() > 0.1 and walk.has_way
    assert walk.start_name == "patient003 ED, slice 4"
    for share, z, crop_mm in ((0, ed, 100), (1, es, 80), (0.25, 0.75 * ed + 0.25 * es, 95),
                              (0, ed, 100)):
        walk.along(share)
        assert walk.z == pytest.approx(z, abs=1e-5) and walk.crop_mm == pytest.approx(crop_mm)
    assert walk.start == pytest.approx(ed, abs=1e-6)


def test_edit_on_the_way_is_kept(beating):
    walk, ed, es = beating
    walk.along(0.25)
    walk.move(2, 1.7)
    walk.along(1)
    expected = es.copy()
    expected[2] = 1.7 + 0.75 * (es - ed)[2]
    assert walk.z == pytest.approx(expected, abs=1e-5)
    walk.along(0.25)
    assert walk.z[2] == pytest.approx(1.7, abs=1e-5)


def test_back_returns_to_ed_and_to_its_millimetres(beating):
    walk, ed, es = beating
    walk.along(0.5)
    walk.back()
    assert (walk.z == walk.start).all() and walk.crop_mm == 100
    walk.along(0.5)
    assert walk.z == pytest.approx((ed + es) / 2, abs=1e-5)


def test_slice_without_a_counterpart_has_no_way(beating):
    walk, ed, _ = beating
    walk.to_slice(0)
    assert not walk.has_way
    before = walk.z.copy()
    walk.along(0.5)
    assert (walk.z == before).all() and walk.crop_mm == walk.slices.table["crop_mm"].iloc[0]
    walk.begin(np.zeros(6), "elsewhere")
    assert not walk.has_way and walk.crop_mm is None
