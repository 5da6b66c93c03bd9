"""Patients to start from, and the training slice that a heart is most like."""

from dataclasses import replace

import numpy as np
import pytest
from atlases import small_atlas

from cvae_utils import shape_metrics
from cvae_utils.explorer.patients import SliceSearch, patients, training_rows
from cvae_utils.labels import Label


def test_search_agrees_with_dice_of_every_slice():
    maps = np.random.default_rng(0).integers(0, 4, (9, 16, 16)).astype(np.uint8)
    maps[1][maps[1] == Label.RV] = 0
    maps[2][maps[2] > Label.RV] = 0
    maps[-1] = 0
    search = SliceSearch(maps)
    assert [search(label_map) for label_map in maps[:-1]] == [(k, 1.0) for k in range(8)]
    half = np.where(np.arange(16) < 8, maps[2], 0)  # all it has lies in one slice's RV
    inside, all_of_it = (half == Label.RV).sum(), (maps[2] == Label.RV).sum()
    assert search(half) == (2, pytest.approx(2 * inside / (inside + all_of_it)))
    search = SliceSearch(maps[[0, 1, 2, 3, -1]])
    for target in maps:
        scores = np.nan_to_num(shape_metrics.dice_per_slice(
            np.broadcast_to(target, (5, 16, 16)), maps[[0, 1, 2, 3, -1]]))
        row, dice = search(target)
        assert dice == pytest.approx(scores.max()) and scores[row] == scores.max()


def test_training_slices_are_found_by_name_in_any_order(atlas, slices, split):
    train, last = split["train"], len(slices.table) - 1
    assert training_rows(atlas, slices).tolist() == train.tolist()
    older = replace(atlas, table=atlas.table.drop(columns="scan"))
    assert training_rows(older, slices).tolist() == train.tolist()
    turned = replace(slices, table=slices.table.iloc[::-1].reset_index(drop=True))
    assert training_rows(atlas, turned).tolist() == (last - train).tolist()
    lost = slices.table.drop(train[7]).reset_index(drop=True)
    assert training_rows(atlas, replace(slices, table=lost)) is None
    assert training_rows(atlas, replace(slices, source="ACDC")) is None


def test_scans_of_one_patient_are_told_apart(slices, split):
    """Two volumes of a patient whose phases are not known differ in their scan alone."""
    scan = np.where(slices.table["phase"] == "ED", "frame01", "frame12")
    both = replace(slices, table=slices.table.assign(phase="unknown", scan=scan))
    atlas = small_atlas(both.table.iloc[split["train"]])
    assert training_rows(atlas, both).tolist() == split["train"].tolist()
    nameless = replace(atlas, table=atlas.table.drop(columns="scan"))
    assert training_rows(nameless, both) is None  # which of the two it was, nobody knows


@pytest.mark.parametrize(("columns", "expected"), [
    ({"phase": ["ED", "ED", "ES", "ES"], "slice_index": [4, 5, 3, 4]},
     [("slice 4, ED and ES", [0, 3]), ("slice 5, ED", [1]), ("slice 3, ES", [2])]),
    ({"phase": ["ES", "ED", "ED", "ES"], "slice_index": 3, "scan": ["a", "b", "a", "c"]},
     [("a, slice 3, ED and ES", [2, 0]), ("b, slice 3, ED", [1]), ("c, slice 3, ES", [3])]),
    ({"phase": "unknown", "slice_index": [4, 4, 5, 6], "scan": ["", "frame01", "frame12", ""]},
     [("slice 4", [0]), ("frame01, slice 4", [1]), ("frame12, slice 5", [2]), ("slice 6", [3])]),
])
def test_slices_are_paired_by_scan_and_phase(slices, columns, expected):
    rows = np.flatnonzero(slices.table["patient"] == "patient001")[:4]
    table = slices.table.iloc[rows].reset_index(drop=True).assign(group="unknown", **columns)
    found, = patients(table)
    assert (found["name"], found["group"]) == ("patient001", "")
    assert [(one["name"], one["rows"]) for one in found["slices"]] == expected


def test_patients_are_in_the_order_of_their_table(slices):
    found = patients(slices.table)
    assert [one["name"] for one in found] == slices.table["patient"].unique().tolist()
    assert sorted(row for one in found for part in one["slices"] for row in part["rows"]) == list(
        range(len(slices.table)))
    assert found[2]["group"] == "DCM"
