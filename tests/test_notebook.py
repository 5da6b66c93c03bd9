"""The first cell of a notebook, and what it hands on."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from cvae_utils import disentanglement, hardware, notebook, profiles, protocol, train
from cvae_utils.acdc import DataError


@pytest.fixture
def environment(tmp_path, monkeypatch, tiny):
    """Outputs to tmp_path, the phantom, and a smoke profile that is tiny."""
    monkeypatch.setenv("CVAE_OUT", str(tmp_path))
    monkeypatch.setenv("CVAE_PROFILE", "smoke")
    monkeypatch.setitem(profiles.PROFILES, "smoke", replace(tiny, name="smoke", epochs=1))
    monkeypatch.setitem(profiles.FURTHER["smoke"], "sharp", {"base_channels": 6})
    monkeypatch.setattr(hardware, "best_device", lambda: torch.device("cpu"))
    for name in ("CVAE_LABELS", "CVAE_PATTERN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_begin_finds_the_data_and_says_what_was_chosen(environment, capsys):
    study = notebook.begin("02_train_vae", seed=3)
    stamp = ("Data: phantom hearts, 10 patients; split by patient 50/20/30 %; profile "
             "smoke (32 x 32); seed 3")
    assert study.stamp == stamp and capsys.readouterr().out.strip() == stamp
    assert study.data_folder == environment / "data"
    assert study.figure_folder == environment / "figures"
    assert study.source.root == environment / "data" / "raw" / "phantom-10-seed3"

    assert study.slices is study.slices and study.slices.size == 32
    assert study.split is study.split
    for name in ("train", "validation", "test"):
        assert len(study.part(name)) == len(study.table_of(name)) == len(study.split[name])
    assert (study.part("test") == study.slices.aligned[study.split["test"]]).all()
    assert not set(study.table_of("test")["patient"]) & set(study.table_of("train")["patient"])

    run = study.run(10.0)
    assert run.folder.parent == environment / "data" / "runs"
    assert run.config["seed"] == 3 and run.config["data"] == study.slices.fingerprint
    assert run.config["split_by"] == "patient" and run.config["schedule"] == "constant"

    other = study.at(seed=4, profile=study.profile.sharp)
    assert other.slices is study.slices and other.claims is study.claims
    assert not np.array_equal(other.split["test"], study.split["test"])
    sharp = other.run(10.0, rate=6.0).config
    assert sharp["profile"]["base_channels"] == 6
    assert (sharp["seed"], sharp["rate"]) == (4, 6.0)
    assert sharp["profile"]["name"] == "smoke-sharp" and sharp["profile"]["augment"] == 1


def test_only_acdc_in_the_quick_profile_replaces_the_published_figures(
        environment, source, monkeypatch):
    def figures_of(**changes):
        monkeypatch.setattr(notebook.dataset, "find_source", lambda *_: replace(source, **changes))
        return notebook.begin("01").figure_folder

    monkeypatch.setattr(notebook, "REPOSITORY", environment)  # where CVAE_OUT leads, too
    assert figures_of() == environment / "figures" / "phantom"
    assert figures_of(name="our hearts") == environment / "figures" / "our hearts"
    assert figures_of(name="ACDC") == environment / "figures" / "ACDC-10"  # not all of it
    whole = [replace(source.frames[0], patient=f"patient{k:03d}") for k in range(1, 151)]
    acdc = {"name": "ACDC", "frames": whole}
    assert figures_of(**acdc) == environment / "figures" / "smoke"
    monkeypatch.setenv("CVAE_PROFILE", "quick")
    assert figures_of(name="our hearts") == environment / "figures" / "our hearts"
    assert figures_of(**acdc) == environment / "figures"
    monkeypatch.setenv("CVAE_OUT", str(environment / "elsewhere"))
    assert figures_of(**acdc) == environment / "elsewhere" / "figures"


@pytest.mark.parametrize(("folder", "name"), [
    ("our hearts", "our hearts"), ("ACDC", "own-ACDC"), ("report", "own-report"),
    ("Phantom", "own-Phantom"), ("acdc-100", "own-acdc-100"),
])
def test_own_data_in_the_layout_of_acdc_are_called_by_their_folder(
        environment, source, monkeypatch, folder, name):
    (environment / folder).symlink_to(source.root, target_is_directory=True)
    monkeypatch.setattr(notebook.dataset.acdc, "find_root", lambda *_: environment / folder)
    study = notebook.begin("01")
    assert study.stamp.startswith(f"Data: {name} labels, 10 patients")
    assert "slices" in vars(study)  # read at once, so that what is wrong shows in the first cell


@pytest.mark.parametrize(("arguments", "message"), [
    ({"seed": -1}, "seed: expected a whole number from 0 to .*, found -1"),
    ({"seed": 1.5}, "seed: expected a whole number from 0 to .*, found 1.5"),
    ({"split_by": "group"}, "split_by: expected one of 'patient', 'slice', found 'group'"),
])
def test_arguments_that_make_no_sense_stop_at_the_first_cell(environment, arguments, message):
    with pytest.raises(ValueError, match=message):
        notebook.begin("01", **arguments)


@pytest.mark.parametrize(("name", "value", "error"), [
    ("CVAE_PROFILE", "huge", ValueError), ("CVAE_DATA", "mnms", DataError),
    ("ACDC_ROOT", "/nowhere", DataError), ("CVAE_PROCESSES", "two", ValueError),
    ("CVAE_PROCESSES", "0", ValueError), ("CVAE_PROCESSES", "-2", ValueError),
    ("CVAE_PROCESSES", "1.5", ValueError),
])
def test_wrong_setting_stops_at_the_first_cell(environment, monkeypatch, name, value, error):
    monkeypatch.setenv(name, value)
    with pytest.raises(error, match=value):
        notebook.begin("01")


# ------------------------------------------------------------------------- a data set of one's own
@pytest.fixture
def mnms(source, tmp_path, monkeypatch):
    """The phantom's volumes as a plain folder in ACDC_ROOT, 1 being LV and 3 RV."""
    for frame in source.frames:
        image = nib.load(frame.label_path)
        labels = np.array([0, 3, 2, 1], dtype=np.uint8)[np.asarray(image.dataobj)]
        folder = tmp_path / "MNMS hearts" / frame.patient
        folder.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(labels, image.affine), folder / f"sa_{frame.phase}.nii.gz")
    monkeypatch.setenv("ACDC_ROOT", str(tmp_path / "MNMS hearts"))
    return tmp_path / "MNMS hearts"


MNMS = {1: "LV", 2: "MYO", 3: "RV"}
PATTERN = "*/sa_E*.nii.gz"


@pytest.mark.parametrize(("arguments", "settings"), [
    ({"labels": "mnms", "pattern": PATTERN}, {}),
    ({"labels": MNMS, "pattern": PATTERN}, {}),
    ({}, {"CVAE_LABELS": " MNMS ", "CVAE_PATTERN": f" {PATTERN} "}),
    ({}, {"CVAE_LABELS": json.dumps(MNMS), "CVAE_PATTERN": PATTERN}),
    ({"labels": "MNMS"}, {"CVAE_LABELS": "  ", "CVAE_PATTERN": PATTERN}),
    # The environment goes before the notebook.
    ({"labels": "ACDC", "pattern": "nothing"}, {"CVAE_LABELS": "MNMS", "CVAE_PATTERN": PATTERN}),
])
def test_begin_reads_a_plain_folder_with_its_own_labels(
        environment, mnms, slices, monkeypatch, arguments, settings):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    study = notebook.begin("01", **arguments)
    assert study.stamp.startswith("Data: MNMS hearts labels (1 LV, 2 MYO, 3 RV), 10 patients;")
    assert study.source.root == mnms
    assert {frame.group for frame in study.source.frames} == {"unknown"}
    assert set(study.slices.table["phase"]) == {"ED", "ES"}
    assert study.slices.table["patient"].nunique() == 10
    # The same hearts, so the same slices, in the same order.
    assert (study.slices.aligned == slices.aligned).all()
    assert (study.slices.unrotated == slices.unrotated).all()
    assert all(len(study.part(name)) > 0 for name in ("train", "validation", "test"))


def test_labels_of_ones_own_need_no_pattern_in_the_layout_of_acdc(
        environment, source, slices, monkeypatch):
    monkeypatch.setenv("ACDC_ROOT", str(source.root))
    study = notebook.begin("01", labels={0: 0, 1: 1, 2: 2, 3: 3})
    assert study.stamp.startswith("Data: own-phantom labels, 10 patients")
    assert study.source.fingerprint == source.fingerprint
    assert notebook.begin("01", labels="MNMS").source.fingerprint != source.fingerprint


@pytest.mark.parametrize(("name", "value", "message"), [
    ("CVAE_LABELS", "mms", "ACDC, MNMS, or a mapping.*found 'mms'"),
    ("CVAE_LABELS", "[1, 2, 3]", r"ACDC, MNMS, or a mapping.*found '\[1, 2, 3\]'"),
    ("CVAE_LABELS", "{1: LV, 2: MYO}", "CVAE_LABELS: expected a name or a mapping as JSON, such as "
                                       ".*found '{1: LV, 2: MYO}'"),
    ("CVAE_LABELS", '{"1": "LV"', "CVAE_LABELS: expected a name or a mapping as JSON"),
    ("CVAE_LABELS", "{}", "names MYO and LV; found {}"),
    ("CVAE_LABELS", '{"1": "LV"}', "names MYO and LV; found {'1': 'LV'}"),
    ("CVAE_LABELS", '{"1": "LV", "2": "MYO", "3": "LA"}', "BACKGROUND, RV, MYO and LV.*'LA'"),
    ("CVAE_PATTERN", "*.nii", r"expected label volumes named \*\.nii, found none"),
    ("CVAE_PATTERN", "/tmp/*.nii.gz", "'/tmp/\\*.nii.gz': expected a pattern relative to"),
])
def test_unusable_labels_or_pattern_stop_at_the_first_cell(
        environment, mnms, monkeypatch, name, value, message):
    monkeypatch.setenv("CVAE_PATTERN", PATTERN)
    monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match=message):
        notebook.begin("01")


def test_labels_that_seem_to_mean_something_else_are_doubted(environment, mnms, capsys):
    notebook.begin("01", pattern=PATTERN)
    assert "MYO encloses what is read as RV" in capsys.readouterr().out
    notebook.begin("01", pattern=PATTERN, labels="MNMS")
    assert "MYO encloses" not in capsys.readouterr().out


def test_labels_that_are_not_acdc_are_named_with_what_to_do(environment, mnms):
    path = mnms / "patient001" / "sa_ED.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) * 50, image.affine), path)
    with pytest.raises(DataError, match=r"sa_ED.nii.gz: expected labels 0 \(BACKGROUND\), 1 \(RV\)"
                                        r".*found values \[0, 50, 100, 150\].*begin\(.*labels="):
        notebook.begin("01", pattern=PATTERN)


def test_phantom_needs_neither_labels_nor_pattern(environment, source):
    study = notebook.begin("01", labels="MNMS", pattern=PATTERN)
    assert study.source.name == "phantom" and study.source.fingerprint == source.fingerprint


@pytest.mark.parametrize(("gpu", "expected"), [(True, "report"), (False, "quick")])
def test_profile_follows_the_machine_unless_it_is_named(monkeypatch, gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert profiles.active_profile().name == expected
    monkeypatch.setenv("CVAE_PROFILE", " smoke ")
    assert profiles.active_profile().name == "smoke"


@pytest.fixture
def study(environment, source, monkeypatch):
    monkeypatch.setattr(notebook.dataset, "find_source", lambda *_: source)
    return notebook.begin("02_train_vae")


def test_answers_and_numbers_are_printed_and_recorded(study, capsys):
    capsys.readouterr()
    study.claim("RV is worst", 0.8 < 0.9, "0.80 against 0.90")
    study.claim("nobody knows", None, "no data")
    assert capsys.readouterr().out == (
        "The report: RV is worst.\nHere: holds. 0.80 against 0.90.\n"
        "The report: nobody knows.\nHere: cannot be told. no data.\n")
    study.record(dice=0.8)
    study.record(kl=6.0)
    recorded = json.loads((study.figure_folder / "results.json").read_text())
    assert recorded == {"02_train_vae": {
        "data": study.stamp, "dice": 0.8, "kl": 6.0, "claims": [
            {"claim": "RV is worst", "holds": True, "numbers": "0.80 against 0.90"},
            {"claim": "nobody knows", "holds": None, "numbers": "no data"},
        ]}}


def test_cell_that_is_run_again_answers_again_in_the_same_place(study):
    for first in (True, False):
        study.claim("RV is worst", first, f"{first}")
        study.at(seed=3).claim("nobody knows", None, "no data")
        study.record(dice=0.8)
    recorded = json.loads((study.figure_folder / "results.json").read_text())
    assert recorded["02_train_vae"]["claims"] == [
        {"claim": "RV is worst", "holds": False, "numbers": "False"},
        {"claim": "nobody knows", "holds": None, "numbers": "no data"}]


def test_figures_carry_the_stamp(study):
    figure = Figure(figsize=(2, 2))
    assert study.show(figure, "fig00_test") is figure
    assert figure.get_supxlabel() == study.stamp
    assert study.show(Figure(figsize=(2, 2)), stamp="another").get_supxlabel() == "another"
    assert [p.name for p in study.figure_folder.iterdir()] == ["fig00_test.png"]  # no name, no file


def test_tables_carry_the_stamp(study, capsys):
    capsys.readouterr()
    table = pd.DataFrame({"a": [0.125, 2.0]}, index=["x", "y"])
    pd.testing.assert_frame_equal(study.table(table), table)
    assert study.table(table, "{:.1f} %").to_dict() == {"a": {"x": "0.1 %", "y": "2.0 %"}}
    assert capsys.readouterr().out == f"{study.stamp}\n" * 2
    several = notebook.stamp_of([study.at(seed=3), study.at(seed=4)])
    assert several == study.stamp.replace(f"seed {study.seed}", "seeds 3, 4")
    assert study.table(table, stamp=several) is table and capsys.readouterr().out == f"{several}\n"


def test_run_of_another_split_is_trained_and_measured_on_that_split(study, slices, monkeypatch):
    study.slices = slices
    monkeypatch.setattr(train, "load_or_train", lambda *arguments: arguments)

    def patients_on_both_sides(split):
        seen = [set(slices.table["patient"].iloc[split[part]]) for part in ("train", "test")]
        return len(seen[0] & seen[1])

    for by in ("", "patient"):
        config, _, split, folder, machinery = study.run(5.0, "linear", by)
        assert split is study.split and config.split_by == "patient"
        assert patients_on_both_sides(split) == 0
    assert folder == study.data_folder / "runs"
    assert machinery == train.Machinery(torch.device("cpu"), processes=1)

    config, given, split, _, _ = study.run(5.0, split_by="slice")
    assert config == train.RunConfig(study.profile, 5.0, seed=study.seed, split_by="slice",
                                     data=slices.fingerprint)
    assert given is slices and patients_on_both_sides(split) == 10
    assert len(np.concatenate(list(split.values()))) == len(slices.table)
    assert study.split_by == "patient" and patients_on_both_sides(study.split) == 0


@pytest.mark.parametrize(("value", "expected"), [("", 1), (" ", 1), ("1", 1), (" 4 ", 4)])
def test_as_many_processes_train_as_are_asked_for(environment, source, monkeypatch, value,
                                                  expected):
    monkeypatch.setenv("CVAE_PROCESSES", value)
    monkeypatch.setattr(notebook.dataset, "find_source", lambda *_: source)
    monkeypatch.setattr(train, "load_or_train", lambda *arguments: arguments)
    machinery = notebook.begin("02").run(5.0)[-1]
    assert machinery == train.Machinery(torch.device("cpu"), processes=expected)


def test_betas_to_compare_are_those_of_the_study_and_of_every_other_run(study):
    assert study.betas() == list(profiles.BETAS)
    for config in (study._config(0.0), study._config(50.0),
                   replace(study._config(60.0), schedule="linear"),
                   replace(study._config(70.0), split_by="slice"),
                   replace(study._config(80.0), seed=7)):
        folder = study.data_folder / "runs" / config.folder_name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"beta": config.beta}))
    assert study.betas() == [1.0, 10.0, 50.0, 100.0, 1000.0, 10000.0]


def test_explorer_gets_slices_of_any_size_and_the_atlas_of_the_study(study, monkeypatch):
    monkeypatch.setattr(notebook.atlas, "load_or_build", lambda *arguments: arguments)
    monkeypatch.setattr(notebook.priors, "FITTED", ())
    assert study.atlas("a run") == ("a run", study.slices, study.split, study.stamp, study.seed)
    assert [study.slices_of(size).size for size in (16, 32)] == [16, 32]
    assert study.slices_of(32).fingerprint == study.slices.fingerprint
    kept = (study.data_folder / "processed").iterdir()
    assert sorted(folder.name.split("-")[1] for folder in kept) == ["16", "32"]


def test_check_states_what_it_has_checked(capsys):
    notebook.check("one is one", True)
    assert capsys.readouterr().out == "checked: one is one\n"
    with pytest.raises(AssertionError, match="expected: one is two"):
        notebook.check("one is two", False)


@pytest.mark.parametrize(("holds", "numbers", "said"), [
    (True, "0.9", "found: hearts are red (0.9)\n"), (False, "", "not found here: hearts are red\n"),
    (None, "no hearts", "cannot be told here: hearts are red (no hearts)\n"),
    (np.False_, "0.1", "not found here: hearts are red (0.1)\n"),
])
def test_finding_is_said_and_never_asserted(capsys, holds, numbers, said):
    notebook.finding("hearts are red", holds, numbers)
    assert capsys.readouterr().out == said


def test_answer_gives_way_to_a_reason_why_it_cannot_be_told(study, capsys):
    for reason, holds, numbers in (("", False, "0.1 of 3"), ("no RV here", None, "No RV here")):
        capsys.readouterr()
        study.claim("hearts are red", False, "0.1 of 3", unless=reason)
        notebook.finding("hearts are red", False, "0.1 of 3", unless=reason)
        printed = capsys.readouterr().out
        assert study.claims[-1] == {"claim": "hearts are red", "holds": holds, "numbers": numbers}
        assert printed.endswith(f"{notebook.FINDINGS[holds]}: hearts are red ({numbers})\n")


def test_study_says_which_structures_and_patients_it_lacks(environment):
    study = notebook.begin("02")
    assert study.structures == ("RV", "MYO", "LV") and study.lacks("RV", test_patients=2) == ""
    bare = study.at(profile=study.profile)
    bare.slices = replace(study.slices, aligned=np.where(np.array(study.slices.aligned) == 1, 0,
                                                         study.slices.aligned))
    assert bare.structures == ("MYO", "LV") and bare.lacks("MYO") == ""
    assert bare.lacks("RV", "LV") == "this data has no RV"
    rows = study.slices.table["patient"] == study.table_of("test")["patient"][0]
    study.split = study.split | {"test": np.flatnonzero(rows)}
    assert study.lacks("RV") == ""
    assert study.lacks(test_patients=2) == "this data has 1 test patient"


# ------------------------------------------------------------------------------ priors and samples
def test_prior_is_fitted_once_and_kept_with_its_run(environment, monkeypatch):
    study = notebook.begin("06")
    run = study.run(10.0)
    fitted = study.prior(run, "gaussian")
    mu = notebook.latents.encode(run.model, study.part("train")).mu
    assert fitted.mean == pytest.approx(mu.mean(axis=0), abs=1e-4)
    monkeypatch.setattr(notebook.priors, "fit", None)
    assert np.array_equal(study.prior(run, "gaussian").sample(3), fitted.sample(3))
    assert (run.folder / "prior-gaussian.safetensors").is_file()


def test_prior_of_a_plain_auto_encoder_is_fitted_to_mu_alone(environment):
    study = notebook.begin("06")
    run = study.run(0.0)
    mu = notebook.latents.encode(run.model, study.part("train")).mu
    covariance = study.prior(run, "gaussian").covariances[0]
    assert covariance == pytest.approx(np.cov(mu.T), rel=0.02, abs=0.02 * float(mu.var()))


def test_prior_of_a_model_of_deformed_slices_is_fitted_to_deformed_slices(environment, monkeypatch):
    study = notebook.begin("06")
    study = study.at(profile=study.profile.sharp)
    seen, fit = [], notebook.priors.fit
    monkeypatch.setattr(notebook.priors, "fit", lambda kind, training, *rest: (
        seen.append(training), fit(kind, training, *rest))[1])
    study.prior(study.run(10.0), "gaussian")
    copies = np.split(seen[0].mu, notebook.priors.COPIES)
    assert len(copies[0]) == len(study.part("train")) and not np.array_equal(*copies[:2])


def test_prior_of_a_run_of_other_training_slices_is_refused(environment):
    study = notebook.begin("06")
    run = study.run(10.0)
    with pytest.raises(ValueError, match=r"a run of this study.*'seed': 1.*Use study.at\("):
        study.at(seed=1).prior(run, "gaussian")
    with pytest.raises(ValueError, match="slice"):
        study.at(split_by="slice").prior(run, "gaussian")


def test_atlas_of_a_run_of_other_training_slices_is_refused(environment):
    """Else the priors fitted to them would stay with the run."""
    study = notebook.begin("06")
    run = study.run(10.0)
    before = sorted(run.folder.iterdir())
    with pytest.raises(ValueError, match=r"a run of this study.*'seed': 1.*Use study.at\("):
        study.at(seed=1).atlas(run)
    assert sorted(run.folder.iterdir()) == before


def test_drawn_slices_are_judged_once_beside_as_many_real_ones(environment, monkeypatch):
    study = notebook.begin("06")
    run = study.run(10.0)
    found = study.judge_run(run, "gaussian")
    count = max(study.profile.samples, *map(len, study.split.values()))
    drawn = notebook.latents.decode(run.model, study.prior(run, "gaussian").sample(count, 0))
    by_hand = study.judge(drawn)
    assert found == pytest.approx(by_hand)
    assert by_hand["valid"] == pytest.approx(notebook.judge.metrics.is_valid(drawn).mean())
    few = study.split["test"]
    mm = study.table_of("train")["crop_mm"].median() / study.profile.size
    one = notebook.judge.judge(drawn[:len(few)], study.reference, mm)
    assert by_hand["test_coverage"] == one["coverage"]
    monkeypatch.setattr(notebook.judge, "judge_drawn", None)
    assert study.judge_run(run, "gaussian") == found
    with pytest.raises(TypeError):  # another prior is measured anew
        study.judge_run(run, "standard")


def test_real_slices_are_judged_with_pixels_of_their_own(environment):
    study = notebook.begin("06")
    found, own = study.judge_real("train"), study.judge_real("test")
    assert found["nearest"] == 0 and found["coverage"] == 1 and found["frechet"] < 1e-6
    assert own["nearest"] > 0 and own.keys() == found.keys()


def test_seeds_are_the_study_itself_and_the_next_ones(environment):
    study = notebook.begin("06", seed=5)
    assert [other.seed for other in study.seeds] == [5, 6]
    assert np.array_equal(study.seeds[0].split["test"], study.split["test"])
    assert not np.array_equal(study.seeds[1].split["test"], study.split["test"])


def test_dice_of_the_training_slices_is_measured_once(environment, monkeypatch):
    study = notebook.begin("06")
    run = study.run(10.0)
    part = study.part("train")
    by_hand = notebook.metrics.dice_per_slice(notebook.latents.reconstruct(run.model, part), part)
    assert study.training_dice(run) == pytest.approx(by_hand.mean())
    monkeypatch.setattr(notebook.latents, "reconstruct", None)
    assert study.training_dice(run) == pytest.approx(by_hand.mean())


def test_a_run_is_scored_as_published_work_does_once(environment, monkeypatch):
    study = notebook.begin("06").published(notebook.protocol.every_slice(
        notebook.begin("06").source, 32, progress=False))
    run = study.run(10.0)
    found = study.comparable(run, "gaussian")
    part = study.part("test")
    assert found["test_dice"] == protocol.dice_counting_empty(
        notebook.latents.reconstruct(run.model, part), part)
    z = study.prior(run, "gaussian").sample(study.profile.samples, study.seed)
    assert found["valid"] == protocol.valid_with_lv(notebook.latents.decode(run.model, z))
    monkeypatch.setattr(notebook.latents, "decode", None)
    assert study.comparable(run, "gaussian") == found
    with pytest.raises(TypeError):  # another prior is measured anew
        study.comparable(run, "standard")


def test_rows_are_one_a_prior_and_hold_results_and_what_is_drawn(environment):
    study = notebook.begin("06")
    run = study.run(10.0)
    rows = study.rows("beta 10", run)
    assert [row["prior"] for row in rows] == ["standard", "gaussian", "mixture"]
    for row in rows:
        assert (row["model"], row["beta"], row["seed"]) == ("beta 10", 10.0, 0)
        assert row["test_dice"] == run.results["test_dice"]
        assert row["valid"] == study.judge_run(run, row["prior"])["valid"]


def test_principal_components_have_rows_like_those_of_a_run(environment):
    study = notebook.begin("06")
    basis = notebook.pca.Pca.fit(study.part("train"), 6)
    rows = study.linear_rows("PCA", basis)
    assert [row["prior"] for row in rows] == ["gaussian", "mixture"]
    maps = study.slices.unrotated[study.split["test"]]
    dice = notebook.metrics.dice_per_slice(basis.decode(basis.encode(maps)), maps)
    assert rows[0]["unrotated_dice"] == pytest.approx(dice.mean())
    run = study.rows("beta 10", study.run(10.0))[1]
    judged = {name for name in run if name not in study.run(10.0).results}
    assert judged <= set(rows[0])


def test_principal_components_are_measured_once(environment, monkeypatch):
    study = notebook.begin("06")
    basis = notebook.pca.Pca.fit(study.part("train"), 6)
    rows = pd.DataFrame(study.linear_rows("PCA", basis))
    monkeypatch.setattr(notebook.priors, "fit", None)
    again = pd.DataFrame(study.linear_rows("another name", basis))
    pd.testing.assert_frame_equal(again.drop(columns="model"), rows.drop(columns="model"))
    with pytest.raises(TypeError):  # other components are measured anew
        study.linear_rows("PCA", basis.first(3))


def test_training_slices_of_another_split_do_not_share_what_is_kept(environment):
    study = notebook.begin("06")
    basis = notebook.pca.Pca.fit(study.part("train"), 6)
    one, other = (s.linear_rows("PCA", basis)[0]["test_dice"] for s in (study, study.at(seed=1)))
    assert one != other


def test_published_protocol_has_slices_and_split_of_its_own(environment):
    study = notebook.begin("06").at(seed=1)
    every = protocol.every_slice(study.source, 32, progress=False)
    other = study.published(every)
    assert other.slices is every and other.profile.augment == 1 and other.seed == 1
    assert other.split_by == "patient" and len(other.part("test")) > len(study.part("test"))
    assert set(other.table_of("test")["patient"]) == set(study.table_of("test")["patient"])


def test_known_factors_are_those_of_a_phantom_of_its_own(environment):
    study = notebook.begin("04")
    hearts = study.with_known_factors()
    assert hearts.source.root != study.source.root and hearts.profile == study.profile
    assert hearts.slices.fingerprint != study.slices.fingerprint
    known = disentanglement.phantom_factors(hearts.source.root, hearts.slices.table)
    correlation = known[["lv_radius", "wall_thickness", "rv_width"]].corr(method="spearman")
    assert correlation.loc["lv_radius", "rv_width"] < 0.5  # drawn apart from each other
