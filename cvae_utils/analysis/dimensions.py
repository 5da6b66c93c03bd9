"""What each latent dimension does to a heart: traversals, influence, effects, names."""

from collections import Counter

import numpy as np
import pandas as pd

from cvae_utils import shape_metrics
from cvae_utils.labels import STRUCTURES, Label
from cvae_utils.model.encoding import decode
from cvae_utils.model.network import VAE
from cvae_utils.shape_metrics import DESCRIPTORS

#: Traversals of the report: one dimension from -3 to 3 in 50 steps, the others at 0.
LIMIT, STEPS = 3.0, 50

#: A descriptor whose standard deviation over the training slices is no more than this is constant.
CONSTANT = 1e-9

#: What more and less of a descriptor is, in words. On the screen y points down, and the RV is left;
#: where the LV leaves the middle of MYO, the wall is thinner on that side.
MOVES = {
    "area_lv": ("larger LV", "smaller LV"),
    "area_myo": ("larger MYO", "smaller MYO"),
    "area_rv": ("larger RV", "smaller RV"),
    "area_lv_myo": ("larger LV + MYO", "smaller LV + MYO"),
    "wall": ("thicker wall", "thinner wall"),
    "offset_x": ("wall thicker at the RV", "wall thicker opposite the RV"),
    "offset_y": ("wall thicker above", "wall thicker below"),
    "extent_x": ("wider LV + MYO", "narrower LV + MYO"),
    "extent_y": ("taller LV + MYO", "flatter LV + MYO"),
    "rv_eccentricity": ("longer RV", "rounder RV"),
}

#: The effects that the report names, and the descriptors that measure each.
REPORT_EFFECTS = {
    "size of LV + MYO": ("area_lv_myo",),
    "shape of RV": ("area_rv", "rv_eccentricity"),
    "thickness of MYO": ("wall",),
    "LV off-centre in MYO, vertical": ("offset_y",),
    "LV off-centre in MYO, horizontal": ("offset_x",),
    "LV + MYO size, horizontal": ("extent_x",),
    "LV + MYO size, vertical": ("extent_y",),
}


def traverse(dimension: int, latent_dim: int, steps: int = STEPS,
             limit: float = LIMIT) -> np.ndarray:
    """z (steps, Z): `dimension` goes from -limit to limit, the others stay 0."""
    z = np.zeros((steps, latent_dim), dtype=np.float32)
    z[:, dimension] = np.linspace(-limit, limit, steps)
    return z


def traverse_all(model: VAE, steps: int = STEPS) -> np.ndarray:
    """Decoded traversals of every dimension, (Z, steps, S, S) uint8."""
    return np.stack([decode(model, traverse(d, model.latent_dim, steps))
                     for d in range(model.latent_dim)])


def influence(traversals: np.ndarray, mean_shape: np.ndarray) -> pd.DataFrame:
    """How far each traversal leaves the mean shape, strongest first.

    traversals: (Z, steps, S, S); mean_shape: (S, S), the decoded z = 0. Columns: dimension;
    mean_dice, the mean over the steps of the Dice to the mean shape (low is influential); and
    variance, its variance over the steps (high is influential).
    """
    scores = np.stack([
        shape_metrics.dice_per_slice(maps, np.broadcast_to(mean_shape, maps.shape))
        for maps in traversals
    ])  # (Z, steps)
    table = pd.DataFrame({"dimension": np.arange(len(scores)), "mean_dice": scores.mean(axis=1),
                          "variance": scores.var(axis=1)})
    return table.sort_values("mean_dice", kind="stable").reset_index(drop=True)


def valid_steps(traversals: np.ndarray) -> np.ndarray:
    """Which pictures of traversals (Z, steps, S, S) are anatomically valid, (Z, steps) bool."""
    return np.stack([shape_metrics.is_valid(maps) for maps in traversals])


def effects(traversals: np.ndarray, training: pd.DataFrame,
            where: np.ndarray | None = None) -> pd.DataFrame:
    """What each dimension does to each shape descriptor, (Z, descriptors), from -3 to 3.

    training: shape_metrics.describe of the training slices. where: the steps that count, (Z, steps)
    bool, such as valid_steps, so that pictures that have fallen apart do not; all by default. The
    slope of a straight line through the descriptor along the traversal, times the part of the
    traversal over which it is defined, in its standard deviations over the training slices. A line
    uses all steps, so that one odd picture at an end does not decide. A descriptor that is
    undefined in more than half of them has effect 0; so has one that is undefined or the same in
    all training slices (the RV's, where no slice has an RV).
    """
    position = np.linspace(-LIMIT, LIMIT, traversals.shape[1])
    where = np.ones(traversals.shape[:2], bool) if where is None else where
    changes = pd.DataFrame([
        {name: _change(position[counts], column.to_numpy())
         for name, column in shape_metrics.describe(maps[counts]).items()}
        for maps, counts in zip(traversals, where)])
    sd = training[list(DESCRIPTORS)].std()
    return (changes / sd.where(sd > CONSTANT)).fillna(0.0)


def _change(x: np.ndarray, y: np.ndarray) -> float:
    """Change of y along its straight line fit, from the first to the last x where y is defined."""
    defined = ~np.isnan(y)
    if defined.sum() < max(2, 0.5 * len(y)):
        return 0.0
    x, y = x[defined], y[defined]
    return float(np.polyfit(x, y, 1)[0] * (x[-1] - x[0]))


def name_dimensions(effect: pd.DataFrame) -> pd.DataFrame:
    """Name each dimension by its strongest effect; (Z) rows: name, effect, purity.

    effect: from `effects`. A second effect that is at least 0.8 of the strongest is named too,
    after a slash. purity is the square of the strongest effect as a share of the sum of the squares
    of all: 1 when nothing else changes.
    """
    rows = {}
    for dimension, values in effect.iterrows():
        named, ranked = _strongest(values)
        strongest = values[ranked[0]] if ranked else 0.0
        rows[dimension] = {
            "name": " / ".join(DESCRIPTORS[name] for name in ranked[:named]) or "no effect",
            "effect": strongest,
            "purity": strongest**2 / (values**2).sum() if ranked else 0.0}
    return pd.DataFrame(rows).T.astype({"effect": float, "purity": float})


def _strongest(values: pd.Series) -> tuple[int, list[str]]:
    """How many of a dimension's effects name it, and which it has, the strongest first.

    The strongest one, and a second one of at least 0.8 of it: such a tie decides nothing.
    """
    ranked = sorted(values.index[values != 0], key=lambda name: -abs(values[name]))
    tie = len(ranked) > 1 and abs(values[ranked[1]]) >= 0.8 * abs(values[ranked[0]])
    return 2 if tie else 1, ranked


def describe_moves(effect: pd.DataFrame) -> list[str]:
    """What a move from the first to the last picture of each traversal does, in words, (Z,).

    effect: from `effects`. The strongest effect, as in "smaller LV", and a second one where it is
    nearly as strong, as in `name_dimensions`. Dimensions of the same words get their next strongest
    effects too, three in all at most, until the words differ.
    """
    counts, words = [], []
    for _, values in effect.iterrows():
        named, ranked = _strongest(values)
        counts.append(named)
        words.append([MOVES[name][int(values[name] < 0)] for name in ranked])
    for _ in range(2):
        told = [tuple(own[:count]) for own, count in zip(words, counts)]
        times = Counter(told)
        counts = [min(count + (times[own] > 1), 3) for own, count in zip(told, counts)]
    return [", ".join(own[:count]) or "no effect" for own, count in zip(words, counts)]


def report_effects(effect: pd.DataFrame) -> pd.DataFrame:
    """For each effect that the report names: which dimension does it here, and how purely.

    An effect with two descriptors (the RV's shape: its area or its eccentricity) is measured by
    the one that changes more.

    Columns: dimension (the one with the largest such effect), effect (training standard
    deviations from -3 to 3), purity (its share of that dimension's squared effects), share (that
    dimension's share of the squared effect over all dimensions).
    """
    rows = []
    for title, names in REPORT_EFFECTS.items():
        name = max(names, key=lambda n: effect[n].abs().max())
        squared = effect[name] ** 2
        dimension = int(squared.idxmax())
        total = float((effect.loc[dimension] ** 2).sum())
        rows.append({"report": title, "measured by": DESCRIPTORS[name], "dimension": dimension,
                     "effect": effect.at[dimension, name],
                     "purity": squared[dimension] / total if total else 0.0,
                     "share": squared[dimension] / squared.sum() if squared.sum() else 0.0})
    return pd.DataFrame(rows)


def best_overlap(path: np.ndarray, maps: np.ndarray, structure: Label) -> np.ndarray:
    """Dice of each map's structure with that of the picture that overlaps it best, (N,).

    path: (K, S, S), a traversal; maps: (N, S, S), which all have the structure. (0,) for no maps,
    zeros for no pictures.
    """
    if not len(path):
        return np.zeros(len(maps))
    column = STRUCTURES.index(structure)
    return np.array([np.nanmax(shape_metrics.dice_per_class(
        path, np.broadcast_to(label_map, path.shape))[:, column]) for label_map in maps])


def harshness(values: np.ndarray) -> float:
    """Largest step between neighbouring values over the mean one, 1 for even steps; values: (K,).

    NaN where nothing changes: for fewer than two values, or equal ones.
    """
    steps = np.abs(np.diff(values))
    return float(steps.max() / steps.mean()) if steps.any() else np.nan
