"""What a trained VAE is worth: Dice, KL, active dimensions, valid samples; how it was learnt."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cvae_utils import latents, metrics
from cvae_utils.dataset import Slices, read_rows
from cvae_utils.labels import STRUCTURE_NAMES
from cvae_utils.model import ConvVAE

#: A structure counts as learnt from this soft Dice on.
LEARNT = 0.5


def learning_phases(steps: pd.DataFrame, structures: Sequence[str] = STRUCTURE_NAMES,
                    window: int = 10) -> dict:
    """When each structure was learnt, from the soft Dice of every optimiser step.

    structures: those that the training slices have. Smoothed over `window` steps. order: structures
    by the step at which they pass half of their final value (half_step). dip: the largest fall of a
    structure below its own best while another one rises from 10 % to 90 % of its final value,
    counted from the step on at which all together are lowest (before that, the model learns that
    most pixels are background); NaN for a single structure. noise: the largest such fall over the
    second half of training, when nothing new is learnt. final: soft Dice at the end; below LEARNT,
    the order tells nothing.
    """
    dice = steps[list(structures)].rolling(window, min_periods=1).mean()

    def passed(name: str, share: float) -> int:
        return int((dice[name].iloc[start:] >= share * dice[name].iloc[-1]).idxmax())

    def deepest_fall(part: pd.DataFrame) -> float:
        return float((part.cummax() - part).max().max())

    start = int(dice.iloc[:max(1, len(dice) // 2)].mean(axis=1).idxmin())
    half_step = {name: passed(name, 0.5) for name in structures}
    falls = [deepest_fall(dice.iloc[passed(name, 0.1):passed(name, 0.9) + 1].drop(columns=name))
             for name in structures]
    return {"order": sorted(half_step, key=half_step.get), "half_step": half_step,
            "dip": max(falls), "noise": deepest_fall(dice.iloc[len(dice) // 2:]),
            "final": {name: float(dice[name].iloc[-1]) for name in structures}}


def evaluate(vae: ConvVAE, slices: Slices, split: dict[str, np.ndarray], samples: int,
             seed: int = 0) -> dict:
    """The numbers of one trained VAE, by part of the data they come from.

    Dice per class and mean of validation, test and unrotated test slices, reconstructed from mu;
    KL (nats) of all three parts; active dimensions (mean KL over the training slices above
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
        present = (~np.isnan(dice)).sum(axis=1)  # an empty slice that stays empty has no Dice
        results[f"{name}_dice"] = float(np.mean(np.nansum(dice, axis=1)[present > 0]
                                                / present[present > 0]))

    test, validation, train = (latents.Posterior(*np.split(
        _by_blocks(lambda part: np.concatenate(latents.encode(vae, part), axis=1), slices.aligned,
                   split[name]), 2, axis=1)) for name in ("test", "validation", "train"))
    kl = metrics.kl_per_dimension(*train)
    results |= {
        "test_kl": float(metrics.kl_per_dimension(*test).sum()),
        "validation_kl": float(metrics.kl_per_dimension(*validation).sum()),
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
    ratios = drawn_sd[real_sd > 0] / real_sd[real_sd > 0]
    # A single test slice has no spread to compare with.
    results["spread_prior"] = float(ratios.mean()) if len(ratios) else np.nan
    return results


def _by_blocks(measure, maps: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`measure` of maps[rows], a block at a time: the maps may lie on disk and not fit memory."""
    count = 16 * latents.batch_size(maps.shape[-1])
    return np.concatenate([measure(read_rows(maps, rows[start:start + count]))
                           for start in range(0, len(rows), count)])
