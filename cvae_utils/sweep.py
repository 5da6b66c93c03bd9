"""Train and measure several runs: side by side where that is faster, else one after another.

On a CPU, threads that share the work of small pictures wait for each other, so runs that do not
depend on each other are trained at once, one thread and one process each.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import psutil
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm.auto import tqdm

from cvae_utils.analysis import run_results
from cvae_utils.cache import key_of
from cvae_utils.data.slices import Slices
from cvae_utils.model import checkpoint, hardware, runs
from cvae_utils.model.progress import SUFFIX as PROGRESS
from cvae_utils.model.progress import bars
from cvae_utils.model.runs import Compute, Run
from cvae_utils.model.training import MAKERS, RunConfig

#: What trains and measures: the same here and in the processes that are started.
CODE = (*MAKERS, run_results.evaluate)
#: Seconds after which a process ends that has nothing to do.
IDLE = 60


@dataclass(frozen=True)
class Job:
    """A run that is to be there: its configuration, its data, and where runs lie."""

    config: RunConfig
    slices: Slices
    split: dict[str, np.ndarray]
    runs: Path


def complete(jobs: Mapping[Hashable, Job], compute: Compute | None = None, progress: bool = True,
             side_by_side: bool | None = None) -> dict[Hashable, Run]:
    """The runs of these jobs, measured, under the same names; those that lack are trained.

    side_by_side: None decides by device, size and processors. Interrupted, or stopped by an error
    in one of them, every training goes on from its last epoch when this is called again.
    """
    compute = runs.on_trusted_device(compute or Compute())
    places = {name: runs.place(job.config, job.runs) for name, job in jobs.items()}
    # Each once, though it may have several names.
    by_place = {place: jobs[name] for name, place in places.items() if not place.is_dir()}
    lacking = list(by_place.values())
    if side_by_side is None:
        side_by_side = (compute.device.type == "cpu" and compute.processes == 1
                        and all(job.config.profile.size <= hardware.SMALL for job in lacking))
    workers = min(len(lacking), joblib.cpu_count()) if side_by_side else 1
    titles = [f"{job.config.title} ({n} of {len(lacking)})" if len(lacking) > 1 else
              job.config.title for n, job in enumerate(lacking, start=1)]
    title_at = dict(zip(by_place, titles))
    with bars([runs.place(job.config, job.runs, PROGRESS) for job in lacking], titles,
              [job.config.profile.epochs for job in lacking], progress):
        if workers > 1:
            _train_side_by_side(lacking, titles, compute, workers)
        # One after another now, or only loaded.
        return {name: train(job, compute, title_at.get(places[name], ""))
                for name, job in jobs.items()}


def train(job: Job, compute: Compute, title: str = "") -> Run:
    """One run, trained if it is not there, and what it is worth, measured if that is not known."""
    run = runs.load_or_train(job.config, job.slices, job.split, job.runs, compute, title)
    return run_results.measured(run, job.slices, job.split)


def _train_side_by_side(jobs: Sequence[Job], titles: Sequence[str], compute: Compute,
                        workers: int) -> None:
    """Each in one process, on one thread; as many at a time as there are workers."""
    parallel = joblib.Parallel(  # label maps that lie on the disk are opened there, and not sent
        workers, "loky", batch_size=1, max_nbytes=None, initializer=_begin_worker,
        initargs=(os.getpid(),), idle_worker_timeout=IDLE)
    code = key_of(code=CODE)
    # The longest first: else one process trains it at the end, and the others have nothing to do.
    in_order = sorted(zip(jobs, titles), reverse=True, key=lambda pair: (
        pair[0].config.profile.epochs * pair[0].config.profile.size**2))
    try:
        parallel(joblib.delayed(_train_in_worker)(job, compute, title, code)
                 for job, title in in_order)
    except (KeyboardInterrupt, TerminatedWorkerError):
        kept = sum(runs.place(job.config, job.runs, checkpoint.SUFFIX).is_file() for job in jobs)
        tqdm.write(f"Stopped. The state after the last epoch of {kept} trainings is kept; run the "
                   "same again, and they go on from there.", file=sys.stderr)
        raise


def _train_in_worker(job: Job, compute: Compute, title: str, code: str) -> None:
    """code: key of CODE in the process that asks, which names runs after it."""
    if key_of(code=CODE) != code:
        raise RuntimeError("expected the code that this kernel has imported, found code that was "
                           "edited since: restart the kernel, so that the run is named after it")
    train(job, compute, title)


def _begin_worker(parent: int) -> None:
    """parent: number of the process for which this one trains, and with which it ends."""
    # Ctrl-C reaches every process of a terminal: the parent ends the others, and says so once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)

    def end_with_parent() -> None:
        above = os.getppid()  # changes where a process that has ended is still listed
        while psutil.pid_exists(parent) and os.getppid() == above:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
