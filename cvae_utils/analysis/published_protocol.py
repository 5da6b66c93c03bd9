"""Numbers as published work counts them: absent structures count 1."""

import numpy as np

from cvae_utils import shape_metrics
from cvae_utils.analysis import latent_priors, refinement
from cvae_utils.analysis.run_results import key_for
from cvae_utils.cache import kept_json
from cvae_utils.data.slices import Slices, read_rows
from cvae_utils.labels import Label
from cvae_utils.model import encoding
from cvae_utils.model.runs import Run

#: Rows at 128 x 128, not rotated, of all slices of patients 101-150, 8 latent dimensions ("Cardiac
#: Shape Analysis with Nouveau Variational Autoencoder", 2024). Their loss sums cross-entropy over
#: the picture, so their beta is 4 of ours: 256^2 / 128^2. valid, dice: lowest and highest given.
#: latents: values that describe a slice, of the hierarchical model those of its default settings.
PUBLISHED = (
    {"title": "VAE, their beta 1", "latents": 8, "dice": (0.873, 0.873), "valid": (0.19, 0.19)},
    {"title": "VAE, their beta 100", "latents": 8, "dice": (0.849, 0.849),
     "valid": (0.745, 0.745)},
    {"title": "VAE, their beta 1000", "latents": 8, "dice": (0.646, 0.646),
     "valid": (0.099, 0.099)},
    {"title": "hierarchical NVAE", "latents": 23_360, "dice": (0.951, 0.964),
     "valid": (0.86, 0.97)},
)


def dice_counting_empty(predicted: np.ndarray, target: np.ndarray) -> float:
    """Mean Dice over slices and RV, MYO, LV, where a class absent from both maps counts 1."""
    return float(np.nan_to_num(shape_metrics.dice_per_class(predicted, target), nan=1.0).mean())


def valid_with_lv(maps: np.ndarray) -> float:
    """Share of anatomically valid ones among the maps (N, S, S) that have an LV."""
    return float(shape_metrics.is_valid(maps[(maps == Label.LV).any(axis=(1, 2))]).mean())


def rebuilt(run: Run, slices: Slices, split: dict[str, np.ndarray]) -> dict[str, float]:
    """Dice of the test slices as published work counts it: test_dice, rebuilt from mu, and
    refined_dice, from the refined z. Measured once, and kept with the run."""
    def make() -> dict[str, float]:
        part = read_rows(slices.aligned, split["test"])
        prior = latent_priors.of(run, "gaussian", slices, split)
        z = refinement.refine(run.model, part, prior, run.config["beta"])
        return {"test_dice": dice_counting_empty(encoding.reconstruct(run.model, part), part),
                "refined_dice": dice_counting_empty(encoding.decode(run.model, z), part)}

    return kept_json(run.folder, "published-dice", key_for(slices, split, code=[rebuilt]), make)


def valid_samples(run: Run, kind: str, slices: Slices, split: dict[str, np.ndarray],
                  temperature: float = 1.0) -> float:
    """Share of valid samples of one of a run's priors, at a temperature, as published work counts
    them. Measured once, and kept with the run."""
    samples, seed = run.config["profile"]["samples"], run.config["seed"]
    key = key_for(slices, split, samples, seed, code=[valid_samples])
    prior = latent_priors.of(run, kind, slices, split)
    return kept_json(run.folder, f"published-valid-{kind}-at-{temperature:g}", key,
                     lambda: valid_with_lv(encoding.decode(
                         run.model, prior.sample(samples, seed, temperature))))
