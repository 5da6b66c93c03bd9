"""What a trained VAE is worth: Dice, KL, active dimensions, valid samples."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from cvae_utils import shape_metrics
from cvae_utils.cache import kept_json, key_of
from cvae_utils.data.slices import Slices, read_rows
from cvae_utils.model import encoding, hardware
from cvae_utils.model.network import VAE
from cvae_utils.model.runs import Run


def measured(run: Run, slices: Slices, split: dict[str, np.ndarray]) -> Run:
    """The run with its results, `evaluate`: measured once, and kept with the run."""
    given = slices, split, run.config["profile"]["samples"], run.config["seed"]
    return replace(run, results=kept_json(run.folder, "results", key_for(*given, code=[evaluate]),
                                          lambda: evaluate(run.model, *given)))


def key_for(slices: Slices, split: dict[str, np.ndarray], *settings,
            code: Iterable[Callable]) -> str:
    """The key of what is measured with these slices, their split, settings and code."""
    rows = {part: np.asarray(numbers).tolist() for part, numbers in split.items()}
    return key_of(slices.fingerprint, rows, *settings, code=code)


@hardware.freed_memory_is_reused()
def evaluate(vae: VAE, slices: Slices, split: dict[str, np.ndarray], samples: int,
             seed: int = 0) -> dict:
    """The numbers of one trained VAE, by part of the data they come from.

    `rebuilt_results` of validation, test and unrotated test slices, reconstructed from mu; KL
    (nats) of all three parts; active dimensions (mean KL over the training slices above
    encoding.ACTIVE_KL) and the standard deviation of mu over them, strongest dimension first. Of
    `samples` label maps drawn from N(0, I), and of the real test slices: the share of valid ones,
    the same without the rule that MYO closes around LV, and the share without RV; and the spread
    of the samples: the standard deviation of the area of RV, MYO and LV over the real one, mean of
    the three (a model can be valid by drawing one heart over and over).
    """
    results = {"samples": samples}
    for name, maps, rows in (("validation", slices.aligned, split["validation"]),
                             ("test", slices.aligned, split["test"]),
                             ("unrotated", slices.unrotated, split["test"])):
        results |= rebuilt_results(name, _by_blocks(
            lambda part: judged(encoding.reconstruct(vae, part), part), maps, rows))
    posteriors = {name: encoding.Posterior(*np.split(_by_blocks(
        lambda part: np.concatenate(encoding.encode(vae, part), axis=1), slices.aligned, rows),
        2, axis=1)) for name, rows in split.items()}
    kl = {name: encoding.kl_per_dimension(*found) for name, found in posteriors.items()}
    order = np.argsort(-kl["train"])
    results |= {f"{name}_kl": float(kl[name].sum()) for name in ("test", "validation", "train")}
    results |= {
        "active_dimensions": int((kl["train"] > encoding.ACTIVE_KL).sum()),
        "kl_order": order.tolist(),
        "mu_sd": posteriors["train"].mu.std(axis=0)[order].tolist(),
    }
    drawn = encoding.decode(vae, encoding.sample_prior(samples, vae.latent_dim, seed))
    return results | _beside_real(drawn, slices, split["test"])


def judged(rebuilt: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Dice of RV, MYO and LV of each label map (N, S, S) and what was rebuilt of it, and whether
    that is valid, (N, 4)."""
    return np.column_stack([shape_metrics.dice_per_class(rebuilt, maps),
                            shape_metrics.is_valid(rebuilt)])


def rebuilt_results(part: str, found: np.ndarray) -> dict[str, float]:
    """Dice of each class and mean over slices, and the share of valid ones, as results name them;
    found: (N, 4), see `judged`. An empty slice that stays empty has no Dice."""
    scores, valid = found[:, :-1], found[:, -1]
    by_class = shape_metrics.mean_by_class(scores)
    return {f"{part}_dice": float(np.nanmean(shape_metrics.mean_of_present(scores, axis=1))),
            **{f"{part}_dice_{structure}": value for structure, value in by_class.items()},
            f"{part}_valid": float(valid.mean())}


def _beside_real(drawn: np.ndarray, slices: Slices, test: np.ndarray) -> dict[str, float]:
    """Anatomy of drawn slices (N, S, S) and of the real test slices, and the drawn ones' spread."""
    results, areas = {}, {}
    for name, maps, rows in (("prior", drawn, np.arange(len(drawn))),
                             ("real", slices.aligned, test)):
        areas[name] = _by_blocks(shape_metrics.areas, maps, rows)
        results[f"no_rv_{name}"] = float((areas[name][:, 0] == 0).mean())
        results[f"valid_{name}"] = float(_by_blocks(shape_metrics.is_valid, maps, rows).mean())
        results[f"valid_{name}_open_wall"] = float(
            _by_blocks(lambda part: shape_metrics.is_valid(part, True), maps, rows).mean())
    drawn_sd, real_sd = areas["prior"].std(axis=0), areas["real"].std(axis=0)
    ratios = drawn_sd[real_sd > 0] / real_sd[real_sd > 0]
    # A single test slice has no spread to compare with.
    results["spread_prior"] = float(ratios.mean()) if len(ratios) else np.nan
    return results


def _by_blocks(measure, maps: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`measure` of maps[rows], a block at a time: the maps may lie on disk and not fit memory."""
    count = 16 * encoding.batch_size(maps.shape[-1])
    return np.concatenate([measure(read_rows(maps, rows[start:start + count]))
                           for start in range(0, len(rows), count)])
