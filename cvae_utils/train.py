"""Train one VAE, measure it, and keep it as a run folder that appears only when complete.

    data/runs/quick-beta1000-seed0-<hash>/
        model.safetensors   weights of the epoch with the lowest validation loss
        config.json         everything that the run depends on
        history.csv         one row an epoch: loss terms and Dice, training and validation
        steps.csv           one row an optimiser step: loss terms and soft Dice
        results.json        what `evaluate` measures
        environment.json    versions, device, precision, seconds
"""

import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from cvae_utils import latents, losses, metrics, model
from cvae_utils.dataset import Slices
from cvae_utils.labels import STRUCTURE_NAMES
from cvae_utils.model import ConvVAE, one_hot
from cvae_utils.profiles import Profile
from cvae_utils.storage import code_stamp, complete_folder, read_json, short_hash, write_json

#: Label maps of a part of the data up to this size stay in memory, on the device; larger ones are
#: read from disk a batch at a time.
RESIDENT_BYTES = 2**30
RUN_FILES = ("model.safetensors", "config.json", "history.csv", "steps.csv", "results.json",
             "environment.json")


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on besides the code."""

    profile: Profile
    beta: float
    schedule: str = "constant"  # of beta: see losses.beta_at
    seed: int = 0
    split_by: str = "patient"
    data: str = ""  # Slices.fingerprint

    @property
    def folder_name(self) -> str:
        key = short_hash([asdict(self), code_stamp(model, losses, metrics, latents,
                                                   sys.modules[__name__])])
        schedule = "" if self.schedule == "constant" else f"-{self.schedule}"
        return f"{self.profile.name}-beta{self.beta:g}{schedule}-seed{self.seed}-{key}"


@dataclass(frozen=True)
class Run:
    """A trained VAE and what is known of it."""

    model: ConvVAE
    config: dict
    history: pd.DataFrame
    steps: pd.DataFrame
    results: dict
    environment: dict
    folder: Path | None = None


def best_device() -> torch.device:
    """CUDA, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the hardware computes bfloat16 natively; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(device: torch.device):
    """Context in which the model computes in bfloat16 where that is fast, else in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_fast_bfloat16(device))


def load_or_train(config: RunConfig, slices: Slices, split: dict[str, np.ndarray], runs: Path,
                  device: torch.device | None = None, progress: bool = True) -> Run:
    """The run of this configuration from `runs`, else trained, measured and stored there.

    A run that is interrupted or killed leaves no folder behind that this would take for complete,
    and finished runs are not touched.
    """
    folder = runs / config.folder_name
    if not folder.is_dir():
        device = device or best_device()
        trained, history, steps, environment = fit(config, slices, split, device, progress)
        results = evaluate(trained, slices, split, config.profile.samples, config.seed)
        with complete_folder(folder) as partial:
            weights = {k: v.detach().cpu().contiguous() for k, v in trained.state_dict().items()}
            save_file(weights, partial / "model.safetensors")
            write_json(partial / "config.json", asdict(config))
            history.to_csv(partial / "history.csv", index=False)
            steps.to_csv(partial / "steps.csv", index=False)
            write_json(partial / "results.json", results)
            write_json(partial / "environment.json", environment)
    return load_run(folder, device)


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
        raise ValueError(f"{folder}: expected weights of ConvVAE({vae.size}, {vae.base_channels}, "
                         f"{vae.latent_dim}), found others ({first}). Train the run again with "
                         "notebook 02 or 03.") from error
    vae.to(device or best_device()).eval()
    return Run(vae, config, pd.read_csv(folder / "history.csv"), pd.read_csv(folder / "steps.csv"),
               read_json(folder / "results.json"), read_json(folder / "environment.json"), folder)


def build_model(profile: dict) -> ConvVAE:
    return ConvVAE(profile["size"], profile["base_channels"], profile["latent_dim"])


def fit(config: RunConfig, slices: Slices, split: dict[str, np.ndarray], device: torch.device,
        progress: bool = True) -> tuple[ConvVAE, pd.DataFrame, pd.DataFrame, dict]:
    """Train; returns the model of the best epoch, history, steps and environment.

    Best is the lowest validation loss at the final beta, from the epoch on in which beta has
    reached it: before that, losses of two epochs are not comparable. Training stops when
    `patience` epochs have passed without a better one.
    """
    profile = config.profile
    if profile.size != slices.size:
        raise ValueError(f"expected slices of {profile.size} pixels, found {slices.size}")
    torch.manual_seed(config.seed)
    vae = build_model(asdict(profile)).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=profile.learning_rate,
                                  weight_decay=profile.weight_decay)
    training, validation = (_Part(slices.aligned, split[part], device)
                            for part in ("train", "validation"))
    batch_size = min(profile.batch_size, len(training))
    steps_per_epoch = len(training) // batch_size  # the last, smaller batch is dropped
    total_steps = profile.epochs * steps_per_epoch
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, total_steps, profile))

    history, steps, best = [], [], None
    started = time.monotonic()
    bar = tqdm(range(1, profile.epochs + 1), desc=f"beta {config.beta:g}", unit="epoch",
               disable=not progress)
    for epoch in bar:
        vae.train()
        order = torch.randperm(len(training), device=device)
        for batch in order[:steps_per_epoch * batch_size].split(batch_size):
            beta = losses.beta_at(len(steps) / total_steps, config.beta, config.schedule)
            target = one_hot(training.maps(batch))  # (B, 4, S, S)
            noise = torch.randn(batch_size, profile.latent_dim, device=device)
            with autocast(device):
                scores, mu, logvar = vae(target, noise)
            terms = losses.loss_terms(scores, target, mu, logvar)
            loss = terms.total(beta)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), profile.gradient_clip)
            optimiser.step()
            scheduler.step()
            steps.append(_step_row(epoch, beta, loss, terms))
        row = _epoch_row(epoch, steps[-steps_per_epoch:], vae, validation, config.beta)
        if not np.isfinite(row["validation_loss"]):
            raise FloatingPointError(f"epoch {epoch}: the validation loss is "
                                     f"{row['validation_loss']}. Lower the learning rate "
                                     f"({profile.learning_rate:g}) or raise warmup_steps.")
        history.append(row)
        final_beta = np.isclose(beta, config.beta) or epoch == profile.epochs
        if final_beta and (best is None or row["validation_loss"] < best[0]):
            best = (row["validation_loss"], epoch,
                    {k: v.detach().clone() for k, v in vae.state_dict().items()})
        bar.set_postfix(loss=f"{row['validation_loss']:.3f}",
                        Dice=f"{row['validation_dice']:.3f}")
        if best is not None and epoch - best[1] >= profile.patience:
            break
    bar.close()
    vae.load_state_dict(best[2])
    environment = {
        "torch": torch.__version__, "python": platform.python_version(), "device": str(device),
        "precision": "bfloat16" if has_fast_bfloat16(device) else "float32",
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - started, 1), "best_epoch": best[1],
        "epochs": len(history),
    }
    return vae.eval(), pd.DataFrame(history), pd.DataFrame(steps), environment


class _Part:
    """Label maps of one part of the data as bytes, (N, S, S); `maps` puts a batch on the device."""

    def __init__(self, aligned: np.ndarray, rows: np.ndarray, device: torch.device):
        self.aligned, self.rows, self.device = aligned, rows, device
        resident = len(rows) * aligned[0].size <= RESIDENT_BYTES
        self.resident = torch.from_numpy(aligned[rows]).to(device) if resident else None

    def __len__(self) -> int:
        return len(self.rows)

    def maps(self, index: torch.Tensor) -> torch.Tensor:
        if self.resident is not None:
            return self.resident[index]
        return torch.from_numpy(self.aligned[self.rows[index.cpu().numpy()]]).to(self.device)

    def in_order(self, count: int):
        """All of them, so many at a time."""
        for index in torch.arange(len(self), device=self.device).split(count):
            yield self.maps(index)


def learning_rate_factor(step: int, total: int, profile: Profile) -> float:
    """Linear warm-up over `warmup_steps`, then constant or a half cosine to zero."""
    if step < profile.warmup_steps:
        return (step + 1) / profile.warmup_steps
    if profile.decay == "constant":
        return 1.0
    share = (step - profile.warmup_steps) / max(total - profile.warmup_steps, 1)
    return 0.5 * (1 + float(np.cos(np.pi * min(share, 1.0))))


def _step_row(epoch: int, beta: float, loss, terms: losses.Terms) -> dict:
    values = torch.cat([torch.stack([loss, terms.cross_entropy, terms.kl]), terms.soft_dice])
    # One transfer a step: reading each term by itself would wait for the device six times.
    row = dict(zip(("loss", "cross_entropy", "kl", *STRUCTURE_NAMES), values.detach().tolist()))
    return {"epoch": epoch, "beta": beta} | row


@torch.inference_mode()
def _epoch_row(epoch: int, steps: list[dict], vae: ConvVAE, validation: _Part,
               beta: float) -> dict:
    """History of one epoch: means over its steps, and the validation slices from mu."""
    vae.eval()
    sums, dice = np.zeros(4), []
    for maps in validation.in_order(latents.batch_size(vae.size)):
        target = one_hot(maps)
        mu, logvar = vae.encode(target)
        scores = vae.decode(mu)
        terms = losses.loss_terms(scores, target, mu, logvar)
        values = [terms.total(beta), terms.cross_entropy, 1 - terms.soft_dice.mean(), terms.kl]
        sums += len(maps) * np.array([float(value) for value in values])
        dice.append(metrics.dice_per_class(scores.argmax(dim=1).cpu().numpy(),
                                           maps.cpu().numpy()))
    dice = np.concatenate(dice)
    means = pd.DataFrame(steps).mean()
    loss, cross_entropy, dice_loss, kl = sums / len(validation)
    return {
        "epoch": epoch, "beta": steps[-1]["beta"],
        "train_loss": means["loss"], "train_cross_entropy": means["cross_entropy"],
        "train_dice_loss": 1 - means[list(STRUCTURE_NAMES)].mean(), "train_kl": means["kl"],
        "validation_loss": loss, "validation_cross_entropy": cross_entropy,
        "validation_dice_loss": dice_loss, "validation_kl": kl,
        "validation_dice": float(np.nanmean(np.nanmean(dice, axis=1))),
        **{f"validation_{k}": v for k, v in metrics.mean_by_class(dice).items()},
    }


def learning_phases(steps: pd.DataFrame, window: int = 10) -> dict:
    """When each structure was learnt, from the soft Dice of every optimiser step.

    Smoothed over `window` steps. order: structures by the step at which they pass half of their
    final value (half_step). dip: the largest fall of a structure below its own best while another
    one rises from 10 % to 90 % of its final value, counted from the step on at which all three
    together are lowest (before that, the model learns that most pixels are background). noise:
    the largest such fall over the second half of training, when nothing new is learnt.
    """
    dice = steps[list(STRUCTURE_NAMES)].rolling(window, min_periods=1).mean()

    def passed(name: str, share: float) -> int:
        return int((dice[name].iloc[start:] >= share * dice[name].iloc[-1]).idxmax())

    def deepest_fall(part: pd.DataFrame) -> float:
        return float((part.cummax() - part).max().max())

    start = int(dice.iloc[:len(dice) // 2].mean(axis=1).idxmin())
    half_step = {name: passed(name, 0.5) for name in STRUCTURE_NAMES}
    falls = [deepest_fall(dice.iloc[passed(name, 0.1):passed(name, 0.9) + 1].drop(columns=name))
             for name in STRUCTURE_NAMES]
    return {"order": sorted(half_step, key=half_step.get), "half_step": half_step,
            "dip": max(falls), "noise": deepest_fall(dice.iloc[len(dice) // 2:])}


def evaluate(vae: ConvVAE, slices: Slices, split: dict[str, np.ndarray], samples: int,
             seed: int = 0) -> dict:
    """The numbers of one trained VAE, by part of the data they come from.

    Dice per class and mean of validation, test and unrotated test slices, reconstructed from mu;
    KL (nats) of the test slices; active dimensions (mean KL over the training slices above
    metrics.ACTIVE_KL) and the standard deviation of mu over them, strongest dimension first. Of
    `samples` label maps drawn from N(0, I), and of the real test slices: the share of valid ones,
    the same without the rule that MYO closes around LV, and the share without RV; and the spread
    of the samples: the standard deviation of the area of RV, MYO and LV over the real one, mean of
    the three (a model can be valid by drawing one heart over and over).
    """
    results = {"samples": samples}
    for name, maps, rows in (("validation", slices.aligned, split["validation"]),
                             ("test", slices.aligned, split["test"]),
                             ("unrotated", slices.unrotated, split["test"])):
        dice = _by_blocks(lambda part: metrics.dice_per_class(latents.reconstruct(vae, part), part),
                          maps, rows)
        by_class = metrics.mean_by_class(dice)
        results |= {f"{name}_dice_{structure}": value for structure, value in by_class.items()}
        results[f"{name}_dice"] = float(np.mean(np.nanmean(dice, axis=1)))

    test, train = (latents.Posterior(*np.split(
        _by_blocks(lambda part: np.concatenate(latents.encode(vae, part), axis=1), slices.aligned,
                   split[name]), 2, axis=1)) for name in ("test", "train"))
    kl = metrics.kl_per_dimension(*train)
    results |= {
        "test_kl": float(metrics.kl_per_dimension(*test).sum()),
        "train_kl": float(kl.sum()),
        "active_dimensions": int((kl > metrics.ACTIVE_KL).sum()),
        "kl_order": np.argsort(-kl).tolist(),
        "mu_sd": train.mu.std(axis=0)[np.argsort(-kl)].tolist(),
    }
    drawn = latents.decode(vae, latents.sample_prior(samples, vae.latent_dim, seed))
    areas = {}
    for name, maps, rows in (("prior", drawn, np.arange(samples)),
                             ("real", slices.aligned, split["test"])):
        areas[name] = _by_blocks(metrics.areas, maps, rows)
        results[f"no_rv_{name}"] = float((areas[name][:, 0] == 0).mean())
        results[f"valid_{name}"] = float(_by_blocks(metrics.is_valid, maps, rows).mean())
        results[f"valid_{name}_open_wall"] = float(
            _by_blocks(lambda part: metrics.is_valid(part, True), maps, rows).mean())
    drawn_sd, real_sd = areas["prior"].std(axis=0), areas["real"].std(axis=0)
    results["spread_prior"] = float((drawn_sd[real_sd > 0] / real_sd[real_sd > 0]).mean())
    return results


def _by_blocks(measure, maps: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`measure` of maps[rows], a block at a time: the maps may lie on disk and not fit memory."""
    count = 16 * latents.batch_size(maps.shape[-1])
    return np.concatenate([measure(maps[rows[start:start + count]])
                           for start in range(0, len(rows), count)])
