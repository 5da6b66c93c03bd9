"""Patients to start from: their slices, and which training slice a heart is most like."""

import numpy as np
import pandas as pd

from cvae_utils.data.slices import Slices
from cvae_utils.explorer.atlas import KEYS, Atlas
from cvae_utils.labels import STRUCTURES, UNKNOWN


class SliceSearch:
    """The slice of a set that overlaps best with a label map, by exhaustive search.

    maps: (N, S, S). One bit a pixel and class, so that a thousand slices take well under a
    millisecond.
    """

    def __init__(self, maps: np.ndarray):
        self.bits = _bits(maps)                             # (N, 3, words)
        self.sizes = np.bitwise_count(self.bits).sum(-1, dtype=np.int64)  # (N, 3)

    def __call__(self, label_map: np.ndarray) -> tuple[int, float]:
        """Row of the best slice, and its Dice as shape_metrics.dice_per_slice has it; (S, S)."""
        bits = _bits(label_map[None])
        both = np.bitwise_count(self.bits & bits).sum(-1, dtype=np.int64)
        total = self.sizes + np.bitwise_count(bits).sum(-1, dtype=np.int64)
        present = np.maximum((total > 0).sum(axis=1), 1)
        dice = (2 * both / np.maximum(total, 1)).sum(axis=1) / present
        return int(dice.argmax()), float(dice.max())


def _bits(maps: np.ndarray) -> np.ndarray:
    """Label maps (N, S, S) -> one-hot structures, 64 pixels a word, (N, 3, S * S / 64) uint64."""
    one_hot = np.stack([maps == label for label in STRUCTURES], axis=1)
    return np.packbits(one_hot.reshape(*one_hot.shape[:2], -1), axis=-1).view(np.uint64)


def training_rows(atlas: Atlas, slices: Slices) -> np.ndarray | None:
    """Which rows of `slices` the run was trained on, in the atlas's order, (N,); None if they are
    not all there, as with another data set."""
    # An atlas of before there were scans has none, and its phases are enough.
    keys = [key for key in KEYS if key in slices.table and key in atlas.table]
    if slices.source != atlas.source or slices.table.duplicated(keys).any():
        return None
    rows = slices.table[keys].reset_index().merge(atlas.table[keys].reset_index(), on=keys,
                                                  suffixes=("_slice", "_atlas"))
    found = rows.set_index("index_atlas")["index_slice"].reindex(range(len(atlas.table)))
    return None if found.isna().any() else found.to_numpy(dtype=int)


def patients(table: pd.DataFrame) -> list[dict]:
    """The patients of a slice table, in its order: name, group ("" if not known) and slices.

    A slice has a name and rows: that at ED and the same slice at ES, or the only one there is.
    """
    found = []
    for name, part in table.groupby("patient", sort=False):
        pairs: dict = {}
        for row in part.itertuples():
            # A slice of no known phase has no twin.
            place = (row.scan, row.slice_index, row.Index if row.phase == UNKNOWN else -1)
            pairs.setdefault(place, []).append(row)
        slices = []
        for rows in pairs.values():
            rows.sort(key=lambda row: row.phase)  # ED before ES
            phases = " and ".join(row.phase for row in rows if row.phase != UNKNOWN)
            words = rows[0].scan, f"slice {rows[0].slice_index}", phases
            slices.append({"name": ", ".join(filter(None, words)),
                           "rows": [int(row.Index) for row in rows]})
        group = part["group"].iloc[0]
        found.append({"name": name, "group": "" if group == UNKNOWN else group, "slices": slices})
    return found
