"""The first cell of a notebook, and what it hands on."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from cvae_utils import profiles
from cvae_utils import study as study_module
from cvae_utils.data import every_slice, sources
from cvae_utils.model import hardware, runs
from cvae_utils.model.training import RunConfig
from cvae_utils.study import begin, check, finding, stamp_of


@pytest.fixture
def environment(tmp_path, monkeypatch, tiny):
    """Outputs to tmp_path, the phantom, and a smoke profile that is tiny."""
    monkeypatch.setenv("CVAE_OUT", str(tmp_path))
    monkeypatch.setenv("CVAE_PROFILE", "smoke")
    monkeypatch.setitem(profiles.PROFILES, "smoke", replace(tiny, name="smoke", epochs=1))
    monkeypatch.setitem(profiles.VARIANTS["smoke"], "sharp", {"base_channels": 6})
    monkeypatch.setattr(hardware, "best_device", lambda: torch.device("cpu"))
    return tmp_path


@pytest.fixture
def study(environment, source, monkeypatch):
    monkeypatch.setattr(sources, "find_source", lambda *_: source)
    return begin("02_train_vae")


# --------------------------------------------------------------------------------- the first cell
def test_begin_finds_the_data_and_says_what_was_chosen(environment, capsys):
    study = begin("02_train_vae", seed=3)
    stamp = ("Data: phantom hearts, 10 patients; split by patient 50/20/30 %; profile "
             "smoke (32 x 32); seed 3")
    assert study.stamp == stamp and capsys.readouterr().out.strip() == stamp
    assert study.data_folder == environment / "data"
    assert study.figure_folder == environment / "figures"
    assert study.source.root.parent == environment / "data" / "raw"
    assert study.source.root.name.startswith("phantom-10-seed3")


def test_profile_is_quick_unless_another_one_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a GPU changes nothing
    assert profiles.active_profile().name == "quick"
    monkeypatch.setenv("CVAE_PROFILE", " smoke ")
    assert profiles.active_profile().name == "smoke"


@pytest.mark.parametrize("profile", profiles.PROFILES.values(), ids=profiles.PROFILES)
def test_variants_of_every_profile_have_names_of_their_own_and_augment(profile):
    variants = [profile.sharp, profile.published]
    assert [v.name.removeprefix(profile.name) for v in variants] == ["-sharp", "-sharp-published"]
    assert all((v.augment, v.network) == (3, "field") for v in variants)
    assert profile.augment == 0 < profile.seeds and profile.network == "conv"


def test_only_acdc_in_the_quick_profile_replaces_the_published_figures(
        environment, source, monkeypatch):
    def figures_of(**changes):
        monkeypatch.setattr(sources, "find_source", lambda *_: replace(source, **changes))
        return begin("01").figure_folder

    monkeypatch.setattr(study_module, "REPOSITORY", environment)  # where CVAE_OUT leads, too
    assert figures_of() == environment / "figures" / "phantom-smoke"
    assert figures_of(name="our hearts") == environment / "figures" / "our hearts-smoke"
    assert figures_of(name="ACDC") == environment / "figures" / "ACDC-10-smoke"  # not all of it
    whole = [replace(source.frames[0], patient=f"patient{k:03d}") for k in range(1, 151)]
    acdc = {"name": "ACDC", "frames": whole}
    assert figures_of(**acdc) == environment / "figures" / "smoke"
    monkeypatch.setenv("CVAE_PROFILE", "quick")
    assert figures_of() == environment / "figures" / "phantom"
    assert figures_of(name="our hearts") == environment / "figures" / "our hearts"
    assert figures_of(**acdc) == environment / "figures"
    monkeypatch.setenv("CVAE_OUT", str(environment / "elsewhere"))
    assert figures_of(**acdc) == environment / "elsewhere" / "figures"


# ------------------------------------------------------------------------- a data set of one's own
PATTERN = "*/sa_E*.nii.gz"


@pytest.fixture
def mnms(source, environment, monkeypatch):
    """The phantom's volumes as a plain folder in ACDC_ROOT, 1 being LV and 3 RV."""
    root = environment / "MNMS hearts"
    for frame in source.frames:
        image = nib.load(frame.label_path)
        labels = np.array([0, 3, 2, 1], dtype=np.uint8)[np.asarray(image.dataobj)]
        (root / frame.patient).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(labels, image.affine),
                 root / frame.patient / f"sa_{frame.phase}.nii.gz")
    monkeypatch.setenv("ACDC_ROOT", str(root))
    return root


@pytest.mark.parametrize(("arguments", "settings"), [
    ({"labels": "mnms", "pattern": PATTERN}, {"CVAE_LABELS": "  "}),
    ({}, {"CVAE_LABELS": " MNMS ", "CVAE_PATTERN": f" {PATTERN} "}),
    # The environment goes before the notebook.
    ({"labels": "ACDC", "pattern": "nothing"}, {
        "CVAE_LABELS": '{"1": "LV", "2": "MYO", "3": "RV"}', "CVAE_PATTERN": PATTERN}),
])
def test_begin_reads_a_plain_folder_with_its_own_labels(
        mnms, slices, monkeypatch, capsys, arguments, settings):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    study = begin("01", **arguments)
    assert study.stamp.startswith("Data: MNMS hearts labels (1 LV, 2 MYO, 3 RV), 10 patients;")
    assert study.source.root == mnms
    # The same hearts, so the same slices, in the same order.
    assert (study.slices.aligned == slices.aligned).all()
    assert all(len(study.part(name)) > 0 for name in ("train", "validation", "test"))
    assert "MYO encloses" not in capsys.readouterr().out


def test_labels_that_seem_to_mean_something_else_are_doubted(mnms, capsys):
    begin("01", pattern=PATTERN)
    assert "MYO encloses what is read as RV" in capsys.readouterr().out


def test_own_data_in_the_layout_of_acdc_are_called_by_their_folder(
        environment, source, monkeypatch):
    shutil.copytree(source.root, environment / "ACDC")
    monkeypatch.setenv("ACDC_ROOT", str(environment / "ACDC"))
    study = begin("01", labels={0: 0, 1: 1, 2: 2, 3: 3})  # which needs no pattern
    assert study.stamp.startswith("Data: own-ACDC labels, 10 patients")
    assert study.source.fingerprint == source.fingerprint
    assert "slices" in vars(study)  # read at once, so that what is wrong shows in the first cell
    folders = ("our hearts", "report", "Phantom", "acdc-100", "acdc hearts")
    assert [sources.own_name(environment / folder) for folder in folders] == [
        "our hearts", "own-report", "own-Phantom", "own-acdc-100", "acdc hearts"]


@pytest.mark.parametrize(("changes", "message"), [
    ({"seed": -1}, "seed: expected a whole number from 0 to .*, found -1"),
    ({"seed": 1.5}, "seed: expected a whole number from 0 to .*, found 1.5"),
    ({"split_by": "group"},
     "split_by: expected one of 'patient', 'slice', 'official', found 'group'"),
    ({"labels": "mms"}, "ACDC, MNMS, or a mapping.*found 'mms'"),
    ({"pattern": "*.nii"}, r"expected label volumes named \*\.nii, found none"),
    ({"CVAE_PROFILE": "huge"}, "CVAE_PROFILE: expected one of smoke, quick, report, found 'huge'"),
    ({"CVAE_DATA": "mnms"}, "CVAE_DATA: .*mnms"), ({"ACDC_ROOT": "/nowhere"}, "/nowhere"),
    ({"CVAE_LABELS": '{"1": "LV"'}, "CVAE_LABELS: expected a name or a mapping as JSON, such as "
                                    ".*found '{\"1\": \"LV\"'"),
    ({"CVAE_LABELS": '{"1": "LV"}'}, "names MYO and LV; found {'1': 'LV'}"),
    *[({"CVAE_PROCESSES": value}, f"CVAE_PROCESSES: expected a whole number .*{value!r}")
      for value in ("two", "0", "-2", "1.5")],
])
def test_what_makes_no_sense_stops_at_the_first_cell(mnms, monkeypatch, changes, message):
    arguments = {"pattern": PATTERN}
    for name, value in changes.items():
        if name.isupper():
            monkeypatch.setenv(name, value)
        else:
            arguments[name] = value
    with pytest.raises(ValueError, match=message):
        begin("01", **arguments)


# ------------------------------------------------------------------------- data, runs and priors
def test_parts_are_those_of_the_split_and_made_once(study):
    assert study.slices is study.slices and study.split is study.split
    assert (study.slices.size, study.slices_of(16).size) == (32, 16)
    assert study.slices_of(32).fingerprint == study.slices.fingerprint
    for name in ("train", "validation", "test"):
        assert len(study.part(name)) == len(study.table_of(name)) == len(study.split[name])
    assert (study.part("test") == study.slices.aligned[study.split["test"]]).all()
    assert not set(study.table_of("test")["patient"]) & set(study.table_of("train")["patient"])


def test_study_says_which_structures_its_slices_have(study):
    assert study.structures == ("RV", "MYO", "LV")
    bare = study.at(profile=study.profile)
    bare.slices = replace(study.slices, aligned=np.where(np.array(study.slices.aligned) == 1, 0,
                                                         study.slices.aligned))
    assert bare.structures == ("MYO", "LV")


def test_run_is_trained_for_the_seed_and_profile_of_its_study(study):
    run = study.run(10.0)
    assert run.folder.parent == study.data_folder / "runs" and 0 <= run.results["test_dice"] <= 1
    assert run.config["data"] == study.slices.fingerprint
    assert [run.config[name] for name in ("seed", "split_by", "schedule")] == [
        0, "patient", "constant"]
    other = study.at(seed=4, profile=study.profile.sharp)
    assert other.slices is study.slices
    assert not np.array_equal(other.split["test"], study.split["test"])
    found = other.run(10.0, rate=6.0).config
    assert (found["seed"], found["rate"], found["profile"]["base_channels"]) == (4, 6.0, 6)
    assert found["profile"]["name"] == "smoke-sharp" and found["profile"]["augment"] == 3


def test_job_is_of_the_split_of_its_study(study):
    def patients_on_both_sides(split):
        seen = [set(study.slices.table["patient"].iloc[split[part]]) for part in ("train", "test")]
        return len(seen[0] & seen[1])

    job = study.job(5.0, schedule="linear")
    assert job.config == RunConfig(study.profile, 5.0, "linear", data=study.slices.fingerprint)
    assert job.split is study.split and patients_on_both_sides(job.split) == 0
    by_slice = study.at(split_by="slice").job(5.0)
    assert by_slice.config.split_by == "slice" and patients_on_both_sides(by_slice.split) == 10
    assert len(np.concatenate(list(by_slice.split.values()))) == len(study.slices.table)


def test_seeds_are_the_study_itself_and_the_next_ones(study):
    first, second = study.at(seed=5).seeds
    assert (first.seed, second.seed) == (5, 6)
    assert not np.array_equal(first.split["test"], second.split["test"])


def test_as_many_processes_train_as_are_asked_for(study, monkeypatch):
    monkeypatch.setenv("CVAE_PROCESSES", " 4 ")
    assert (study.processes, begin("02").processes) == (1, 4)


def test_betas_to_compare_are_those_of_the_study_and_of_every_other_run(study):
    assert study.betas() == list(profiles.BETAS)
    others = (study.job(0.0), study.job(50.0), study.job(60.0, schedule="linear"),
              study.at(split_by="slice").job(70.0), study.at(seed=7).job(80.0))
    for job in others:
        folder = runs.place(job.config, job.runs)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"beta": job.config.beta}))
    assert study.betas() == [1.0, 10.0, 50.0, 100.0, 1000.0, 10000.0]


def test_published_protocol_has_slices_and_split_of_its_own(study, monkeypatch):
    monkeypatch.setitem(profiles.VARIANTS["smoke"], "published", {"size": 16})
    other = study.at(seed=1).as_published
    every, _ = every_slice.every_slice(study.source, 16, progress=False)
    assert np.array_equal(other.slices.aligned, every) and other.profile.augment == 3
    assert (other.seed, other.split_by) == (1, "patient")  # the phantom has no testing part
    assert len(other.part("test")) > len(study.part("test"))
    assert set(other.table_of("test")["patient"]) == set(
        study.at(seed=1).table_of("test")["patient"])


def test_prior_and_atlas_of_a_run_of_other_training_slices_are_refused(study):
    """Else what is fitted to the wrong slices would stay with the run."""
    run = study.run(10.0)
    before = sorted(run.folder.iterdir())
    for other in (study.at(seed=1), study.at(split_by="slice")):
        for refused in (lambda s: s.prior(run, "gaussian"), lambda s: s.atlas(run)):
            with pytest.raises(ValueError, match=r"a run of this study.*Use study.at\("):
                refused(other)
    assert sorted(run.folder.iterdir()) == before


# ------------------------------------------------------------------------- showing and recording
def test_figures_and_tables_carry_the_stamp(study, capsys):
    figure = Figure(figsize=(2, 2))
    assert study.show(figure, "fig00_test") is figure
    assert figure.get_supxlabel() == study.stamp
    assert study.show(Figure(figsize=(2, 2)), stamp="another").get_supxlabel() == "another"
    assert [p.name for p in study.figure_folder.iterdir()] == ["fig00_test.png"]  # no name, no file
    capsys.readouterr()
    table = pd.DataFrame({"a": [0.125, 2.0]}, index=["x", "y"])
    assert study.table(table) is table
    assert study.table(table, "{:.1f} %").to_dict() == {"a": {"x": "0.1 %", "y": "2.0 %"}}
    assert capsys.readouterr().out == f"{study.stamp}\n" * 2
    several = stamp_of([study.at(seed=3), study.at(seed=4)])
    assert several == study.stamp.replace("seed 0", "seeds 3, 4")
    assert study.table(table, stamp=several) is table and capsys.readouterr().out == f"{several}\n"


def test_numbers_are_recorded_beside_those_before(study):
    study.record(dice=0.8)
    study.record(kl=6.0)
    recorded = json.loads((study.figure_folder / "results.json").read_text())
    assert recorded == {"02_train_vae": {"data": study.stamp, "dice": 0.8, "kl": 6.0}}


def test_runs_of_other_seeds_are_found_and_not_trained(study):
    assert study.results_over_seeds([1000.0]).empty
    other = study.at(seed=1)
    other.run(1000.0)
    found = study.results_over_seeds([1.0, 1000.0])
    assert found[["beta", "seed"]].to_numpy().tolist() == [[1000.0, 1]]
    assert found["test_dice"].notna().all()


def test_check_states_what_it_has_checked(capsys):
    check("one is one", True)
    assert capsys.readouterr().out == "checked: one is one\n"
    with pytest.raises(AssertionError, match="expected: one is two"):
        check("one is two", False)


@pytest.mark.parametrize(("holds", "numbers", "said"), [
    (True, "0.9", "found: hearts are red (0.9)\n"),
    (np.False_, "", "not found here: hearts are red\n"),
    (None, "no hearts", "cannot be told here: hearts are red (no hearts)\n"),
])
def test_finding_is_said_and_never_asserted(capsys, holds, numbers, said):
    finding("hearts are red", holds, numbers)
    assert capsys.readouterr().out == said
