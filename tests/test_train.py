"""Training, its cache of finished runs, and what an interruption leaves behind."""

import itertools
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cvae_utils import metrics, train
from cvae_utils.dataset import Slices
from cvae_utils.model import one_hot
from cvae_utils.storage import REPOSITORY, read_json, write_json
from cvae_utils.train import RunConfig, evaluate, fit, load_or_train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def again(slices, split):
    """fit on the CPU without a bar."""
    return lambda config: fit(config, slices, split, CPU, progress=False)


@pytest.fixture
def finished(run, config, tmp_path):
    """A folder runs/ that holds the finished run."""
    shutil.copytree(run.folder, tmp_path / "runs" / config.folder_name)
    return tmp_path / "runs"


@pytest.fixture
def brief(config):
    """Two epochs, for what does not need a good model."""
    return replace(config, profile=replace(config.profile, epochs=2))


def same_weights(a, b):
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------------------ fit
def test_training_lowers_the_loss_and_writes_its_history(again, config, tiny, split):
    model, history, steps, environment = again(
        replace(config, beta=1000.0, profile=replace(tiny, epochs=8)))
    assert history["train_loss"].iloc[-1] < 0.8 * history["train_loss"].iloc[0]
    assert history["validation_loss"].iloc[-1] < 0.8 * history["validation_loss"].iloc[0]
    assert list(history.columns) == [
        "epoch", "beta", "train_loss", "train_cross_entropy", "train_dice_loss", "train_kl",
        "validation_loss", "validation_cross_entropy", "validation_dice_loss", "validation_kl",
        "validation_dice", "validation_RV", "validation_MYO", "validation_LV",
    ]
    assert history["epoch"].tolist() == list(range(1, 9)) and not model.training
    assert len(steps) == 8 * (len(split["train"]) // 8)  # the smaller last batch is dropped
    assert list(steps.columns) == ["epoch", "beta", "loss", "cross_entropy", "kl",
                                   "RV", "MYO", "LV"]
    for part in ("train", "validation"):
        terms = (history[f"{part}_cross_entropy"] + history[f"{part}_dice_loss"]
                 + 1000 * history[f"{part}_kl"] / 256**2)
        assert history[f"{part}_loss"].to_numpy() == pytest.approx(terms.to_numpy(), rel=1e-3)
    assert environment["device"] == "cpu" and environment["epochs"] == 8


def test_same_seed_gives_the_same_weights_and_another_seed_others(again, brief):
    first = again(brief)[0]
    assert same_weights(first, again(brief)[0])
    assert not same_weights(first, again(replace(brief, seed=1))[0])


def test_slices_read_from_disk_batch_by_batch_train_and_score_the_same(
        again, brief, run, slices, split, tmp_path, monkeypatch):
    np.save(tmp_path / "aligned.npy", slices.aligned)
    on_disk = replace(slices, aligned=np.load(tmp_path / "aligned.npy", mmap_mode="r"))
    expected, expected_scores = again(brief), evaluate(run.model, slices, split, 20)
    monkeypatch.setattr(train, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(train.latents, "BATCH_PIXELS", 2 * 32**2)  # blocks of 32 slices
    assert train._Part(on_disk.aligned, split["train"], CPU).resident is None
    trained, history, *_ = fit(brief, on_disk, split, CPU, progress=False)
    assert same_weights(expected[0], trained)
    pd.testing.assert_frame_equal(history, expected[1], rtol=1e-4)
    scores = evaluate(run.model, on_disk, split, 20)
    assert len(split["test"]) > 32
    assert {k: pytest.approx(v, rel=1e-3, abs=1e-4) for k, v in scores.items()} == expected_scores


def test_epochs_before_beta_has_risen_are_never_the_best(again, config, tiny, monkeypatch):
    losses = {1: 0.0, 2: 0.0, 3: 0.0, 4: 4.0, 5: 3.0, 6: 5.0}
    monkeypatch.setattr(train, "_epoch_row", lambda epoch, *_: {
        "validation_loss": losses[epoch], "validation_dice": 0.0})
    rising = replace(config, beta=1000.0, schedule="linear",
                     profile=replace(tiny, epochs=6, batch_size=16))
    _, _, steps, environment = again(rising)
    assert steps["beta"].iloc[0] == 1 and steps["beta"].is_monotonic_increasing
    at_the_end = steps["beta"] == 1000
    assert steps["epoch"][at_the_end].min() == 4 and steps["epoch"][~at_the_end].max() == 3
    assert environment["best_epoch"] == 5


@pytest.mark.parametrize(("validation_losses", "best", "epochs"), [
    ([3, 1, 2, 2, 0, 0], 2, 4),  # stops two epochs after the best and never sees the 0
    ([3, 2, 2, 1, 2, 1], 4, 6),  # a tie is not better
    ([6, 5, 4, 3, 2, 1], 6, 6),
])
def test_early_stopping_keeps_the_weights_of_the_best_epoch(
        again, config, tiny, monkeypatch, validation_losses, best, epochs):
    seen = []

    def told(epoch, steps, vae, validation, beta):
        seen.append({name: value.clone() for name, value in vae.state_dict().items()})
        return {"validation_loss": validation_losses[epoch - 1], "validation_dice": 0.0}

    monkeypatch.setattr(train, "_epoch_row", told)
    patient = replace(config, profile=replace(tiny, epochs=6, patience=2, batch_size=64))
    model, history, _, environment = again(patient)
    assert (environment["best_epoch"], environment["epochs"], len(history)) == (best, epochs,
                                                                                  epochs)
    assert all(torch.equal(x, seen[best - 1][k]) for k, x in model.state_dict().items())
    assert not torch.equal(seen[0]["from_z.weight"], seen[1]["from_z.weight"])


def test_loss_that_is_no_number_stops_with_a_remedy(again, config, tiny):
    with pytest.raises(FloatingPointError, match="epoch 1: .*Lower the learning rate"):
        again(replace(config, profile=replace(tiny, learning_rate=1e30, warmup_steps=0)))


def test_slices_of_another_size_are_refused(again, config, tiny):
    with pytest.raises(ValueError, match="expected slices of 64 pixels, found 32"):
        again(replace(config, profile=replace(tiny, size=64)))


def test_learning_rate_warms_up_and_then_falls_along_half_a_cosine(tiny):
    profile = replace(tiny, warmup_steps=4)
    found = [train.learning_rate_factor(s, 104, profile) for s in (0, 1, 3, 4, 54, 104, 110)]
    assert found == pytest.approx([0.25, 0.5, 1, 1, 0.5, 0, 0])
    constant = replace(tiny, warmup_steps=0, decay="constant")
    assert [train.learning_rate_factor(s, 9, constant) for s in (0, 5, 9)] == [1, 1, 1]


@pytest.fixture
def phases():
    """Twenty steps: all fall until step 3; LV is learnt at 4, MYO from 6 to 9, RV from 10 on."""
    steps = pd.DataFrame({
        "RV": [0.1, 0.1, *[0.0] * 8, 0.1, 0.2, *[0.4] * 8],
        "MYO": [0.2, 0.1, 0, 0, 0, 0, 0.2, 0.3, 0.4, *[0.6] * 11],
        "LV": [0.5, 0.3, 0.1, 0, 0.4, *[0.8] * 15],
    })
    steps.loc[15, "LV"] = 0.7  # when nothing new is learnt
    return steps


@pytest.mark.parametrize(("falls", "step", "to", "dip"), [
    (None, 0, 0, 0),  # LV's fall before all are lowest does not count, nor does that of step 15
    ("LV", 5, 0.3, 0),  # nothing else rises yet
    ("LV", 7, 0.3, 0.5),  # MYO rises
    ("MYO", 11, 0.2, 0.4),  # RV rises
    ("LV", 14, 0.3, 0),  # everything has risen
    ("MYO", 8, 0.1, 0),  # the one that rises itself does not count
])
def test_dip_is_a_fall_while_another_structure_rises(phases, falls, step, to, dip):
    if falls:
        phases.loc[step, falls] = to
    assert train.learning_phases(phases, window=1)["dip"] == pytest.approx(dip)


def test_order_and_noise_of_constructed_steps(phases):
    found = train.learning_phases(phases, window=1)
    assert found["order"] == ["LV", "MYO", "RV"]
    assert found["half_step"] == {"LV": 4, "MYO": 7, "RV": 11}  # and not 0, before the minimum
    assert found["noise"] == pytest.approx(0.1)
    smooth = train.learning_phases(phases, window=2)
    assert smooth["half_step"] == {"LV": 5, "MYO": 8, "RV": 12}
    assert smooth["noise"] == pytest.approx(0.05)
    turned = train.learning_phases(phases.rename(columns={"LV": "RV", "RV": "LV"}), window=1)
    assert turned["order"] == ["RV", "MYO", "LV"]


# ------------------------------------------------------------------------------------- evaluate
def test_evaluation_is_what_the_model_itself_gives(run, slices, split):
    model, maps = run.model, slices.aligned[split["test"]]
    with torch.no_grad():
        mu, logvar = model.encode(one_hot(torch.from_numpy(maps)))
        rebuilt = model.decode(mu).argmax(dim=1).numpy()
        train_mu, train_logvar = model.encode(
            one_hot(torch.from_numpy(slices.aligned[split["train"]])))
    dice = []
    for a, b in zip(rebuilt, maps):
        present = [c for c in (1, 2, 3) if (a == c).any() or (b == c).any()]
        dice.append(np.mean([2 * ((a == c) & (b == c)).sum() / ((a == c).sum() + (b == c).sum())
                             for c in present]))
    prior = torch.distributions.Normal(0, 1)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(train_mu, torch.exp(train_logvar / 2)), prior).mean(dim=0)
    test_kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, torch.exp(logvar / 2)), prior).sum(dim=1).mean()

    found = evaluate(model, slices, split, samples=20)
    assert found["test_dice"] == pytest.approx(np.mean(dice), abs=1e-4) and np.mean(dice) > 0.3
    assert found["test_kl"] == pytest.approx(test_kl.item(), rel=1e-3)
    assert found["train_kl"] == pytest.approx(kl.sum().item(), rel=1e-3)
    assert found["active_dimensions"] == (kl > 0.1).sum() > 0
    order = found["kl_order"]
    assert (np.diff(kl[order]) <= 1e-6).all()
    assert found["mu_sd"] == pytest.approx(train_mu[:, order].std(dim=0, correction=0).tolist(),
                                           rel=1e-3)
    assert found["valid_real"] == metrics.is_valid(maps).mean()
    assert found["valid_real_open_wall"] == metrics.is_valid(maps, True).mean()
    assert found["samples"] == 20 and (20 * found["valid_prior"]).is_integer()


def test_evaluation_counts_each_part_by_its_own_slices(untrained, slices, split, monkeypatch):
    """A model that returns what it is given rebuilds every slice perfectly."""
    monkeypatch.setattr(train.latents, "reconstruct", lambda vae, maps: maps)
    found = evaluate(untrained, slices, split, samples=1)
    assert all(found[f"{part}_dice"] == 1 for part in ("validation", "test", "unrotated"))

    monkeypatch.setattr(train.latents, "reconstruct",
                        lambda vae, maps: slices.aligned[split["test"]][:len(maps)])
    found = evaluate(untrained, slices, split, samples=1)
    assert found["test_dice"] == 1 and found["test_dice_LV"] == 1
    assert 0.2 < found["unrotated_dice"] < 0.95 and found["validation_dice"] < 0.95


def bars(*counts):
    """Label maps (N, 32, 32) with so many pixels of RV, MYO and LV each."""
    maps = np.zeros((len(counts), 32 * 32), dtype=np.uint8)
    for row, of_each in zip(maps, counts):
        row[:sum(of_each)] = np.repeat([1, 2, 3], of_each)
    return maps.reshape(-1, 32, 32)


def test_spread_and_lack_of_rv_by_hand(untrained, monkeypatch):
    real = bars((0, 10, 20), (0, 10, 20), (8, 14, 30), (8, 14, 30))  # deviations 4, 2, 5
    drawn = bars((0, 10, 20), (4, 10, 40), (0, 10, 20), (0, 10, 40))  # sqrt(3), 0, 10
    other = bars((100, 1, 0), (1, 50, 0))  # of training and validation: does not matter
    maps = np.concatenate([other, real])
    asked = []
    monkeypatch.setattr(train.latents, "reconstruct", lambda vae, maps: maps)
    monkeypatch.setattr(train.latents, "decode", lambda vae, z: (asked.append(z), drawn)[1])
    found = evaluate(untrained, Slices(maps, maps, None, None, "", ""),
                     {"train": [0, 1], "validation": [1], "test": [2, 3, 4, 5]}, 4, seed=3)
    assert found["spread_prior"] == pytest.approx((np.sqrt(3) / 4 + 0 + 10 / 5) / 3)
    assert (found["no_rv_prior"], found["no_rv_real"]) == (3 / 4, 2 / 4)
    assert len(asked) == 1 and (asked[0] == train.latents.sample_prior(4, 6, seed=3)).all()


# ------------------------------------------------------------------------------ runs on the disk
def test_run_is_trained_once_and_then_loaded(run, config, slices, split, finished, monkeypatch):
    monkeypatch.setattr(train, "fit", None)
    monkeypatch.setattr(train, "evaluate", None)
    loaded = load_or_train(config, slices, split, finished, CPU, progress=False)
    assert loaded.folder == finished / config.folder_name
    assert same_weights(loaded.model, run.model) and not loaded.model.training
    assert loaded.results == run.results and loaded.environment == run.environment
    assert loaded.config["beta"] == 10 and loaded.config["profile"]["size"] == 32
    pd.testing.assert_frame_equal(loaded.history, run.history)
    pd.testing.assert_frame_equal(loaded.steps, run.steps)


def test_stored_results_are_those_of_the_stored_weights(run, config, slices, split):
    found = evaluate(run.model, slices, split, samples=20)
    assert found.keys() == run.results.keys() and found["kl_order"] == run.results["kl_order"]
    for name in found:
        assert found[name] == pytest.approx(run.results[name]), name
    assert set(contents(run.folder)) == {"model.safetensors", "config.json", "history.csv",
                                         "steps.csv", "results.json", "environment.json"}
    weights = load_file(run.folder / "model.safetensors")
    assert sum(w.numel() for w in weights.values()) == sum(
        p.numel() for p in run.model.parameters())


def test_whatever_a_run_depends_on_is_in_its_name(config, tiny):
    others = [replace(config, **change) for change in (
        {}, {"beta": 1.0}, {"schedule": "linear"}, {"seed": 1}, {"split_by": "slice"},
        {"data": "other"}, {"profile": replace(tiny, weight_decay=0.0)},
        {"profile": replace(tiny, name="other")},
    )]
    names = [other.folder_name for other in others]
    assert len(set(names)) == len(names)
    assert names[0] == RunConfig(tiny, 10.0, data=config.data).folder_name  # nothing random
    assert names[0].startswith("tiny-beta10-seed0-")
    assert names[2].startswith("tiny-beta10-linear-seed0-")


@pytest.mark.parametrize("module", ["train", "model", "losses", "metrics", "latents"])
def test_edit_of_the_code_gives_a_run_another_name(config, tmp_path, monkeypatch, module):
    before = config.folder_name
    edited = tmp_path / "edited.py"
    path = REPOSITORY / "cvae_utils" / f"{module}.py"
    edited.write_text(path.read_text() + "\nEDITED = True\n")
    monkeypatch.setattr(sys.modules[f"cvae_utils.{module}"], "__file__", str(edited))
    assert config.folder_name != before


@pytest.mark.parametrize("where", ["fit", "evaluate", "write_json"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_run_leaves_no_folder_and_the_finished_one(
        brief, slices, split, run, finished, monkeypatch, where, error):
    before = contents(finished)

    def interrupted(*arguments):
        raise error

    if where != "fit":  # no need to train for what comes after
        model = train.build_model(vars(brief.profile))
        monkeypatch.setattr(train, "fit", lambda *_: (model, run.history, run.steps, {}))
    monkeypatch.setattr(train, where, interrupted)
    with pytest.raises(error):
        load_or_train(brief, slices, split, finished, CPU, progress=False)
    assert contents(finished) == before
    assert [p.name for p in finished.iterdir()] == [run.folder.name]


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
import torch
from cvae_utils import train
config, slices, split = pickle.load(open(sys.argv[1], "rb"))
write = train.write_json
def die(path, value):
    write(path, value)
    if path.name == "results.json":  # half of the files are written
        os.kill(os.getpid(), signal.SIGKILL)
train.write_json = die
train.load_or_train(config, slices, split, Path(sys.argv[2]), torch.device("cpu"), False)
"""


def test_killed_run_is_not_taken_for_complete(config, slices, split, finished, tmp_path,
                                              monkeypatch):
    killed = replace(config, profile=replace(config.profile, epochs=1))
    before = contents(finished)
    (tmp_path / "work.pickle").write_bytes(pickle.dumps((killed, slices, split)))
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "work.pickle", finished],
                           cwd=REPOSITORY)
    assert ended.returncode == -signal.SIGKILL
    assert not (finished / killed.folder_name).exists()
    assert before.items() <= contents(finished).items()

    fitted, counted = train.fit, itertools.count()
    monkeypatch.setattr(train, "fit", lambda *a: (next(counted), fitted(*a))[1])
    load_or_train(config, slices, split, finished, CPU, progress=False)
    assert next(counted) == 0  # the finished one is loaded
    load_or_train(killed, slices, split, finished, CPU, progress=False)
    assert next(counted) == 2  # the killed one is trained: numbers 0 and 1 were taken
    assert {p.name for p in finished.iterdir()} == {config.folder_name, killed.folder_name}


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "history.csv", "steps.csv",
                                  "results.json", "environment.json"])
def test_run_folder_that_lacks_a_file_is_refused_by_name(config, finished, lost):
    (finished / config.folder_name / lost).unlink()
    with pytest.raises(FileNotFoundError) as error:
        train.load_run(finished / config.folder_name, CPU)
    assert lost in str(error.value) and config.folder_name in str(error.value)


def test_missing_run_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*Train it with notebook"):
        train.load_run(tmp_path / "nowhere")


def test_incomplete_run_says_what_is_missing(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    (folder / "results.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"results\.json is missing\. Delete the folder"):
        train.load_run(folder)


def test_weights_of_another_model_are_refused_with_the_remedy(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "other")
    config = read_json(folder / "config.json")
    config["profile"]["latent_dim"] = 5
    write_json(folder / "config.json", config)
    with pytest.raises(ValueError, match=r"other: expected weights of ConvVAE\(32, 4, 5\).*again"):
        train.load_run(folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="expected weights .* found others"):
        train.load_run(folder)


def test_validation_scores_are_means_over_slices(untrained):
    """Three slices, in one batch or two: the same row."""
    maps = np.random.default_rng(0).integers(0, 4, (3, 32, 32)).astype(np.uint8)
    step = [{"loss": 1.0, "cross_entropy": 0.5, "kl": 2.0, "RV": 0.3, "MYO": 0.6, "LV": 0.9,
             "beta": 5.0}]
    rows = []
    for batch in (2, 256):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train.latents, "BATCH_PIXELS", batch * 32**2)
            part = train._Part(maps, np.arange(len(maps)), CPU)
            rows.append(train._epoch_row(4, step, untrained, part, 1000.0))
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)
    assert (rows[0]["epoch"], rows[0]["beta"], rows[0]["train_kl"]) == (4, 5, 2)
    assert rows[0]["train_dice_loss"] == pytest.approx(0.4)
