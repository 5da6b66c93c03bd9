"""Run folders, and the best weights of a training that is not finished."""

import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cvae_utils import checkpoint
from cvae_utils.runs import RUN_FILES, build_model, load_run, load_unfinished, save_run
from cvae_utils.storage import DataError, read_json, write_json

CPU = torch.device("cpu")


@pytest.fixture
def folder(run, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(run.folder, tmp_path / "kept")


def test_saved_run_is_loaded_as_it_was(run, config, tmp_path):
    save_run(tmp_path / "runs" / "again", run.model, run.config, run.history, run.steps,
             run.results, run.environment)
    loaded = load_run(tmp_path / "runs" / "again", CPU)
    assert {path.name for path in loaded.folder.iterdir()} == set(RUN_FILES)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["again"]
    assert not loaded.model.training
    for name, weight in run.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight), name
    assert (loaded.config, loaded.results, loaded.environment) == (run.config, run.results,
                                                                   run.environment)
    pd.testing.assert_frame_equal(loaded.history, run.history)
    pd.testing.assert_frame_equal(loaded.steps, run.steps)


def test_run_folder_holds_every_weight_once_and_what_was_asked_for(run):
    assert {path.name for path in run.folder.iterdir()} == set(RUN_FILES) == {
        "model.safetensors", "config.json", "history.csv", "steps.csv", "results.json",
        "environment.json"}
    weights = load_file(run.folder / "model.safetensors")
    assert sum(w.numel() for w in weights.values()) == sum(
        p.numel() for p in run.model.parameters())
    assert run.config["beta"] == 10 and run.config["profile"]["size"] == 32


def test_run_that_another_process_has_finished_stays_with_what_was_added(run, folder):
    (folder / "prior.safetensors").write_bytes(b"fitted")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    save_run(folder, run.model, run.config, run.history, run.steps, {}, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_run_whose_writing_is_interrupted_leaves_the_one_before(
        run, folder, monkeypatch, error):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def interrupted(*_, **__):
        raise error

    monkeypatch.setattr(pd.DataFrame, "to_csv", interrupted)
    with pytest.raises(error):
        save_run(folder, run.model, run.config, run.history, run.steps, {}, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("lost", RUN_FILES)
def test_run_folder_that_lacks_a_file_is_refused_by_name(folder, lost):
    (folder / lost).unlink()
    with pytest.raises(FileNotFoundError, match=rf"kept: .*, but {lost} is missing\. Delete the "
                                                "folder: it is then trained again"):
        load_run(folder, CPU)


def test_missing_run_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*Train it with notebook"):
        load_run(tmp_path / "nowhere")


def test_weights_of_another_model_are_refused_with_the_remedy(folder):
    config = read_json(folder / "config.json")
    config["profile"]["latent_dim"] = 5
    write_json(folder / "config.json", config)
    with pytest.raises(ValueError, match=r"kept: expected weights of ConvVAE\(32, 4, 5\).*again"):
        load_run(folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="expected weights .* found others"):
        load_run(folder)


@pytest.fixture
def unfinished(tiny, untrained, tmp_path):
    """A function that writes a state after two epochs with these best weights."""
    def write(best):
        with_it = {"epoch": 2, "config": {"profile": vars(tiny)},
                   "model": build_model(vars(tiny)).state_dict(), "progress": {"best": best}}
        writer = checkpoint.Writer(tmp_path / "unfinished.checkpoint")
        writer.save(with_it)
        writer.close()
        return tmp_path / "unfinished.checkpoint"

    return write


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_unfinished_training_gives_its_best_weights_and_not_its_last(unfinished, untrained, kind):
    path = unfinished({"epoch": 1, "loss": 0.5, "weights": untrained.state_dict()})
    model = load_unfinished(kind(path), CPU)
    assert not model.training
    assert all(torch.equal(weight, untrained.state_dict()[name])
               for name, weight in model.state_dict().items())


def test_unfinished_training_without_a_best_epoch_yet_says_so(unfinished):
    with pytest.raises(ValueError, match=r"unfinished\.checkpoint: expected an epoch that is done, "
                                         r"with beta at its final value; 2 epochs are done\. Let"):
        load_unfinished(unfinished(None), CPU)


def test_damaged_state_is_refused_by_name(tmp_path):
    (tmp_path / "damaged.checkpoint").write_bytes(b"nothing of use")
    with pytest.raises(DataError, match=r"damaged\.checkpoint: .*Delete it"):
        load_unfinished(tmp_path / "damaged.checkpoint")
