"""Several runs at once: the same as one after another, whatever interrupts them; and their bars."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import joblib
import pandas as pd
import psutil
import pytest
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from cvae_utils import sweep
from cvae_utils.files import REPOSITORY
from cvae_utils.model import checkpoint, progress, runs
from cvae_utils.model.progress import Reporter
from cvae_utils.model.runs import Compute
from cvae_utils.model.training import Training

ALONE = Compute(torch.device("cpu"), precision="no")
BETAS = (1.0, 10.0, 100.0)


@pytest.fixture
def jobs(config, slices, split, tmp_path):
    """A function that makes a job for each beta, of so many epochs."""
    def make(epochs=3, betas=BETAS, folder="runs", **settings):
        profile = replace(config.profile, epochs=epochs, patience=epochs, learning_rate=1e-3)
        return {beta: sweep.Job(replace(config, beta=beta, profile=profile, **settings), slices,
                                split, tmp_path / folder) for beta in betas}

    return make


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def folders(jobs):
    return sorted(runs.place(job.config, job.runs).name for job in jobs.values())


# ------------------------------------------------------------------------------------- results
def test_runs_side_by_side_are_those_of_one_after_another(jobs, capsys):
    apart, in_turn = jobs(folder="apart"), jobs(folder="in turn")
    found = sweep.complete(apart, ALONE)
    expected = sweep.complete(in_turn, ALONE, side_by_side=False)
    for beta in BETAS:
        pd.testing.assert_frame_equal(found[beta].history, expected[beta].history, rtol=1e-4)
        assert found[beta].results["validation_dice"] == pytest.approx(
            expected[beta].results["validation_dice"], abs=2e-3)
        assert found[beta].config["beta"] == beta and not found[beta].model.training
    assert names(apart[1.0].runs) == names(in_turn[1.0].runs) == folders(apart)
    assert "tiny-beta100-seed0 (3 of 3): 100%" in capsys.readouterr().err


def test_one_that_is_trained_alone_is_the_same_bit_for_bit(jobs):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        beside = sweep.complete(jobs(folder="beside"), ALONE)[1.0]
        alone = sweep.complete({1.0: jobs(folder="alone")[1.0]}, ALONE)[1.0]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    pd.testing.assert_frame_equal(alone.history, beside.history, rtol=0, atol=0)
    assert alone.environment["threads"] == beside.environment["threads"] == 1


def test_what_is_there_is_not_trained_and_a_job_of_two_names_once(jobs, monkeypatch, capsys):
    (one,), seen = jobs(betas=[1.0]).values(), []
    epoch = Training.epoch
    monkeypatch.setattr(Training, "epoch", lambda self, report: (
        seen.append(self.done.epoch), epoch(self, report))[1])
    found = sweep.complete({"a": one, "b": replace(one)}, ALONE)
    assert seen == [0, 1, 2] and found["a"].folder == found["b"].folder
    assert sweep.complete({"c": one}, ALONE)["c"].results == found["a"].results
    more = replace(one.config, profile=replace(one.config.profile, samples=30))
    again = sweep.complete({"d": replace(one, config=more)}, ALONE)["d"]
    assert (found["a"].results["samples"], again.results["samples"]) == (20, 30)
    assert seen == [0, 1, 2] and sweep.complete({}, ALONE) == {}
    printed = capsys.readouterr().err
    assert printed.count("tiny-beta1-seed0: 100%") >= 1 and "of 1)" not in printed


@pytest.mark.parametrize(("size", "processes", "expected"), [(64, 1, 2), (128, 1, 1), (64, 2, 1)])
def test_small_pictures_on_a_cpu_are_trained_side_by_side(
        jobs, monkeypatch, size, processes, expected):
    def parallel(workers, *_, **__):
        raise ChildProcessError(workers)

    def here(*_):
        raise ChildProcessError(1)

    monkeypatch.setattr(joblib, "Parallel", parallel)
    monkeypatch.setattr(sweep, "train", here)
    larger = {beta: replace(job, config=replace(job.config, profile=replace(
        job.config.profile, size=size))) for beta, job in jobs().items()}
    with pytest.raises(ChildProcessError, match=str(expected)):
        sweep.complete(larger, replace(ALONE, processes=processes))


def test_error_of_one_is_raised_and_the_states_of_the_others_are_kept(jobs):
    some = jobs(epochs=2000)
    bad = replace(some[10.0].config.profile, learning_rate=1e30, warmup_steps=0, batch_size=1)
    some[10.0] = replace(some[10.0], config=replace(some[10.0].config, profile=bad))
    with pytest.raises(FloatingPointError, match="epoch 1: the loss of step .* Lower the learning "
                                                 r"rate \(1e\+30\)"):
        sweep.complete(some, ALONE)
    first = runs.place(some[1.0].config, some[1.0].runs, checkpoint.SUFFIX)
    assert checkpoint.load(first)["config"]["beta"] == 1.0
    assert not list(first.parent.glob("*.progress"))


def test_code_that_was_edited_since_the_kernel_started_trains_nothing(jobs, monkeypatch):
    some = jobs()
    monkeypatch.setattr(sweep, "key_of", lambda code: "before")  # processes import what is there
    with pytest.raises(RuntimeError, match="found code that was edited since: restart the kernel"):
        sweep.complete(some, ALONE)
    assert not list(some[1.0].runs.glob("*"))


def test_process_that_is_killed_is_told_with_how_to_go_on(jobs, monkeypatch, capsys):
    def killed(*_, **__):
        raise TerminatedWorkerError("a worker was killed")

    monkeypatch.setattr(joblib, "Parallel", lambda *_, **__: killed)
    with pytest.raises(TerminatedWorkerError):
        sweep.complete(jobs(), ALONE)
    assert "Stopped. The state after the last epoch of 0 trainings is kept" in (
        capsys.readouterr().err)


def test_bars_follow_the_files_and_not_what_killed_trainings_have_left(
        tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "PAUSE", 0.02)
    waiting, running = tmp_path / "a.progress", tmp_path / "b.progress"
    for path in (waiting, running):
        Reporter(path, "before", 9)(7.0)
    with progress.bars([waiting, running], ["a", "b"], [9, 40]):
        assert names(tmp_path) == []
        report = Reporter(running, "b", 40)
        for told in ({"epochs": 30.5}, {"epochs": 31, "loss": 0.25, "dice": 0.75}):
            report(**told)
            time.sleep(0.3)
        assert progress.read(running) == {"title": "b", "of": 40, "began_at": 30.5, "epochs": 31,
                                          "loss": 0.25, "dice": 0.75}
        (tmp_path / "b").mkdir()  # complete after 35 epochs, since none was better
        pd.DataFrame({"validation_loss": [0.5] * 34 + [0.125], "validation_dice": 0.875}).to_csv(
            tmp_path / "b" / "history.csv")
        report.close()
    printed = capsys.readouterr().err
    assert "a:   0%" in printed and " 0.0/9 epochs" in printed and "7.0/" not in printed
    for shown in (" 30.5/40 epochs", " 31.0/40 epochs", ", loss 0.250, Dice 0.750]",
                  " 35/35 epochs", ", loss 0.125, Dice 0.875]"):
        assert shown in printed
    assert names(tmp_path) == ["b"]


# --------------------------------------------------------------------------- stopped, and killed
CALL = """
import sys
sys.path.insert(0, {repository!r})  # as a notebook does: the package is not installed
import joblib
joblib.cpu_count = lambda: 2
from cvae_utils import sweep
sweep.complete(*joblib.load("jobs.pickle"))
"""


def begin(jobs, tmp_path):
    """Complete these jobs in another process, from another folder."""
    joblib.dump((jobs, ALONE), tmp_path / "jobs.pickle")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen([sys.executable, "-c", CALL.format(repository=str(REPOSITORY))],
                            cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE,
                            start_new_session=True)


def kept_epochs(jobs):
    found = [runs.place(job.config, job.runs, checkpoint.SUFFIX) for job in jobs.values()]
    return [checkpoint.load(path)["epoch"] for path in found if path.is_file()]


def ended(processes):
    """Whether all of these end soon."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if all(not one.is_running() or one.status() == psutil.STATUS_ZOMBIE for one in processes):
            return True
        time.sleep(0.1)
    return False


def test_interrupted_and_killed_trainings_end_and_go_on_from_the_epochs_that_are_kept(
        jobs, tmp_path):
    some, before = jobs(epochs=40), [0, 0]
    for ending in (signal.SIGINT, signal.SIGKILL):
        process = begin(some, tmp_path)
        until = time.monotonic() + 120
        while sum(epoch > before[0] + 1 for epoch in kept_epochs(some)) < 2:
            assert time.monotonic() < until and process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        workers = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, ending) if ending == signal.SIGINT else process.send_signal(ending)
        _, printed = process.communicate(timeout=60)
        assert process.returncode == -ending and workers and ended(workers)
        assert ("Stopped. The state after the last epoch of 2 trainings is kept; run the same "
                "again" in printed) == (ending == signal.SIGINT)
        before, last = kept_epochs(some), before
        assert len(before) == 2 and all(a < b < 40 for a, b in zip(last, before))

    found = sweep.complete(some, ALONE)  # and what is left of the killed ones does not matter
    assert names(tmp_path / "runs") == folders(some)
    undisturbed = sweep.complete(jobs(epochs=40, betas=BETAS[:1], folder="alone"), ALONE)
    assert found[1.0].results["validation_dice"] == pytest.approx(
        undisturbed[1.0].results["validation_dice"], abs=2e-3)
