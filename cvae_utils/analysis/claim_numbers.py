"""The numbers of one seed by which the report's claims are decided: see analysis.claims.

Each function measures what one section of the claims asks for, and names its numbers as the rules
do. A number that this data cannot give is left out or NaN.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from tqdm.auto import tqdm

from cvae_utils import shape_metrics
from cvae_utils.analysis import dimensions, latent_values, projections, sample_quality
from cvae_utils.analysis.learning_phases import LEARNT, learning_phases
from cvae_utils.analysis.run_results import key_for
from cvae_utils.cache import kept_json
from cvae_utils.data.slices import Slices
from cvae_utils.labels import STRUCTURE_NAMES, Label
from cvae_utils.model import encoding, losses
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
    lacking = [given for given in seeds if not _file(*given).is_file()]
    if len(lacking) > 1:
        each = joblib.Parallel(min(len(lacking), joblib.cpu_count()), return_as="generator")(
            joblib.delayed(measured)(*given) for given in lacking)
        list(tqdm(each, "seeds measured", len(lacking)))
    return [measured(*given) for given in seeds]


def measured(runs: Mapping[str, Run], slices: Slices, split: dict[str, np.ndarray],
             seed: int) -> dict[str, float]:
    """The numbers of one seed, by name: measured once, and kept with the run "report".

    runs: "report" (beta 1000, by patient), and what differs from it in one thing: "low" (beta 1),
    "slice" (split by slice), "linear" and "late-exponential" (schedules of beta), "coupled" (L2
    inside Adam), "undivided" (KL without a divisor). split: of the patients, rows of `slices`.
    """
    return kept_json(runs["report"].folder, "claims", _key(runs, slices, split, seed),
                     lambda: _measure(runs, slices, split, seed))


def _key(runs: Mapping[str, Run], slices: Slices, split: dict[str, np.ndarray], seed: int) -> str:
    names = {name: run.folder.name for name, run in runs.items()}
    return key_for(slices, split, seed, names, code=[_measure])


def _file(runs: Mapping[str, Run], *given) -> Path:
    """Where `measured` keeps what it returns."""
    return runs["report"].folder / f"claims-{_key(runs, *given)}.json"


def _measure(runs: Mapping[str, Run], slices: Slices, split: dict[str, np.ndarray],
             seed: int) -> dict[str, float]:
    report, low, train = runs["report"], runs["low"], split["train"]
    maps, table = slices.aligned[train], slices.table.iloc[train]
    test = slices.aligned[split["test"]]
    found = (
        learning(report, low, shape_metrics.structures_in(slices.aligned))
        | reconstruction(report, test, slices.table["crop_mm"].to_numpy()[split["test"]])
        | rotation(report, runs["slice"])
        | samples(report, maps, test, seed)
        | values(low, report, maps)
        | planes(low, report, maps, table, seed)
        | of_dimensions(report, maps)
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
    return found | {"scale_95": float(np.nanpercentile(off, 95)),
                    "position_95": float(np.nanpercentile(apart, 95))}


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


def values(low: Run, high: Run, maps: np.ndarray) -> dict[str, float]:
    """How one z a slice is distributed: at the low beta, the share of dimensions with two modes
    apart, and with that or another scale; at the high one, the largest |mean| and the share of
    values within -3..3, %."""
    z = {name: encoding.encode(run.model, maps).sample(0)
         for name, run in (("low", low), ("high", high))}
    apart = latent_values.modes_apart(z["low"])
    scaled = np.abs(z["low"].std(axis=0) - 1) > 0.2
    return {"apart_low": apart.mean(), "odd_low": (apart | scaled).mean(),
            "apart_high": latent_values.modes_apart(z["high"]).mean(),
            "largest_mean": np.abs(z["high"].mean(axis=0)).max(),
            "within": 100 * (np.abs(z["high"]) <= 3).mean()}


def planes(low: Run, high: Run, maps: np.ndarray, table: pd.DataFrame,
           seed: int) -> dict[str, float]:
    """Clumps and groups in the UMAP plane, groups in t-SNE with three components, and how much the
    traversals of the strongest dimensions overlap in the UMAP plane at the high beta."""
    groups, patients = table["group"].to_numpy(), table["patient"].to_numpy()
    found = {}
    for name, run in (("low", low), ("high", high)):
        mu = encoding.encode(run.model, maps).mu
        fits = [projections.fit_umap(mu, seed + n) for n in range(UMAP_SEEDS)]
        found |= votes(f"tsne_{name}", projections.fit_tsne(mu, seed), groups, patients)
        found |= votes(f"umap_{name}", fits[0].embedding_, groups, patients)
        found[f"clumps_{name}"] = float(np.mean(
            [projections.count_clusters(fit.embedding_) for fit in fits]))
    return found | overlaps(high, fits[0])


def votes(name: str, points: np.ndarray, groups: np.ndarray,
          patients: np.ndarray) -> dict[str, float]:
    """How well neighbours tell the group, by projections.neighbour_accuracy: accuracy as `name`,
    with _chance and _p."""
    vote = projections.neighbour_accuracy(points, groups, patients)
    return {name: vote.accuracy, f"{name}_chance": vote.chance, f"{name}_p": vote.p}


def overlaps(run: Run, fitted) -> dict[str, float]:
    """overlap_*: the share of slices that two traversals both reach in the plane, mean over pairs
    of the three strongest active dimensions. From OUTER on, and where the heart is valid."""
    found = dict.fromkeys((f"overlap_{cut:g}" for cut in OUTER), np.nan)
    traversals, top = _strongest(run, 3)
    if len(top) < 2:
        return found
    position = np.abs(np.linspace(-dimensions.LIMIT, dimensions.LIMIT, dimensions.STEPS))
    valid = dimensions.valid_steps(traversals[top])
    landed = [fitted.transform(encoding.encode(run.model, traversals[d]).mu) for d in top]
    for cut in OUTER:
        outer = [points[counts & (position >= cut)] for points, counts in zip(landed, valid)]
        shares = [projections.overlap(a, b, fitted.embedding_)
                  for a, b in combinations(outer, 2) if len(a) and len(b)]
        found[f"overlap_{cut:g}"] = float(np.mean(shares)) if shares else np.nan
    return found


def _strongest(run: Run, count: int) -> tuple[np.ndarray, list[int]]:
    """All traversals (Z, steps, S, S), and the most influential of the active dimensions."""
    traversals = dimensions.traverse_all(run.model)
    origin = encoding.decode(run.model, np.zeros((1, run.model.latent_dim)))[0]
    ranked = dimensions.influence(traversals, origin)["dimension"]
    active = set(run.results["kl_order"][:run.results["active_dimensions"]])
    return traversals, [d for d in ranked if d in active][:count]


def of_dimensions(run: Run, maps: np.ndarray) -> dict[str, float]:
    """How many dimensions matter, whether they are those of the report, and how far the one that
    changes the RV goes; effects are measured where hearts are valid."""
    traversals, _ = _strongest(run, 3)
    origin = encoding.decode(run.model, np.zeros((1, run.model.latent_dim)))[0]
    valid = dimensions.valid_steps(traversals)
    ranking = dimensions.influence(traversals, origin)
    departure = 1 - ranking["mean_dice"]
    found = {"active": float(run.results["active_dimensions"]),
             "top_three": _ratio(departure[:3].sum(), departure.sum())}
    effect = dimensions.effects(traversals, shape_metrics.describe(maps), valid)
    found |= named(effect, ranking["dimension"].tolist())
    with_rv = maps[(maps == Label.RV).any(axis=(1, 2))]
    if len(with_rv):
        rv = int(dimensions.report_effects(effect).set_index("report").at["shape of RV",
                                                                          "dimension"])
        area = shape_metrics.areas(traversals[rv])[:, 0]
        path = traversals[rv][valid[rv]]
        own = shape_metrics.dice_per_class(encoding.reconstruct(run.model, with_rv), with_rv)[:, 0]
        met = dimensions.best_overlap(path, with_rv, Label.RV)
        found |= {"reach": float((met >= MET).mean()), "reach_all": float((own >= MET).mean()),
                  "without_rv": float((area == 0).mean()), "jump": dimensions.harshness(area)}
    return found


def named(effect: pd.DataFrame, ranked: list[int]) -> dict[str, float]:
    """Where the report's seven effects are found; effect: (Z, descriptors), ranked: dimensions, the
    most influential first.

    main_effects: how many of the three most influential dimensions are the strongest in one of its
    three main effects. further_effects: how many of its four others are strongest beyond these.
    """
    strongest = dimensions.report_effects(effect)["dimension"].tolist()
    return {"main_effects": float(len(set(strongest[:3]) & set(ranked[:3]))),
            "further_effects": float(sum(d not in ranked[:3] for d in strongest[3:]))}


def optimisation(runs: Mapping[str, Run], test: np.ndarray) -> dict[str, float]:
    """How much lower, in %, a schedule of beta leaves the loss of test slices (N, S, S); KL (nats)
    with L2 inside and beside Adam; active dimensions where KL is not divided."""
    beta = runs["report"].config["beta"]
    plain = test_loss(runs["report"], test, beta)
    found = {f"gain_{name}": 100 * (1 - test_loss(runs[name], test, beta) / plain)
             for name in ("linear", "late-exponential")}
    return found | {"kl_inside": runs["coupled"].results["test_kl"],
                    "kl_beside": runs["report"].results["test_kl"],
                    "active_undivided": float(runs["undivided"].results["active_dimensions"])}


@torch.inference_mode()
def test_loss(run: Run, maps: np.ndarray, beta: float) -> float:
    """Mean loss at this beta of label maps (N, S, S), rebuilt from mu."""
    device, total = next(run.model.parameters()).device, 0.0
    for start in range(0, len(maps), 256):
        target = one_hot(torch.from_numpy(maps[start:start + 256]).to(device))
        mu, logvar = run.model.encode(target)
        terms = losses.loss_terms(run.model.decode(mu), target, mu, logvar)
        total += len(target) * terms.total(beta).item()
    return total / len(maps)
