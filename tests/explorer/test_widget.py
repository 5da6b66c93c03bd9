"""The explorer, moved as a hand would move it."""

import io
import shutil
import threading
from dataclasses import replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from atlases import CENTRE, halved, heart, small_atlas, unit, with_priors
from PIL import Image, ImageSequence

from cvae_utils.analysis import projections
from cvae_utils.explorer import widget
from cvae_utils.explorer.atlas import Effects, load_or_build
from cvae_utils.explorer.widget import SWEEP, Explorer
from cvae_utils.figures.colours import colourise
from cvae_utils.files import DataError
from cvae_utils.model.encoding import Posterior, encode
from cvae_utils.model.runs import load_run

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def other(table):
    """Of the same size as `atlas`, with other values, and its dimensions in another order."""
    made = small_atlas(table, name="other", stamp="Data: other hearts", active=[1, 2])
    ranking = made.effects.ranking.assign(dimension=[1, 2, 3, 0, 5, 4])
    return replace(made, effects=Effects(ranking, made.effects.names),
                   posterior=Posterior(made.posterior.mu + 1, made.posterior.logvar))


@pytest.fixture
def panel(atlas, tmp_path):
    return Explorer([atlas], exports=tmp_path / "exports")


@pytest.fixture
def fitted(atlas, tmp_path):
    """An explorer of a run with fitted priors, moved away from its start."""
    made = Explorer([with_priors(atlas)], exports=tmp_path / "exports")
    made.sliders[0].value = 2.0
    return made


@pytest.fixture
def patients(atlas, slices, tmp_path):
    """An explorer whose patients have been read."""
    made = Explorer([atlas], lambda size: slices, tmp_path / "exports")
    made.load.click()
    return made


def decoded(image):
    return np.asarray(Image.open(io.BytesIO(image.value)))


def shows(panel, z):
    """Whether its heart is that of z: beside the outline, in the middle of each pixel."""
    model = panel.state.atlas.run.model
    step = 320 // model.size
    shown = decoded(panel.heart)[step // 2::step, step // 2::step]
    return (shown == colourise(heart(model, z))).all()


def pictures(panel):
    images = {"heart": panel.heart, "strip": panel.strip,
              **{kind.__name__: image for kind, image in panel.pictures.items()}}
    return {name: image.value for name, image in images.items()}


def unchanged(panel, before):
    """The names of the pictures that are as they were."""
    after = pictures(panel)
    return [name for name in before if before[name] == after[name]]


def values(panel):
    return [slider.value for slider in panel.sliders]


def selected(panel):
    return [k for k, s in enumerate(panel.sliders) if "cvae-selected" in s._dom_classes]


def everything(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from everything(child)


# ------------------------------------------------------------------------------------- at first
def test_explorer_opens_on_the_mean_heart_and_the_strongest_dimension(panel):
    assert shows(panel, np.zeros(6)) and values(panel) == [0] * 6
    assert [s.description for s in panel.listed.children] == [
        "z3  effect 3", "z0  effect 0", "z5  effect 5"]
    assert [s.description for s in panel.folded.children] == [
        "z1  inactive", "z4  inactive", "z2  inactive"]
    assert panel.fold.get_title(0) == "3 inactive dimensions" and panel.fold.selected_index is None
    assert panel.dimension.value == 3 and panel.dimension.label == "z3  effect 3"
    assert selected(panel) == [0] and panel.message.value == "" and panel.way.disabled
    assert panel.prior.layout.display == "none"  # nothing to choose from
    assert panel.run.label == "small" and "Data: small hearts" in panel.note.value
    assert "0.50" in panel.note.value  # the error of the plane
    assert all(bytes(image).startswith(b"\x89PNG") for image in pictures(panel).values())
    made = list(everything(panel.widget))  # of standard widgets
    assert panel.heart in made and set(panel.sliders) < set(made)
    assert {type(widget).__module__.partition(".")[0] for widget in made} == {"ipywidgets"}


# ----------------------------------------------------------------------------------- the sliders
def test_moving_a_slider_moves_the_point_and_every_panel(panel):
    before = pictures(panel)
    panel.sliders[1].value = 2.0
    assert panel.state.z.tolist() == unit(0, 2.0).tolist() and shows(panel, unit(0, 2.0))
    assert panel.dimension.value == 0 and selected(panel) == [1] and unchanged(panel, before) == []
    panel.sliders[4].value = -1.3  # an inactive one, far down the list
    assert panel.state.z[4] == pytest.approx(-1.3) and panel.dimension.value == 4
    moved = pictures(panel)
    panel.dimension.value = 3  # which moves nothing
    assert values(panel) == [0, 2, 0, 0, -1.3, 0] and selected(panel) == [0]
    assert unchanged(panel, moved) == ["heart"]
    panel.reset.click()
    assert pictures(panel) == before  # byte for byte


@pytest.mark.parametrize("prior", ["standard", "mixture"])
@pytest.mark.parametrize(("value", "shown", "echo"), [
    (0.3, 0.3, 0.1 + 0.2), (0.3, 0.3, 0.34), (4.2, 3, 3 - 1e-12), (-5, -3, -3 + 1e-12),
    (0.234, 0.2, 0.1 + 0.1)])
def test_echo_of_a_slider_is_no_move_and_keeps_what_no_slider_can_show(
        fitted, prior, value, shown, echo):
    fitted.prior.value = prior
    u = np.zeros(6)
    u[fitted.state.order[1]] = value
    fitted.state.begin(fitted.state.prior.from_axes(u), "here")
    fitted.refresh()
    before, z = pictures(fitted), fitted.state.z
    assert fitted.sliders[1].value == shown
    fitted.sliders[1].value = echo
    assert (fitted.state.z == z).all() and selected(fitted) == [0] and pictures(fitted) == before
    fitted.sliders[1].value = 1.0
    assert fitted.state.u[fitted.state.order[1]] == 1


@pytest.mark.parametrize(("value", "following"), [(0, [0.1, 0.2]), (1.5, [1.6, 1.7]),
                                                  (3, [2.9, 2.8]), (-3, [-2.9, -2.8])])
def test_sweep_goes_on_from_where_the_slider_is(panel, value, following):
    panel.sliders[0].value = 1.0
    panel.dimension.value = 5
    panel.sliders[2].value = value
    panel.play.playing = True
    assert panel.sliders[2].value == value
    for expected in following:
        panel.play.value += 1
        assert values(panel) == pytest.approx([1, 0, expected, 0, 0, 0]) and selected(panel) == [2]
        assert panel.state.z[5] == pytest.approx(expected)
    assert shows(panel, panel.state.z)
    assert (SWEEP.min(), SWEEP.max(), len(SWEEP)) == (-3, 3, 120)
    assert np.abs(np.diff([*SWEEP, SWEEP[0]])) == pytest.approx(0.1)


# ---------------------------------------------------------------------------- where a walk starts
def test_buttons_lead_to_a_start_and_back_to_it(panel):
    panel.random.click()
    start = np.random.default_rng(0).standard_normal(6)
    assert panel.state.z == pytest.approx(start) and shows(panel, start)
    assert values(panel) == pytest.approx(np.clip(start, -3, 3).round(1)[panel.state.order])
    at_start = pictures(panel)
    panel.sliders[0].value = 3.0
    panel.reset.click()
    assert panel.state.z == pytest.approx(start) and pictures(panel) == at_start
    panel.random.click()
    assert panel.state.z != pytest.approx(start)
    panel.mean.click()
    assert values(panel) == [0] * 6 and panel.state.start_name == "mean heart"


def test_mean_of_a_group_and_a_phase_is_a_start(panel, atlas):
    panel.phase.value = "ES"  # of which group is not yet said
    assert not panel.state.z.any()
    for group, phase in (("DCM", "ES"), ("DCM", ""), ("", "")):
        panel.group.value, panel.phase.value = group, phase
        assert panel.state.z == pytest.approx(atlas.group_mean(group, phase))
        assert shows(panel, panel.state.start)
    assert "mean of all groups" in panel.measures.value


def test_the_same_group_or_slice_can_be_chosen_again(patients):
    for menu, value, empty in (
            (patients.group, "DCM", "-"), (patients.patient, "patient003", None)):
        menu.value = value
        start = patients.state.z
        for button in (patients.mean, patients.random):
            button.click()
            assert menu.value == empty and patients.state.z != pytest.approx(start)
            menu.value = value
            assert patients.state.z == pytest.approx(start)


@pytest.mark.parametrize(("phases", "options"), [
    (["ED", "ES"], (("ED and ES", ""), ("ED", "ED"), ("ES", "ES"))),
    (["ES", "ES"], (("ES", ""),)),
    (["ED", "unknown"], (("any phase", ""), ("ED", "ED"))),
])
def test_phases_are_those_that_occur(atlas, phases, options):
    table = atlas.table.assign(phase=np.resize(phases, len(atlas.table)), group="unknown")
    panel = Explorer([replace(atlas, table=table)])
    assert panel.phase.options == options
    panel.group.value = "unknown"
    assert panel.state.z == pytest.approx(atlas.posterior.mu.mean(axis=0), abs=1e-4)


# -------------------------------------------------------------------------------------- the runs
def test_another_run_keeps_the_values_by_their_place_in_the_list(atlas, other):
    panel = Explorer([atlas, other])
    assert [label for label, _ in panel.run.options] == ["small", "other"]
    panel.sliders[0].value, panel.sliders[3].value = 2.0, -1.5
    panel.run.value = 1
    assert panel.state.order == [1, 2, 3, 0, 5, 4] and len(panel.listed.children) == 2
    assert values(panel) == [2, 0, 0, -1.5, 0, 0]
    assert panel.state.z.tolist() == [-1.5, 2, 0, 0, 0, 0] and shows(panel, panel.state.z)
    assert panel.sliders[0].description == "z1  effect 1"
    assert panel.fold.get_title(0) == "4 inactive dimensions"
    assert panel.dimension.value == 1 and selected(panel) == [0]
    assert "Data: other hearts" in panel.note.value and panel.message.value == ""
    panel.sliders[0].value = 0.0
    assert panel.state.z[1] == 0  # and no longer z3


@pytest.mark.parametrize("leave", ["mean", "random"])
def test_mean_of_a_group_is_found_in_a_run_that_has_it(atlas, other, leave):
    only = replace(other, table=other.table.assign(group="NOR", phase="ED"))
    panel = Explorer([atlas, other, only])
    panel.phase.value, panel.group.value = "ES", "HCM"
    panel.run.value = 1
    assert panel.state.z == pytest.approx(other.group_mean("HCM", "ES"))
    assert panel.state.start_name == "mean of HCM ES"
    panel.run.value = 2
    assert "found &#x27;HCM&#x27;" in panel.message.value and panel.run.label == "other"
    assert [value for _, value in panel.group.options] == ["-", "", "NOR"]
    assert (panel.group.value, panel.phase.options) == ("-", (("ED", ""),))
    assert pictures(panel) == pictures(Explorer([only]))
    panel.group.value = "NOR"
    getattr(panel, leave).click()  # from there on it is not the group's mean
    panel.sliders[0].value = 1.0
    kept = values(panel)
    panel.run.value = 0
    assert values(panel) == kept and panel.state.start_name == "mean heart"
    assert len(panel.group.options) == 7 and len(panel.phase.options) == 3


def test_slice_is_encoded_by_the_other_run(atlas, slices, table):
    small = small_atlas(table, name="of 16 pixels", size=16)
    panel = Explorer([atlas, small], lambda size: {32: slices, 16: halved(slices)}[size])
    panel.load.click()
    panel.patient.value = "patient003"
    panel.way.value = 0.5
    ed = panel.slice.value[0]
    panel.run.value = 1
    assert panel.state.z == pytest.approx(
        encode(small.run.model, halved(slices).aligned[[ed]]).mu[0], abs=1e-4)
    assert panel.way.value == 0 and not panel.way.disabled and shows(panel, panel.state.z)


def test_run_of_another_latent_size_gets_its_own_sliders(atlas, table):
    panel = Explorer([atlas, small_atlas(table, name="of four", latent_dim=4,
                                         active=[0, 1, 2, 3])])
    panel.sliders[0].value = 2.0
    panel.run.value = 1
    assert "4 latent dimensions, the last one had 6" in panel.message.value
    assert len(panel.listed.children) == 4 and panel.fold.layout.display == "none"
    assert values(panel) == [0] * 4 and shows(panel, np.zeros(4))
    panel.sliders[3].value = 1.0
    assert panel.state.z.tolist() == [0, 0, 1, 0] and panel.message.value == ""
    panel.run.value = 0
    assert len(panel.sliders) == 6 and shows(panel, np.zeros(6))


# ------------------------------------------------------------------------------------ the priors
def test_chosen_prior_opens_at_its_mean_heart_with_a_slider_an_axis(fitted):
    before = pictures(fitted)
    assert fitted.prior.options == (("N(0, I)", "standard"),
                                    ("fitted Gaussian · axes", "gaussian"),
                                    ("fitted mixture · axes", "mixture"))
    assert fitted.prior.value == "standard" and fitted.prior.layout.display != "none"
    fitted.prior.value = "gaussian"
    assert shows(fitted, CENTRE) and values(fitted) == [0] * 6 and fitted.message.value == ""
    assert [s.description for s in fitted.listed.children] == [
        "axis 1  deed 0", "axis 2  deed 1", "axis 3  deed 2"]
    assert [s.description for s in fitted.folded.children] == [
        "axis 4  inactive", "axis 5  inactive", "axis 6  inactive"]
    assert fitted.fold.get_title(0) == "3 inactive axes"
    assert fitted.dimension.description == "axis" and fitted.dimension.label == "axis 1  deed 0"
    assert selected(fitted) == [0] and "principal axes of the fitted Gaussian" in fitted.note.value
    assert fitted.random.tooltip == "start from a sample of the fitted Gaussian"
    assert unchanged(fitted, before) == []
    fitted.prior.value = "standard"
    assert shows(fitted, np.zeros(6)) and values(fitted) == [0] * 6
    assert fitted.sliders[0].description == "z3  effect 3" and "axes" not in fitted.note.value
    assert fitted.dimension.description == "dimension"
    assert fitted.mean.tooltip == "start from the mean of N(0, I)"
    fitted.sliders[0].value = 2.0
    assert pictures(fitted) == before


def test_slider_of_an_axis_moves_along_it(fitted):
    fitted.prior.value = "gaussian"
    fitted.sliders[1].value = 1.5  # dimension 1
    fitted.sliders[5].value = -1.0  # three of dimension 5
    z = CENTRE + unit(1, 1.5) - unit(5, 3)
    assert fitted.state.z == pytest.approx(z) and shows(fitted, z)
    assert fitted.dimension.value == 5 and values(fitted) == [0, 1.5, 0, 0, 0, -1]
    fitted.play.playing = True
    fitted.play.value += 1
    assert values(fitted) == [0, 1.5, 0, 0, 0, -1.1]
    assert "-sweep-axis6-" in fitted.export_gif().name
    assert fitted.figure().get_suptitle().endswith("started from mean heart: axis 6, inactive")
    fitted.mean.click()
    assert values(fitted) == [0] * 6 and shows(fitted, CENTRE)


def test_starts_are_shown_in_the_coordinates_of_the_prior(fitted, atlas):
    def in_coordinates(z):
        return pytest.approx(np.clip(fitted.state.prior.to_axes(z), -3, 3), abs=0.051)

    fitted.prior.value = "gaussian"
    fitted.group.value = "DCM"
    mean = atlas.group_mean("DCM")
    assert (fitted.state.z == mean).all() and shows(fitted, mean)
    assert values(fitted) == in_coordinates(mean)
    fitted.prior.value = "mixture"  # begins at the mean heart
    assert fitted.group.value == "-" and shows(fitted, CENTRE)
    fitted.random.click()
    assert np.abs(fitted.state.z - CENTRE) == pytest.approx([1, 0, 0, 0, 0, 0], abs=1e-3)
    assert "a sample of the fitted mixture of 2" in fitted.measures.value
    assert values(fitted) == in_coordinates(fitted.state.z)


def test_prior_and_places_are_kept_in_a_run_that_has_them(atlas, other):
    panel = Explorer([with_priors(atlas), with_priors(other), other])
    panel.prior.value = "gaussian"
    panel.sliders[1].value = 1.5
    panel.run.value = 1
    assert panel.prior.value == "gaussian" and values(panel) == [0, 1.5, 0, 0, 0, 0]
    assert panel.state.z == pytest.approx(CENTRE + unit(1, 1.5)) and panel.message.value == ""
    panel.run.value = 2
    assert "this run has no fitted Gaussian: it opens with N(0, I)" in panel.message.value
    assert panel.prior.layout.display == "none" and panel.sliders[0].description == "z1  effect 1"
    assert values(panel) == [0] * 6 and pictures(panel) == pictures(alone := Explorer([other]))
    panel.run.value = 0
    assert panel.prior.value == "standard" and panel.sliders[0].description == "z3  effect 3"
    panel.prior.value = "gaussian"
    panel.group.value = "HCM"  # which the run without the prior has, too
    panel.run.value = 2
    alone.group.value = "HCM"
    assert pictures(panel) == pictures(alone)


def test_controls_that_are_used_at_once_wait_for_each_other(atlas, other, monkeypatch):
    """JupyterLab answers them in two threads."""
    panel = Explorer([with_priors(atlas), with_priors(other)])
    opening, opened, steps = panel.state.open, threading.Event(), []

    def slow(atlas):
        opened.set()
        hand.join(0.5)  # who waits for this, and does not change anything meanwhile
        steps.append(panel.state.prior.kind)
        opening(atlas)

    def choose():
        opened.wait(5)
        panel.prior.value = "gaussian"

    monkeypatch.setattr(panel.state, "open", slow)
    hand = threading.Thread(target=choose)
    hand.start()
    panel.run.value = 1
    hand.join(10)
    assert steps == ["standard"] and panel.message.value == ""
    assert (panel.run.value, panel.prior.value, panel.state.prior.kind) == (1, "gaussian",
                                                                           "gaussian")
    assert shows(panel, CENTRE) and panel.sliders[0].description == "axis 1  deed 0"


# ---------------------------------------------------------------------------------- the patients
def test_patients_are_read_at_a_click_and_encoded_slice_by_slice(atlas, slices):
    def encoded(row):
        return pytest.approx(encode(atlas.run.model, slices.aligned[[row]]).mu[0], abs=1e-4)

    asked = []
    panel = Explorer([atlas], lambda size: asked.append(size) or slices)
    assert panel.chosen.layout.display == "none" and "needs the labels" in panel.measures.value
    assert asked == []
    panel.load.click()
    assert asked == [32] and panel.unread.layout.display == "none"
    assert panel.chosen.layout.display == "" and panel.patient.value is None
    assert panel.patient.options[2] == ("patient003 (DCM)", "patient003")
    assert len(panel.patient.options) == 10 and "10 patients (phantom)" in panel.message.value
    assert not panel.state.z.any() and "needs the labels" not in panel.measures.value

    rows = slices.table.query("patient == 'patient003' and phase == 'ED'")
    panel.patient.value = "patient003"
    assert [label.partition(",")[0] for label, _ in panel.slice.options] == [
        f"slice {k}" for k in rows["slice_index"]]
    middle = rows.index[len(rows) // 2]
    assert panel.slice.value[0] == middle and panel.state.z == encoded(middle)
    assert f"patient003 ED, slice {rows['slice_index'][middle]}" in panel.measures.value
    assert " mm²" in panel.measures.value
    panel.slice.index = 1
    assert panel.state.z == encoded(rows.index[1]) and shows(panel, panel.state.z)
    panel.mean.click()
    assert " mm²" not in panel.measures.value


@pytest.mark.parametrize(("columns", "options", "start"), [
    ({"phase": ["ED", "ED", "ES", "ES"], "slice_index": [4, 5, 3, 4]},
     (("slice 4, ED and ES", (0, 3)), ("slice 5, ED only", (1, None)),
      ("slice 3, ES only", (2, None))), "patient001 ED, slice 5"),
    ({"phase": ["ED", "ED", "ES", "ES"], "slice_index": 3, "scan": ["a", "b", "a", "c"]},
     (("a, slice 3, ED and ES", (0, 2)), ("b, slice 3, ED only", (1, None)),
      ("c, slice 3, ES only", (3, None))), "patient001 b ED, slice 3"),
    ({"phase": "unknown", "slice_index": [4, 4, 5, 6], "scan": ["", "frame01", "frame12", ""]},
     (("slice 4", (0, None)), ("frame01, slice 4", (1, None)), ("frame12, slice 5", (2, None)),
      ("slice 6", (3, None))), "patient001 frame12, slice 5"),
])
def test_slices_are_paired_by_scan_and_phase(atlas, slices, columns, options, start):
    rows = np.flatnonzero(slices.table["patient"] == "patient001")[:4]
    table = slices.table.iloc[rows].reset_index(drop=True).assign(group="unknown", **columns)
    panel = Explorer([atlas], lambda size: replace(slices, aligned=slices.aligned[rows],
                                                   table=table))
    panel.load.click()
    assert panel.patient.options == (("patient001", "patient001"),)
    panel.patient.value = "patient001"
    assert panel.slice.options == options and panel.message.value == ""
    assert panel.state.start_name == start
    for panel.slice.index, (_, (_, es)) in enumerate(options):
        assert panel.way.disabled == (es is None)


def test_way_slider_walks_from_ed_to_es(patients, atlas, slices):
    patients.patient.value = "patient003"
    ed, es = encode(atlas.run.model, slices.aligned[list(patients.slice.value)]).mu
    before = pictures(patients)
    patients.way.value = 1
    assert patients.state.z == pytest.approx(es, abs=1e-4) and pictures(patients) != before
    assert values(patients) == pytest.approx(np.clip(es, -3, 3)[patients.state.order], abs=0.051)
    patients.way.value = 0.5
    patients.reset.click()
    assert patients.state.z == pytest.approx(ed, abs=1e-4) and patients.way.value == 0
    patients.way.value = 0.5
    assert patients.state.z == pytest.approx((ed + es) / 2, abs=1e-4)
    patients.slice.index -= 1
    assert patients.way.value == 0 and patients.state.z == pytest.approx(patients.state.start)


def test_explorer_without_labels_says_how_to_get_them(panel):
    before = pictures(panel)
    panel.load.click()
    assert "labels=study.slices_of" in panel.message.value and pictures(panel) == before
    assert panel.unread.layout.display != "none"
    panel.sliders[0].value = 1.0
    assert panel.message.value == ""


# --------------------------------------------------------------------------------------- exports
@pytest.fixture
def exported(panel, tmp_path):
    """Press an export button of a panel away from its start, and get the one file written."""
    def press(text, of=panel):
        button, = (b for b in of.downloads.children if getattr(b, "description", "") == text)
        button.click()
        path, = (tmp_path / "exports").iterdir()
        assert str(path) in of.message.value and path.name.startswith("small-")
        return path

    panel.sliders[1].value = 2.0
    return press


def test_heart_is_exported_as_it_is_shown(panel, exported):
    path = exported("heart PNG")
    assert path.suffix == ".png"
    assert (np.asarray(Image.open(path)) == decoded(panel.heart)).all()


def test_heart_is_exported_as_a_label_map(atlas, exported):
    image = nibabel.load(exported("heart NIfTI"))
    found, label_map = np.asarray(image.dataobj), heart(atlas.run.model, unit(0, 2.0))
    assert found.shape == (32, 32, 1) and found.dtype == image.get_data_dtype() == np.uint8
    assert (found[:, :, 0] == label_map.T).all() and (label_map != label_map.T).any()
    assert image.header.get_zooms()[:2] == pytest.approx([atlas.table["crop_mm"].median() / 32] * 2)
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_xyzt_units()[0] == "mm"
    assert b"median" in image.header["descrip"].item()


def test_label_map_of_a_patient_has_the_pixels_of_its_slice(patients, slices, exported):
    patients.patient.value = "patient003"
    image = nibabel.load(exported("heart NIfTI", patients))
    crop_mm = slices.table["crop_mm"][patients.slice.value[0]]
    assert image.header.get_zooms()[:2] == pytest.approx([crop_mm / 32] * 2)
    assert b"slice it started from" in image.header["descrip"].item()


def test_sweep_is_exported_as_an_endless_gif(atlas, exported):
    path = exported("sweep GIF")
    assert "-sweep-z0-" in path.name
    with Image.open(path) as found:
        assert found.info["loop"] == 0 and found.n_frames > 30  # for ever
        assert found.size == (widget.GIF_PIXELS,) * 2
        first = np.asarray(found.convert("RGB"))[4::8, 4::8]
        # Two frames in a row that are alike become one that is shown for longer.
        shown = sum(frame.info["duration"] for frame in ImageSequence.Iterator(found))
    assert (first == colourise(heart(atlas.run.model, unit(0, -3)))).mean() > 0.998
    assert shown == widget.GIF_FRAMES * widget.GIF_MS


def test_panels_are_exported_as_one_picture(panel, exported):
    with Image.open(exported("panels PNG")) as found:
        assert found.format == "PNG" and min(found.size) > 900
    figure = panel.figure()
    assert figure.get_suptitle() == r"$\beta$ = 10, started from mean heart: z0, effect 0"
    assert figure.get_supxlabel() == "Data: small hearts"


def test_files_go_to_the_output_folder_or_it_is_said_why_not(atlas, tmp_path, monkeypatch):
    monkeypatch.setenv("CVAE_OUT", str(tmp_path))
    panel = Explorer([atlas])
    assert panel.export_png().parent == tmp_path / "data" / "exports"
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").touch()
    panel.downloads.children[1].click()
    assert str(tmp_path) in panel.message.value and "written" not in panel.message.value


# ------------------------------------------------------------------------- runs that do not open
@pytest.fixture
def folder(run, slices, split, tmp_path, monkeypatch):
    """The folder of a finished run, with an atlas for which no UMAP was compiled."""
    monkeypatch.setattr(projections, "fit_umap", lambda mu, seed: SimpleNamespace(
        embedding_=mu[:, :2], n_neighbors=7, min_dist=0.25, transform=lambda z: z[:, :2]))
    kept = load_run(shutil.copytree(run.folder, tmp_path / "kept"), torch.device("cpu"))
    load_or_build(replace(kept, results=run.results), slices, split, "Data: kept hearts")
    return kept.folder


def test_folder_of_a_run_is_read_when_it_is_chosen(atlas, folder):
    panel = Explorer([atlas, folder])
    panel.run.value = 1
    assert panel.run.label == "kept" and "Data: kept hearts" in panel.note.value
    assert len(panel.prior.options) == 3
    shutil.rmtree(folder)
    panel.run.value = 0
    panel.run.value = 1
    assert "Data: kept hearts" in panel.note.value and panel.message.value == ""


def lose_the_atlas(folder):
    shutil.rmtree(next(folder.glob("atlas-*")))


def break_the_weights(folder):
    (folder / "model.safetensors").write_bytes(b"not weights")


def break_the_posterior(folder):
    next(folder.glob("atlas-*/posterior.safetensors")).write_bytes(b"not a posterior")


@pytest.mark.parametrize(("spoil", "remedy"), [
    (shutil.rmtree, "Train it with notebook 02 or 03"),
    (lose_the_atlas, "Make it with study.atlas(run)"),
    (break_the_weights, "Train the run again"),
    (break_the_posterior, "again with study.atlas(run)"),
])
def test_run_that_does_not_open_is_named_and_leaves_the_others(atlas, folder, spoil, remedy):
    panel = Explorer([atlas, folder])
    panel.sliders[0].value = 2.0
    before = pictures(panel)
    spoil(folder)
    panel.run.value = 1
    assert str(folder) in panel.message.value and remedy in panel.message.value
    assert panel.run.value == 0 and pictures(panel) == before
    panel.sliders[0].value = 1.0
    assert shows(panel, unit(3, 1.0)) and panel.message.value == ""
    panel = Explorer([folder, atlas])  # opens on the first that is whole
    assert panel.run.label == "small" and shows(panel, np.zeros(6))
    assert str(folder) in panel.message.value and remedy in panel.message.value
    said = Explorer([folder]).widget.children[1].value
    assert str(folder) in said and remedy in said


def test_explorer_without_a_run_says_where_to_get_one():
    said = Explorer([]).widget.children[1].value
    assert "no trained run" in said and "git checkout data/pretrained" in said


def test_run_for_which_there_are_no_slices_leaves_the_one_that_is(atlas, slices, table):
    def labels(size):
        if size == 32:
            return slices
        raise DataError("no labels of this size")

    panel = Explorer([atlas, small_atlas(table, name="of 16 pixels", size=16)], labels)
    panel.load.click()
    panel.patient.value = "patient003"
    before = pictures(panel)
    panel.run.value = 1
    assert "no labels of this size" in panel.message.value
    assert panel.run.value == 0 and pictures(panel) == before
    panel.sliders[0].value = 1.0
    assert panel.state.z[3] == 1 and shows(panel, panel.state.z)
