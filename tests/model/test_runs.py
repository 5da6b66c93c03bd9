"""Run folders, and the best weights of a training that is not finished."""

import shutil

import pandas as pd
import pytest
import torch
from same import names, same_weights

from cvae_utils.files import read_json, write_json
from cvae_utils.model import checkpoint
from cvae_utils.model.network import build_model
from cvae_utils.model.runs import RUN_FILES, load_run, load_unfinished, save_run

CPU = torch.device("cpu")


@pytest.fixture
def folder(run, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(run.folder, tmp_path / "kept")


def test_saved_run_is_loaded_as_it_was(run, config, tmp_path):
    save_run(tmp_path, config, run.model, run.history, run.steps, run.environment)
    assert set(names(tmp_path)) == set(RUN_FILES)
    loaded = load_run(tmp_path, CPU)
    assert same_weights(loaded.model, run.model) and not loaded.model.training
    assert (loaded.config, loaded.environment, loaded.results) == (run.config, run.environment, {})
    assert loaded.config["beta"] == 10 and loaded.config["profile"]["size"] == 32
    pd.testing.assert_frame_equal(loaded.history, run.history)
    pd.testing.assert_frame_equal(loaded.steps, run.steps)
    write_json(tmp_path / "results.json", {"test_dice": 0.9})  # of a run that comes with them
    assert load_run(tmp_path, CPU).results == {"test_dice": 0.9}


@pytest.mark.parametrize("lost", RUN_FILES)
def test_run_folder_that_lacks_a_file_is_refused_by_name(folder, lost):
    (folder / lost).unlink()
    with pytest.raises(FileNotFoundError, match=rf"kept: .*, but {lost} is missing\. Delete the "
                                                "folder: it is then trained again"):
        load_run(folder, CPU)


def test_missing_run_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*Train it with notebook"):
        load_run(tmp_path / "nowhere")


def test_weights_of_another_model_and_damaged_ones_are_refused_with_the_remedy(folder):
    config = read_json(folder / "config.json")
    config["profile"]["latent_dim"] = 5
    write_json(folder / "config.json", config)
    message = r"kept: expected weights of ConvVAE\(32, 4, 5\).*again"
    with pytest.raises(ValueError, match=message):
        load_run(folder)
    (folder / "model.safetensors").write_bytes(b"nothing of use")
    with pytest.raises(ValueError, match=message):
        load_run(folder)


@pytest.fixture
def unfinished(tiny, tmp_path):
    """A function that writes a state after two epochs with these best weights."""
    def write(best):
        writer = checkpoint.Writer(tmp_path / "unfinished.checkpoint")
        writer.save({"epoch": 2, "config": {"profile": vars(tiny)},
                     "model": build_model(vars(tiny)).state_dict(), "progress": {"best": best}})
        writer.close()
        return tmp_path / "unfinished.checkpoint"

    return write


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_unfinished_training_gives_its_best_weights_and_not_its_last(unfinished, untrained, kind):
    path = unfinished({"epoch": 1, "loss": 0.5, "weights": untrained.state_dict()})
    model = load_unfinished(kind(path), CPU)
    assert same_weights(model, untrained) and not model.training


def test_unfinished_training_without_a_best_epoch_yet_says_so(unfinished):
    with pytest.raises(ValueError, match=r"unfinished\.checkpoint: expected an epoch that is done, "
                                         r"with beta at its final value; 2 epochs are done\. Let"):
        load_unfinished(unfinished(None), CPU)
