"""From differences and their standard errors to holds, does not hold, cannot be told."""

from collections.abc import Iterable

import numpy as np
import pandas as pd


def patient_difference(a: np.ndarray, b: np.ndarray, patients: np.ndarray) -> tuple[float, float]:
    """Mean of a - b over patients, and its standard error; a, b, patients: (N,) by slice.

    Slices of one patient are not independent, so each patient counts once, with the mean of its
    slices. Slices where either score is NaN are left out. The error of one patient is NaN, and so
    is the difference of none.
    """
    means = pd.Series(a - b).groupby(np.asarray(patients)).mean().dropna()
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))


def above(value: float, error: float, mark: float = 0.0) -> bool | None:
    """Whether a number lies above a mark by two standard errors: True, or False if below by as
    much; None between the two, or where one of them is NaN."""
    return True if value - mark > 2 * error else False if mark - value > 2 * error else None


def all_of(answers: Iterable[bool | None]) -> bool | None:
    """Whether all of these hold: False if one does not; else None if one cannot be told."""
    found = set(answers)
    return False if False in found else None if None in found else True
