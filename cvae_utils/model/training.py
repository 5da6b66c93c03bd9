"""Train one VAE, on one device or many.

The state after each epoch is on the disk until the training is complete: one that was stopped,
killed or has failed goes on from there, and on a CPU ends with the same weights, bit for bit, as
one that was left alone.
"""

import contextlib
import functools
import itertools
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import accelerate
import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from accelerate.utils.other import is_compiled_module
from torch import Tensor

from cvae_utils.cache import key_of
from cvae_utils.data import splits
from cvae_utils.data.slices import Slices, read_rows
from cvae_utils.files import DataError
from cvae_utils.labels import STRUCTURE_NAMES, Label
from cvae_utils.model import augmentation, checkpoint, encoding, hardware, losses
from cvae_utils.model.network import VAE, build_model, one_hot
from cvae_utils.profiles import Profile, choice, number, whole

#: Label maps of a part of the data up to this size stay on the GPU; larger ones, and all on a CPU,
#: are read from disk a batch at a time, so that memory does not grow with the data.
RESIDENT_BYTES = 2**30
#: Columns of the table of steps, after the epoch.
STEP_COLUMNS = ("beta", "loss", "cross_entropy", "kl", *STRUCTURE_NAMES)
#: What RunConfig.class_probes adds to them.
PROBE_COLUMNS = (*(f"gradient_{label.name}" for label in Label),
                 *(f"area_{name}" for name in STRUCTURE_NAMES))
PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "no": "float32"}


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on besides the code and the machine.

    Raises ValueError for a value that makes no sense.
    """

    profile: Profile
    beta: float
    schedule: str = "constant"  # of beta: see losses.beta_at
    rate: float = 0.0  # target KL (nats) that beta is moved to hold; 0 leaves beta fixed
    seed: int = 0
    split_by: str = "patient"
    data: str = ""  # Slices.fingerprint
    class_probes: bool = False  # also record gradient and drawn area of each class at every step

    def __post_init__(self):
        # As plain numbers: a run has one name, whether its beta was 10, 10.0 or one of NumPy's.
        for name, value in (
                ("beta", number("beta", self.beta, most=losses.LARGEST_BETA)),
                ("rate", number("rate", self.rate)),
                # The largest that scikit-learn takes.
                ("seed", whole("seed", self.seed, least=0, most=2**32 - 1))):
            object.__setattr__(self, name, value)
        choice("schedule", self.schedule, losses.SCHEDULES)
        choice("split_by", self.split_by, splits.WAYS)
        if self.beta == 0 and (self.rate or "exponential" in self.schedule):
            raise ValueError("beta: expected a number above 0, since neither a rate nor an "
                             "exponential schedule can move 0, found 0. Change this setting, or "
                             "leave out rate and schedule.")

    @property
    def title(self) -> str:
        """The run's name without its key, such as quick-beta1000-seed0."""
        schedule = "" if self.schedule == "constant" else f"-{self.schedule}"
        rate = f"-rate{self.rate:g}" if self.rate else ""
        split = "" if self.split_by == "patient" else f"-by-{self.split_by}"
        return f"{self.profile.name}-beta{self.beta:g}{schedule}{rate}{split}-seed{self.seed}"

    @functools.cached_property  # one from the start to the end of a training
    def key(self) -> str:
        """Changes with this configuration and with the code that trains, and with nothing else."""
        made_of = asdict(self)
        for name in ("samples", "phantom_patients"):  # no part of training
            del made_of["profile"][name]
        return key_of(made_of, code=MAKERS)


@hardware.own_settings()
def fit(config: RunConfig, slices: Slices, split: dict[str, np.ndarray], accelerator: Accelerator,
        state: Path | None = None, micro_batch: int = 0,
        report: Callable[..., None] = lambda *_, **__: None,
        ) -> tuple[VAE, pd.DataFrame, pd.DataFrame, dict]:
    """Train; returns the model of the best epoch, history, steps and environment.

    Best is the lowest validation loss at the final beta, from the epoch on in which beta has
    reached it: before that, losses of two epochs are not comparable. Training stops when
    `patience` epochs have passed without a better one. Where beta follows a rate, the last epoch
    is taken. At beta = 0 nothing is sampled: a plain auto-encoder, whose z is mu.

    state: the file that holds the state after each epoch; if it is there, training goes on from
    it. micro_batch: images that pass the model at a time; 0 is as many as fit. report: called after
    each step with the epochs that are done, a fraction, and after an epoch also with its loss and
    Dice. Each process takes its share of every batch, and the main one writes. Raises
    FloatingPointError for a loss that is no number, OSError if the state cannot be written,
    DataError if it is that of another training, each with the remedy.
    """
    training = Training(config, slices, split, accelerator)
    saved = _saved(state) if accelerator.is_main_process else None
    # From the main process: another training of the same run may be writing the file just now.
    saved, = broadcast_object_list([saved])
    if saved is not None:
        try:
            training.resume(saved)
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            first = str(error).partition("\n")[0]
            raise DataError(f"{state}: expected the state of this training, found another "
                            f"({first}). Delete it: training then starts from the beginning."
                            ) from error
    training.prepare(micro_batch)
    writer = checkpoint.Writer(state if accelerator.is_main_process else None)
    try:
        if training.done.epoch == 0:
            writer.save(training.state())  # a disk that cannot be written to shows now
            writer.flush()
        while not training.is_over:
            row = training.epoch(report)
            training.check_numbers(row, state)
            writer.save(training.state())
            report(row["epoch"], loss=row["validation_loss"], dice=row["validation_dice"])
        writer.flush()
    finally:
        writer.close()
    return training.result()


@dataclass
class Done:
    """How far a training has come."""

    epoch: int = 0  # the last that is whole
    seconds: float = 0.0
    beta: float = 0.0  # once the schedule has reached it; a rate moves it
    history: list[dict] = field(default_factory=list)  # one row an epoch
    steps: list[Tensor] = field(default_factory=list)  # (steps, columns) of each epoch
    best: dict | None = None  # epoch, loss and weights


class Training:
    """One training: data, model and optimiser on their device, and what is done so far.

    Made new, or set to a saved state by `resume`; then `prepare`, and `epoch` until it `is_over`.
    Raises ValueError for slices of another size than the profile's, or for more processes than
    images.
    """

    def __init__(self, config: RunConfig, slices: Slices, split: dict[str, np.ndarray],
                 accelerator: Accelerator):
        self.config, self.profile, self.accelerator = config, config.profile, accelerator
        profile, device = config.profile, accelerator.device
        if profile.size != slices.size:
            raise ValueError(f"expected slices of {profile.size} pixels, found {slices.size}")
        check_processes(accelerator.num_processes, profile, split)
        #: This process's share of a batch, or of the validation slices.
        self.mine = slice(accelerator.process_index, None, accelerator.num_processes)
        self.training = _Part(slices.aligned, split["train"], device)
        self.validation = _Part(slices.aligned, split["validation"][self.mine], device)
        self.batch_size = min(profile.batch_size, len(self.training))
        # The last, smaller batch is dropped.
        self.steps_per_epoch = len(self.training) // self.batch_size
        self.total_steps = profile.epochs * self.steps_per_epoch

        torch.manual_seed(config.seed)
        self.vae = build_model(asdict(profile)).to(device, memory_format=torch.channels_last)
        kind = torch.optim.Adam if profile.coupled_decay else torch.optim.AdamW
        self.optimiser = kind(self.vae.parameters(), lr=profile.learning_rate,
                              weight_decay=profile.weight_decay,
                              fused=device.type in ("cpu", "cuda"))
        # On the CPU, and the same in every process: one seed gives one run wherever it is computed.
        self.generator = torch.Generator().manual_seed(config.seed)
        self.done = Done(beta=config.beta)

    # ------------------------------------------------------------------- what is kept of it
    def state(self) -> dict:
        """All that `resume` needs, in types that checkpoint.Writer takes."""
        scaler = self.accelerator.scaler  # of the loss, where the precision is float16
        return {"epoch": self.done.epoch, "config": asdict(self.config),
                "model": self.vae.state_dict(), "optimiser": self.optimiser.state_dict(),
                "generator": self.generator.get_state(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "progress": vars(self.done)}

    def resume(self, saved: dict) -> None:
        """Go on from what `state` has returned."""
        self.vae.load_state_dict(saved["model"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.generator.set_state(saved["generator"])
        if self.accelerator.scaler is not None and saved["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.done = Done(**saved["progress"])

    def result(self) -> tuple[VAE, pd.DataFrame, pd.DataFrame, dict]:
        """The model of the best epoch, history, steps and environment."""
        done, accelerator = self.done, self.accelerator
        compiled = is_compiled_module(self.parallel_vae)
        # Takes back what `prepare` has put around the model.
        accelerator.unwrap_model(self.parallel_vae, keep_fp32_wrapper=False,
                                 keep_torch_compile=False)
        self.vae.load_state_dict(done.best["weights"])
        columns = STEP_COLUMNS + (PROBE_COLUMNS if self.config.class_probes else ())
        steps = pd.DataFrame(torch.cat(done.steps).numpy(), columns=list(columns))
        steps.insert(0, "epoch", np.repeat(np.arange(1, done.epoch + 1), self.steps_per_epoch))
        environment = {
            "torch": torch.__version__, "accelerate": accelerate.__version__,
            "python": platform.python_version(), "device": str(accelerator.device),
            "precision": PRECISIONS[accelerator.mixed_precision],
            "processes": accelerator.num_processes, "threads": torch.get_num_threads(),
            "micro_batch": self.micro_batch, "compiled": compiled,
            "seconds": round(done.seconds, 1), "best_epoch": done.best["epoch"],
            "epochs": done.epoch,
        }
        return self.vae.eval(), pd.DataFrame(done.history), steps, environment

    # --------------------------------------------------------------------------- training
    def prepare(self, micro_batch: int = 0) -> None:
        """Hand model and optimiser to the accelerator; weights are final before that."""
        self.parallel_vae, self.scaled_optimiser = self.accelerator.prepare(self.vae,
                                                                            self.optimiser)
        self.micro_batch = micro_batch or self._fitting_batch()

    @property
    def is_over(self) -> bool:
        best, epoch = self.done.best, self.done.epoch
        waited = best is not None and epoch - best["epoch"] >= self.profile.patience
        return waited or epoch >= self.profile.epochs

    def epoch(self, report: Callable[..., None]) -> dict:
        """Train for one epoch and validate; returns its row of the history."""
        done, started = self.done, time.monotonic()
        self.vae.train()
        betas, terms = [], []
        for index, (batch, noise, warps) in enumerate(self._batches()):
            taken = done.epoch * self.steps_per_epoch + index
            beta = losses.beta_at(taken / self.total_steps, done.beta, self.config.schedule)
            found = self._step(taken, batch, noise, warps, beta)
            if self.config.rate and np.isclose(beta, done.beta):
                kl = self.accelerator.reduce(found[2], "sum").item()
                done.beta = losses.towards_rate(beta, kl, self.config.rate, self.total_steps)
            betas.append(beta)
            terms.append(found)
            report(done.epoch + (index + 1) / self.steps_per_epoch)
        # One transfer an epoch: reading a number waits for the device.
        steps = self.accelerator.reduce(torch.stack(terms), "sum").cpu()
        steps = torch.cat([torch.tensor(betas)[:, None], steps], dim=1)
        row = _epoch_row(done.epoch + 1, steps, self.validate())
        self._keep_best(row, beta)
        done.epoch += 1
        done.history.append(row)
        done.steps.append(steps)
        done.seconds += time.monotonic() - started
        return row

    @torch.inference_mode()
    def validate(self) -> dict:
        """Loss terms and Dice of the validation slices of all processes, reconstructed from mu."""
        self.vae.eval()
        names = ("loss", "cross_entropy", "dice_loss", "kl", "dice", *STRUCTURE_NAMES)
        # Sums and numbers of slices; in one without a structure, that one has no Dice.
        found = torch.zeros(2, len(names), device=self.accelerator.device)
        for maps in self.validation.in_order(encoding.batch_size(self.vae.size)):
            target = one_hot(maps)
            with self.accelerator.autocast():
                mu, logvar = self.vae.encode(target)
                scores = self.vae.decode(mu)
            terms = losses.loss_terms(scores, target, mu, logvar)
            means = torch.stack([terms.total(self.done.beta), terms.cross_entropy,
                                 1 - terms.soft_dice.mean(), terms.kl])
            predicted = one_hot(scores.argmax(dim=1))
            # As shape_metrics.dice_per_class, on the device: (B, 3), NaN for one in neither.
            overlap = (predicted * target).sum(dim=(2, 3))[:, 1:]
            dice = 2 * overlap / (predicted.sum(dim=(2, 3)) + target.sum(dim=(2, 3)))[:, 1:]
            dice = torch.cat([dice.nanmean(dim=1, keepdim=True), dice], dim=1)
            found[0] += torch.cat([len(maps) * means, dice.nansum(dim=0)])
            found[1] += torch.cat([means.new_full((4,), len(maps)), (~dice.isnan()).sum(dim=0)])
        sums, numbers = self.accelerator.reduce(found, "sum")
        return {f"validation_{name}": value
                for name, value in zip(names, (sums / numbers).tolist())}

    def check_numbers(self, row: dict, state: Path | None) -> None:
        """Raises FloatingPointError, with the remedy, if a loss of the last epoch, whose row this
        is, is no finite number. state: where that of the epoch before is kept."""
        steps = self.done.steps[-1]
        bad = (~steps.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if not bad and np.isfinite(row["validation_loss"]):
            return
        where = f"the loss of step {bad[0] + 1} of {len(steps)}" if bad else "the validation loss"
        kept = f" {state} holds the state of the epoch before." if state is not None else ""
        raise FloatingPointError(
            f"epoch {row['epoch']}: {where} is no finite number. Lower the learning rate "
            f"({self.profile.learning_rate:g}) or raise warmup_steps "
            f"({self.profile.warmup_steps}).{kept}")

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Rows (B,), noise (B, Z) and, for augmentation, numbers of deformations (B, COUNT) of each
        step of an epoch; None without augmentation."""
        steps, size, device = self.steps_per_epoch, self.batch_size, self.accelerator.device
        order = torch.randperm(len(self.training), generator=self.generator)
        noise = torch.randn(steps, size, self.profile.latent_dim,
                            generator=self.generator).to(device)
        if self.config.beta == 0:
            noise.zero_()
        warps = (torch.randn(steps, size, augmentation.COUNT, generator=self.generator).to(device)
                 if self.profile.augment else itertools.repeat(None))
        rows = order.to(self.training.index_device)[:steps * size].split(size)
        return zip(rows, noise, warps)

    def _step(self, taken: int, batch: Tensor, noise: Tensor, warps: Tensor | None,
              beta: float) -> Tensor:
        """One optimiser step, after so many; returns the sums of `_gradients`."""
        factor = learning_rate_factor(taken, self.total_steps, self.profile)
        for group in self.optimiser.param_groups:
            group["lr"] = self.profile.learning_rate * factor
        target = one_hot(self.training.maps(batch[self.mine]))  # (B, 4, S, S)
        if warps is not None:
            target = augmentation.warp(target, warps[self.mine], self.profile.augment)
        found = self._gradients(target, noise[self.mine], beta)
        self.accelerator.clip_grad_norm_(self.vae.parameters(), self.profile.gradient_clip)
        self.scaled_optimiser.step()
        self.scaled_optimiser.zero_grad(set_to_none=True)
        return found

    def _gradients(self, target: Tensor, noise: Tensor, beta: float) -> Tensor:
        """Backward pass of this process's share of a batch, one-hot, (B, 4, S, S).

        Returns its share of STEP_COLUMNS after the first, and of PROBE_COLUMNS if they are asked
        for. All terms are means over images, so parts of a batch are weighted by their number.
        """
        sums, accelerator = 0, self.accelerator
        pieces = list(zip(target.split(self.micro_batch), noise.split(self.micro_batch)))
        for count, (part, eps) in enumerate(pieces, start=1):
            last = count == len(pieces)  # before that, processes need not exchange gradients
            with contextlib.nullcontext() if last else accelerator.no_sync(self.parallel_vae):
                scores, mu, logvar = self.parallel_vae(part, eps)
                if self.config.class_probes:
                    scores.retain_grad()
                terms = losses.loss_terms(scores, part, mu, logvar)
                loss, share = terms.total(beta), len(part) / self.batch_size
                # Gradients are averaged over the processes.
                accelerator.backward(loss * (share * accelerator.num_processes))
            values = torch.cat([torch.stack([loss, terms.cross_entropy, terms.kl]),
                                terms.soft_dice])
            found = share * values.detach()
            if self.config.class_probes:
                probes = _class_probes(scores, part, share, accelerator.num_processes)
                found = torch.cat([found, probes])
            sums = sums + found
        return sums

    def _keep_best(self, row: dict, beta: float) -> None:
        """Keep the weights if this epoch, which ended at `beta`, is the best: see fit."""
        best, comparable = self.done.best, (not self.config.rate
                                            and np.isclose(beta, self.config.beta))
        if ((comparable or row["epoch"] == self.profile.epochs)
                and (best is None or row["validation_loss"] < best["loss"])):
            weights = {name: v.detach().clone() for name, v in self.vae.state_dict().items()}
            self.done.best = {"epoch": row["epoch"], "loss": row["validation_loss"],
                              "weights": weights}

    def _fitting_batch(self) -> int:
        """Images that fit on the GPU at a time, by trying; elsewhere, this process's share."""
        accelerator, vae = self.accelerator, self.vae
        most = -(-self.batch_size // accelerator.num_processes)
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
        found = torch.tensor([found], device=accelerator.device)
        return int(accelerator.gather(found).min())


def check_processes(processes: int, profile: Profile, split: dict[str, np.ndarray]) -> None:
    """Raises ValueError for more processes than there are images for them."""
    most = min(profile.batch_size, len(split["train"]), len(split["validation"]))
    if most < processes:
        raise ValueError(f"expected at most {most} processes, one for each image of a batch and of "
                         f"the validation slices, found {processes}")


def _class_probes(scores: Tensor, target: Tensor, share: float, processes: int) -> Tensor:
    """PROBE_COLUMNS of a part of a batch, after its backward pass: the squared gradient of the
    loss by the scores, summed over the pixels of each class of the target; and the mean share of
    the picture that the model gives to each structure, times `share`. (7,)"""
    gradient = scores.grad.float() / processes  # as that of their mean
    squared = gradient.square().sum(dim=1, keepdim=True)  # (B, 1, S, S)
    areas = scores.detach().float().softmax(dim=1).mean(dim=(0, 2, 3))[1:]
    return torch.cat([(squared * target).sum(dim=(0, 2, 3)), share * areas])


def learning_rate_factor(step: int, total: int, profile: Profile) -> float:
    """Linear warm-up over `warmup_steps`, then constant or a half cosine to zero."""
    if step < profile.warmup_steps:
        return (step + 1) / profile.warmup_steps
    if profile.decay == "constant":
        return 1.0
    share = (step - profile.warmup_steps) / max(total - profile.warmup_steps, 1)
    return 0.5 * (1 + float(np.cos(np.pi * min(share, 1.0))))


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


def _saved(state: Path | None) -> dict | None:
    """The state to go on from; None if there is none, or none any more."""
    if state is None:
        return None
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return checkpoint.load(state)
    return None


def _epoch_row(epoch: int, steps: Tensor, validation: dict) -> dict:
    """Row of the history: means over the steps of an epoch, and validation."""
    means = steps.double().mean(dim=0).tolist()
    (loss, cross_entropy, kl), dice = means[1:4], means[4:4 + len(STRUCTURE_NAMES)]
    return {
        "epoch": epoch, "beta": float(steps[-1, 0]), "train_loss": loss,
        "train_cross_entropy": cross_entropy, "train_dice_loss": 1 - sum(dice) / len(dice),
        "train_kl": kl, **validation,
    }


#: What makes a run of its configuration and slices: see RunConfig.key. `fit` only drives and keeps
#: what Training computes.
MAKERS = (Training, splits.split)
