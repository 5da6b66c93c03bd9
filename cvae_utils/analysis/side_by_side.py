"""Measure several things at once: Python uses one core, however many there are."""

from collections.abc import Callable, Sequence

import joblib
from tqdm.auto import tqdm


def side_by_side(measure: Callable, given: Sequence[tuple], title: str) -> list:
    """[measure(*arguments) for arguments in given]: as many at a time as there are cores, each in a
    process. title: of the bar."""
    workers = min(len(given), joblib.cpu_count())
    found = joblib.Parallel(workers, return_as="generator")(
        joblib.delayed(measure)(*arguments) for arguments in given)
    return list(tqdm(found, title, len(given)))
