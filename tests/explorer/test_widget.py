"""The explorer as a notebook has it: what the kernel holds and answers. test_lab moves it in
JupyterLab."""

import base64
import io
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from atlases import halved, heart, small_atlas
from matplotlib.figure import Figure
from PIL import Image
from traitlets import TraitError

from cvae_utils.analysis import projections
from cvae_utils.data.slices import DataError
from cvae_utils.explorer.atlas import load_or_build
from cvae_utils.explorer.widget import Explorer
from cvae_utils.model.encoding import encode
from cvae_utils.model.runs import load_run


@pytest.fixture
def explorer(atlas, slices):
    """With the labels of its slices, at 32 pixels a side, and a grey image of each at ED."""
    def image(row, size):
        return np.linspace(0, 900, size**2).reshape(size, size) if row.phase == "ED" else None

    return Explorer([atlas], lambda size: {32: slices, 16: halved(slices)}[size], image)


def test_explorer_opens_on_the_mean_of_the_real_hearts_and_follows_z(explorer, atlas):
    assert explorer.z == pytest.approx(atlas.posterior.mu.mean(axis=0))
    assert explorer.strongest == 3 and explorer.problem == ""
    z = np.array(explorer.z, dtype=np.float32)
    explorer.move(3, 1.5)
    z[3] = 1.5
    assert explorer.z == pytest.approx(z)
    assert (explorer.decode() == heart(atlas.run.model, z)).all()
    assert isinstance(explorer.figure(), Figure)


def test_run_and_z_that_do_not_fit_are_refused(atlas, table):
    explorer = Explorer([atlas, small_atlas(table, latent_dim=3)])
    for number, words in ((2, "run: expected 0 to 1, found 2"), (-1, "found -1")):
        with pytest.raises(TraitError, match=words):
            explorer.run = number
    for z in ([1.0, 2.0], [0.0] * 5 + [np.inf]):
        with pytest.raises(TraitError, match="z: expected 6 finite numbers"):
            explorer.z = z
    explorer.run = 1  # its z is not that of the run before
    assert explorer.z == pytest.approx(explorer.atlas.group_mean())
    explorer.set_state({"run": 0, "z": [0.5] * 6})  # as the front end does, both at once
    assert explorer.z == [0.5] * 6


def test_scores_are_those_of_the_decoder(explorer, atlas):
    z = [0.5, -1, 0, 2, 0, 0]
    answer = explorer.answer({"what": "scores", "run": 0, "z": z})
    scores = np.frombuffer(base64.b64decode(answer["scores"]), dtype="<f2").reshape(4, 32, 32)
    assert answer["side"] == 32
    assert (scores.argmax(axis=0) == heart(atlas.run.model, z)).mean() > 0.999


def test_slice_is_encoded_at_ed_and_es_with_its_image(explorer, atlas, slices):
    patient = explorer.answer({"what": "patients", "run": 0})["patients"][2]
    pair = next(one["rows"] for one in patient["slices"] if len(one["rows"]) == 2)
    ed, es = explorer.answer({"what": "slice", "run": 0, "rows": pair})["hearts"]
    expected = encode(atlas.run.model, slices.aligned[pair]).mu
    assert [ed["z"], es["z"]] == [pytest.approx(mu, abs=1e-5) for mu in expected]
    assert ed["crop"] == slices.table["crop_mm"][pair[0]]
    assert ed["name"].startswith("patient003 ED, slice")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(ed["image"]))))
    assert picture.shape == (256, 256) and picture.min() == 0 and picture.max() == 255
    assert es["image"] is None


def test_nearest_slice_is_one_of_those_trained_on(explorer, atlas, slices, split):
    row = int(split["train"][60])
    z = encode(atlas.run.model, slices.aligned[[row]]).mu[0].tolist()
    words = explorer.answer({"what": "nearest", "run": 0, "z": z})["words"]
    patient = words.split(": ")[1].split()[0]
    assert patient in set(slices.table["patient"].iloc[split["train"]]) and ", Dice 0." in words
    other = Explorer([replace(atlas, source="ACDC")], lambda size: slices)
    assert "needs the ACDC labels" in other.answer({"what": "nearest", "run": 0, "z": z})["words"]


def test_what_cannot_be_answered_is_said(atlas):
    alone = Explorer([atlas])
    assert not alone.has_patients
    assert "labels=study.slices_of" in alone.answer({"what": "patients", "run": 0})["error"]

    def unreadable(size):
        raise DataError("no labels of this size")

    broken = Explorer([atlas], unreadable)
    assert broken.answer({"what": "patients", "run": 0}) == {"error": "no labels of this size"}


# ------------------------------------------------------------------------- runs that do not open
@pytest.fixture
def folder(run, slices, split, tmp_path, monkeypatch):
    """The folder of a finished run, with an atlas for which no UMAP was compiled."""
    monkeypatch.setattr(projections, "fit_umap", lambda mu, seed: SimpleNamespace(
        embedding_=mu[:, :2], n_neighbors=7, min_dist=0.25, transform=lambda z: z[:, :2]))
    kept = load_run(shutil.copytree(run.folder, tmp_path / "kept"), torch.device("cpu"))
    load_or_build(replace(kept, results=run.results), slices, split, "Data: kept hearts")
    return kept.folder


def lose_the_atlas(folder):
    shutil.rmtree(next(folder.glob("atlas-*")))


def break_the_weights(folder):
    (folder / "model.safetensors").write_bytes(b"not weights")


def break_the_posterior(folder):
    next(folder.glob("atlas-*/posterior.safetensors")).write_bytes(b"not a posterior")


def names(explorer):
    return [atlas.name for atlas in explorer.atlases]


@pytest.mark.parametrize(("spoil", "remedy"), [
    (shutil.rmtree, "Train it with notebook 02 or 03"),
    (lose_the_atlas, "Make it with study.atlas(run)"),
    (break_the_weights, "Train the run again"),
    (break_the_posterior, "again with study.atlas(run)"),
])
def test_run_that_does_not_open_is_named_and_leaves_the_others(atlas, folder, spoil, remedy):
    assert names(Explorer([atlas, folder])) == ["small", "kept"]
    spoil(folder)
    found = Explorer([folder, atlas])
    assert names(found) == ["small"]
    assert str(folder) in found.problem and remedy in found.problem
    alone = Explorer([folder])
    assert alone.data == "" and remedy in alone.problem


def test_explorer_without_a_run_says_where_to_get_one():
    said = Explorer([]).problem
    assert "no trained run" in said and "git checkout data/pretrained" in said


def test_runs_of_several_sizes_stand_side_by_side(atlas, table):
    found = Explorer([atlas, small_atlas(table, size=16, latent_dim=3)])
    first, second = json.loads(found.data)["runs"]
    assert (first["size"], first["latent_dim"]) == (32, 6) and second.keys() == {"label"}
    second = found.answer({"what": "run", "run": 1})  # asked for when it is chosen
    assert (second["size"], second["latent_dim"]) == (16, 3) and first.keys() == second.keys() | {
        "label"}
