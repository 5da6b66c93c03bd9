"""Disentanglement: how far single latent dimensions stand for single factors.

Everywhere: mu (N, Z); factors, a DataFrame of N rows with one continuous factor a column, NaN where
it is undefined (the shape of an RV that is not there). Rows with NaN are left out for that factor
alone. A factor that is constant, or defined in fewer than 40 rows, is left out altogether; without
any other, and for input that does not fit together, ValueError. active: the dimensions that count
(those with a KL above encoding.ACTIVE_KL), by default all. Correlation and mutual information do
not see how small a dimension is: one that the prior has all but silenced still counts with what is
left of a factor in its mu.

mu may also be a sample (encoding.Posterior.sample), which counts the posterior's noise too, as
Chen et al. do. Mutual information and entropy are in nats.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import entropy, rankdata

from cvae_utils.files import DataError

#: Equal-frequency bins of each dimension and factor, for mutual information.
BINS = 20
#: With fewer, bins hold a single row, and every dimension seems to decide every factor.
SMALLEST_ROWS = 2 * BINS
#: Shufflings of the rows that tell what independent values would show.
SHUFFLES = 20


def measure(mu: np.ndarray, factors: pd.DataFrame, active=None) -> dict[str, float]:
    """Four measures, each 0 to 1 with 1 the best.

    mig: the mutual information gap (Chen et al. 2018): the largest mutual information less the
        second largest, over the factor's entropy, mean over factors. 1 if each factor lies in one
        dimension and in no other.
    sap: separated attribute predictability for continuous factors (Kumar et al. 2018): R^2 of a
        straight line from each single dimension to the factor, the largest less the second largest,
        mean over factors. 1 if each factor is linear in one dimension alone.
    modularity: see `modularity`.
    spearman: the largest size of a rank correlation, mean over factors. The largest of many is
        above 0 by chance: 0.09 for 32 independent dimensions and 800 rows.
    """
    information = mutual_information(mu, factors, active)
    return {"mig": float((gap(information) / entropies(factors).to_numpy()).mean()),
            "sap": float(gap(_by_factor(mu, factors, active, _correlation) ** 2).mean()),
            "modularity": modularity(information),
            "spearman": float(spearman(mu, factors, active).max(axis=0).mean())}


def gap(table: pd.DataFrame) -> np.ndarray:
    """Largest less second largest value of each column, (F,); of a single dimension, its own."""
    ordered = np.sort(np.vstack([table, np.zeros(table.shape[1])]), axis=0)
    return ordered[-1] - ordered[-2]


def modularity(information: pd.DataFrame) -> float:
    """Modularity (Ridgeway and Mozer 2018) of a table of mutual information (Z, F): 1 if each
    dimension carries one factor and nothing of any other.

    1 - sum over the other factors of I^2 / (I_largest^2 (F - 1)), mean over the dimensions that
    have mutual information with any factor. NaN if none has, or for a single factor. It does not
    ask that every factor is carried.
    """
    squared = information.to_numpy() ** 2
    squared = squared[squared.max(axis=1) > 0]  # (dimensions that carry something, F)
    if not len(squared) or squared.shape[1] == 1:
        return np.nan
    others = squared.sum(axis=1) / squared.max(axis=1) - 1
    return float((1 - others / (squared.shape[1] - 1)).mean())


def mutual_information(mu: np.ndarray, factors: pd.DataFrame, active=None) -> pd.DataFrame:
    """Mutual information of each dimension with each factor, in nats, (Z, F).

    Both are cut into 20 bins of equally many rows. Binned, even independent values share E > 0, by
    about (20 - 1)^2 / (2 N). E is the mean over 20 shufflings of the factor's rows; what is found
    becomes (I - E) H / (H - E), H the factor's entropy, so that a dimension that is independent of
    a factor has 0 and one that decides it keeps H (Vinh et al. 2010, adjusted for chance). What
    does not exceed E by 3 standard deviations of the shufflings is 0: in 800 rows, a factor whose
    correlation with the dimension is below about 0.35.
    """
    return _by_factor(mu, factors, active, _shared)


def entropies(factors: pd.DataFrame) -> pd.Series:
    """Entropy of each factor in its bins, in nats, (F,); log 20 where no values are equal."""
    return pd.Series({name: entropy(np.unique(_bins(column.dropna().to_numpy()),
                                              return_counts=True)[1])
                      for name, column in _usable(factors).items()})


def spearman(mu: np.ndarray, factors: pd.DataFrame, active=None) -> pd.DataFrame:
    """Size of the rank correlation of each dimension with each factor, 0 to 1, (Z, F)."""
    return _by_factor(mu, factors, active,
                      lambda x, y: np.abs(_correlation(rankdata(x, axis=0), rankdata(y))))


def _shared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mutual information, (Z,), adjusted for chance, of the columns of x (N, Z) with y (N,)."""
    x, y = _bins(x), _bins(y)
    generator = np.random.default_rng(0)
    found = _binned_information(x, y)
    chance = np.stack([_binned_information(x, generator.permutation(y)) for _ in range(SHUFFLES)])
    expected, own = chance.mean(axis=0), entropy(np.bincount(y))
    adjusted = (found - expected) * own / (own - expected)
    return np.where(found > expected + 3 * chance.std(axis=0, ddof=1), adjusted, 0.0)


def _bins(values: np.ndarray) -> np.ndarray:
    """The bin, 0 to 19, of each value in its column; equal values share one. (N, ...) int."""
    return ((rankdata(values, axis=0) - 0.5) * BINS / len(values)).astype(int)


def _binned_information(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """H(x) + H(y) - H(x, y) in nats, (Z,), of each column of bins x (N, Z) with bins y (N,)."""
    cells = (np.arange(x.shape[1]) * BINS + x) * BINS + y[:, None]
    joint = np.bincount(cells.ravel(), minlength=x.shape[1] * BINS**2).reshape(-1, BINS, BINS)
    return (entropy(joint.sum(axis=2), axis=1) + entropy(joint.sum(axis=1), axis=1)
            - entropy(joint.reshape(len(joint), -1), axis=1))


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation, (Z,), of the columns of x (N, Z) with y (N,); 0 for a constant."""
    x, y = x - x.mean(axis=0), y - y.mean()
    size = np.sqrt((x**2).sum(axis=0) * (y**2).sum())
    return np.divide(y @ x, size, out=np.zeros(x.shape[1]), where=size > 0)


def _by_factor(mu: np.ndarray, factors: pd.DataFrame, active, relate) -> pd.DataFrame:
    """relate(x (n, Z), y (n,)) -> (Z,) for each factor, over the rows where it is defined."""
    mu = np.asarray(mu, dtype=float)
    if mu.ndim != 2 or len(mu) != len(factors):
        raise ValueError(f"expected mu (N, Z) and factors of N rows, found mu of shape {mu.shape} "
                         f"and factors of {len(factors)} rows")
    if not np.isfinite(mu).all():
        raise ValueError("expected finite mu, found NaN or infinity in dimensions "
                         f"{np.flatnonzero(~np.isfinite(mu).all(axis=0)).tolist()}")
    dimensions = np.arange(mu.shape[1]) if active is None else np.asarray(active, dtype=int)
    if not len(dimensions) or not np.isin(dimensions, np.arange(mu.shape[1])).all():
        raise ValueError(f"active: expected at least one of the dimensions 0 to {mu.shape[1] - 1}, "
                         f"found {dimensions.tolist()}")
    columns = {}
    for name, column in _usable(factors).items():
        defined = column.notna().to_numpy()
        columns[name] = relate(mu[defined][:, dimensions], column.to_numpy(dtype=float)[defined])
    return pd.DataFrame(columns, index=dimensions)


def measurable(factors: pd.DataFrame) -> list[str]:
    """The factors that vary and are defined in enough rows to be measured; there may be none."""
    return [*factors.columns[(factors.nunique() > 1) & (factors.count() >= SMALLEST_ROWS)]]


def _usable(factors: pd.DataFrame) -> pd.DataFrame:
    if not (names := measurable(factors)):
        raise ValueError(f"expected a factor that varies and is defined in at least "
                         f"{SMALLEST_ROWS} rows, found {len(factors)} rows of "
                         f"{list(factors.columns)}; add slices, or other factors")
    return factors[names]


def phantom_factors(root: Path, table: pd.DataFrame) -> pd.DataFrame:
    """What the slices of a phantom were drawn from, as far as aligned pictures show it, (N, F).

    root: from phantom.write_phantom; table: slices.Slices.table or N rows of it, whose order is
    kept, numbered from 0. Columns, see phantom.SliceFactors:

        lv_radius, wall_thickness, rv_width   in units of the picture's side, as in
            shape_metrics.describe: each volume has a crop of its own; rv_width is 0 without RV
        second_cos, second_sin   eccentricity and axis as the second harmonic of the endocardium,
            e^2 / 4 (cos 2 axis, sin 2 axis): an axis of 0 is one of 180 degrees
        third_cos, third_sin, fourth_cos, fourth_sin, wall_asymmetry, wall_tilt, wall_wave
        scar_cos, scar_sin   depth (cos angle, sin angle)
        rv_extent_deg, rv_roundness, rv_flatness, rv_skew

    All but the first three are NaN without RV: it is what alignment takes the directions from.
    Left out are position, the angle in the plane and the level, which is drawn only through the
    others. Directions are the heart's own, which the centroid of a skewed RV turns by some 5
    degrees. Raises DataError if the table is not of this phantom.
    """
    path = Path(root) / "factors.csv"
    if not path.is_file():
        raise DataError(f"expected a phantom with its factors.csv, found none in {root}; other "
                        "data sets have no known factors.")
    keys = ["patient", "phase", "z"]
    drawn = pd.read_csv(path, dtype={"patient": str, "phase": str})
    drawn = table[["patient", "phase", "crop_mm"]].assign(z=table["slice_index"]).merge(
        drawn, on=keys, how="left", validate="1:1")
    if (missing := drawn["lv_radius_mm"].isna()).any():
        first = ", ".join(f"{key} {drawn.loc[missing, key].iloc[0]}" for key in keys)
        raise DataError(f"expected slices of the phantom in {root}, found {missing.sum()} of "
                        f"{len(drawn)} that it does not have with an LV, the first {first}; give "
                        "the table of the same data set.")
    axis, scar = np.radians(2 * drawn["axis_deg"]), np.radians(drawn["scar_deg"])
    with_rv = pd.DataFrame({
        "second_cos": drawn["eccentricity"] ** 2 / 4 * np.cos(axis),
        "second_sin": drawn["eccentricity"] ** 2 / 4 * np.sin(axis),
        **drawn[["third_cos", "third_sin", "fourth_cos", "fourth_sin", "wall_asymmetry",
                 "wall_tilt", "wall_wave"]],
        "scar_cos": drawn["scar_depth"] * np.cos(scar),
        "scar_sin": drawn["scar_depth"] * np.sin(scar),
        **drawn[["rv_extent_deg", "rv_roundness", "rv_flatness", "rv_skew"]],
    })
    lengths = pd.DataFrame({name: drawn[f"{name}_mm"] / drawn["crop_mm"]
                            for name in ("lv_radius", "wall_thickness", "rv_width")})
    return lengths.join(with_rv.where(drawn["rv_width_mm"] > 0))
