"""The slices, the split and the Dice that published numbers were counted with."""

from dataclasses import replace

import numpy as np
import pytest

from cvae_utils import align, dataset, metrics, protocol
from cvae_utils.labels import Label


@pytest.fixture(scope="module")
def every(source):
    return protocol.every_slice(source, 32, progress=False)


def test_every_slice_is_there_with_and_without_lv(every, slices):
    read = len(slices.table) + len(slices.skipped)
    assert every.aligned.shape == (read, 32, 32) and len(every.table) == read
    has_lv = (every.aligned == Label.LV).any(axis=(1, 2))
    assert 0 < (~has_lv).sum() <= len(slices.skipped)
    keys = ["patient", "phase", "slice_index"]
    assert not every.table.duplicated(keys).any()


def test_slices_are_those_of_the_data_set_and_lie_as_they_were(every, slices, source):
    """Where both have one crop, the same picture; and the LV is in the middle."""
    keys = ["patient", "phase", "slice_index"]
    rows = every.table.reset_index().merge(slices.table.reset_index(), on=keys)
    same = rows[np.isclose(rows["crop_mm_x"], rows["crop_unrotated_mm"])]
    assert len(same) > 10
    assert np.array_equal(every.aligned[same["index_x"]], slices.unrotated[same["index_y"]])
    for label_map in every.aligned[(every.aligned == Label.LV).sum(axis=(1, 2)) > 20]:
        centre = align.centroid_mm(label_map == Label.LV, np.ones(2))
        assert centre == pytest.approx([15.5, 15.5], abs=0.7)


def test_slices_of_another_size_or_source_have_another_fingerprint(every, source):
    other = protocol.every_slice(source, 16, progress=False)
    assert other.fingerprint != every.fingerprint and other.size == 16
    changed = replace(source, fingerprint="other", frames=source.frames[:2])
    assert protocol.every_slice(changed, 32, progress=False).fingerprint != every.fingerprint


def test_without_the_testing_part_a_hold_out_stands_for_it(every):
    parts, official = protocol.official_split(every.table.assign(subset="training"), seed=1)
    assert not official
    expected = dataset.split(every.table, "patient", 1)
    assert all(np.array_equal(parts[name], expected[name]) for name in expected)


def test_with_the_testing_part_it_is_test_and_nothing_else(every):
    patients = every.table["patient"].unique()
    table = every.table.assign(subset=np.where(every.table["patient"].isin(patients[::2]),
                                               "testing", "training"))
    # Ten patients are too few for three parts once half are test: five copies of each.
    table = dataset.pd.concat([table.assign(patient=table["patient"] + f"-{n}") for n in range(5)],
                              ignore_index=True)
    parts, official = protocol.official_split(table)
    assert official and np.array_equal(parts["test"], np.flatnonzero(table["subset"] == "testing"))
    of = {name: set(table["patient"].iloc[rows]) for name, rows in parts.items()}
    assert not of["train"] & of["validation"] and not of["test"] & (of["train"] | of["validation"])
    assert len(of["validation"]) / 25 == pytest.approx(0.2, abs=0.05)
    assert sum(map(len, parts.values())) == len(table)


def test_a_class_absent_from_both_maps_counts_one():
    target = np.zeros((2, 4, 4), dtype=np.uint8)
    target[1, 0, :2] = Label.LV
    predicted = target.copy()
    predicted[1, 0, 1] = 0  # 2 * 1 / (1 + 2)
    assert protocol.dice_counting_empty(predicted, target) == pytest.approx((5 + 2 / 3) / 6)
    assert np.isnan(metrics.dice_per_slice(predicted, target)[0])
    predicted[0, 3, 3] = Label.RV  # where there is none: 0
    assert protocol.dice_counting_empty(predicted, target) == pytest.approx((4 + 2 / 3) / 6)


def test_only_slices_with_lv_count_as_valid_or_not(slices):
    whole = np.array(slices.aligned[:4])
    without = np.where(whole == Label.LV, 0, whole)
    broken = whole.copy()
    broken[:, 0, 0] = Label.LV  # in two parts
    expected = metrics.is_valid(whole).mean()
    assert expected > 0
    assert protocol.valid_with_lv(np.concatenate([whole, without])) == expected
    assert protocol.valid_with_lv(np.concatenate([whole, broken])) == expected / 2
