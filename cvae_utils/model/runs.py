"""Trained runs on disk: folders that appear only when complete.

    data/runs/quick-beta1000-seed0-<key>/
        model.safetensors   weights of the epoch with the lowest validation loss
        config.json         everything that the run depends on
        history.csv         one row an epoch: loss terms and Dice, training and validation
        steps.csv           one row an optimiser step: loss terms and soft Dice
        environment.json    versions, device, precision, seconds

What is measured of a run is kept beside them, each under a key of its own: see
analysis.run_results.
"""

import contextlib
import os
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import notebook_launcher
from accelerate.utils.other import get_free_port
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.elastic.multiprocessing import SignalException
from tqdm.auto import tqdm

from cvae_utils.cache import kept
from cvae_utils.data.slices import Slices
from cvae_utils.files import DataError, read_json, remove, write_json
from cvae_utils.model import checkpoint, hardware
from cvae_utils.model.device_check import trusted
from cvae_utils.model.network import VAE, build_model
from cvae_utils.model.progress import SUFFIX as PROGRESS
from cvae_utils.model.progress import Reporter
from cvae_utils.model.training import RunConfig, check_processes, fit
from cvae_utils.profiles import whole

RUN_FILES = ("model.safetensors", "config.json", "history.csv", "steps.csv", "environment.json")


@dataclass(frozen=True)
class Run:
    """A trained VAE and what is known of it."""

    model: VAE
    config: dict
    history: pd.DataFrame
    steps: pd.DataFrame
    environment: dict
    folder: Path | None = None
    results: dict = field(default_factory=dict)  # what analysis.run_results measures


@dataclass(frozen=True)
class Compute:
    """How a run is computed: what it comes out as does not depend on it, but for rounding.

    device: None takes the best one. processes: started for the training by accelerate's
    notebook_launcher; inside torchrun or accelerate launch, leave it at 1. precision: "bf16",
    "fp16" or "no"; empty is the fastest that the device has. compiled: torch.compile.
    micro_batch: images that pass the model at a time, gradients being summed up to the profile's
    batch; 0 is all of them, or as many as fit on a GPU. threads: of a CPU; 0 takes one for small
    pictures, so that a run comes out the same alone and beside another, else all. Raises ValueError
    for a value that makes no sense.
    """

    device: torch.device | None = None
    processes: int = 1
    precision: str = ""
    compiled: bool = False
    micro_batch: int = 0
    threads: int = 0

    def __post_init__(self):
        whole("processes", self.processes)
        for name in ("micro_batch", "threads"):
            whole(name, getattr(self, name), least=0)
        if self.precision != "":
            hardware.check_precision(self.precision, self.device or hardware.best_device())


def on_trusted_device(compute: Compute) -> Compute:
    """The same with its device named: see device_check.trusted."""
    return replace(compute, device=trusted(compute.device or hardware.best_device()))


def place(config: RunConfig, runs: Path, ending: str = "") -> Path:
    """The folder of a run; with an ending, a file of its training beside it."""
    return runs / f"{config.title}-{config.key}{ending}"


@hardware.own_settings()
def load_or_train(config: RunConfig, slices: Slices, split: dict[str, np.ndarray], runs: Path,
                  compute: Compute = Compute(), title: str = "") -> Run:
    """The run of this configuration from `runs`, else trained and stored there.

    The folder appears when the run is complete, finished runs are not touched, and a training that
    ended before its time goes on from its last epoch. If two processes train the same run at once,
    the first to end makes the folder, and both return what is in it. What other tools have set in
    the environment does not count: see hardware.own_settings. Raises DataError if processes are to
    be started and cannot be any more, ValueError if they are more than images. title: what the
    training is called where its progress is shown; by default, the run's.
    """
    folder, state = place(config, runs), place(config, runs, checkpoint.SUFFIX)
    compute = on_trusted_device(compute)
    if folder.is_dir():
        for left in (state, place(config, runs, PROGRESS)):
            remove(left)  # of a process that was killed when all was done
        return _as_asked(config, folder, compute)
    check_processes(compute.processes, config.profile, split)
    work = (config, slices, split, runs, compute, title or config.title)
    try:
        if compute.processes == 1:
            _train(*work)
        elif torch.cuda.is_initialized():
            raise DataError("expected a kernel that has not used the GPU yet, since processes can "
                            "only be started before. Restart it, or train from a shell: torchrun "
                            f"--standalone --nproc_per_node {compute.processes} scripts/train.py "
                            f"--beta {config.beta:g}")
        else:
            notebook_launcher(_train, work, num_processes=compute.processes,
                              use_port=str(get_free_port()))
    except (KeyboardInterrupt, SignalException) as stop:
        if os.environ.get("RANK", "0") == "0":
            with contextlib.suppress(OSError, DataError):  # nothing is kept
                tqdm.write(farewell(state), file=sys.stderr)  # beside bars that are shown
        if isinstance(stop, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from stop
    return _as_asked(config, folder, compute)


def _as_asked(config: RunConfig, folder: Path, compute: Compute) -> Run:
    """The run, with this configuration: what is no part of its key, such as how many samples it is
    measured by, may have been another when it was trained."""
    return replace(load_run(folder, compute.device), config=asdict(config))


def _train(config: RunConfig, slices: Slices, split: dict[str, np.ndarray], runs: Path,
           compute: Compute, title: str) -> None:
    """What every process does; the main one writes."""
    if compute.processes > 1:
        # Forked from a kernel whose OpenMP threads are not forked with it: to wait for them, as a
        # second thread would, is to wait for ever.
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
    state = place(config, runs, checkpoint.SUFFIX)
    accelerator = hardware.make_accelerator(compute.device, compute.precision, compute.compiled)
    report = Reporter(place(config, runs, PROGRESS) if accelerator.is_main_process else None,
                      title, config.profile.epochs)
    try:
        threads = compute.threads or hardware.threads_for(config.profile.size, accelerator.device)
        with hardware.freed_memory_is_reused(), hardware.threads(threads):
            found = fit(config, slices, split, accelerator, state, compute.micro_batch, report)
        if accelerator.is_main_process:
            kept(runs, config.title, config.key, lambda folder: save_run(folder, config, *found))
            state.unlink(missing_ok=True)
        accelerator.wait_for_everyone()
        accelerator.end_training()
    finally:
        report.close()
        hardware.forget_accelerator()


def save_run(folder: Path, config: RunConfig, vae: VAE, history: pd.DataFrame,
             steps: pd.DataFrame, environment: dict) -> None:
    """Write the files of a run to a folder."""
    weights = {k: v.detach().cpu().contiguous() for k, v in vae.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    write_json(folder / "config.json", asdict(config))
    history.to_csv(folder / "history.csv", index=False)
    steps.to_csv(folder / "steps.csv", index=False)
    write_json(folder / "environment.json", environment)


def load_run(folder: Path, device: torch.device | None = None) -> Run:
    """Read a run folder.

    Raises FileNotFoundError if a file of it is missing, ValueError if its weights are not those of
    the model as it is now, each with the remedy.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a run folder, but there is none. Train it "
                                "with notebook 02 or 03.")
    if lacking := [name for name in RUN_FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder}: expected a complete run, but {', '.join(lacking)} "
                                "is missing. Delete the folder: it is then trained again.")
    config = read_json(folder / "config.json")
    vae = build_model(config["profile"])
    try:
        vae.load_state_dict(load_file(folder / "model.safetensors"))
    except (RuntimeError, SafetensorError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{folder}: expected weights of {type(vae).__name__}({vae.size}, "
                         f"{vae.base_channels}, {vae.latent_dim}), found others ({first}). Train "
                         "the run again with notebook 02 or 03.") from error
    vae.to(device or hardware.best_device()).eval()
    results = folder / "results.json"  # a run that comes with the repository brings them along
    return Run(vae, config, pd.read_csv(folder / "history.csv"), pd.read_csv(folder / "steps.csv"),
               read_json(folder / "environment.json"), folder,
               read_json(results) if results.is_file() else {})


def load_unfinished(path: Path | str, device: torch.device | None = None) -> VAE:
    """The best weights so far of a training that is not finished (a file *.checkpoint).

    Raises DataError if the file is damaged, ValueError if no epoch with the final beta is done.
    """
    saved = checkpoint.load(Path(path))
    vae, best = build_model(saved["config"]["profile"]), saved["progress"]["best"]
    if best is None:
        raise ValueError(f"{path}: expected an epoch that is done, with beta at its final value; "
                         f"{saved['epoch']} epochs are done. Let it train on.")
    vae.load_state_dict(best["weights"])
    return vae.to(device or hardware.best_device()).eval()


def farewell(state: Path) -> str:
    """What is kept of a training that was stopped, and how to go on."""
    saved = checkpoint.load(state)
    epoch, best = saved["epoch"], saved["progress"]["best"]
    text = (f"Stopped in epoch {epoch + 1} of {saved['config']['profile']['epochs']}. The state "
            f"after epoch {epoch} is kept; run the same again, and training goes on from there.")
    if best is not None:
        text += (f"\nThe best weights so far are those of epoch {best['epoch']} (validation loss "
                 f"{best['loss']:.4f}): runs.load_unfinished({str(state)!r})")
    return text


def find_betas(config: RunConfig, runs: Path) -> list[float]:
    """Every beta of which `runs` holds a complete run that is like this one in all else."""
    betas = []
    for file in runs.glob("*/config.json"):
        # A damaged folder is no such run.
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
            beta = read_json(file)["beta"]
            if place(replace(config, beta=beta), runs) == file.parent:
                betas.append(beta)
    return sorted(betas)
