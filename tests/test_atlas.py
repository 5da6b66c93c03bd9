"""What is kept of a run for the explorer: made once, read again, exported, and what comes along."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from cvae_utils import atlas, dataset, latents, metrics, prior
from cvae_utils.exploration import training_rows
from cvae_utils.runs import RUN_FILES, build_model, load_run
from cvae_utils.storage import read_json, write_json

STAMP = "Data: two hearts"
PRIORS = {"prior-gaussian.safetensors", "prior-mixture.safetensors"}


class FakeUMAP:
    """The first two dimensions; UMAP itself compiles for longer than all of these tests take."""

    n_neighbors, min_dist = 7, 0.25

    def __init__(self, mu, seed):
        self.mu, self.embedding_, self.seed, self.shift = mu, mu[:, :2], seed, np.zeros(2)

    def transform(self, z):
        self.asked = z
        return latents.place(z, self.mu, self.embedding_) + self.shift


@pytest.fixture(autouse=True)
def fake_umap(monkeypatch):
    monkeypatch.setattr(latents, "fit_umap", FakeUMAP)


@pytest.fixture
def kept(run, tmp_path):
    """The finished run in a folder of this test's own."""
    return load_run(shutil.copytree(run.folder, tmp_path / "runs" / "kept"), torch.device("cpu"))


@pytest.fixture
def made(kept, slices, split):
    return atlas.load_or_build(kept, slices, split, STAMP)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --------------------------------------------------------------------------------------- measured
def test_atlas_holds_the_training_slices_and_what_the_dimensions_do(run, slices, split):
    found = atlas.build(run, slices, split, STAMP, seed=3)
    maps, table = slices.aligned[split["train"]], slices.table.iloc[split["train"]]
    assert (found.posterior.mu == latents.encode(run.model, maps).mu).all()
    for name in atlas.TABLE_COLUMNS:
        assert found.table[name].tolist() == table[name].tolist()
    assert found.plane == pytest.approx(found.posterior.mu[:, :2])
    assert sorted(found.ranking["dimension"]) == list(range(6)) == sorted(found.active)
    assert found.ranking["mean_dice"].is_monotonic_increasing
    kl = metrics.kl_per_dimension(*found.posterior)[found.active]
    assert (np.diff(kl) < 1e-6).all() and kl[-1] > metrics.ACTIVE_KL
    assert len(found.names) == 6
    assert set(" / ".join(found.names).split(" / ")) <= set(metrics.DESCRIPTORS.values())
    assert found.umap == {"n_neighbors": 7, "min_dist": 0.25, "random_state": 3,
                          "error_median": 0, "error_p90": 0}
    assert (found.name, found.beta, found.source, found.stamp) == (run.folder.name, 10, "phantom",
                                                                   STAMP)


def test_inactive_dimensions_are_told_from_active_ones(run, slices, split):
    two = replace(run, results=run.results | {"kl_order": [4, 2, 0, 1, 3, 5],
                                              "active_dimensions": 2})
    assert atlas.build(two, slices, split, STAMP).active == [4, 2]


def test_error_of_the_placement_is_the_distance_to_umap():
    mu = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    fitted = FakeUMAP(mu, 0)
    assert atlas.placement_error(fitted, mu) == {"error_median": 0, "error_p90": 0}
    fitted.shift = np.array([3.0, -4.0])
    assert atlas.placement_error(fitted, mu) == {"error_median": pytest.approx(5),
                                                 "error_p90": pytest.approx(5)}
    fitted.transform = lambda z: latents.place(z, mu, mu[:, :2]) + np.where(
        np.arange(len(z)) < 0.3 * len(z), 1, 0)[:, None] * [[6.0, 8.0]]  # 30 % are far off
    assert atlas.placement_error(fitted, mu, 30) == {"error_median": 0,
                                                     "error_p90": pytest.approx(10)}


def test_placement_is_tried_one_slider_away_from_where_a_hand_starts():
    mu = np.random.default_rng(0).normal(10, 1, (40, 6)).astype(np.float32)
    atlas.placement_error(fitted := FakeUMAP(mu, 0), mu, count=300)
    origin, slices, prior = fitted.asked.reshape(3, 100, 6)
    assert ((origin != 0).sum(axis=1) == 1).all() and (np.abs(origin) <= 3).all()
    same = (slices[:, None] == mu).sum(axis=2).max(axis=1)
    assert (same == 5).all() and ((slices < 4).sum(axis=1) == 1).all()
    assert prior.std() == pytest.approx(1.1, abs=0.15)


def test_mean_of_a_group_by_hand(made):
    table = pd.DataFrame({"group": ["DCM", "DCM", "NOR", "DCM"], "phase": ["ED", "ES", "ES", "ED"]})
    mu = np.array([[1, 0], [4, 0], [0, 8], [7, 0]], dtype=np.float32)
    four = replace(made, table=table, posterior=latents.Posterior(mu, mu))
    assert four.group_mean("DCM", "ED").tolist() == [4, 0]
    assert four.group_mean("DCM").tolist() == [4, 0]
    assert four.group_mean(phase="ES").tolist() == [2, 4]
    assert four.group_mean().tolist() == [3, 2]
    for group, phase in (("HCM", ""), ("NOR", "ED")):
        with pytest.raises(ValueError, match=f"found '{group}' and '{phase}'"):
            four.group_mean(group, phase)


# ------------------------------------------------------------------------------------------- kept
def test_atlas_is_the_same_when_it_is_read_again(kept, slices, split):
    named = replace(slices, table=slices.table.assign(patient="NA"))  # which is not a missing one
    built = atlas.build(kept, named, split, STAMP)
    first = atlas.load_or_build(kept, named, split, STAMP)
    for found in (first, atlas.load(kept.folder)):
        for name in ("mu", "logvar"):
            assert getattr(found.posterior, name) == pytest.approx(
                getattr(built.posterior, name), rel=1e-3, abs=1e-5)
            assert getattr(found.posterior, name).dtype == np.float32
        pd.testing.assert_frame_equal(found.table, built.table, check_dtype=False, rtol=1e-4)
        pd.testing.assert_frame_equal(found.ranking, built.ranking)
        for name in ("name", "names", "active", "umap", "source", "stamp"):
            assert getattr(found, name) == getattr(built, name)
        assert (latents.decode(found.run.model, np.eye(6))
                == latents.decode(kept.model, np.eye(6))).all()
    assert first.run is kept


def test_atlas_is_measured_once_and_again_after_an_edit_of_the_code(
        kept, slices, split, monkeypatch):
    built, builds = atlas.build, []
    monkeypatch.setattr(atlas, "build", lambda *a: builds.append(a[3]) or built(*a))
    for _ in range(2):
        assert atlas.load_or_build(kept, slices, split, "first").stamp == "first"
    monkeypatch.setattr(atlas, "code_stamp", lambda *modules: "edited")
    for _ in range(2):
        assert atlas.load_or_build(kept, slices, split, "second").stamp == "second"
    assert builds == ["first", "second"]


@pytest.mark.parametrize("where", ["build", "write_json"])  # before and after the first file
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_atlas_leaves_the_run_as_it_was(kept, slices, split, monkeypatch, where, error):
    def interrupted(*arguments):
        raise error

    for kind in atlas.prior.FITTED:
        prior.load_or_fit(kept, kind, slices, split)
    before = contents(kept.folder)
    monkeypatch.setattr(atlas, where, interrupted)
    with pytest.raises(error):
        atlas.load_or_build(kept, slices, split, STAMP)
    assert contents(kept.folder) == before and not (kept.folder / atlas.FOLDER).exists()


def test_what_a_killed_process_leaves_is_no_atlas(made, slices, split):
    killed = made.run.folder / f".{atlas.FOLDER}.partial-{2**40}"
    (made.run.folder / atlas.FOLDER).rename(killed)
    with pytest.raises(FileNotFoundError):
        atlas.load(made.run.folder)
    atlas.load_or_build(made.run, slices, split, STAMP)
    assert not killed.exists() and set(atlas.FILES) < set(contents(made.run.folder))


@pytest.mark.parametrize("lost", atlas.FILES)
def test_atlas_that_lacks_a_file_is_refused_with_a_remedy_that_helps(made, slices, split, lost):
    (made.run.folder / atlas.FOLDER / lost).unlink()
    with pytest.raises(FileNotFoundError, match=rf"expected {lost}, .*study\.atlas\(run\)"):
        atlas.load(made.run.folder)
    assert atlas.load_or_build(made.run, slices, split, STAMP).stamp == STAMP


def test_file_that_is_cut_short_is_refused_by_name(made):
    path = made.run.folder / atlas.FOLDER / "posterior.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=re.escape(str(path.parent))):
        atlas.load(made.run.folder)


def test_atlas_of_another_latent_size_is_refused_with_the_remedy(made):
    path = made.run.folder / atlas.FOLDER / "posterior.safetensors"
    save_file({name: value[:, :5].contiguous() for name, value in load_file(path).items()}, path)
    with pytest.raises(ValueError, match="kept/atlas: expected .* 6 latent dimensions.*found one "
                                         "of 5.*Delete this folder"):
        atlas.load(made.run.folder)


# ----------------------------------------------------------------------------------------- priors
@pytest.fixture
def skewed():
    """A Gaussian prior of two dimensions by hand: mean (1, 2), axes (2, 0) and (3, -1)."""
    axes = np.array([[2.0, 3.0], [0.0, -1.0]])
    return prior.Prior("gaussian", np.ones(1), np.array([[1.0, 2.0]]), (axes @ axes.T)[None], axes,
                       np.array([0.9, 0.1]))


def of_two_dimensions(made, skewed, **changed):
    """`made` with two latent dimensions, two slices and a prior by hand."""
    mu = np.array([[1, 2], [9, 0]], dtype=np.float32)
    effects = atlas.Effects(pd.DataFrame({"dimension": [1, 0], "mean_dice": [0.2, 0.3]}),
                            ["LV size", "RV size"])
    noiseless = latents.Posterior(mu, np.full_like(mu, -np.inf))
    two = replace(made, run=replace(made.run, model=build_model(
        {"size": 32, "base_channels": 2, "latent_dim": 2})), posterior=noiseless,
        ranking=effects.ranking, names=["wall", "size"], active=[0], priors={"gaussian": skewed},
        axes=effects)
    return replace(two, **changed)


def test_axes_of_a_prior_by_hand(made, skewed):
    found = of_two_dimensions(made, skewed).coordinates("gaussian")
    # (9, 0) - (1, 2) = (8, -2) = 1 (2, 0) + 2 (3, -1)
    assert found.values == pytest.approx(np.array([[0, 0], [1, 2]]))
    # More than 0.1 nats: a signal above 1 - exp(-0.2) = 0.18.
    assert found.active == [0] and found.order == [0, 1] and found.noun == "axis"
    assert [found.name(k) for k in (0, 1)] == ["axis 1  LV size", "axis 2  inactive"]


@pytest.mark.parametrize(("signal", "active"), [([0.19, 0.18], [0]), ([0.19, 0.19], [0, 1]),
                                                ([0.1, 0.0], [])])
def test_axis_that_tells_a_tenth_of_a_nat_is_active(made, skewed, signal, active):
    two = of_two_dimensions(made, replace(skewed, signal=np.array(signal)))
    assert two.coordinates("gaussian").active == active


def test_coordinates_of_the_standard_prior_are_the_dimensions(made, skewed):
    two = of_two_dimensions(made, skewed)
    found = two.coordinates("standard")
    assert found.values is two.posterior.mu and found.effects.names == ["wall", "size"]
    assert found.active == [0] and found.order == [0, 1]  # z1 is stronger, but inactive
    assert [found.name(d) for d in (0, 1)] == ["z0  wall", "z1  inactive"]
    assert replace(two, active=[0, 1]).coordinates("standard").order == [1, 0]


def test_axes_of_a_kind_that_is_not_there_are_refused_by_name(made, skewed):
    two = of_two_dimensions(made, skewed)
    assert two.kinds == ["standard", "gaussian"]
    with pytest.raises(ValueError, match="prior of standard, gaussian, found 'mixture'"):
        two.coordinates("mixture")
    with pytest.raises(ValueError, match="prior of standard, found 'gaussian'"):
        replace(two, axes=None).coordinates("gaussian")  # what they do was not measured
    assert set(replace(two, priors={}).priors) == {"standard"}


def test_draws_along_the_axes_are_white_and_a_plain_auto_encoder_has_none(made):
    values = made.coordinates("gaussian").values
    assert np.cov(values, rowvar=False) == pytest.approx(np.eye(6), abs=0.35)
    assert values != pytest.approx(made.priors["gaussian"].to_axes(made.posterior.mu))
    plain = replace(made, run=replace(made.run, config=made.run.config | {"beta": 0.0}))
    assert plain.coordinates("gaussian").values == pytest.approx(
        made.priors["gaussian"].to_axes(made.posterior.mu))


def test_priors_are_fitted_with_the_atlas_and_their_axes_measured(made, kept, slices, split):
    assert made.kinds == list(prior.KINDS) and PRIORS < set(contents(kept.folder))
    gaussian, mixture = (made.priors[kind] for kind in atlas.prior.FITTED)
    assert (gaussian.axes == mixture.axes).all() and (gaussian.signal == mixture.signal).all()
    assert gaussian.mean == pytest.approx(made.posterior.mu.mean(axis=0), abs=1e-3)
    ranking, names = made.axes
    # The strongest axis by hand: its traversal, and the Dice to the mean heart.
    first = ranking["dimension"][0]
    path = gaussian.mean + np.linspace(-3, 3, latents.STEPS)[:, None] * gaussian.axes[:, first]
    hearts = latents.decode(kept.model, path)
    mean = np.repeat(latents.decode(kept.model, gaussian.mean[None]), len(hearts), axis=0)
    assert ranking["mean_dice"][0] == pytest.approx(
        metrics.dice_per_slice(hearts, mean).mean(), abs=1e-3)
    assert sorted(ranking["dimension"]) == list(range(6)) and len(names) == 6


def test_priors_of_dimensions_change_nothing_of_the_dimensions(run, slices, split):
    """The ranking is that of notebook 04, where z alone is moved."""
    found = atlas.build(run, slices, split, STAMP)
    mean_shape = latents.decode(run.model, np.zeros((1, 6)))[0]
    pd.testing.assert_frame_equal(found.ranking, latents.influence(
        latents.traverse_all(run.model), mean_shape))
    assert found.axes is None and found.kinds == ["standard"]


def test_fewer_slices_than_dimensions_have_an_atlas_too(kept, slices, split):
    found = atlas.load_or_build(kept, slices, split | {"train": split["train"][:5]}, STAMP)
    assert found.kinds == ["standard", "gaussian", "mixture"]
    assert len(found.coordinates("gaussian").active) <= 4  # five slices vary in no more


def test_names_that_look_like_numbers_stay_names(kept, slices, split):
    scans = slices.table.assign(patient="007", scan="01", phase="unknown")
    atlas.load_or_build(kept, replace(slices, table=scans), split, STAMP)
    table = atlas.load(kept.folder).table
    assert set(table["patient"]) == {"007"} and set(table["scan"]) == {"01"}


def test_atlas_of_a_table_without_scans_is_made_and_read(kept, slices, split):
    nameless = replace(slices, table=slices.table.drop(columns="scan", errors="ignore"))
    atlas.load_or_build(kept, nameless, split, STAMP)
    assert "scan" not in atlas.load(kept.folder).table
    assert training_rows(atlas.load(kept.folder), slices).tolist() == split["train"].tolist()


@pytest.mark.parametrize(("groups", "phases", "expected"), [
    (["ARV", "NOR"], ["ES", "ED"], (["NOR", "ARV"], ["ED", "ES"])),
    (["unknown"], ["unknown"], (["unknown"], [])),
    (["NOR", "unknown"], ["ES", "unknown"], (["NOR", "unknown"], ["ES"])),
])
def test_groups_and_phases_are_those_that_occur(made, groups, phases, expected):
    count = len(made.table)
    found = replace(made, table=made.table.assign(group=np.resize(groups, count),
                                                  phase=np.resize(phases, count)))
    assert (found.groups, found.phases) == expected


@pytest.mark.parametrize(("row", "name"), [
    ({"phase": "ED"}, "p1 ED, slice 4"),
    ({"phase": "unknown"}, "p1, slice 4"),
    ({"phase": "unknown", "scan": "frame01"}, "p1 frame01, slice 4"),
    ({"phase": "ES", "scan": "b"}, "p1 b ES, slice 4"),
    ({"phase": "ES", "scan": ""}, "p1 ES, slice 4"),
])
def test_slice_is_called_by_what_is_known_of_it(row, name):
    assert atlas.slice_name(pd.Series({"patient": "p1", "slice_index": 4} | row)) == name


def test_atlas_from_before_there_were_priors_still_opens(made):
    for name in PRIORS:
        (made.run.folder / name).unlink()
    path = made.run.folder / atlas.FOLDER / "atlas.json"
    write_json(path, {key: value for key, value in read_json(path).items() if key != "axes"})
    found = atlas.load(made.run.folder)
    assert found.kinds == ["standard"] and found.names == made.names


def test_one_prior_alone_is_found_and_one_without_its_axes_is_not_offered(made):
    (made.run.folder / "prior-gaussian.safetensors").unlink()
    assert atlas.load(made.run.folder).kinds == ["standard", "mixture"]
    path = made.run.folder / atlas.FOLDER / "atlas.json"
    write_json(path, read_json(path) | {"axes": None})
    found = atlas.load(made.run.folder)
    assert found.kinds == ["standard"] and set(found.priors) == {"standard", "mixture"}


def test_prior_that_cannot_be_used_is_refused_with_the_remedy(made, skewed):
    path = made.run.folder / "prior-gaussian.safetensors"
    prior.save(path, skewed, "key")
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: expected a prior of 6 latent "
                                         "dimensions.*found one of 2. Delete it"):
        atlas.load(made.run.folder)
    path.write_bytes(b"no prior")
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*Delete it"):
        atlas.load(made.run.folder)


# --------------------------------------------------------------------------------------- exported
def test_exported_run_is_half_the_size_and_makes_the_same_hearts(made, tmp_path):
    before, out = contents(made.run.folder), tmp_path / "out"
    atlas.export(made, "named", out)
    assert contents(made.run.folder) == before
    assert set(contents(out / "named")) == {*RUN_FILES, *PRIORS, *atlas.FILES}
    weights = load_file(out / "named" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}

    found = atlas.pretrained("named", out)
    z = np.concatenate([np.zeros((1, 6)), 2 * np.eye(6), -2 * np.eye(6)])
    hearts = latents.decode(made.run.model, z)
    assert len(np.unique(hearts, axis=0)) > 6
    assert (latents.decode(found.run.model, z) == hearts).mean() > 0.995
    assert found.name == "named" and found.posterior.mu.tolist() == made.posterior.mu.tolist()
    assert found.priors["mixture"].sample(4).tolist() == made.priors["mixture"].sample(4).tolist()
    assert found.kinds == list(prior.KINDS) and found.axes.names == made.axes.names
    pd.testing.assert_frame_equal(found.run.history, made.run.history, rtol=1e-3,
                                  check_dtype=False)
    pd.testing.assert_frame_equal(found.run.steps, made.run.steps, rtol=1e-3,
                                  check_dtype=False)


def test_export_replaces_a_run_of_the_same_name(made, tmp_path):
    (tmp_path / "out" / "named").mkdir(parents=True)
    (tmp_path / "out" / "named" / "old.txt").touch()
    atlas.export(made, "named", tmp_path / "out")
    assert set(contents(tmp_path / "out")) == {*RUN_FILES, *PRIORS, *atlas.FILES}


def test_runs_that_come_along_are_listed_from_the_highest_beta(tmp_path):
    for name, beta in (("b", 9.0), ("c", 10.0), ("a", 1000.0), ("d", 9.0)):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "config.json", {"beta": beta})
    (tmp_path / "no run").mkdir()
    assert [path.name for path in atlas.pretrained_folders(tmp_path)] == ["a", "c", "b", "d"]
    assert atlas.pretrained_folders(tmp_path / "nowhere") == []
    with pytest.raises(FileNotFoundError, match="expected one of a, c, b, d, found 'e'.*notebook"):
        atlas.pretrained("e", tmp_path)
    with pytest.raises(FileNotFoundError, match="expected one of none, found 'a'"):
        atlas.pretrained("a", tmp_path / "nowhere")


# ------------------------------------------------------------------------ come with the repository
@pytest.mark.parametrize(("name", "beta"), [("quick-beta1000", 1000), ("quick-beta10", 10),
                                            ("quick-beta1", 1), ("quick-sharp-beta50", 50)])
def test_run_of_the_repository_opens_and_is_small(name, beta):
    folder = atlas.PRETRAINED / name
    found = atlas.pretrained(name)
    assert (found.name, found.beta, found.source) == (name, beta, "ACDC")
    assert "ACDC" in found.stamp and "100 patients" in found.stamp
    assert found.run.model.latent_dim == found.posterior.mu.shape[1] == 32
    assert len(found.table) == len(found.posterior.mu) == len(found.posterior.logvar) > 900
    assert found.table["patient"].nunique() == 50
    assert np.isfinite(found.plane).all() and found.active == found.run.results["kl_order"][
        :found.run.results["active_dimensions"]]
    assert found.ranking["dimension"].iloc[0] in found.active
    files = contents(folder)
    assert sum(map(len, files.values())) < 4e6
    assert set(found.priors) == {"standard", "gaussian", "mixture"}
    assert {name.rpartition(".")[2] for name in files} == {"safetensors", "json", "csv"}


def test_repository_comes_with_four_runs():
    assert [path.name for path in atlas.pretrained_folders()] == [
        "quick-beta1000", "quick-sharp-beta50", "quick-beta10", "quick-beta1"]


@pytest.mark.real_data
def test_weights_of_the_repository_score_what_their_results_say(real_source, tmp_path):
    """They were trained on half of patients 001 to 100."""
    found = atlas.pretrained("quick-beta1000")
    hundred = replace(real_source, frames=[f for f in real_source.frames if f.subset == "training"])
    slices = dataset.load_or_align(hundred, 64, tmp_path, progress=False)
    split = dataset.split(slices.table)
    maps = slices.aligned[split["test"]]
    dice = metrics.dice_per_slice(latents.reconstruct(found.run.model, maps), maps).mean()
    results = read_json(atlas.PRETRAINED / "quick-beta1000" / "results.json")
    assert dice == pytest.approx(results["test_dice"], abs=0.002)
    assert training_rows(found, slices).tolist() == split["train"].tolist()
    encoded = latents.encode(found.run.model, slices.aligned[split["train"]]).mu
    # A pixel here and there is another since slices are cut out of their grid first.
    assert found.posterior.mu == pytest.approx(encoded, abs=0.05)
