"""The populations of scripts/populations.py are what their names say."""

import shutil

import nbformat
import numpy as np
import pytest

from cvae_utils.data import acdc, sources
from cvae_utils.data.phantom import write_phantom
from scripts import populations
from scripts.populations import POPULATIONS
from scripts.run_notebooks import choose


@pytest.fixture(scope="module")
def fifteen(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("made") / "hearts", patients=15, images=False,
                         progress=False)


@pytest.fixture
def opened(fifteen, tmp_path, monkeypatch):
    """opened(name): the label volumes of a population, of 15 patients at most."""
    monkeypatch.setattr(populations, "hearts", lambda folder, patients=15: shutil.copytree(
        fifteen, folder))

    def make(name):
        settings = POPULATIONS[name].write(tmp_path / "hearts")
        return sources.open_source(name, tmp_path / "hearts", settings.get("CVAE_LABELS", "ACDC"),
                                   settings.get("CVAE_PATTERN", "")).frames
    return make


def labels(frames):
    return [acdc.read_frame(frame).data for frame in frames]


def test_structures_are_missing(opened):
    assert {value for data in labels(opened("no RV")) for value in np.unique(data)} == {0, 2, 3}
    assert [name for name, p in POPULATIONS.items() if p.refused] == ["no MYO"]


@pytest.mark.parametrize(("name", "groups", "phases", "patients"), [
    ("ED alone", {"unknown"}, {"ED"}, 15), ("unknown groups", {"unknown"}, {"ED", "ES"}, 15),
    ("one group", {"NOR"}, {"ED", "ES"}, 3), ("two groups", {"NOR", "DCM"}, {"ED", "ES"}, 6),
    ("nnU-Net names", {"unknown"}, {"unknown"}, 15),
    ("oblique M&Ms", {"unknown"}, {"ED", "ES"}, 15),
])
def test_groups_and_phases_are_those_of_the_name(opened, name, groups, phases, patients):
    frames = opened(name)
    assert {frame.group for frame in frames} == groups
    assert {frame.phase for frame in frames} == phases
    assert len({frame.patient for frame in frames}) == patients


def test_shuffled_groups_are_as_many_but_of_others(opened, fifteen):
    before = [frame.group for frame in acdc.list_frames(fifteen)]
    after = [frame.group for frame in opened("shuffled groups")]
    assert sorted(after) == sorted(before) and after != before


def test_oblique_stacks_hold_the_same_hearts(opened, fifteen):
    before, after = labels(acdc.list_frames(fifteen)), labels(opened("oblique M&Ms"))
    assert sorted((a == 3).sum() for a in after) == sorted((a == 3).sum() for a in before)


def test_one_slice_with_an_lv_is_left_of_a_volume(opened):
    for data in labels(opened("one slice a volume")):
        assert data.shape[2] == 1 and (data == 3).any()


def test_edits_are_of_what_every_notebook_has():
    edits = {old for population in POPULATIONS.values() for old in population.edits}
    for path in choose([]):
        cells = nbformat.read(path, as_version=4).cells
        first = next(cell.source for cell in cells if cell.cell_type == "code")
        assert all(first.count(old) == 1 for old in edits), path.name
