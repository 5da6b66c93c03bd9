"""Training, validation and test: 50 / 20 / 30 % of the patients, or of the slices."""

import numpy as np
import pandas as pd

from cvae_utils.labels import groups_of

SPLIT_NAMES = ("train", "validation", "test")
SPLIT_FRACTIONS = (0.5, 0.2, 0.3)
#: From so many patients, or slices, on, no part is empty.
LEAST = {"patient": 3, "slice": 4}
WAYS = (*LEAST, "official")


def split(table: pd.DataFrame, by: str = "patient", seed: int = 0) -> dict[str, np.ndarray]:
    """Row numbers of training, validation and test, 50 / 20 / 30 %.

    by='patient' (default): all slices of a patient fall in one part, and each part has its share
    of every group. by='slice': slices are drawn at random, as in the report, so that a patient's
    neighbouring slices are on both sides. by='official': test is ACDC's testing part, with which
    published numbers were counted, and a fifth of the other patients is validation. Raises
    ValueError for another `by`, or if a part would be empty, which takes fewer than LEAST of them,
    or data without a testing part.
    """
    if by == "official":
        return _official(table, seed)
    generator = np.random.default_rng(seed)
    if by == "slice":
        cuts = np.round(np.cumsum(SPLIT_FRACTIONS)[:-1] * len(table)).astype(int)
        parts = np.split(generator.permutation(len(table)), cuts)
    elif by == "patient":
        parts = [[] for _ in SPLIT_NAMES]
        patients = table.drop_duplicates("patient")
        # A group whose size does not divide well gives its remainder to the part that is furthest
        # behind so far, so that small data sets fill every part too.
        for group in groups_of(patients["group"]):
            members = patients.loc[patients["group"] == group, "patient"].to_numpy()
            for patient in generator.permutation(members):
                total = sum(map(len, parts)) + 1
                lag = [fraction * total - len(part) for fraction, part in
                       zip(SPLIT_FRACTIONS, parts)]
                parts[int(np.argmax(lag))].append(patient)
        parts = [np.flatnonzero(table["patient"].isin(part)) for part in parts]
    else:
        raise ValueError(f"by: expected one of {', '.join(WAYS)}, found {by!r}")
    if any(len(part) == 0 for part in parts):
        found = table["patient"].nunique() if by == "patient" else len(table)
        raise ValueError(f"expected enough {by}s for three parts, found {found}; at least "
                         f"{LEAST[by]} are needed")
    return {name: np.sort(part) for name, part in zip(SPLIT_NAMES, parts)}


def has_testing_part(table: pd.DataFrame) -> bool:
    """Whether a split by='official' is possible."""
    return bool((table["subset"] == "testing").any())


def _official(table: pd.DataFrame, seed: int) -> dict[str, np.ndarray]:
    if not has_testing_part(table):
        raise ValueError("official split: expected ACDC's folder `testing`, patients 101 to 150, "
                         "found none of it. Add it, or split by patient")
    testing = (table["subset"] == "testing").to_numpy()
    rows = np.flatnonzero(~testing)
    parts = split(table.iloc[rows].reset_index(drop=True), "patient", seed)
    return {"train": rows[np.sort(np.concatenate([parts["train"], parts["test"]]))],
            "validation": rows[parts["validation"]], "test": np.flatnonzero(testing)}
