"""What is kept of a run for the explorer: made once, read again, exported, and what comes along."""

import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from cvae_utils import shape_metrics
from cvae_utils.analysis import dimensions, latent_priors, projections
from cvae_utils.data import splits
from cvae_utils.data.slices import load_or_align
from cvae_utils.explorer import atlas
from cvae_utils.explorer.patients import training_rows
from cvae_utils.files import read_json, write_json
from cvae_utils.model import encoding
from cvae_utils.model.network import build_model
from cvae_utils.model.runs import RUN_FILES, load_run

STAMP = "Data: two hearts"
EXPORTED = {*RUN_FILES, "results.json", "prior-gaussian.safetensors", "prior-mixture.safetensors",
            *atlas.FILES}


class FakeUMAP:
    """The first two dimensions; UMAP itself compiles for longer than all of these tests take."""

    n_neighbors, min_dist = 7, 0.25

    def __init__(self, mu, seed):
        self.mu, self.embedding_, self.shift = mu, mu[:, :2], np.zeros(2)

    def transform(self, z):
        self.asked = z
        return projections.place(z, self.mu, self.embedding_) + self.shift


@pytest.fixture(autouse=True, scope="module")
def fake_umap():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projections, "fit_umap", FakeUMAP)
        yield


@pytest.fixture
def kept(run, tmp_path):
    """The finished run in a folder of this test's own."""
    folder = shutil.copytree(run.folder, tmp_path / "runs" / "kept")
    return replace(load_run(folder, torch.device("cpu")), results=run.results)


@pytest.fixture(scope="module")
def measured(run, slices, split, tmp_path_factory):
    """The folder of a run like that, with its atlas and priors; leave it as it is."""
    folder = shutil.copytree(run.folder, tmp_path_factory.mktemp("measured") / "kept")
    atlas.load_or_build(replace(load_run(folder, torch.device("cpu")), results=run.results),
                        slices, split, STAMP)
    return folder


@pytest.fixture
def made(kept, measured, slices, split):
    shutil.copytree(measured, kept.folder, dirs_exist_ok=True)
    return atlas.load_or_build(kept, slices, split, STAMP)


def place_of(run):
    """The one atlas of a run."""
    place, = run.folder.glob("atlas-*")
    return place


def turn_axes(path):
    """As a fit by other code might."""
    prior = latent_priors.load(path)
    latent_priors.save(path, replace(prior, axes=prior.axes[:, ::-1]))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --------------------------------------------------------------------------------------- measured
def test_atlas_holds_the_training_slices_and_what_the_dimensions_do(kept, slices, split):
    results = kept.results | {"kl_order": [4, 2, 0, 1, 3, 5], "active_dimensions": 2}
    # Names that look like a missing value or a number stay names.
    named = replace(slices, table=slices.table.assign(patient="NA", scan="007"))
    columns, ranking = list(atlas.TABLE_COLUMNS), dimensions.influence(
        dimensions.traverse_all(kept.model), encoding.decode(kept.model, np.zeros((1, 6)))[0])
    mu = encoding.encode(kept.model, slices.aligned[split["train"]]).mu
    first = atlas.load_or_build(replace(kept, results=results), named, split, STAMP, seed=3)
    for found in (first, atlas.load(kept.folder)):
        assert found.posterior.mu == pytest.approx(mu, abs=5e-3)
        assert found.plane == pytest.approx(mu[:, :2], abs=5e-3)
        pd.testing.assert_frame_equal(found.table[columns], named.table.iloc[split["train"]][
            columns].reset_index(drop=True), rtol=1e-4)
        # The ranking is that of the report, where z alone is moved.
        pd.testing.assert_frame_equal(found.effects.ranking, ranking)
        assert len(found.effects.names) == 6
        assert set(found.effects.names) == set(first.effects.names)
        words = {word for pair in dimensions.MOVES.values() for word in pair}
        assert set(", ".join(found.effects.names).split(", ")) <= words
        assert found.umap == {"n_neighbors": 7, "min_dist": 0.25, "random_state": 3,
                              "error_median": 0, "error_p90": 0}
        assert (found.name, found.beta, found.active, found.source, found.stamp) == (
            "kept", 10, [4, 2], "phantom", STAMP)
        for kind, prior in first.priors.items():
            assert (found.priors[kind].sample(4) == prior.sample(4)).all()


def test_error_of_the_placement_is_the_distance_to_umap():
    mu = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    fitted = FakeUMAP(mu, 0)
    fitted.shift = np.array([3.0, -4.0])
    assert atlas.placement_error(fitted, mu) == {"error_median": pytest.approx(5),
                                                 "error_p90": pytest.approx(5)}
    fitted.shift = np.where(np.arange(30) < 9, 1, 0)[:, None] * [[6.0, 8.0]]  # 30 % are far off
    assert atlas.placement_error(fitted, mu, 30) == {"error_median": 0,
                                                     "error_p90": pytest.approx(10)}


def test_shares_of_valid_hearts_are_counted_along_sliders_and_among_samples(made):
    found, model, mu = made.validity, made.run.model, made.posterior.mu
    assert found["temperature"] == {"standard": 1.0, "gaussian": 1.0,
                                    "mixture": latent_priors.TEMPERATURE}
    values, middle = np.linspace(-3, 3, atlas.VALID_STEPS), mu.mean(axis=0)
    for name, kind in (("dimensions", "standard"), ("axes", "mixture")):
        prior, valid = made.priors[kind], []
        for k in range(model.latent_dim):
            for value in values:
                u = prior.to_axes(middle)
                u[k] = value
                valid += [shape_metrics.is_valid(encoding.decode(model, prior.from_axes(u)[None]))]
        assert found["along"][name] == pytest.approx(np.mean(valid), abs=0.02)
    for kind, prior in made.priors.items():
        z = prior.sample(atlas.VALID_SAMPLES, 0, found["temperature"][kind])
        assert found["samples"][kind] == pytest.approx(
            shape_metrics.is_valid(encoding.decode(model, z)).mean(), abs=0.01)


def test_mean_of_a_group_by_hand(made):
    table = pd.DataFrame({"group": ["DCM", "DCM", "NOR", "DCM"], "phase": ["ED", "ES", "ES", "ED"]})
    mu = np.array([[1, 0], [4, 0], [0, 8], [7, 0]], dtype=np.float32)
    four = replace(made, table=table, posterior=encoding.Posterior(mu, mu))
    assert four.group_mean("DCM", "ED").tolist() == [4, 0]
    assert four.group_mean("DCM").tolist() == [4, 0]
    assert four.group_mean(phase="ES").tolist() == [2, 4]
    assert four.group_mean().tolist() == [3, 2]
    for group, phase in (("HCM", ""), ("NOR", "ED")):
        with pytest.raises(ValueError, match=f"found '{group}' and '{phase}'"):
            four.group_mean(group, phase)


# ----------------------------------------------------------------------------------------- priors
@pytest.fixture
def two(made):
    """The same for a plain auto-encoder of two dimensions, two slices and a prior by hand: mean (1,
    2), axes (2, 0) and (3, -1)."""
    axes = np.array([[2.0, 3.0], [0.0, -1.0]])
    prior = latent_priors.Prior("gaussian", np.ones(1), np.array([[1.0, 2.0]]),
                                (axes @ axes.T)[None], axes, np.array([0.19, 0.18]))
    ranking = pd.DataFrame({"dimension": [1, 0], "mean_dice": [0.2, 0.3]})
    mu = np.array([[1, 2], [9, 0]], dtype=np.float32)
    run = replace(made.run, config=made.run.config | {"beta": 0.0}, model=build_model(
        {"size": 32, "base_channels": 2, "latent_dim": 2}))
    return replace(made, run=run, priors={"gaussian": prior}, active=[0],
                   posterior=encoding.Posterior(mu, np.zeros_like(mu)),
                   effects=atlas.Effects(ranking, ["wall", "size"]),
                   axes=atlas.Effects(ranking, ["LV size", "RV size"]))


def test_coordinates_by_hand(two):
    axes = two.coordinates("gaussian")
    assert axes.order == [0, 1] and axes.effects.names == ["LV size", "RV size"]
    assert axes.active == [0]  # a tenth of a nat is a signal of 1 - exp(-0.2) = 0.181
    plain = two.coordinates("standard")
    assert plain.order == [0, 1]  # z1 is stronger, but inactive
    assert plain.active == [0] and plain.effects.names == ["wall", "size"]
    assert replace(two, active=[0, 1]).coordinates("standard").order == [1, 0]
    assert list(two.priors) == ["standard", "gaussian"]
    with pytest.raises(ValueError, match="kept: .*prior of standard, gaussian, found 'mixture'"):
        two.coordinates("mixture")


def test_priors_are_fitted_with_the_atlas_and_their_axes_measured(made, kept):
    assert list(made.priors) == list(latent_priors.KINDS)
    gaussian, mixture = (made.priors[kind] for kind in latent_priors.FITTED)
    assert (gaussian.axes == mixture.axes).all() and (gaussian.signal == mixture.signal).all()
    ranking, names = made.axes
    # The strongest axis by hand: its traversal, and the Dice to the mean heart.
    first = ranking["dimension"][0]
    path = gaussian.mean + np.linspace(-3, 3, dimensions.STEPS)[:, None] * gaussian.axes[:, first]
    hearts = encoding.decode(kept.model, path)
    mean = np.repeat(encoding.decode(kept.model, gaussian.mean[None]), len(hearts), axis=0)
    assert ranking["mean_dice"][0] == pytest.approx(
        shape_metrics.dice_per_slice(hearts, mean).mean(), abs=1e-3)
    assert sorted(ranking["dimension"]) == list(range(6)) and len(names) == 6


def test_fewer_slices_than_dimensions_have_an_atlas_too(kept, slices, split):
    found = atlas.load_or_build(kept, slices, split | {"train": split["train"][:5]}, STAMP)
    assert len(found.priors) == 3
    assert len(found.coordinates("gaussian").active) <= 4  # five slices vary in no more


# ------------------------------------------------------------------------------------------- kept
def test_atlas_is_measured_once_and_again_when_what_it_is_made_from_changes(made, slices, split):
    def remade(run=made.run, split=split, stamp=STAMP, seed=0):
        """Whether these make another atlas, which is then the only one and the one that opens."""
        before = place_of(made.run)
        atlas.load_or_build(run, slices, split, stamp, seed)
        assert atlas.load(made.run.folder).stamp == stamp
        return place_of(made.run) != before

    assert not remade()
    assert remade(stamp="Data: others") and remade(stamp="Data: others", seed=1)
    assert remade(split=split | {"train": split["train"][:-1]})
    assert remade(run=replace(made.run, results=made.run.results | {"active_dimensions": 1}))
    assert remade()
    for path in made.run.folder.glob("prior-*"):
        turn_axes(path)
    assert remade() and not remade()
    assert [5 - axis for axis in atlas.load(made.run.folder).axes.ranking["dimension"]] == (
        made.axes.ranking["dimension"].tolist())


def test_of_several_atlases_the_last_one_opens(made):
    """Two processes may each have made one."""
    place = place_of(made.run)
    for name, age in (("atlas-0", -60), ("atlas-1", 60)):
        copy = shutil.copytree(place, place.with_name(name))
        write_json(copy / "atlas.json", read_json(copy / "atlas.json") | {"stamp": name})
        os.utime(copy, (place.stat().st_mtime + age,) * 2)
    assert atlas.load(made.run.folder).stamp == "atlas-1"


def cut_short(place):
    path = place / "posterior.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_a_dimension(place):
    path = place / "posterior.safetensors"
    save_file({name: value[:, :5].contiguous() for name, value in load_file(path).items()}, path)


def lose_a_slice(place):
    path = place / "slices.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(("spoil", "said"), [
    *((lambda place, name=name: (place / name).unlink(), f"expected {name}, but there is none")
      for name in atlas.FILES),
    (cut_short, "posterior.safetensors is broken"),
    (lose_a_dimension, "expected an atlas of 6 latent dimensions, as the run has, found one of 5"),
    (lose_a_slice, r"expected .* with (\d+) slices in one file and (?!\1)\d+ in the other"),
])
def test_damaged_atlas_is_refused_with_a_remedy_that_helps(made, slices, split, spoil, said):
    spoil(place := place_of(made.run))
    for read in (lambda: atlas.load(made.run.folder),
                 lambda: atlas.load_or_build(made.run, slices, split, STAMP)):
        with pytest.raises((FileNotFoundError, ValueError), match=(
                rf"{re.escape(str(place))}: {said}.*Delete this folder and.*study\.atlas\(run\)")):
            read()
    shutil.rmtree(place)
    with pytest.raises(FileNotFoundError, match=r"expected an atlas.*study\.atlas\(run\)"):
        atlas.load(made.run.folder)
    assert atlas.load_or_build(made.run, slices, split, STAMP).stamp == STAMP


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda path, made, two: latent_priors.save(path, two.priors["gaussian"]),
     "expected the prior of 6 latent dimensions .* found another, of 2"),
    (lambda path, made, two: turn_axes(path),
     "expected the prior .* whose axes atlas-.* describes, found another"),
    (lambda path, made, two: path.write_bytes(b"no prior"), "expected a fitted prior, found a bro"),
])
def test_prior_that_is_not_the_atlas_s_is_refused_with_a_remedy_that_helps(
        made, two, slices, split, spoil, said):
    path, = made.run.folder.glob("prior-gaussian-*")
    spoil(path, made, two)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: {said}.*Delete it"):
        atlas.load(made.run.folder)
    path.unlink()
    assert list(atlas.load(made.run.folder).priors) == ["standard", "mixture"]
    atlas.load_or_build(made.run, slices, split, STAMP)
    assert len(atlas.load(made.run.folder).priors) == 3


# --------------------------------------------------------------------------------------- exported
def test_exported_run_is_half_the_size_and_makes_the_same_hearts(made, tmp_path):
    before, out = contents(made.run.folder), tmp_path / "out"
    (out / "named").mkdir(parents=True)
    (out / "named" / "old.txt").touch()
    atlas.export(made, "named", out)
    assert contents(made.run.folder) == before
    assert set(contents(out)) == EXPORTED
    weights = load_file(out / "named" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}

    found = atlas.load(out / "named")
    z = np.concatenate([np.zeros((1, 6)), 2 * np.eye(6), -2 * np.eye(6)])
    hearts = encoding.decode(made.run.model, z)
    assert len(np.unique(hearts, axis=0)) > 6
    assert (encoding.decode(found.run.model, z) == hearts).mean() > 0.995
    assert found.name == "named" and found.posterior.mu.tolist() == made.posterior.mu.tolist()
    for kind, prior in made.priors.items():
        assert found.priors[kind].sample(4) == pytest.approx(prior.sample(4), rel=1e-6)
    assert found.axes.names == made.axes.names and found.run.results == made.run.results
    for name in ("history", "steps"):
        pd.testing.assert_frame_equal(getattr(found.run, name), getattr(made.run, name), rtol=1e-3,
                                      check_dtype=False)


def test_exported_run_keeps_its_own_atlas_and_priors(made, slices, split, tmp_path):
    """Also if others are made beside them."""
    atlas.export(made, "named", tmp_path / "out")
    exported = atlas.load(tmp_path / "out" / "named")
    atlas.load_or_build(exported.run, slices, split | {"train": split["train"][:20]}, "others")
    again = atlas.load(tmp_path / "out" / "named")
    assert again.stamp == STAMP and len(again.table) == len(made.table)
    assert (again.priors["gaussian"].axes == exported.priors["gaussian"].axes).all()


def test_runs_that_come_along_are_listed_from_the_sharp_one_and_the_highest_beta(tmp_path):
    for name, beta, network in (("b", 9.0, "conv"), ("c", 10.0, "conv"), ("a", 1000.0, "conv"),
                                ("sharp", 5.0, "field"), ("d", 9.0, "conv")):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "config.json",
                   {"beta": beta, "profile": {"network": network}})
    (tmp_path / "no run").mkdir()
    assert [path.name for path in atlas.pretrained_folders(tmp_path)] == [
        "sharp", "a", "c", "b", "d"]
    assert atlas.pretrained_folders(tmp_path / "nowhere") == []


# ------------------------------------------------------------------------ come with the repository
def test_runs_of_the_repository_open_and_are_small():
    folders = atlas.pretrained_folders()
    assert [folder.name for folder in folders] == [
        "quick-sharp-beta60", "quick-beta1000", "quick-beta10", "quick-beta1"]
    for folder, beta, patients, training, size in zip(
            folders, (60, 1000, 10, 1), (150, 150, 150, 150), (80, 75, 75, 75),
            (7e6, 4e6, 4e6, 4e6)):
        found = atlas.load(folder)
        assert (found.name, found.beta, found.source) == (folder.name, beta, "ACDC")
        assert "ACDC" in found.stamp and f"{patients} patients" in found.stamp
        assert found.posterior.mu.shape == found.posterior.logvar.shape == (len(found.table), 32)
        assert len(found.table) > 900 and found.table["patient"].nunique() == training
        assert np.isfinite(found.plane).all() and len(found.priors) == 3
        assert found.active == found.run.results["kl_order"][
            :found.run.results["active_dimensions"]]
        assert found.effects.ranking["dimension"].iloc[0] in found.active
        assert sum(map(len, contents(folder).values())) < size and set(contents(folder)) == EXPORTED


@pytest.mark.real_data
def test_weights_of_the_repository_score_what_their_results_say(real_source, tmp_path):
    """They were trained on half of the patients."""
    found = atlas.load(atlas.PRETRAINED / "quick-beta1000")
    slices = load_or_align(real_source, 64, tmp_path, progress=False)
    split = splits.split(slices.table)
    maps = slices.aligned[split["test"]]
    dice = shape_metrics.dice_per_slice(encoding.reconstruct(found.run.model, maps), maps).mean()
    assert dice == pytest.approx(found.run.results["test_dice"], abs=0.002)
    assert training_rows(found, slices).tolist() == split["train"].tolist()
    encoded = encoding.encode(found.run.model, slices.aligned[split["train"]]).mu
    # A pixel here and there is another since slices are cut out of their grid first.
    assert found.posterior.mu == pytest.approx(encoded, abs=0.05)
