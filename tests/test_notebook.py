"""The first cell of a notebook, and what it hands on."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from cvae_utils import notebook, profiles, train
from cvae_utils.acdc import DataError


@pytest.fixture
def environment(tmp_path, monkeypatch, tiny):
    """Outputs to tmp_path, the phantom, and a smoke profile that is tiny."""
    monkeypatch.setenv("CVAE_OUT", str(tmp_path))
    monkeypatch.setenv("CVAE_PROFILE", "smoke")
    monkeypatch.setitem(profiles.PROFILES, "smoke", replace(tiny, name="smoke", epochs=1))
    monkeypatch.setattr(train, "best_device", lambda: torch.device("cpu"))
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


def test_phantom_without_cvae_out_does_not_overwrite_the_published_figures(
        environment, source, monkeypatch):
    monkeypatch.delenv("CVAE_OUT")
    monkeypatch.setattr(notebook, "output_root", lambda: environment)
    monkeypatch.setattr(notebook.dataset, "find_source", lambda *_: source)
    assert notebook.begin("01").figure_folder == environment / "figures" / "phantom"
    monkeypatch.setattr(notebook.dataset, "find_source", lambda *_: replace(source, name="ACDC"))
    study = notebook.begin("01")
    assert study.figure_folder == environment / "figures"
    assert study.stamp.startswith("Data: ACDC labels, 10 patients")


@pytest.mark.parametrize(("name", "value", "error"), [
    ("CVAE_PROFILE", "huge", ValueError), ("CVAE_DATA", "mnms", DataError),
    ("ACDC_ROOT", "/nowhere", DataError),
])
def test_wrong_setting_stops_at_the_first_cell(environment, monkeypatch, name, value, error):
    monkeypatch.setenv(name, value)
    with pytest.raises(error, match=value):
        notebook.begin("01")


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


def test_run_of_another_split_is_trained_and_measured_on_that_split(study, slices, monkeypatch):
    study.slices = slices
    monkeypatch.setattr(train, "load_or_train", lambda *arguments: arguments)

    def patients_on_both_sides(split):
        seen = [set(slices.table["patient"].iloc[split[part]]) for part in ("train", "test")]
        return len(seen[0] & seen[1])

    for by in ("", "patient"):
        config, _, split, folder, device = study.run(5.0, "linear", by)
        assert split is study.split and config.split_by == "patient"
        assert patients_on_both_sides(split) == 0
    assert (folder, device) == (study.data_folder / "runs", torch.device("cpu"))

    config, given, split, _, _ = study.run(5.0, split_by="slice")
    assert config == train.RunConfig(study.profile, 5.0, "constant", study.seed, "slice",
                                     slices.fingerprint)
    assert given is slices and patients_on_both_sides(split) == 10
    assert len(np.concatenate(list(split.values()))) == len(slices.table)
    assert study.split_by == "patient" and patients_on_both_sides(study.split) == 0


def test_explorer_gets_slices_of_any_size_and_the_atlas_of_the_study(study, monkeypatch):
    monkeypatch.setattr(notebook.atlas, "load_or_build", lambda *arguments: arguments)
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
