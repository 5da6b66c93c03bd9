"""Training: what it learns, what it keeps, and what becomes of it when it is stopped."""

import errno
import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import worker
from jupyter_client import KernelManager

from cvae_utils import (
    checkpoint,
    evaluation,
    hardware,
    latents,
    metrics,
    notebook,
    profiles,
    runs,
    train,
)
from cvae_utils.model import one_hot
from cvae_utils.runs import RUN_FILES, build_model
from cvae_utils.storage import REPOSITORY, DataError, read_json, write_json
from cvae_utils.train import Machinery, RunConfig, fit, load_or_train

CPU = torch.device("cpu")
ALONE = Machinery(CPU)


@pytest.fixture
def again(slices, split, accelerator):
    """fit on the CPU in float32, without a bar."""
    return lambda config, **options: fit(config, options.pop("slices", slices), split, accelerator,
                                         progress=False, **options)


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


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def no_step(*_):
    raise AssertionError("expected no step of training")


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
    assert list(steps.columns) == [
        "epoch", "beta", "loss", "cross_entropy", "kl", "RV", "MYO", "LV", "gradient_BACKGROUND",
        "gradient_RV", "gradient_MYO", "gradient_LV", "area_RV", "area_MYO", "area_LV"]
    for part in ("train", "validation"):
        terms = (history[f"{part}_cross_entropy"] + history[f"{part}_dice_loss"]
                 + 1000 * history[f"{part}_kl"] / 256**2)
        assert history[f"{part}_loss"].to_numpy() == pytest.approx(terms.to_numpy(), rel=1e-3)
    assert environment["device"] == "cpu" and environment["epochs"] == 8
    assert environment["processes"] == 1 and environment["micro_batch"] == 8


@pytest.mark.parametrize(("precision", "name"), [("no", "float32"), ("bf16", "bfloat16")])
def test_environment_says_in_which_precision_was_computed(
        brief, slices, split, tmp_path, precision, name):
    one = replace(brief, profile=replace(brief.profile, epochs=1))
    found = load_or_train(one, slices, split, tmp_path, Machinery(CPU, precision=precision), False)
    assert read_json(found.folder / "environment.json") == found.environment
    assert found.environment["precision"] == name and found.environment["processes"] == 1


def test_same_seed_gives_the_same_weights_and_another_seed_others(again, brief):
    first = again(brief)[0]
    assert same_weights(first, again(brief)[0])
    assert not same_weights(first, again(replace(brief, seed=1))[0])


def test_slices_on_disk_train_as_those_in_memory_bit_for_bit(again, brief, slices):
    assert isinstance(slices.aligned, np.memmap)
    mapped = again(brief)
    in_memory = again(brief, slices=replace(slices, aligned=np.array(slices.aligned)))
    assert same_weights(mapped[0], in_memory[0])
    pd.testing.assert_frame_equal(mapped[1], in_memory[1], check_exact=True)


def test_slices_are_read_a_batch_at_a_time_on_the_cpu(again, brief, monkeypatch):
    read, largest = train.read_rows, []
    monkeypatch.setattr(train, "read_rows", lambda maps, rows: (largest.append(len(rows)),
                                                               read(maps, rows))[1])
    monkeypatch.setattr(train.latents, "BATCH_PIXELS", 8 * 32**2)
    again(brief)
    assert max(largest) == 8 and len(largest) > 20


def test_images_pass_a_few_at_a_time_with_the_same_result(again, brief):
    """Micro-batches of 3, 3 and 2 of 8: their gradients are summed with their shares."""
    slow = replace(brief, profile=replace(brief.profile, learning_rate=1e-3, augment=1.0))
    whole, parts = again(slow), again(slow, micro_batch=3)
    assert (whole[3]["micro_batch"], parts[3]["micro_batch"]) == (8, 3)
    assert_same_curve(parts[1:3], whole[1:3])


def assert_same_curve(found, expected):
    """History and steps, but for rounding."""
    for a, b in zip(found, expected):
        pd.testing.assert_frame_equal(pd.DataFrame(a), pd.DataFrame(b), rtol=1e-3, atol=1e-4,
                                      check_dtype=False)
    assert list(found[1]["loss"]) == pytest.approx(list(expected[1]["loss"]), rel=1e-4)


def test_compiled_model_trains_as_the_plain_one(brief, slices, split, tmp_path, monkeypatch):
    """As traced for the compiler; to let it make machine code of that would take a minute."""
    accelerator, backends = hardware.Accelerator, []

    def traced(dynamo_backend, **options):
        backends.append(dynamo_backend)
        return accelerator(dynamo_backend=dynamo_backend.replace("inductor", "aot_eager"),
                           **options)

    monkeypatch.setattr(hardware, "Accelerator", traced)
    small = replace(brief, profile=replace(brief.profile, epochs=1, learning_rate=1e-3))
    plain, compiled = (
        load_or_train(small, slices, split, tmp_path / str(compiled),
                      Machinery(CPU, precision="no", compiled=compiled), progress=False)
        for compiled in (False, True))
    assert backends == ["no", "inductor"]
    assert_same_curve([compiled.history, compiled.steps], [plain.history, plain.steps])
    assert plain.model.state_dict().keys() == compiled.model.state_dict().keys()


def test_epochs_before_beta_has_risen_are_never_the_best(again, config, tiny, monkeypatch):
    losses = {1: 0.0, 2: 0.0, 3: 0.0, 4: 4.0, 5: 3.0, 6: 5.0}
    monkeypatch.setattr(train, "_epoch_row", lambda epoch, *_: {
        "epoch": epoch, "validation_loss": losses[epoch], "validation_dice": 0.0})
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
    seen, validate = [], train._validate

    def told(accelerator, vae, *rest):
        seen.append({name: value.clone() for name, value in vae.state_dict().items()})
        return validate(accelerator, vae, *rest) | {
            "validation_loss": validation_losses[len(seen) - 1]}

    monkeypatch.setattr(train, "_validate", told)
    patient = replace(config, profile=replace(tiny, epochs=6, patience=2, batch_size=64))
    model, history, _, environment = again(patient)
    assert (environment["best_epoch"], environment["epochs"], len(history)) == (best, epochs,
                                                                                  epochs)
    assert all(torch.equal(x, seen[best - 1][k]) for k, x in model.state_dict().items())
    assert not torch.equal(seen[0]["from_z.weight"], seen[1]["from_z.weight"])


def test_slices_of_another_size_are_refused(again, config, tiny):
    with pytest.raises(ValueError, match="expected slices of 64 pixels, found 32"):
        again(replace(config, profile=replace(tiny, size=64)))


def test_learning_rate_warms_up_and_then_falls_along_half_a_cosine(tiny):
    profile = replace(tiny, warmup_steps=4)
    found = [train.learning_rate_factor(s, 104, profile) for s in (0, 1, 3, 4, 54, 104, 110)]
    assert found == pytest.approx([0.25, 0.5, 1, 1, 0.5, 0, 0])
    constant = replace(tiny, warmup_steps=0, decay="constant")
    assert [train.learning_rate_factor(s, 9, constant) for s in (0, 5, 9)] == [1, 1, 1]


@pytest.mark.parametrize("batch", [2, 256])
def test_validation_scores_are_means_over_slices(
        accelerator, untrained, slices, batch, monkeypatch):
    """Of five slices, one of them without RV, in batches of any size."""
    maps = np.array(slices.aligned[:5])
    maps[2][maps[2] == 1] = 0
    monkeypatch.setattr(latents, "BATCH_PIXELS", batch * 32**2)
    part = train._Part(maps, np.arange(5), CPU)
    found = train._validate(accelerator, untrained, part, 1000.0)
    dice = metrics.dice_per_class(latents.reconstruct(untrained, maps), maps)
    assert found["validation_dice"] == pytest.approx(np.nanmean(dice, axis=1).mean(), rel=1e-5)
    for name, value in metrics.mean_by_class(dice).items():
        assert found[f"validation_{name}"] == pytest.approx(value, rel=1e-5)
    with torch.no_grad():
        target = one_hot(torch.from_numpy(maps))
        mu, logvar = untrained.encode(target)
        terms = train.losses.loss_terms(untrained.decode(mu), target, mu, logvar)
    assert found["validation_loss"] == pytest.approx(terms.total(1000.0).item(), rel=1e-4)
    assert found["validation_kl"] == pytest.approx(terms.kl.item(), rel=1e-4)


def test_row_of_an_epoch_holds_the_means_over_its_steps():
    steps = torch.tensor([[4.0, 1.0, 0.5, 2.0, 0.3, 0.6, 0.9], [5.0, 3.0, 0.7, 4.0, 0.1, 0.2, 0.3]])
    found = train._epoch_row(4, steps, {"validation_loss": 7.0})
    assert found == {"epoch": 4, "beta": 5.0, "train_loss": 2.0, "validation_loss": 7.0,
                     "train_cross_entropy": pytest.approx(0.6), "train_kl": 3.0,
                     "train_dice_loss": pytest.approx(1 - 0.4)}


# ---------------------------------------------------------------------------------- load_or_train
def test_run_is_trained_once_and_then_loaded(run, config, slices, split, finished, monkeypatch):
    monkeypatch.setattr(train, "fit", None)
    monkeypatch.setattr(evaluation, "evaluate", None)
    loaded = load_or_train(config, slices, split, finished, ALONE, progress=False)
    assert loaded.folder == finished / config.folder_name
    assert same_weights(loaded.model, run.model) and not loaded.model.training
    assert loaded.results == run.results and loaded.environment == run.environment
    assert loaded.config["beta"] == 10 and loaded.config["profile"]["size"] == 32


def test_beta_is_moved_until_kl_is_at_its_rate(again, config):
    """From beta = 1000, where KL would stay far below, and from 1, where it would be far above."""
    for start in (1000.0, 1.0):
        _, history, steps, environment = again(replace(config, beta=start, rate=5.0))
        assert history["train_kl"].tail(4).mean() == pytest.approx(5, rel=0.15)
        assert steps["beta"].iloc[0] == start and environment["best_epoch"] == len(history)
        assert history["validation_loss"].iloc[-1] == pytest.approx(
            history["validation_cross_entropy"].iloc[-1] + history["validation_dice_loss"].iloc[-1]
            + steps["beta"].iloc[-1] * history["validation_kl"].iloc[-1] / 256**2, rel=0.02)


def test_a_schedule_rises_to_a_beta_that_then_follows_the_rate(again, brief):
    profile = replace(brief.profile, epochs=4)
    steps = again(replace(brief, profile=profile, beta=1000.0, schedule="linear", rate=5.0))[2]
    rising, after = np.split(steps["beta"].to_numpy(), 2)
    assert rising == pytest.approx(np.linspace(1, 1000, len(rising), endpoint=False), rel=1e-3)
    kl = steps["kl"].to_numpy()[len(rising):]
    expected = 1000 * np.exp(40 / len(steps) * np.cumsum(np.clip(kl / 5 - 1, -1, 1)))
    assert after[1:] == pytest.approx(expected[:-1], rel=1e-3)


def test_augmentation_shows_the_model_other_slices_and_validation_the_true_ones(
        again, brief, monkeypatch):
    seen, terms = [], train.losses.loss_terms
    monkeypatch.setattr(train.losses, "loss_terms", lambda scores, target, mu, logvar: (
        seen.append(target), terms(scores, target, mu, logvar))[1])
    one = replace(brief.profile, epochs=1)
    again(replace(brief, profile=one))
    plain, seen[:] = list(seen), []
    again(replace(brief, profile=replace(one, augment=1.0)))
    *training, validation = [torch.equal(a, b) for a, b in zip(plain, seen, strict=True)]
    assert not any(training) and validation


def test_steps_tell_which_class_drives_the_gradient_and_how_large_each_is_drawn(
        again, config, slices, split):
    steps = again(config)[2]
    areas = metrics.areas(slices.aligned[split["train"]]).mean(axis=0) / slices.size**2
    drawn = steps[[f"area_{name}" for name in ("RV", "MYO", "LV")]].to_numpy()
    assert drawn[-26:].mean(axis=0) == pytest.approx(areas, rel=0.25)  # of two epochs
    gradient = steps.filter(like="gradient_")
    assert gradient.shape[1] == 4 and (gradient > 0).all(axis=None)
    # Most pixels are background: it drives the first epoch, and is learnt by the last.
    first, last = (part["gradient_BACKGROUND"].sum() / part.sum().sum()
                   for part in (gradient.head(13), gradient.tail(13)))
    assert first > 2 * last


def test_decay_inside_adam_is_another_optimiser(again, brief):
    profile = replace(brief.profile, weight_decay=0.3)
    decoupled, coupled = (again(replace(brief, profile=replace(profile, coupled_decay=inside)))[0]
                          for inside in (False, True))
    assert not same_weights(decoupled, coupled)


def test_a_plain_auto_encoder_decodes_mu(again, brief, monkeypatch):
    noise, forward = [], runs.ConvVAE.forward
    monkeypatch.setattr(runs.ConvVAE, "forward", lambda self, maps, eps: (
        noise.append(eps), forward(self, maps, eps))[1])
    for beta in (0.0, 1.0):
        noise.clear()
        again(replace(brief, beta=beta))
        assert torch.stack(noise).any() == (beta > 0)


def test_whatever_a_run_depends_on_is_in_its_name(config, tiny):
    others = [replace(config, **change) for change in (
        {}, {"beta": 1.0}, {"schedule": "linear"}, {"seed": 1}, {"split_by": "slice"}, {"rate": 6},
        {"data": "other"}, {"profile": replace(tiny, weight_decay=0.0)},
        {"profile": replace(tiny, name="other")},
    )]
    names = [other.folder_name for other in others]
    assert len(set(names)) == len(names)
    assert names[0] == RunConfig(tiny, 10.0, data=config.data).folder_name  # nothing random
    assert names[0].startswith("tiny-beta10-seed0-")
    assert names[2].startswith("tiny-beta10-linear-seed0-")


def edit(module, tmp_path, monkeypatch):
    path = REPOSITORY / "cvae_utils" / f"{module}.py"
    (tmp_path / "edited.py").write_text(path.read_text() + "\nEDITED = True\n")
    monkeypatch.setattr(sys.modules[f"cvae_utils.{module}"], "__file__",
                        str(tmp_path / "edited.py"))


@pytest.mark.parametrize("module", ["train", "model", "losses", "metrics", "latents",
                                    "evaluation"])
def test_edit_of_the_code_gives_a_run_another_name(config, tmp_path, monkeypatch, module):
    before = config.folder_name
    edit(module, tmp_path, monkeypatch)
    assert config.folder_name != before


@pytest.mark.parametrize(("where", "name"), [
    (train, "fit"), (evaluation, "evaluate"), (runs, "write_json")], ids=str)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_run_leaves_no_folder_and_the_finished_one(
        brief, slices, split, run, finished, monkeypatch, where, name, error):
    before = contents(finished)

    def interrupted(*arguments):
        raise error

    # No need to train for what comes after.
    model = build_model(vars(brief.profile))
    monkeypatch.setattr(train, "fit", lambda *_: (model, run.history, run.steps, {}))
    monkeypatch.setattr(where, name, interrupted)
    with pytest.raises(error):
        load_or_train(brief, slices, split, finished, ALONE, progress=False)
    assert contents(finished) == before
    assert names(finished) == [run.folder.name]


def betas_of(config, runs, *kept):
    """What find_betas finds among the runs of these configurations, whose folders are empty but
    for config.json."""
    for other in kept:
        (runs / other.folder_name).mkdir(parents=True)
        write_json(runs / other.folder_name / "config.json", {"beta": other.beta})
    return train.find_betas(config, runs)


def test_betas_are_those_of_runs_that_differ_in_nothing_else(config, tmp_path):
    found = betas_of(config, tmp_path, config, replace(config, beta=0.5), replace(config, beta=3e5),
                     replace(config, beta=20.0, seed=1), replace(config, beta=21.0, data="other"),
                     replace(config, beta=22.0, schedule="linear"),
                     replace(config, beta=23.0, split_by="slice"),
                     replace(config, beta=24.0, profile=replace(config.profile, epochs=3)))
    assert found == [0.5, 10.0, 3e5]
    assert betas_of(replace(config, seed=1), tmp_path) == [20.0]
    assert train.find_betas(config, tmp_path / "nowhere") == []


def test_runs_of_code_that_was_edited_since_do_not_count(config, tmp_path, monkeypatch):
    assert betas_of(config, tmp_path / "runs", replace(config, beta=0.5)) == [0.5]
    edit("losses", tmp_path, monkeypatch)
    assert train.find_betas(config, tmp_path / "runs") == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"7", b'{"beta": "ten"}', b"\xff",
                                     b'{"beta": null}', b'{"beta": [1]}', b'{"beta": NaN}'])
def test_damaged_configuration_of_another_run_is_passed_over(config, tmp_path, content):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_bytes(content)
    (tmp_path / "a file").write_text("in the way")
    assert betas_of(config, tmp_path, config) == [10.0]


# ------------------------------------------------------------------------ stopped, and gone on with
class Stopped(Exception):
    """Ends a training where a test wants it to end."""


def stop_at_the_end_of(epoch, patch):
    row = train._epoch_row

    def stopping(number, *rest):
        if number == epoch:
            raise Stopped
        return row(number, *rest)

    patch.setattr(train, "_epoch_row", stopping)


@pytest.fixture(scope="module")
def ends():
    return {}


@pytest.fixture(params=["constant beta", "rising beta", "early stopping", "rate and warps"])
def undisturbed(request, config, ends, again, monkeypatch):
    """A configuration of six epochs and what comes of it; the third kind ends after five."""
    profile = replace(config.profile, epochs=6, batch_size=16)
    kinds = {"constant beta": replace(config, profile=profile),
             "rising beta": replace(config, profile=profile, schedule="linear", beta=1000.0),
             "early stopping": replace(config, profile=replace(profile, patience=2)),
             "rate and warps": replace(config, rate=8.0, profile=replace(profile, augment=1.0))}
    chosen, stops_early = kinds[request.param], request.param == "early stopping"
    row, told = train._epoch_row, [5.0, 4.0, 3.0, 3.5, 3.0, 0.0]
    if stops_early:
        monkeypatch.setattr(train, "_epoch_row", lambda epoch, steps, validation: row(
            epoch, steps, validation | {"validation_loss": told[epoch - 1]}))
    if request.param not in ends:
        ends[request.param] = again(chosen)
    assert ends[request.param][3]["epochs"] == (5 if stops_early else 6)
    return chosen, ends[request.param]


def assert_same_end(found, expected):
    assert same_weights(found[0], expected[0])
    for a, b in zip(found[1:3], expected[1:3]):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert [found[3][k] for k in ("best_epoch", "epochs")] == [expected[3][k] for k in
                                                               ("best_epoch", "epochs")]


@pytest.mark.parametrize("stops", [[1], [2], [3], [4], [5], [1, 2, 3, 4, 5], [3, 3, 3]], ids=str)
def test_training_that_was_stopped_ends_as_one_that_was_not(undisturbed, again, tmp_path, stops):
    config, expected = undisturbed
    for epoch in stops:
        with pytest.MonkeyPatch.context() as patch:
            stop_at_the_end_of(epoch, patch)
            with pytest.raises(Stopped):
                again(config, state=tmp_path / "state")
        assert checkpoint.load(tmp_path / "state")["epoch"] == epoch - 1
    found = again(config, state=tmp_path / "state")
    assert_same_end(found, expected)


def test_training_that_is_over_is_not_gone_on_with(undisturbed, again, tmp_path, monkeypatch):
    """It was stopped in the evaluation, say."""
    config, expected = undisturbed
    again(config, state=tmp_path / "state")
    monkeypatch.setattr(train, "learning_rate_factor", no_step)
    assert_same_end(again(config, state=tmp_path / "state"), expected)


def test_beta_that_is_a_number_of_numpy_can_be_gone_on_with(again, brief, tmp_path, monkeypatch):
    again(replace(brief, beta=np.float64(10)), state=tmp_path / "state")
    monkeypatch.setattr(train, "learning_rate_factor", no_step)
    again(brief, state=tmp_path / "state")


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: b"garbage",
                                    lambda whole: whole[:len(whole) // 2]])
def test_damaged_state_stops_with_the_remedy_and_is_not_deleted(
        brief, slices, split, tmp_path, monkeypatch, damage):
    state = worker.state_of(brief, tmp_path)
    monkeypatch.setattr(evaluation, "evaluate", no_step)
    with pytest.raises(AssertionError):
        load_or_train(brief, slices, split, tmp_path, ALONE, progress=False)
    state.write_bytes(damaged := damage(state.read_bytes()))
    monkeypatch.setattr(train, "learning_rate_factor", no_step)
    with pytest.raises(DataError, match=rf"{state.name}: .* found a damaged file .* Delete it"):
        load_or_train(brief, slices, split, tmp_path, ALONE, progress=False)
    assert state.read_bytes() == damaged and names(tmp_path) == [state.name]
    hardware.make_accelerator(CPU, "no")  # nothing of the failed one is left
    hardware.forget_accelerator()


def test_state_is_there_until_the_run_is(brief, slices, split, tmp_path, monkeypatch):
    """And a run whose evaluation failed is evaluated, and not trained again."""
    evaluate, state = evaluation.evaluate, worker.state_of(brief, tmp_path)

    def failing(*_):
        assert names(tmp_path) == [state.name]
        raise MemoryError

    monkeypatch.setattr(evaluation, "evaluate", failing)
    with pytest.raises(MemoryError):
        load_or_train(brief, slices, split, tmp_path, ALONE, progress=False)
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(train, "learning_rate_factor", no_step)
    load_or_train(brief, slices, split, tmp_path, ALONE, progress=False)
    assert names(tmp_path) == [brief.folder_name]


def test_loss_that_is_no_number_stops_with_a_remedy(again, config, tiny):
    with pytest.raises(FloatingPointError, match=r"epoch 1: the loss of step \d+ of 13 .*Lower the "
                                                 r"learning rate \(1e\+30\) or raise warmup_steps "
                                                 r"\(0\)\.$"):
        again(replace(config, profile=replace(tiny, learning_rate=1e30, warmup_steps=0)))


def test_loss_that_becomes_no_number_keeps_the_epoch_before(undisturbed, again, tmp_path):
    config, expected = undisturbed
    state, factor = tmp_path / "state", train.learning_rate_factor
    with pytest.MonkeyPatch.context() as patch:  # from the third epoch's second step of six on
        patch.setattr(train, "learning_rate_factor",
                      lambda step, *rest: 1e30 if step > 12 else factor(step, *rest))
        with pytest.raises(FloatingPointError, match="epoch 3: .* is no finite number. Lower"
                           f".*{state} holds the state of the epoch before"):
            again(config, state=state)
    kept = checkpoint.load(state)
    assert kept["epoch"] == 2 and len(kept["progress"]["history"]) == 2
    assert all(weight.isfinite().all() for weight in kept["model"].values())
    assert_same_end(again(config, state=state), expected)


# ---------------------------------------------------------------- two that train one run at once
def test_run_that_another_process_ends_first_is_the_one_that_stays(
        brief, slices, split, run, tmp_path, monkeypatch):
    folder, evaluate = tmp_path / brief.folder_name, evaluation.evaluate

    def meanwhile(*given):
        shutil.copytree(run.folder, folder)
        (folder / "prior.safetensors").write_bytes(b"fitted")
        worker.state_of(brief, tmp_path).unlink()
        return evaluate(*given)

    monkeypatch.setattr(evaluation, "evaluate", meanwhile)
    found = load_or_train(brief, slices, split, tmp_path, ALONE, progress=False)
    assert same_weights(found.model, run.model)
    assert set(names(folder)) == {*RUN_FILES, "prior.safetensors"}
    assert names(tmp_path) == [brief.folder_name]


def test_two_processes_that_train_one_run_leave_it_whole(work, tmp_path):
    config, packed = work
    with ThreadPoolExecutor() as pool:
        for ended in pool.map(lambda _: worker.start(packed, "trained", 0, tmp_path), range(2)):
            assert ended.returncode == 0, ended.stderr
    assert names(tmp_path) == [config.folder_name]
    assert end_of(tmp_path / config.folder_name)


# -------------------------------------------------------------------------------- a disk that fails
@pytest.mark.parametrize("place", ["file", "file/below/it"])
def test_place_that_cannot_be_written_to_is_named_before_any_step(
        brief, slices, split, tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(train, "learning_rate_factor", no_step)
    with pytest.raises(OSError, match=rf"{place}/{brief.folder_name}.*: the state after epoch 0 "
                                      "could not be written .*let the folder be written to"):
        load_or_train(brief, slices, split, tmp_path / place, ALONE, progress=False)


def test_disk_that_fills_up_keeps_the_last_whole_state(undisturbed, again, tmp_path):
    """A real limit: half of the file is written before it fails."""
    resource = pytest.importorskip("resource")
    config, expected = undisturbed
    state, row = tmp_path / "state", train._epoch_row
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up(epoch, *rest):
        if epoch == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (state.stat().st_size // 2, limits[1]))
        return row(epoch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_epoch_row", fill_up)
        try:
            with pytest.raises(OSError, match=f"{state}: the state after epoch 3 could not be "
                               r"written \(.+\)\. The state of the epoch before is kept there\. "
                               r"Free \d MB there, .*start again: training goes on") as error:
                again(config, state=state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG and names(tmp_path) == ["state"]
    assert checkpoint.load(state)["epoch"] == 2
    assert_same_end(again(config, state=state), expected)


# ------------------------------------------------------------------------- interrupted, and killed
@pytest.fixture(scope="module")
def work(config, slices, split, tmp_path_factory):
    """Eight epochs of 13 steps, for other processes."""
    eight = replace(config, profile=replace(config.profile, epochs=8))
    return eight, worker.pack(tmp_path_factory.mktemp("work") / "work.pickle", eight, slices, split)


def end_of(folder):
    """The files of a run that are the same to the byte if it is the same run."""
    assert {path.name for path in folder.iterdir()} == set(RUN_FILES)
    return {name: (folder / name).read_bytes() for name in RUN_FILES if name != "environment.json"}


def test_control_c_says_how_to_go_on_and_where_the_best_weights_are(work, tmp_path):
    config, packed = work
    ended = worker.start(packed, "trained", 45, tmp_path)  # stopped in the fourth epoch
    state = worker.state_of(config, tmp_path)
    assert ended.returncode != 0 and "KeyboardInterrupt" in ended.stderr.splitlines()[-1]
    assert ("Stopped in epoch 4 of 8. The state after epoch 3 is kept; run the same again, and "
            "training goes on from there.\nThe best weights so far are those of epoch "
            ) in ended.stderr
    assert f"runs.load_unfinished({str(state)!r})" in ended.stderr
    assert names(tmp_path) == [state.name]

    kept = checkpoint.load(state)
    best = kept["progress"]["best"]
    history = kept["progress"]["history"]
    assert kept["epoch"] == len(history) == 3
    assert best["loss"] == min(row["validation_loss"] for row in history)
    model = runs.load_unfinished(state, CPU)
    assert all(torch.equal(weight, best["weights"][name])
               for name, weight in model.state_dict().items())

    ended = worker.start(packed, "trained", 0, tmp_path, tmp_path / "alone")
    assert ended.returncode == 0, ended.stderr
    assert end_of(tmp_path / config.folder_name) == end_of(tmp_path / "alone" / config.folder_name)
    assert names(tmp_path) == ["alone", config.folder_name]


def test_interruption_while_a_state_is_written_tells_of_the_one_that_is_kept(
        brief, slices, split, tmp_path, monkeypatch, capsys):
    """The second epoch is done, but the first one's state is still on its way to the disk."""
    flush, calls = checkpoint.Writer.flush, itertools.count(1)

    def interrupted(writer):
        flush(writer)
        if next(calls) == 4:  # at the start: in `save`, and itself; then in `save` of each epoch
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Writer, "flush", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_or_train(brief, slices, split, tmp_path, Machinery(CPU), progress=False)
    state, = tmp_path.iterdir()
    assert checkpoint.load(state)["epoch"] == 1
    assert "The state after epoch 1 is kept" in capsys.readouterr().err


needs_fork = pytest.mark.skipif(not hasattr(worker.os, "fork"), reason="needs a system that forks")


@needs_fork
def test_training_killed_ten_times_ends_to_the_byte_as_one_that_was_not(
        config, slices, split, tmp_path):
    # More steps than it is let to live for, ten times together.
    config = replace(config, profile=replace(config.profile, epochs=20))
    packed = worker.pack(tmp_path / "work.pickle", config, slices, split)
    ended = worker.start(packed, "killed", tmp_path, 10)
    assert ended.returncode == 0, ended.stderr
    kept = list(map(int, ended.stdout.split()))  # the epoch that was kept at each death
    assert len(kept) == 10 and kept == sorted(kept) and len(set(kept)) >= 4
    assert sum(0 < epoch < 20 for epoch in kept) >= 5
    assert (end_of(tmp_path / "killed" / config.folder_name)
            == end_of(tmp_path / "alone" / config.folder_name))
    assert names(tmp_path / "killed") == names(tmp_path / "alone") == [config.folder_name]


@needs_fork
def test_whenever_it_is_killed_only_what_is_missing_is_done_again(
        config, slices, split, tmp_path):
    config = replace(config, profile=replace(config.profile, epochs=3))
    packed = worker.pack(tmp_path / "work.pickle", config, slices, split)
    ended = worker.start(packed, "killed_when", tmp_path)
    assert ended.returncode == 0, ended.stderr
    state, run = worker.state_of(config, tmp_path).name, config.folder_name
    left, steps = zip(*json.loads(ended.stdout).values())
    partial = [[name for name in some if name.startswith(".")] for some in left]
    assert [set(some) - set(hidden) for some, hidden in zip(left, partial)] == [
        {state}, {state}, {state}, {state, run}]
    # Half a state, nothing, half a run, nothing; two of three epochs, and then none, are lost.
    assert [[".checkpoint." in name for name in hidden] for hidden in partial] == [
        [True], [], [False], []]
    assert steps == (2 * 13, 0, 0, 0)
    ends = [end_of(tmp_path / moment / run) for moment in worker.MOMENTS]
    assert all(end == ends[0] for end in ends)
    assert all(names(tmp_path / moment) == [run] for moment in worker.MOMENTS)


# ------------------------------------------------------------------- what other tools have set
#: Settings of accelerate's own, and ranks that a scheduler or another tool has left behind.
OTHERS = {
    "ACCELERATE_MIXED_PRECISION": "fp8", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "ACCELERATE_DYNAMO_USE_DYNAMIC": "maybe",
    "ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_MEGATRON_LM": "true", "ACCELERATE_USE_SAGEMAKER": "true",
    "ACCELERATE_USE_CPU": "maybe", "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_FP8_BACKEND": "TE", "ACCELERATE_DEBUG_MODE": "maybe",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_TP_SIZE": "2",
    "FORK_LAUNCHED": "1", "PMI_RANK": "1", "PMI_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "2"}
RANKS = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "192.0.2.1",
         "MASTER_PORT": "29500", "LOCAL_WORLD_SIZE": "2", "NODE_RANK": "1"}


def test_settings_of_other_tools_change_nothing(brief, slices, split, tmp_path):
    packed = worker.pack(tmp_path / "work.pickle", brief, slices, split)
    for name, environment in (("alone", {}), ("among others", OTHERS | RANKS)):
        ended = worker.start(packed, "trained", 0, tmp_path / name, **environment)
        assert ended.returncode == 0, ended.stderr
    assert (end_of(tmp_path / "among others" / brief.folder_name)
            == end_of(tmp_path / "alone" / brief.folder_name))


# ------------------------------------------------------------------------------- several processes
@pytest.fixture
def slow(config):
    """Three epochs with a learning rate at which rounding does not grow."""
    return replace(config, profile=replace(config.profile, epochs=3, learning_rate=1e-3))


def test_two_processes_train_as_one_whatever_the_batch_and_wherever_they_stop(
        slow, slices, split, again, tmp_path):
    slow = replace(slow, profile=replace(slow.profile, augment=1.0), rate=5.0)
    packed = worker.pack(tmp_path / "work.pickle", slow, slices, split)
    tasks = [[{}, 0, 0, 0], [{"batch_size": 7}, 0, 0, 1], [{"batch_size": 7}, 3, 0, 2],
             [{}, 0, 2, 3], [{}, 0, 0, 3], [{}, 0, 3, 4]]
    ended = worker.start(packed, "fits", tmp_path, *map(json.dumps, tasks), processes=2, **OTHERS)
    assert ended.returncode == 0, ended.stderr
    for number, (changes, micro_batch, _, seed) in enumerate(tasks):
        one = replace(slow, profile=replace(slow.profile, **changes), seed=seed)
        expected = again(one)
        if number == 5:  # stopped, and gone on with by one process
            assert not (tmp_path / "5.json").exists()
            found = again(one, state=tmp_path / "4.checkpoint")[1:3]
        elif number == 3:
            continue
        else:
            *found, environment = read_json(tmp_path / f"{number}.json")
            assert environment["processes"] == 2
            assert environment["micro_batch"] == (micro_batch or 4)
        assert_same_curve(found, expected[1:3])
    assert not list(tmp_path.glob(".*"))  # no half of a file


def test_shell_with_two_processes_makes_the_run_of_one_and_the_first_alone_writes(
        slow, slices, split, tmp_path):
    slow = replace(slow, profile=replace(slow.profile, name="smoke"))
    packed = worker.pack(tmp_path / "work.pickle", slow, slices, split)
    made = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        out.mkdir()
        ended = worker.start(packed, "main", out, "--beta", "10", processes=processes,
                             **OTHERS | RANKS)
        assert ended.returncode == 0, ended.stderr
        (folder,) = (out / "data" / "runs").iterdir()
        assert ended.stdout.count(f"{folder}\n") == 1 and "test Dice" in ended.stdout
        made[processes] = runs.load_run(folder, CPU)
        assert made[processes].environment["processes"] == processes
        assert {path.name for path in folder.iterdir()} == set(RUN_FILES)
    assert made[1].folder.name == made[2].folder.name
    assert_same_curve(*([one.history, one.steps] for one in made.values()))
    by_first, by_second = (read_json(tmp_path / "2" / f"rank{rank}.json") for rank in (0, 1))
    assert by_second == []
    assert any(path.endswith("aligned.npy") for path in by_first)
    assert any(".checkpoint" in path for path in by_first)


def test_more_processes_than_images_in_a_batch_are_refused(slow, slices, split):
    nine = SimpleNamespace(device=CPU, num_processes=9, process_index=0)
    with pytest.raises(ValueError, match="expected at most 8 processes, one for .* found 9"):
        fit(slow, slices, split, nine, progress=False)
    with pytest.raises(ValueError, match="expected at most 5 processes, .* the validation slices"):
        fit(slow, slices, split | {"validation": split["validation"][:5]}, nine, progress=False)


def test_more_processes_than_images_are_not_started(slow, slices, split, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "notebook_launcher", no_step)
    with pytest.raises(ValueError, match="expected at most 8 processes, .* found 1000000"):
        load_or_train(slow, slices, split, tmp_path, Machinery(CPU, 10**6), progress=False)


def test_processes_are_not_started_once_the_gpu_is_in_use(
        slow, slices, split, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(train, "notebook_launcher", no_step)
    with pytest.raises(DataError, match="Restart it, or train from a shell: torchrun --standalone "
                                        "--nproc_per_node 2 -m cvae_utils.train --beta 10$"):
        load_or_train(slow, slices, split, tmp_path, Machinery(CPU, processes=2), progress=False)


# ------------------------------------------------------------------------------ a notebook's kernel
class Kernel:
    """An IPython kernel, in which cells are run one after the other."""

    def __init__(self, manager):
        self.manager, self.client = manager, manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def run(self, *cells, seconds=120):
        """The last cell's reply, and what all of them printed; TimeoutError if one hangs."""
        printed = {"stdout": "", "stderr": ""}

        def note(message):
            if message["msg_type"] == "stream":
                printed[message["content"]["name"]] += message["content"]["text"]

        for cell in cells:
            reply = self.client.execute_interactive(cell, timeout=seconds, output_hook=note)
        return reply["content"], printed


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    for name, value in {"IPYTHONDIR": tmp_path / "ipython", "CVAE_PROFILE": "smoke",
                        "CVAE_OUT": tmp_path / "out", "CVAE_DATA": "phantom"}.items():
        monkeypatch.setenv(name, str(value))
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(REPOSITORY))
    try:
        found = Kernel(manager)
        yield found
        found.client.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)


BEGIN = """
import json, os
from dataclasses import replace
import torch
from cvae_utils import hardware, notebook, profiles, train
profiles.PROFILES["smoke"] = replace(profiles.PROFILES["smoke"], epochs={epochs}, batch_size=8,
    patience={epochs}, base_channels=4, samples=20, phantom_patients=10, learning_rate=1e-3)
hardware.best_device = lambda: torch.device("cpu")
study = notebook.begin("02_train_vae")
study.slices
"""
NEXT_EPOCH = """
def told(epoch, *_):
    print("epoch", epoch)
    raise SystemError
train._epoch_row = told
study.run(10.0)
"""


def test_interrupted_cell_ends_and_the_same_cell_goes_on(kernel, tmp_path):
    reply, _ = kernel.run(BEGIN.format(epochs=100_000))
    assert reply["status"] == "ok", reply
    asked = kernel.client.execute("study.run(10.0)")
    folder, until = tmp_path / "out" / "data" / "runs", time.monotonic() + 120

    def epochs_done():
        (state,) = folder.glob("*.checkpoint")
        return checkpoint.load(state)["epoch"]

    while not list(folder.glob("*.checkpoint")) or epochs_done() < 3:
        assert time.monotonic() < until, "no third epoch"
        time.sleep(0.1)
    kernel.manager.interrupt_kernel()
    reply = kernel.client.get_shell_msg(timeout=120)
    assert reply["parent_header"]["msg_id"] == asked
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    said, done = "", epochs_done()
    while "load_unfinished" not in said:
        message = kernel.client.get_iopub_msg(timeout=60)
        if message["msg_type"] == "stream" and message["content"]["name"] == "stderr":
            said += message["content"]["text"]
    assert f"Stopped in epoch {done + 1} of 100000. The state after epoch {done} is kept" in said
    reply, printed = kernel.run(NEXT_EPOCH)
    assert reply["ename"] == "SystemError"
    assert printed["stdout"].split() == ["epoch", str(done + 1)]


BOTH = f"""
os.environ.update({OTHERS | RANKS})
os.cpu_count = lambda: 4  # as if there were two cores for each of two processes
torch.set_num_threads(4)
for folder, processes in (("one", 1), ("two", 2)):
    config = study._config(10.0)
    run = train.load_or_train(config, study.slices, study.split, study.data_folder / folder,
        train.Machinery(torch.device("cpu"), processes, "no"))
    print("environment", run.environment["processes"])
assert os.environ["RANK"] == "1"
"""


def test_processes_start_from_a_kernel_that_has_already_trained_with_threads(kernel, tmp_path):
    """To fork after OpenMP's threads have worked can hang; this fails then."""
    reply, printed = kernel.run(BEGIN.format(epochs=3), BOTH)
    assert reply["status"] == "ok", printed["stderr"][-3000:]
    assert "environment 1" in printed["stdout"] and "environment 2" in printed["stdout"]
    one, two = (runs.load_run(next((tmp_path / "out" / "data" / name).iterdir()), CPU)
                for name in ("one", "two"))
    assert names(one.folder.parent) == names(two.folder.parent) == [one.folder.name]
    assert_same_curve([two.history, two.steps], [one.history, one.steps])


# -------------------------------------------------------------------------- settings without sense
NO_NUMBERS = [float("nan"), float("inf"), -float("inf"), -1, -1e-9, None, "10", True, [1], 10**400]
NO_COUNTS = [*NO_NUMBERS, 1.5, 2.0]


def settings(**values):
    return [(name, value) for name, some in values.items() for value in some]


@pytest.mark.parametrize(("name", "value"), settings(
    beta=[*NO_NUMBERS, 1e39, 1e20], rate=NO_NUMBERS, seed=[*NO_COUNTS, 2**32],
    schedule=["steep", "", None, ["linear"]], split_by=["heart", "", None]))
def test_configuration_without_sense_is_refused(config, name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected .*, found .*\. Change this setting"):
        replace(config, **{name: value})


@pytest.mark.parametrize(("name", "value"), settings(
    size=[*NO_COUNTS, 0, 8, 33], decay=["steep", None], coupled_decay=["no", None],
    learning_rate=[*NO_NUMBERS, 0], gradient_clip=[*NO_NUMBERS, 0],
    weight_decay=NO_NUMBERS, augment=NO_NUMBERS, warmup_steps=NO_COUNTS,
    **dict.fromkeys(("base_channels", "epochs", "batch_size", "patience", "samples", "latent_dim",
                     "phantom_patients"), [*NO_COUNTS, 0])))
def test_profile_without_sense_is_refused(tiny, name, value):
    with pytest.raises(ValueError, match=rf"^{name} of profile tiny: expected .*, found .*\. Chan"):
        replace(tiny, **{name: value})


@pytest.mark.parametrize(("name", "value"), settings(
    processes=[*NO_COUNTS, 0], micro_batch=NO_COUNTS, precision=["fp8", "fp16", None]))
def test_machinery_without_sense_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected .*, found "):
        Machinery(**{"device": CPU, name: value})


@pytest.mark.parametrize("change", [{"rate": 5.0}, {"schedule": "exponential"},
                                    {"schedule": "late-exponential"}])
def test_what_cannot_move_a_beta_of_zero_is_refused(config, change):
    assert replace(config, beta=0, schedule="linear").beta == 0
    with pytest.raises(ValueError, match="^beta: expected a number above 0, .* found 0"):
        replace(config, beta=0.0, **change)


def test_numbers_of_one_value_are_one_configuration(config):
    names = {replace(config, beta=beta, seed=seed, rate=rate).folder_name for beta, seed, rate in (
        (10, 0, 0), (10.0, np.int64(0), 0.0), (np.float64(10), 0, -0.0), (np.int32(10), 0, 0))}
    assert names == {config.folder_name}


def test_largest_beta_still_trains(again, brief):
    history = again(replace(brief, beta=1.8e19))[1]
    assert np.isfinite(history["train_loss"]).all() and history["train_kl"].iloc[-1] < 0.01


# ---------------------------------------------------------------------------------- from the shell
@pytest.fixture
def shell(tmp_path, monkeypatch, config, slices, split):
    """train.main with outputs to tmp_path, a tiny profile as `smoke`, and that phantom's slices."""
    for name, value in {"CVAE_OUT": tmp_path, "CVAE_PROFILE": "smoke"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setitem(profiles.PROFILES, "smoke", replace(config.profile, name="smoke", epochs=1))
    monkeypatch.setitem(profiles.FURTHER["smoke"], "sharp", {})
    monkeypatch.setattr(hardware, "best_device", lambda: CPU)
    yield lambda *arguments: train.main(list(arguments))
    hardware.forget_accelerator()


@pytest.mark.parametrize(("arguments", "beta", "schedule", "settings"), [
    ((), 1000.0, "constant", {}),
    (("--beta", "12.5", "--schedule", "linear", "--precision", "no", "--micro-batch", "3"), 12.5,
     "linear", {}),
    (("--beta", "5", "--seed", "3", "--split-by", "slice"), 5.0, "constant",
     {"seed": 3, "split_by": "slice"}),
    (("--sharp", "--rate", "6.5"), 1000.0, "constant", {"rate": 6.5}),
])
def test_run_from_the_shell_is_the_one_that_a_notebook_asks_for(
        shell, tmp_path, monkeypatch, capsys, arguments, beta, schedule, settings):
    shell("--profile", "smoke", *arguments)
    printed = capsys.readouterr().out
    (folder,) = (tmp_path / "data" / "runs").iterdir()
    monkeypatch.setattr(train, "fit", None)
    rate = settings.pop("rate", 0.0)
    study = notebook.begin("03", **settings)
    if "--sharp" in arguments:
        study = study.at(profile=study.profile.sharp)
    found = study.run(beta, schedule, rate=rate)
    assert found.folder == folder and str(folder) in printed
    assert f"test Dice {found.results['test_dice']:.3f}" in printed
    assert f"split by {study.split_by}, seed {study.seed}" in printed
    extra = [beta] if schedule == "constant" and beta not in profiles.BETAS else []
    assert ("-sharp-" in folder.name) == ("--sharp" in arguments)
    assert study.betas() == sorted([*profiles.BETAS, *extra])
    assert found.environment["micro_batch"] == (3 if "--micro-batch" in arguments else 8)


@pytest.mark.parametrize(("arguments", "message"), [
    (("--profile", "huge"), "--profile: invalid choice: 'huge'"),
    (("--schedule", "steep"), "--schedule: invalid choice: 'steep'"),
    (("--split-by", "heart"), "--split-by: invalid choice: 'heart'"),
    (("--precision", "fp8"), "--precision: invalid choice: 'fp8'"),
    (("--beta", "ten"), "--beta: invalid float value: 'ten'"),
    (("--beta", "-5"), "--beta: expected a number of at least 0 .*, found -5.0. Change this"),
    (("--beta", "nan"), "--beta: expected a number .*, found nan"),
    (("--beta", "1e39"), "--beta: expected a number .* at most 1.8e.19, found 1e.39"),
    (("--rate", "-3"), "--rate: expected a number of at least 0"),
    (("--seed", "-1"), "--seed: expected a whole number from 0 to 4294967295, found -1"),
    (("--micro-batch", "-1"), "--micro-batch: expected a whole number from 0 to .*, found -1"),
    (("--precision", "fp16"), "--precision: expected bf16 or no on cpu, found fp16"),
    (("--compile",), "--compile: expected a C.. compiler and the headers of Python; leave it out"),
])
def test_wrong_argument_is_named_and_nothing_is_made(
        shell, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(hardware, "can_compile", lambda: False)
    with pytest.raises(SystemExit) as ended:
        shell(*arguments)
    assert ended.value.code == 2 and re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_module_that_is_run_finds_the_run_that_a_notebook_made(run, tmp_path, monkeypatch):
    """As __main__ it has another name, and must not count as other code."""
    for name, value in {"CVAE_OUT": tmp_path, "CVAE_PROFILE": "smoke"}.items():
        monkeypatch.setenv(name, str(value))
    study = notebook.begin("02")
    name = study._config(30.0).folder_name
    shutil.copytree(run.folder, study.data_folder / "runs" / name)
    ended = subprocess.run(
        [sys.executable, "-m", "cvae_utils.train", "--profile", "smoke", "--beta", "30"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"{study.data_folder / 'runs' / name}\n")
    assert names(study.data_folder / "runs") == [name]
