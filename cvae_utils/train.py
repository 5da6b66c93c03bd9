"""Train one VAE, on one device or many, and keep it as a run folder.

    python -m cvae_utils.train --profile report --beta 1000
    torchrun --standalone --nproc_per_node 2 -m cvae_utils.train --profile report --beta 1000

The state after each epoch is on the disk until the run is complete: a training that was stopped,
killed or has failed goes on from there when it is started again, and on a CPU ends with the same
weights, bit for bit, as one that was left alone.
"""

import argparse
import contextlib
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import accelerate
import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, notebook_launcher
from accelerate.utils import broadcast_object_list
from accelerate.utils.other import get_free_port, is_compiled_module
from torch import Tensor
from torch.distributed.elastic.multiprocessing import SignalException
from tqdm.auto import tqdm
from tqdm.std import tqdm as plain_tqdm

from cvae_utils import (
    augment,
    checkpoint,
    dataset,
    evaluation,
    hardware,
    latents,
    losses,
    metrics,
    model,
    profiles,
)
from cvae_utils.dataset import Slices, read_rows
from cvae_utils.labels import STRUCTURE_NAMES, Label
from cvae_utils.model import ConvVAE, one_hot
from cvae_utils.profiles import Profile, choice, number, whole
from cvae_utils.runs import Run, build_model, load_run, save_run
from cvae_utils.storage import (
    REPOSITORY,
    DataError,
    code_stamp,
    output_root,
    read_json,
    short_hash,
)

#: Label maps of a part of the data up to this size stay on the GPU; larger ones, and all on a CPU,
#: are read from disk a batch at a time, so that memory does not grow with the data.
RESIDENT_BYTES = 2**30
#: Columns of the table of steps, after the epoch.
STEP_COLUMNS = ("beta", "loss", "cross_entropy", "kl", *STRUCTURE_NAMES,
                *(f"gradient_{label.name}" for label in Label),
                *(f"area_{name}" for name in STRUCTURE_NAMES))
#: How the slices can be split: see dataset.split, and protocol.official_split for the last.
SPLITS = (*dataset.LEAST, "official")
PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "no": "float32"}


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on besides the code and the machine.

    Raises ValueError for a value that makes no sense.
    """

    profile: Profile
    beta: float
    schedule: str = "constant"  # of beta: see losses.beta_at
    rate: float = 0.0  # KL in nats that beta is moved to hold: see losses.towards_rate; 0 is not
    seed: int = 0
    split_by: str = "patient"
    data: str = ""  # Slices.fingerprint

    def __post_init__(self):
        # As plain numbers: a run has one name, whether its beta was 10, 10.0 or one of NumPy's.
        for name, value in (
                ("beta", number("beta", self.beta, most=losses.LARGEST_BETA)),
                ("rate", number("rate", self.rate)),
                # The largest that scikit-learn takes.
                ("seed", whole("seed", self.seed, least=0, most=2**32 - 1))):
            object.__setattr__(self, name, value)
        choice("schedule", self.schedule, losses.SCHEDULES)
        choice("split_by", self.split_by, SPLITS)
        if self.beta == 0 and (self.rate or "exponential" in self.schedule):
            raise ValueError("beta: expected a number above 0, since neither a rate nor an "
                             "exponential schedule can move 0, found 0. Change this setting, or "
                             "leave out rate and schedule.")

    @property
    def folder_name(self) -> str:
        key = short_hash([asdict(self), code_stamp(model, losses, metrics, latents, evaluation,
                                                   augment, sys.modules[__name__])])
        schedule = "" if self.schedule == "constant" else f"-{self.schedule}"
        rate = f"-rate{self.rate:g}" if self.rate else ""
        return f"{self.profile.name}-beta{self.beta:g}{schedule}{rate}-seed{self.seed}-{key}"


@dataclass(frozen=True)
class Machinery:
    """How a run is computed: what it comes out as does not depend on it, but for rounding.

    device: None takes the best one. processes: started for the training by accelerate's
    notebook_launcher; inside torchrun or accelerate launch, leave it at 1. precision: "bf16",
    "fp16" or "no"; empty is the fastest that the device has. compiled: torch.compile.
    micro_batch: images that pass the model at a time, gradients being summed up to the profile's
    batch; 0 is all of them, or as many as fit on a GPU. Raises ValueError for a value that makes no
    sense.
    """

    device: torch.device | None = None
    processes: int = 1
    precision: str = ""
    compiled: bool = False
    micro_batch: int = 0

    def __post_init__(self):
        whole("processes", self.processes)
        whole("micro_batch", self.micro_batch, least=0)
        if self.precision != "":
            hardware.check_precision(self.precision, self.device or hardware.best_device())


@hardware.own_settings()
def load_or_train(config: RunConfig, slices: Slices, split: dict[str, np.ndarray], runs: Path,
                  machinery: Machinery = Machinery(), progress: bool = True) -> Run:
    """The run of this configuration from `runs`, else trained, measured and stored there.

    The folder appears when the run is complete, finished runs are not touched, and a training that
    ended before its time goes on from its last epoch. If two processes train the same run at once,
    the first to end makes the folder, and both return what is in it. What other tools have set in
    the environment does not count: see hardware.own_settings. Raises DataError if processes are to
    be started and cannot be any more, ValueError if they are more than images.
    """
    folder = runs / config.folder_name
    state = folder.with_name(folder.name + checkpoint.SUFFIX)
    if folder.is_dir():
        state.unlink(missing_ok=True)  # of a process that was killed when all was done
        return load_run(folder, machinery.device)
    _check_processes(machinery.processes, config.profile, split)
    work = (config, slices, split, folder, state, machinery, progress)
    try:
        if machinery.processes == 1:
            _make_run(*work)
        elif torch.cuda.is_initialized():
            raise DataError("expected a kernel that has not used the GPU yet, since processes can "
                            "only be started before. Restart it, or train from a shell: torchrun "
                            f"--standalone --nproc_per_node {machinery.processes} -m "
                            f"cvae_utils.train --beta {config.beta:g}")
        else:
            notebook_launcher(_make_run, work, num_processes=machinery.processes,
                              use_port=str(get_free_port()))
    except (KeyboardInterrupt, SignalException) as stop:
        if os.environ.get("RANK", "0") == "0":
            with contextlib.suppress(OSError, DataError):  # nothing is kept
                print(_farewell(state), file=sys.stderr)
        if isinstance(stop, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from stop
    return load_run(folder, machinery.device)


def _make_run(config: RunConfig, slices: Slices, split: dict[str, np.ndarray], folder: Path,
              state: Path, machinery: Machinery, progress: bool) -> None:
    """What every process does; the main one evaluates and writes."""
    if machinery.processes > 1:
        # Forked from a kernel whose OpenMP threads are not forked with it: to wait for them, as a
        # second thread would, is to wait for ever.
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
    accelerator = hardware.make_accelerator(machinery.device, machinery.precision,
                                           machinery.compiled)
    try:
        with hardware.freed_memory_is_reused():
            trained, history, steps, environment = fit(config, slices, split, accelerator, state,
                                                       machinery.micro_batch, progress)
        # Not the evaluation: each of its measures would keep memory of its own.
        if accelerator.is_main_process:
            if not folder.is_dir():  # else another process has trained the same
                results = evaluation.evaluate(trained, slices, split, config.profile.samples,
                                              config.seed)
                save_run(folder, trained, asdict(config), history, steps, results, environment)
            state.unlink(missing_ok=True)
        accelerator.wait_for_everyone()
        accelerator.end_training()
    finally:
        hardware.forget_accelerator()


def find_betas(config: RunConfig, runs: Path) -> list[float]:
    """Every beta of which `runs` holds a complete run that is like this one in all else."""
    betas = []
    for file in runs.glob("*/config.json"):
        # A damaged folder is no such run.
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
            beta = read_json(file)["beta"]
            if replace(config, beta=beta).folder_name == file.parent.name:
                betas.append(beta)
    return sorted(betas)


@dataclass
class _Progress:
    """How far a training has come."""

    epoch: int = 0
    seconds: float = 0.0
    beta: float = 0.0  # once the schedule has reached it
    history: list[dict] | None = None  # one row an epoch
    steps: list[Tensor] | None = None  # (steps, STEP_COLUMNS) of each epoch
    best: dict | None = None  # epoch, loss and weights


@hardware.own_settings()
def fit(config: RunConfig, slices: Slices, split: dict[str, np.ndarray], accelerator: Accelerator,
        state: Path | None = None, micro_batch: int = 0, progress: bool = True,
        ) -> tuple[ConvVAE, pd.DataFrame, pd.DataFrame, dict]:
    """Train; returns the model of the best epoch, history, steps and environment.

    Best is the lowest validation loss at the final beta, from the epoch on in which beta has
    reached it: before that, losses of two epochs are not comparable. Training stops when
    `patience` epochs have passed without a better one. Where beta follows a rate, the last epoch
    is taken. At beta = 0 nothing is sampled: a plain auto-encoder, whose z is mu.

    state: the file that holds the state after each epoch; if it is there, training goes on from
    it. Each process takes its share of every batch, and the main one writes. Raises
    FloatingPointError for a loss that is no number, OSError if the state cannot be written, both
    with the remedy.
    """
    profile, device = config.profile, accelerator.device
    if profile.size != slices.size:
        raise ValueError(f"expected slices of {profile.size} pixels, found {slices.size}")
    training = _Part(slices.aligned, split["train"], device)
    batch_size = min(profile.batch_size, len(training))
    _check_processes(accelerator.num_processes, profile, split)
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    validation = _Part(slices.aligned, split["validation"][mine], device)
    steps_per_epoch = len(training) // batch_size  # the last, smaller batch is dropped

    torch.manual_seed(config.seed)
    vae = build_model(asdict(profile)).to(device, memory_format=torch.channels_last)
    kind = torch.optim.Adam if profile.coupled_decay else torch.optim.AdamW
    optimiser = kind(vae.parameters(), lr=profile.learning_rate, weight_decay=profile.weight_decay,
                     fused=device.type in ("cpu", "cuda"))
    # On the CPU, and the same in every process: one seed gives one run wherever it is computed.
    generator = torch.Generator().manual_seed(config.seed)
    done = _Progress(beta=config.beta, history=[], steps=[])
    scaler = accelerator.scaler  # of the loss, where the precision is float16
    saved = _saved(state) if accelerator.is_main_process else None
    # From the main process: another training of the same run may be writing the file just now.
    saved, = broadcast_object_list([saved])
    if saved is not None:
        vae.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        generator.set_state(saved["generator"])
        if scaler is not None and saved["scaler"] is not None:
            scaler.load_state_dict(saved["scaler"])
        done = _Progress(**saved["progress"])
    ddp, stepper = accelerator.prepare(vae, optimiser)
    micro_batch = micro_batch or _micro_batch(accelerator, vae, batch_size)

    def everything() -> dict:
        return {"epoch": done.epoch, "config": asdict(config), "model": vae.state_dict(),
                "optimiser": optimiser.state_dict(), "generator": generator.get_state(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "progress": vars(done)}

    writer = checkpoint.Writer(state if accelerator.is_main_process else None)
    make_bar = tqdm if accelerator.num_processes == 1 else plain_tqdm  # no widgets in a fork
    bar = make_bar(desc=f"beta {config.beta:g}", total=profile.epochs, initial=done.epoch,
                   disable=not (progress and accelerator.is_main_process), smoothing=0,
                   bar_format="{l_bar}{bar}| {n:.1f}/{total} epochs "
                   "[{elapsed}<{remaining}{postfix}]")
    try:
        if done.epoch == 0:
            writer.save(everything())  # a disk that cannot be written to shows now, and not later
            writer.flush()
        while done.epoch < profile.epochs and not _is_over(done, profile):
            started, epoch = time.monotonic(), done.epoch + 1
            order = torch.randperm(len(training), generator=generator).to(training.index_device)
            noise = torch.randn(steps_per_epoch, batch_size, profile.latent_dim,
                                generator=generator).to(device)
            if config.beta == 0:
                noise.zero_()
            warps = (torch.randn(steps_per_epoch, batch_size, augment.COUNT,
                                 generator=generator).to(device) if profile.augment else None)
            vae.train()
            betas, rows = [], []
            for step in range(steps_per_epoch):
                taken, total = done.epoch * steps_per_epoch + step, profile.epochs * steps_per_epoch
                beta = losses.beta_at(taken / total, done.beta, config.schedule)
                for group in optimiser.param_groups:
                    group["lr"] = profile.learning_rate * learning_rate_factor(taken, total,
                                                                               profile)
                batch = order[step * batch_size:(step + 1) * batch_size]
                target = one_hot(training.maps(batch[mine]))  # (B, 4, S, S)
                if warps is not None:
                    target = augment.warp(target, warps[step][mine], profile.augment)
                terms = _gradients(accelerator, ddp, target, noise[step][mine], beta, batch_size,
                                   micro_batch)
                accelerator.clip_grad_norm_(vae.parameters(), profile.gradient_clip)
                stepper.step()
                stepper.zero_grad(set_to_none=True)
                betas.append(beta)
                rows.append(terms)
                if config.rate and np.isclose(beta, done.beta):
                    kl = accelerator.reduce(terms[2], "sum").item()
                    done.beta = losses.towards_rate(beta, kl, config.rate, total)
                bar.update(epoch - 1 + (step + 1) / steps_per_epoch - bar.n)
            # One transfer an epoch: reading a number waits for the device.
            steps = accelerator.reduce(torch.stack(rows), "sum").cpu()
            steps = torch.cat([torch.tensor(betas)[:, None], steps], dim=1)
            row = _epoch_row(epoch, steps, _validate(accelerator, vae, validation, done.beta))
            _check_numbers(row, steps, profile, state)
            comparable = not config.rate and np.isclose(beta, config.beta)
            if ((comparable or epoch == profile.epochs)
                    and (done.best is None or row["validation_loss"] < done.best["loss"])):
                done.best = {"epoch": epoch, "loss": row["validation_loss"],
                             "weights": {k: v.detach().clone()
                                         for k, v in vae.state_dict().items()}}
            done.epoch = epoch
            done.history.append(row)
            done.steps.append(steps)
            done.seconds += time.monotonic() - started
            writer.save(everything())
            bar.set_postfix(loss=f"{row['validation_loss']:.3f}",
                            Dice=f"{row['validation_dice']:.3f}", refresh=False)
        writer.flush()
    finally:
        bar.close()
        writer.close()
    accelerator.unwrap_model(ddp, keep_fp32_wrapper=False, keep_torch_compile=False)
    vae.load_state_dict(done.best["weights"])
    steps = pd.DataFrame(torch.cat(done.steps).numpy(), columns=list(STEP_COLUMNS))
    steps.insert(0, "epoch", np.repeat(np.arange(1, done.epoch + 1), steps_per_epoch))
    environment = {
        "torch": torch.__version__, "accelerate": accelerate.__version__,
        "python": platform.python_version(), "device": str(device),
        "precision": PRECISIONS[accelerator.mixed_precision],
        "processes": accelerator.num_processes, "threads": torch.get_num_threads(),
        "micro_batch": micro_batch, "compiled": is_compiled_module(ddp),
        "seconds": round(done.seconds, 1), "best_epoch": done.best["epoch"], "epochs": done.epoch,
    }
    return vae.eval(), pd.DataFrame(done.history), steps, environment


def _check_processes(processes: int, profile: Profile, split: dict[str, np.ndarray]) -> None:
    most = min(profile.batch_size, len(split["train"]), len(split["validation"]))
    if most < processes:
        raise ValueError(f"expected at most {most} processes, one for each image of a batch and of "
                         f"the validation slices, found {processes}")


def _saved(state: Path | None) -> dict | None:
    """The state to go on from; None if there is none, or none any more."""
    if state is None:
        return None
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return checkpoint.load(state)
    return None


def _gradients(accelerator: Accelerator, ddp, target: Tensor, noise: Tensor, beta: float,
               batch_size: int, micro_batch: int) -> Tensor:
    """Backward pass of this process's share of a batch, one-hot, (B, 4, S, S).

    Returns its share of STEP_COLUMNS after the first: the loss and its terms; the squared gradient
    of the loss by the scores, summed over the pixels of each class of the target; the mean share of
    the picture that the model gives to each structure. All terms are means over images, so parts of
    a batch are weighted by their number of images.
    """
    sums = 0
    pieces = list(zip(target.split(micro_batch), noise.split(micro_batch)))
    for count, (part, eps) in enumerate(pieces, start=1):
        last = count == len(pieces)
        with contextlib.nullcontext() if last else accelerator.no_sync(ddp):
            scores, mu, logvar = ddp(part, eps)
            scores.retain_grad()
            terms = losses.loss_terms(scores, part, mu, logvar)
            loss, share = terms.total(beta), len(part) / batch_size
            # Gradients are averaged over the processes.
            accelerator.backward(loss * (share * accelerator.num_processes))
        values = torch.cat([torch.stack([loss, terms.cross_entropy, terms.kl]), terms.soft_dice])
        gradient = scores.grad.float() / accelerator.num_processes  # as that of their mean
        squared = gradient.square().sum(dim=1, keepdim=True)  # (B, 1, S, S)
        areas = scores.detach().float().softmax(dim=1).mean(dim=(0, 2, 3))[1:]
        sums = sums + torch.cat([share * values.detach(), (squared * part).sum(dim=(0, 2, 3)),
                                 share * areas])
    return sums


def _micro_batch(accelerator: Accelerator, vae: ConvVAE, batch_size: int) -> int:
    """Images that fit on the GPU at a time, by trying; elsewhere, this process's share of all."""
    most = -(-batch_size // accelerator.num_processes)
    if accelerator.device.type != "cuda":
        return most

    def attempt(images: int) -> None:
        maps = torch.zeros(images + images // 8, vae.size, vae.size, dtype=torch.uint8,
                           device=accelerator.device)  # a little more, for the optimiser
        target = one_hot(maps)
        with accelerator.autocast():
            mu, logvar = vae.encode(target)
            scores = vae.decode(mu)
        losses.loss_terms(scores, target, mu, logvar).total(1.0).backward()

    found = hardware.fitting_batch(attempt, most)
    vae.zero_grad(set_to_none=True)
    return int(accelerator.gather(torch.tensor([found], device=accelerator.device)).min())


def _is_over(done: _Progress, profile: Profile) -> bool:
    return done.best is not None and done.epoch - done.best["epoch"] >= profile.patience


def _check_numbers(row: dict, steps: Tensor, profile: Profile, state: Path | None) -> None:
    bad = (~steps.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if not bad and np.isfinite(row["validation_loss"]):
        return
    where = f"the loss of step {bad[0] + 1} of {len(steps)}" if bad else "the validation loss"
    kept = f" {state} holds the state of the epoch before." if state is not None else ""
    raise FloatingPointError(
        f"epoch {row['epoch']}: {where} is no finite number. Lower the learning rate "
        f"({profile.learning_rate:g}) or raise warmup_steps ({profile.warmup_steps}).{kept}")


def _farewell(state: Path) -> str:
    """What is kept of a training that was stopped, and how to go on."""
    kept = checkpoint.load(state)
    epoch, best = kept["epoch"], kept["progress"]["best"]
    text = (f"Stopped in epoch {epoch + 1} of {kept['config']['profile']['epochs']}. The state "
            f"after epoch {epoch} is kept; run the same again, and training goes on from there.")
    if best is not None:
        text += (f"\nThe best weights so far are those of epoch {best['epoch']} (validation loss "
                 f"{best['loss']:.4f}): runs.load_unfinished({str(state)!r})")
    return text


class _Part:
    """Label maps of one part of the data, (N, S, S) uint8; `maps` puts a batch on the device."""

    def __init__(self, aligned: np.ndarray, rows: np.ndarray, device: torch.device):
        self.aligned, self.rows, self.device = aligned, np.asarray(rows), device
        fits = device.type != "cpu" and len(rows) * aligned[0].size <= RESIDENT_BYTES
        self.resident = torch.from_numpy(read_rows(aligned, self.rows)).to(device) if fits else None
        self.index_device = device if fits else torch.device("cpu")

    def __len__(self) -> int:
        return len(self.rows)

    def maps(self, index: Tensor) -> Tensor:
        if self.resident is not None:
            return self.resident[index]
        return torch.from_numpy(read_rows(self.aligned, self.rows[index.numpy()])).to(self.device)

    def in_order(self, count: int):
        """All of them, so many at a time."""
        for index in torch.arange(len(self), device=self.index_device).split(count):
            yield self.maps(index)


def learning_rate_factor(step: int, total: int, profile: Profile) -> float:
    """Linear warm-up over `warmup_steps`, then constant or a half cosine to zero."""
    if step < profile.warmup_steps:
        return (step + 1) / profile.warmup_steps
    if profile.decay == "constant":
        return 1.0
    share = (step - profile.warmup_steps) / max(total - profile.warmup_steps, 1)
    return 0.5 * (1 + float(np.cos(np.pi * min(share, 1.0))))


@torch.inference_mode()
def _validate(accelerator: Accelerator, vae: ConvVAE, validation: _Part, beta: float) -> dict:
    """Loss terms and Dice of the validation slices of all processes, reconstructed from mu."""
    vae.eval()
    names = ("loss", "cross_entropy", "dice_loss", "kl", "dice", *STRUCTURE_NAMES)
    found = torch.zeros(2, len(names), device=accelerator.device)  # sums and numbers of slices
    for maps in validation.in_order(latents.batch_size(vae.size)):
        target = one_hot(maps)
        with accelerator.autocast():
            mu, logvar = vae.encode(target)
            scores = vae.decode(mu)
        terms = losses.loss_terms(scores, target, mu, logvar)
        means = torch.stack([terms.total(beta), terms.cross_entropy, 1 - terms.soft_dice.mean(),
                             terms.kl])
        predicted = one_hot(scores.argmax(dim=1))
        # As metrics.dice_per_class, on the device: NaN for a structure in neither, (B, 3).
        overlap = (predicted * target).sum(dim=(2, 3))[:, 1:]
        dice = 2 * overlap / (predicted.sum(dim=(2, 3)) + target.sum(dim=(2, 3)))[:, 1:]
        dice = torch.cat([dice.nanmean(dim=1, keepdim=True), dice], dim=1)
        found[0] += torch.cat([len(maps) * means, dice.nansum(dim=0)])
        found[1] += torch.cat([means.new_full((4,), len(maps)), (~dice.isnan()).sum(dim=0)])
    sums, numbers = accelerator.reduce(found, "sum")
    return {f"validation_{name}": value for name, value in zip(names, (sums / numbers).tolist())}


def _epoch_row(epoch: int, steps: Tensor, validation: dict) -> dict:
    """Row of the history: means over the steps (STEP_COLUMNS) of an epoch, and validation."""
    means = steps.double().mean(dim=0).tolist()
    (loss, cross_entropy, kl), dice = means[1:4], means[4:4 + len(STRUCTURE_NAMES)]
    return {
        "epoch": epoch, "beta": float(steps[-1, 0]), "train_loss": loss,
        "train_cross_entropy": cross_entropy, "train_dice_loss": 1 - sum(dice) / len(dice),
        "train_kl": kl, **validation,
    }


@hardware.own_settings()
def main(arguments: list[str] | None = None) -> None:
    """Train one run of a study, as `begin(...).run(beta)` of a notebook would."""
    parser = argparse.ArgumentParser(
        prog="python -m cvae_utils.train", description="Train one VAE and keep it in data/runs. "
        "Stop it with Ctrl-C; the same line goes on. For several GPUs: torchrun --standalone "
        "--nproc_per_node N -m cvae_utils.train ...")
    parser.add_argument("--profile", choices=profiles.PROFILES, help="default: CVAE_PROFILE, else "
                        "report on CUDA and quick elsewhere")
    parser.add_argument("--beta", type=float, default=profiles.REPORT_BETA)
    parser.add_argument("--schedule", choices=losses.SCHEDULES, default="constant")
    parser.add_argument("--rate", type=float, default=0.0, metavar="NATS",
                        help="move beta so that KL comes to this; 0 leaves beta alone")
    parser.add_argument("--sharp", action="store_true",
                        help="the wider model that trains longer, on augmented slices")
    parser.add_argument("--seed", type=int, default=0, help="of weights, noise and split")
    parser.add_argument("--split-by", choices=dataset.LEAST, default="patient")
    parser.add_argument("--precision", choices=PRECISIONS, default="",
                        help="default: the fastest that the device has")
    parser.add_argument("--compile", action="store_true", help="torch.compile: pays in long runs")
    parser.add_argument("--micro-batch", type=int, default=0, metavar="N",
                        help="images at a time, where memory is short; same result")
    chosen = parser.parse_args(arguments)
    if chosen.compile and not hardware.can_compile():
        parser.error("--compile: expected a C++ compiler and the headers of Python; leave it out")
    if chosen.profile:
        os.environ["CVAE_PROFILE"] = chosen.profile
    profile, out = profiles.active_profile(), output_root()
    profile = profile.sharp if chosen.sharp else profile
    try:
        config = RunConfig(profile, chosen.beta, chosen.schedule, chosen.rate, chosen.seed,
                           chosen.split_by)
        machinery = Machinery(precision=chosen.precision, compiled=chosen.compile,
                              micro_batch=chosen.micro_batch)
    except ValueError as error:  # begins with the name of the setting
        name, colon, rest = str(error).partition(":")
        parser.error(f"--{name.replace('_', '-')}{colon}{rest}")
    # With several processes, the first one makes what is missing and the others wait for it.
    with accelerate.PartialState(cpu=hardware.best_device().type == "cpu").main_process_first():
        source = dataset.find_source(out / "data", profile, REPOSITORY, chosen.seed)
        slices = dataset.load_or_align(source, profile.size, out / "data" / "processed")
    config = replace(config, data=slices.fingerprint)
    split = dataset.split(slices.table, chosen.split_by, chosen.seed)
    is_main = accelerate.PartialState().is_main_process
    run = load_or_train(config, slices, split, out / "data" / "runs", machinery)
    if is_main:
        found = run.results
        print(f"{run.folder}\n{source.name}, {source.patients} patients, split by "
              f"{chosen.split_by}, seed {chosen.seed}: test Dice {found['test_dice']:.3f}, not "
              f"rotated {found['unrotated_dice']:.3f}, KL {found['test_kl']:.1f} nats, "
              f"{found['active_dimensions']} active dimensions, "
              f"{100 * found['valid_prior']:.1f} % of samples valid")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
