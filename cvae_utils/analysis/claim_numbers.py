"""The numbers of one seed by which the report's claims are decided: see analysis.claims.

Each function measures what one section of the claims asks for, and names its numbers as the rules
do. A number that this data cannot give is left out or NaN.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from cvae_utils import shape_metrics
from cvae_utils.analysis import dimensions, latent_values, projections, sample_quality
from cvae_utils.analysis.learning_phases import LEARNT, learning_phases
from cvae_utils.analysis.run_results import key_for
from cvae_utils.analysis.side_by_side import side_by_side
from cvae_utils.cache import kept_at, kept_json
from cvae_utils.data.slices import Slices
from cvae_utils.labels import STRUCTURE_NAMES, Label
from cvae_utils.model import encoding, hardware, losses
from cvae_utils.model.encoding import Posterior
from cvae_utils.model.network import one_hot
from cvae_utils.model.runs import Run

#: Fits of UMAP, each with a seed of its own, for one latent space.
UMAP_SEEDS = 5
#: A sound overlap of an RV with one that a traversal meets.
MET = 0.7
#: From how far out the parts of two traversals are compared: near 0 all show the mean shape.
OUTER = (0.5, 1.0, 1.5)


def measured_together(seeds: Sequence[tuple]) -> list[dict[str, float]]:
    """`measured` of several seeds, each a tuple of its arguments; several at a time."""
    lacking = [given for given in seeds if not kept_at(
        given[0]["report"].folder, "claims", _key(*given), ".json").is_file()]
    if len(lacking) > 1:
        side_by_side(measured, lacking, "seeds measured")
    return [measured(*given) for given in seeds]


def measured(runs: Mapping[str, Run], slices: Slices, split: dict[str, np.ndarray],
             seed: int) -> dict[str, float]:
    """The numbers of one seed, by name: measured once, and kept with the run "report".

    runs: "report" (beta 1000, by patient), and what differs from it in one thing: "low" (beta 1),
    "slice" (split by slice), "linear" and "late-exponential" (schedules of beta), "coupled" (L2
    inside Adam), "undivided" (KL without a divisor). split: of the patients, rows of `slices`.
    """
    # On one thread, here as in the processes of measured_together: with more, sums are rounded in
    # another way.
    with hardware.threads(1):
        return kept_json(runs["report"].folder, "claims", _key(runs, slices, split, seed),
                         lambda: _measure(runs, slices, split, seed))


def _key(runs: Mapping[str, Run], slices: Slices, split: dict[str, np.ndarray], seed: int) -> str:
    names = {name: run.folder.name for name, run in runs.items()}
    return key_for(slices, split, seed, names, code=[_measure])


def _measure(runs: Mapping[str, Run], slices: Slices, split: dict[str, np.ndarray],
             seed: int) -> dict[str, float]:
    report, low, train = runs["report"], runs["low"], split["train"]
    maps, table = slices.aligned[train], slices.table.iloc[train]
    test, moved = slices.aligned[split["test"]], Moved.of(report)
    at_low, at_high = (encoding.encode(run.model, maps) for run in (low, report))
    fitted = umaps(at_high.mu, seed)
    found = (
        learning(report, low, shape_metrics.structures_in(slices.aligned))
        | reconstruction(report, test, slices.table["crop_mm"].to_numpy()[split["test"]])
        | rotation(report, runs["slice"])
        | samples(report, maps, test, seed)
        | values(at_low, at_high)
        | planes("low", at_low.mu, umaps(at_low.mu, seed), table, seed)
        | planes("high", at_high.mu, fitted, table, seed)
        | overlaps(report, moved, fitted[0])
        | of_dimensions(report, moved, maps)
        | optimisation(runs, test))
    return {name: float(value) for name, value in found.items()}


def learning(report: Run, low: Run, structures=STRUCTURE_NAMES) -> dict[str, float]:
    """Steps at which half of the final soft Dice is reached, dips of soft Dice, and how far, in %,
    the validation loss ends above its lowest, at beta 1000 and 1."""
    phases = learning_phases(report.steps, structures)
    found = {f"half_{name}": float(step) if phases["final"][name] >= LEARNT else np.nan
             for name, step in phases["half_step"].items()}
    losses_of = {"rise": report, "rise_low": low}
    return found | {"dip": phases["dip"], "noise": phases["noise"]} | {
        name: 100 * (run.history["validation_loss"].iloc[-1]
                     / run.history["validation_loss"].min() - 1)
        for name, run in losses_of.items()}


def reconstruction(run: Run, maps: np.ndarray, crop_mm: np.ndarray) -> dict[str, float]:
    """What is lost when slices (N, S, S), whose pictures have a side of crop_mm (N,), are rebuilt.

    hd95_*: mm, mean over slices. lost_*: squared error over variance, of the area of the RV (mm^2),
    the thickness of MYO and the diameter of LV + MYO (mm). scale_95 (%), position_95 (mm): what 95
    % of the slices stay below, of the diameter of LV + MYO and of its centre.
    """
    rebuilt = encoding.reconstruct(run.model, maps)
    hd95 = shape_metrics.hd95(rebuilt, maps, crop_mm / maps.shape[-1])
    found = dict(zip([f"hd95_{name}" for name in STRUCTURE_NAMES],
                     shape_metrics.mean_of_present(hd95, axis=0).tolist()))
    sizes = [_sizes(part, crop_mm) for part in (rebuilt, maps)]
    for name in ("rv", "wall", "diameter"):
        ours, true = (size[name] for size in sizes)
        found[f"lost_{name}"] = _ratio(np.nanmean((ours - true) ** 2), np.nanvar(true))
    ours, true = sizes
    off = 100 * np.abs(ours["diameter"] / true["diameter"] - 1)
    apart = np.hypot(ours["x"] - true["x"], ours["y"] - true["y"])
    return found | {"scale_95": np.nanpercentile(off, 95),
                    "position_95": np.nanpercentile(apart, 95)}


def _sizes(maps: np.ndarray, crop_mm: np.ndarray) -> dict[str, np.ndarray]:
    """Sizes of hearts in mm, and the area of the RV in mm^2, (N,) each."""
    described = shape_metrics.describe(maps)
    whole = (maps == Label.LV) | (maps == Label.MYO)
    centre = np.array([ndimage.center_of_mass(heart) if heart.any() else (np.nan, np.nan)
                       for heart in whole])  # (N, 2): y, x
    y, x = (centre * (crop_mm / maps.shape[-1])[:, None]).T
    return {"rv": described["area_rv"].to_numpy() * crop_mm**2,
            "wall": described["wall"].to_numpy() * crop_mm,
            "diameter": 2 * np.sqrt(described["area_lv_myo"].to_numpy() / np.pi) * crop_mm,
            "x": x, "y": y}


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else np.nan


def rotation(by_patient: Run, by_slice: Run) -> dict[str, float]:
    """Dice that each structure loses where slices lie as in the scanner, for either split; and the
    Dice of aligned test slices."""
    found = {"dice_patient": by_patient.results["test_dice"],
             "dice_slice": by_slice.results["test_dice"]}
    for prefix, run in (("turned", by_patient), ("slice_turned", by_slice)):
        found |= {f"{prefix}_{name}": run.results[f"test_dice_{name}"]
                  - run.results[f"unrotated_dice_{name}"] for name in STRUCTURE_NAMES}
    return found


def samples(run: Run, training: np.ndarray, test: np.ndarray, seed: int) -> dict[str, float]:
    """Samples from N(0, I) beside real test slices: more_valid, in points of %, and coverage of the
    training slices, as a share of what as many real ones cover."""
    reference = sample_quality.Reference(training)
    drawn = encoding.decode(run.model, encoding.sample_prior(len(test), run.model.latent_dim, seed))
    k = min(5, len(training) - 1)
    cover, real = (sample_quality.density_coverage(reference.points, reference.of(maps), k)[1]
                   for maps in (drawn, test))
    return {"more_valid": 100 * (run.results["valid_prior"] - run.results["valid_real"]),
            "coverage_of_real": _ratio(cover, real)}


def values(low: Posterior, high: Posterior) -> dict[str, float]:
    """How one z a slice is distributed: at the low beta, the share of dimensions with two modes
    apart, and with that or another scale; at the high one, the largest |mean| and the share of
    values within -3..3, %."""
    at_low, at_high = low.sample(0), high.sample(0)
    apart = latent_values.modes_apart(at_low)
    scaled = np.abs(at_low.std(axis=0) - 1) > 0.2
    return {"apart_low": apart.mean(), "odd_low": (apart | scaled).mean(),
            "apart_high": latent_values.modes_apart(at_high).mean(),
            "largest_mean": np.abs(at_high.mean(axis=0)).max(),
            "within": 100 * (np.abs(at_high) <= 3).mean()}


def umaps(mu: np.ndarray, seed: int) -> list:
    """Fits of UMAP to latent means (N, Z), which differ in their seed alone."""
    return [projections.fit_umap(mu, seed + n) for n in range(UMAP_SEEDS)]


def planes(name: str, mu: np.ndarray, fitted: list, table: pd.DataFrame,
           seed: int) -> dict[str, float]:
    """Clumps (clumps_, mean over the fits) and groups (umap_, in the first) in the UMAP plane, and
    groups in t-SNE with three components (tsne_), of latent means (N, Z); table: their rows."""
    groups, patients = table["group"].to_numpy(), table["patient"].to_numpy()
    clumps = [projections.count_clusters(fit.embedding_) for fit in fitted]
    return (votes(f"tsne_{name}", projections.fit_tsne(mu, seed), groups, patients)
            | votes(f"umap_{name}", fitted[0].embedding_, groups, patients)
            | {f"clumps_{name}": np.mean(clumps)})


def votes(name: str, points: np.ndarray, groups: np.ndarray,
          patients: np.ndarray) -> dict[str, float]:
    """How well neighbours tell the group, by projections.neighbour_accuracy: accuracy as `name`,
    with _chance and _p."""
    vote = projections.neighbour_accuracy(points, groups, patients)
    return {name: vote.accuracy, f"{name}_chance": vote.chance, f"{name}_p": vote.p}


class Moved(NamedTuple):
    """What each dimension of a run does when it is moved alone."""

    traversals: np.ndarray  # (Z, steps, S, S)
    valid: np.ndarray  # (Z, steps), which pictures are
    ranking: pd.DataFrame  # dimensions.influence

    @classmethod
    def of(cls, run: Run) -> "Moved":
        traversals = dimensions.traverse_all(run.model)
        origin = encoding.decode(run.model, np.zeros((1, run.model.latent_dim)))[0]
        return cls(traversals, dimensions.valid_steps(traversals),
                   dimensions.influence(traversals, origin))


def overlaps(run: Run, moved: Moved, fitted) -> dict[str, float]:
    """overlap_*: the share of slices that two traversals both reach in the plane, mean over pairs
    of the three strongest active dimensions. From OUTER on, and where the heart is valid. fitted:
    UMAP of the training slices."""
    active = set(run.results["kl_order"][:run.results["active_dimensions"]])
    top = [d for d in moved.ranking["dimension"] if d in active][:3]
    landed = {d: fitted.transform(encoding.encode(run.model, moved.traversals[d]).mu) for d in top}
    position = np.abs(np.linspace(-dimensions.LIMIT, dimensions.LIMIT, dimensions.STEPS))
    found = {}
    for cut in OUTER:
        outer = [landed[d][moved.valid[d] & (position >= cut)] for d in top]
        shares = [projections.overlap(a, b, fitted.embedding_)
                  for a, b in combinations(outer, 2) if len(a) and len(b)]
        found[f"overlap_{cut:g}"] = np.mean(shares) if shares else np.nan
    return found


def of_dimensions(run: Run, moved: Moved, maps: np.ndarray) -> dict[str, float]:
    """How many dimensions matter, whether they are those of the report, and how far the one that
    changes the RV goes; maps: training slices. Effects are measured where hearts are valid."""
    departure = 1 - moved.ranking["mean_dice"]
    effect = dimensions.effects(moved.traversals, shape_metrics.describe(maps), moved.valid)
    found = {"active": run.results["active_dimensions"],
             "top_three": _ratio(departure[:3].sum(), departure.sum())}
    found |= named(effect, moved.ranking["dimension"].tolist())
    with_rv = maps[(maps == Label.RV).any(axis=(1, 2))]
    if not len(with_rv):
        return found
    by_effect = dimensions.report_effects(effect).set_index("report")["dimension"]
    rv = by_effect["shape of RV"]
    area = shape_metrics.areas(moved.traversals[rv])[:, 0]
    met = dimensions.best_overlap(moved.traversals[rv][moved.valid[rv]], with_rv, Label.RV)
    own = shape_metrics.dice_per_class(encoding.reconstruct(run.model, with_rv), with_rv)[:, 0]
    return found | {"reach": (met >= MET).mean(), "reach_all": (own >= MET).mean(),
                    "without_rv": (area == 0).mean(), "jump": dimensions.harshness(area)}


def named(effect: pd.DataFrame, ranked: list[int]) -> dict[str, float]:
    """Where the report's seven effects are found; effect: (Z, descriptors), ranked: dimensions, the
    most influential first.

    main_effects: how many of the three most influential dimensions are the strongest in one of its
    three main effects. further_effects: how many of its four others are strongest beyond these.
    """
    strongest = dimensions.report_effects(effect)["dimension"].tolist()
    return {"main_effects": len(set(strongest[:3]) & set(ranked[:3])),
            "further_effects": sum(d not in ranked[:3] for d in strongest[3:])}


def optimisation(runs: Mapping[str, Run], test: np.ndarray) -> dict[str, float]:
    """How much lower, in %, a schedule of beta leaves the loss of test slices (N, S, S); KL (nats)
    with L2 inside and beside Adam; active dimensions where KL is not divided."""
    beta = runs["report"].config["beta"]
    plain = loss_at(runs["report"], test, beta)
    found = {f"gain_{name}": 100 * (1 - loss_at(runs[name], test, beta) / plain)
             for name in ("linear", "late-exponential")}
    return found | {"kl_inside": runs["coupled"].results["test_kl"],
                    "kl_beside": runs["report"].results["test_kl"],
                    "active_undivided": runs["undivided"].results["active_dimensions"]}


@torch.inference_mode()
def loss_at(run: Run, maps: np.ndarray, beta: float) -> float:
    """Mean loss at this beta of label maps (N, S, S), rebuilt from mu."""
    device, total = next(run.model.parameters()).device, 0.0
    step = encoding.batch_size(maps.shape[-1])
    for start in range(0, len(maps), step):
        target = one_hot(torch.from_numpy(maps[start:start + step]).to(device))
        mu, logvar = run.model.encode(target)
        terms = losses.loss_terms(run.model.decode(mu), target, mu, logvar)
        total += len(target) * terms.total(beta).item()
    return total / len(maps)
