"""The slices and the split that published numbers were counted with."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cvae_utils.data import acdc, every_slice, splits
from cvae_utils.data.alignment import centroid_mm
from cvae_utils.labels import Label


@pytest.fixture(scope="module")
def every(source, tmp_path_factory):
    return every_slice.load_or_make(source, 32, tmp_path_factory.mktemp("every"), progress=False)


def test_every_slice_is_there_and_lies_as_it_was_with_lv_in_the_middle(every, slices):
    read = len(slices.table) + len(slices.skipped)
    assert every.aligned.shape == (read, 32, 32) and len(every.table) == read
    assert every.unrotated is every.aligned and every.source == "phantom"
    has_lv = (every.aligned == Label.LV).any(axis=(1, 2))
    assert 0 < (~has_lv).sum() <= len(slices.skipped)
    # Where both have one crop, they are the same pictures.
    rows = every.table.reset_index().merge(slices.table.reset_index(), validate="1:1",
                                           on=["patient", "phase", "slice_index"])
    rows = rows[np.isclose(rows["crop_mm_x"], rows["crop_unrotated_mm"])]
    assert len(rows) > 10
    assert np.array_equal(every.aligned[rows["index_x"]], slices.unrotated[rows["index_y"]])
    for label_map in every.aligned[(every.aligned == Label.LV).sum(axis=(1, 2)) > 20]:
        assert centroid_mm(label_map == Label.LV, (1, 1)) == pytest.approx([15.5] * 2, abs=0.7)


def test_they_are_made_once_for_a_size_and_a_data_set(every, source, tmp_path, monkeypatch):
    def load(source, size):
        return every_slice.load_or_make(source, size, tmp_path, progress=False)

    few = replace(source, fingerprint="other", frames=source.frames[:2])
    found = [load(source, 32), load(source, 16), load(few, 32)]
    assert found[0].fingerprint == every.fingerprint and found[1].size == 16
    assert len({each.fingerprint for each in found}) == len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(acdc, "read_frame", None)
    assert np.array_equal(load(few, 32).aligned, every.aligned[:len(found[2].table)])


def test_official_split_without_the_testing_part_is_refused(every):
    assert not splits.has_testing_part(every.table)
    with pytest.raises(ValueError, match="expected ACDC's folder `testing`.*split by patient"):
        splits.split(every.table, "official")


def test_with_the_testing_part_it_is_test_and_nothing_else(every):
    of_test = every.table["patient"].isin(every.table["patient"].unique()[::2])
    table = every.table.assign(subset=np.where(of_test, "testing", "training"))
    # Ten patients are too few for three parts once half are test: five copies of each.
    table = pd.concat([table.assign(patient=table["patient"] + f"-{n}") for n in range(5)],
                      ignore_index=True)
    parts = splits.split(table, "official")
    assert splits.has_testing_part(table)
    assert np.array_equal(parts["test"], np.flatnonzero(table["subset"] == "testing"))
    patients = {name: set(table["patient"].iloc[rows]) for name, rows in parts.items()}
    assert not patients["train"] & patients["validation"]
    assert len(patients["validation"]) / 25 == pytest.approx(0.2, abs=0.05)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(table)))
