"""What becomes of a training that is stopped, killed or has failed, or that two do at once."""

import errno
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import worker
from same import end_of, names, same_weights
from worker import Stopped, stop_after

from cvae_utils.files import DataError, write_json
from cvae_utils.model import checkpoint, hardware, runs, training
from cvae_utils.model.runs import Compute, load_or_train
from cvae_utils.model.training import Training

ALONE = Compute(torch.device("cpu"), precision="no")


def no_step(*_, **__):
    raise AssertionError("expected no step of training")


@pytest.fixture
def nothing_trains(monkeypatch):
    monkeypatch.setattr(Training, "epoch", no_step)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------ stopped, and gone on with
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
    validate, told = Training.validate, [5.0, 4.0, 3.0, 3.5, 3.0, 0.0]
    if stops_early:
        monkeypatch.setattr(Training, "validate", lambda self: validate(self) | {
            "validation_loss": told[self.done.epoch]})
    if request.param not in ends:
        ends[request.param] = again(chosen)
    assert ends[request.param][3]["epochs"] == (5 if stops_early else 6)
    return chosen, ends[request.param]


RATE_AND_WARPS = pytest.mark.parametrize("undisturbed", ["rate and warps"], indirect=True)


def assert_same_end(found, expected):
    assert same_weights(found[0], expected[0])
    for a, b in zip(found[1:3], expected[1:3]):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert [found[3][k] for k in ("best_epoch", "epochs")] == [expected[3][k] for k in
                                                               ("best_epoch", "epochs")]


@pytest.mark.parametrize("stops", [[2.5], [1, 2, 3, 4, 5], [3, 3, 3]], ids=str)
def test_training_that_was_stopped_ends_as_one_that_was_not(undisturbed, again, tmp_path, stops):
    config, expected = undisturbed
    for epochs in stops:
        with pytest.raises(Stopped):
            again(config, state=tmp_path / "state", report=stop_after(epochs))
        assert checkpoint.load(tmp_path / "state")["epoch"] == int(epochs - 0.5)
    assert_same_end(again(config, state=tmp_path / "state"), expected)
    # Once it is over, it is not gone on with.
    assert_same_end(again(config, state=tmp_path / "state", report=no_step), expected)


@RATE_AND_WARPS
def test_loss_that_becomes_no_number_keeps_the_epoch_before(undisturbed, again, tmp_path):
    config, expected = undisturbed
    state, factor = tmp_path / "state", training.learning_rate_factor
    with pytest.MonkeyPatch.context() as patch:  # from the third epoch's second step of six on
        patch.setattr(training, "learning_rate_factor",
                      lambda step, *rest: 1e30 if step > 12 else factor(step, *rest))
        with pytest.raises(FloatingPointError, match="epoch 3: .* is no finite number. Lower"
                           f".*{state} holds the state of the epoch before"):
            again(config, state=state)
    kept = checkpoint.load(state)
    assert kept["epoch"] == 2 and len(kept["progress"]["history"]) == 2
    assert all(weight.isfinite().all() for weight in kept["model"].values())
    assert_same_end(again(config, state=state), expected)


@RATE_AND_WARPS
def test_disk_that_fills_up_keeps_the_last_whole_state(undisturbed, again, tmp_path):
    """A real limit: half of the file is written before it fails."""
    resource = pytest.importorskip("resource")
    config, expected = undisturbed
    state, limits = tmp_path / "state", resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up(epochs, **_):
        if epochs == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (state.stat().st_size // 2, limits[1]))

    try:
        with pytest.raises(OSError, match=f"{state}: the state after epoch 3 could not be "
                           r"written \(.+\)\. The state of the epoch before is kept there\. "
                           r"Free \d MB there, .*start again: training goes on") as error:
            again(config, state=state, report=fill_up)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG and names(tmp_path) == ["state"]
    assert checkpoint.load(state)["epoch"] == 2
    assert_same_end(again(config, state=state), expected)


@pytest.mark.parametrize("place", ["file", "file/below/it"])
def test_place_that_cannot_be_written_to_is_named_before_any_step(
        brief, slices, split, tmp_path, nothing_trains, place):
    (tmp_path / "file").write_text("in the way")
    name = runs.place(brief, tmp_path).name
    with pytest.raises(OSError, match=rf"{place}/{name}.*: the state after epoch 0 could not be "
                                      "written .*let the folder be written to"):
        load_or_train(brief, slices, split, tmp_path / place, ALONE)


# ------------------------------------------------------------------------------ a folder of runs
def test_run_is_trained_once_and_then_loaded(
        run, config, slices, split, nothing_trains, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)  # which a disk may be by then
    before = contents(run.folder)
    loaded = load_or_train(config, slices, split, run.folder.parent, ALONE)
    assert loaded.folder == run.folder == runs.place(config, run.folder.parent)
    assert same_weights(loaded.model, run.model) and not loaded.model.training
    assert loaded.environment == run.environment and loaded.config == run.config
    assert contents(run.folder) == before


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_run_that_could_not_be_written_is_not_trained_again(
        brief, slices, split, tmp_path, monkeypatch, error):
    state = runs.place(brief, tmp_path, checkpoint.SUFFIX)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", lambda *_, **__: (_ for _ in ()).throw(error))
        with pytest.raises(error):
            load_or_train(brief, slices, split, tmp_path, ALONE)
    assert names(tmp_path) == [state.name]
    monkeypatch.setattr(Training, "epoch", no_step)
    load_or_train(brief, slices, split, tmp_path, ALONE)
    assert names(tmp_path) == [runs.place(brief, tmp_path).name]


def test_damaged_state_stops_with_the_remedy_and_is_not_deleted(
        brief, slices, split, tmp_path, nothing_trains):
    state = runs.place(brief, tmp_path, checkpoint.SUFFIX)
    with pytest.raises(AssertionError):
        load_or_train(brief, slices, split, tmp_path, ALONE)
    state.write_bytes(damaged := state.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{state.name}: .* found a damaged file .* Delete it"):
        load_or_train(brief, slices, split, tmp_path, ALONE)
    assert contents(tmp_path) == {state.name: damaged}
    hardware.make_accelerator(ALONE.device, "no")  # nothing of the failed one is left
    hardware.forget_accelerator()


def test_state_of_another_training_is_refused_with_the_remedy(brief, again, tmp_path):
    again(replace(brief, profile=replace(brief.profile, latent_dim=5)), state=tmp_path / "state")
    with pytest.raises(DataError, match="state: expected the state of this training, found another "
                                        r"\(.*\)\. Delete it"):
        again(brief, state=tmp_path / "state")


def test_betas_are_those_of_runs_that_differ_in_nothing_else(config, tmp_path):
    def keep(name, content):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(content)

    profile = replace(config.profile, epochs=3)
    for other in (config, replace(config, beta=0.5), replace(config, beta=3e5),
                  replace(config, beta=20.0, seed=1), replace(config, beta=21.0, data="other"),
                  replace(config, beta=22.0, schedule="linear"),
                  replace(config, beta=23.0, split_by="slice"),
                  replace(config, beta=24.0, profile=profile)):
        write_json(runs.place(other, tmp_path) / "config.json", {"beta": other.beta})
    keep("tiny-beta25-seed0-0123456789ab", b'{"beta": 25.0}')  # of code that was edited since
    for number, damaged in enumerate((
            b"", b"{", b"[]", b"{}", b"7", b'{"beta": "ten"}', b"\xff", b'{"beta": null}',
            b'{"beta": [1]}', b'{"beta": NaN}')):
        keep(f"damaged{number}", damaged)
    (tmp_path / "a file").write_text("in the way")
    assert runs.find_betas(config, tmp_path) == [0.5, 10.0, 3e5]
    assert runs.find_betas(replace(config, seed=1), tmp_path) == [20.0]
    assert runs.find_betas(config, tmp_path / "nowhere") == []


# ---------------------------------------------------------------- two that train one run at once
def test_run_that_another_process_ends_first_is_the_one_that_stays(
        brief, slices, split, run, tmp_path, monkeypatch):
    folder, epoch = runs.place(brief, tmp_path), Training.epoch

    def meanwhile(self, report):
        if self.done.epoch == 1:
            shutil.copytree(run.folder, folder)
            runs.place(brief, tmp_path, checkpoint.SUFFIX).unlink()
        return epoch(self, report)

    monkeypatch.setattr(Training, "epoch", meanwhile)
    found = load_or_train(brief, slices, split, tmp_path, ALONE)
    assert same_weights(found.model, run.model)
    assert names(folder) == names(run.folder) and names(tmp_path) == [folder.name]


@pytest.fixture
def eight(config):
    """Eight epochs of 13 steps, for other processes."""
    return replace(config, profile=replace(config.profile, epochs=8))


def test_two_processes_that_train_one_run_leave_it_whole(eight, packed, tmp_path):
    work = packed(eight)
    with ThreadPoolExecutor() as pool:
        for ended in pool.map(lambda _: worker.start(work, "trained", 0, tmp_path), range(2)):
            assert ended.returncode == 0, ended.stderr
    assert names(tmp_path) == [runs.place(eight, tmp_path).name]
    assert end_of(runs.place(eight, tmp_path))


# ------------------------------------------------------------------------- interrupted, and killed
def test_control_c_says_how_to_go_on_and_where_the_best_weights_are(
        eight, packed, slices, split, tmp_path):
    ended = worker.start(packed(eight), "trained", 4, tmp_path)  # in the fourth epoch
    state = runs.place(eight, tmp_path, checkpoint.SUFFIX)
    assert ended.returncode != 0 and "KeyboardInterrupt" in ended.stderr.splitlines()[-1]
    assert ("Stopped in epoch 4 of 8. The state after epoch 3 is kept; run the same again, and "
            "training goes on from there.\nThe best weights so far are those of epoch "
            ) in ended.stderr
    assert f"runs.load_unfinished({str(state)!r})" in ended.stderr
    assert names(tmp_path) == [state.name]

    kept = checkpoint.load(state)
    best, history = kept["progress"]["best"], kept["progress"]["history"]
    assert kept["epoch"] == len(history) == 3
    assert best["loss"] == min(row["validation_loss"] for row in history)
    model = runs.load_unfinished(state, ALONE.device)
    assert all(torch.equal(weight, best["weights"][name])
               for name, weight in model.state_dict().items())

    for folder in (tmp_path, tmp_path / "alone"):
        load_or_train(eight, slices, split, folder, worker.ALONE)
    gone_on, alone = runs.place(eight, tmp_path), runs.place(eight, tmp_path / "alone")
    assert end_of(gone_on) == end_of(alone) and names(tmp_path) == ["alone", gone_on.name]


@pytest.mark.skipif(not hasattr(worker.os, "fork"), reason="needs a system that forks")
def test_whenever_it_is_killed_only_what_is_missing_is_done_again_and_ends_to_the_byte_the_same(
        config, packed, slices, split, tmp_path):
    config = replace(config, profile=replace(config.profile, epochs=3))
    ended = worker.start(packed(config), "killed", tmp_path)
    assert ended.returncode == 0, ended.stderr
    state, told, run = (runs.place(config, tmp_path, ending).name
                        for ending in (checkpoint.SUFFIX, ".progress", ""))
    left, steps = zip(*json.loads(ended.stdout).values())
    partial = [[name for name in some if name.startswith(".")] for some in left]
    assert [set(some) - set(hidden) - {told} for some, hidden in zip(left, partial)] == [
        {state}, {state}, {state}, {state, run}]
    # Nothing, half a state, half a run, nothing; two of three epochs, and then none, are lost.
    assert [[".checkpoint." in name for name in hidden] for hidden in partial] == [
        [], [True], [False], []]
    assert steps == (2 * 13, 2 * 13, 0, 0)
    load_or_train(config, slices, split, tmp_path / "alone", worker.ALONE)
    for folder in (tmp_path / moment for moment in worker.MOMENTS):
        assert end_of(folder / run) == end_of(tmp_path / "alone" / run) and names(folder) == [run]
