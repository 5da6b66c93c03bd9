"""From a data set to slices on disk: what is kept, what is stored, and how it is split."""

import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cvae_utils import acdc, align, dataset
from cvae_utils.dataset import load_or_align, open_source, slice_levels
from cvae_utils.labels import GROUPS, Label


def write_labels(path, labels, spacing=(2.0, 2.0, 10.0)):
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    nib.save(nib.Nifti1Image(labels, affine), path)


def stack(*sizes):
    """Labels (8, 8, Z): a square of LV of so many pixels a side in each slice; None: empty."""
    labels = np.zeros((8, 8, len(sizes)), dtype=np.uint8)
    for z, size in enumerate(sizes):
        if size is not None:
            labels[1:7, 1:7, z] = Label.MYO
            labels[2:2 + size, 2:2 + size, z] = Label.LV
    return labels


@pytest.fixture
def small(tmp_path):
    """One patient; at ED slices with no label, with MYO alone, and two with LV; at ES no LV."""
    folder = tmp_path / "small" / "patient001"
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text("ED: 1\nES: 9\nGroup: HCM\n")
    write_labels(folder / "patient001_frame01_gt.nii.gz", stack(None, 0, 4, 3))
    write_labels(folder / "patient001_frame09_gt.nii.gz", stack(None, 0))
    return tmp_path / "small"


# ------------------------------------------------------------------------------- kept and skipped
def test_every_slice_is_kept_or_skipped_with_a_reason(small, tmp_path):
    slices = load_or_align(open_source("ACDC", small), 16, tmp_path / "out", progress=False)
    assert slices.aligned.shape == slices.unrotated.shape == (2, 16, 16)
    assert slices.aligned.dtype == np.uint8 and slices.size == 16 and slices.source == "ACDC"
    assert slices.table["slice_index"].tolist() == [2, 3]
    assert slices.table["level"].tolist() == [0, 1]
    assert slices.table[["grid", "spacing_mm", "thickness_mm"]].iloc[0].tolist() == ["8x8", 2, 10]
    reasons = slices.skipped.set_index(["phase", "slice_index"])["skipped_because"].to_dict()
    assert reasons == {
        ("ED", 0): "no label", ("ED", 1): "no LV cavity",
        ("ES", 0): "volume without LV cavity: no label",
        ("ES", 1): "volume without LV cavity: no LV cavity",
    }


def test_all_slices_of_the_phantom_are_counted(source, slices):
    read = sum(acdc.read_labels(f.label_path).data.shape[2] for f in source.frames)
    assert len(slices.table) + len(slices.skipped) == read
    assert len(slices.aligned) == len(slices.unrotated) == len(slices.table) > 100
    assert (slices.aligned == Label.LV).any(axis=(1, 2)).all()
    assert slices.table["patient"].nunique() == source.patients == 10
    assert slices.table.drop(columns="subset").notna().all(axis=None)


def test_group_names_survive_the_table_on_disk(slices):
    assert set(slices.table["group"]) == set(GROUPS)
    assert set(slices.table["subset"]) == {"training"}


def test_only_numbers_are_missing_from_the_table_on_disk(small, tmp_path):
    found = open_source("ACDC", small)
    named = replace(found, frames=[replace(frame, patient="NA") for frame in found.frames])
    slices = load_or_align(named, 16, tmp_path / "out", progress=False)
    for table in (slices.table, slices.skipped):
        assert set(table["patient"]) == {"NA"} and set(table["subset"]) == {""}
    numbers = ["level", "angle_deg", "crop_mm", "crop_unrotated_mm"]
    assert set(slices.table[numbers].dtypes) == {np.dtype(float)}
    assert slices.table[numbers].notna().all(axis=None)
    skipped = slices.skipped.set_index("phase")[numbers]
    assert skipped[["level", "angle_deg"]].isna().all(axis=None)
    assert skipped["crop_mm"].notna().tolist() == [True, True, False, False]  # ES has no LV at all


def test_data_set_without_any_lv_is_refused(small, tmp_path):
    for path in small.glob("*/*_gt.nii.gz"):
        write_labels(path, stack(None, 0))
    with pytest.raises(acdc.DataError, match="4 slices were read and none.*Expected ACDC labels"):
        load_or_align(open_source("ACDC", small), 16, tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("labelled", "expected"), [
    ([9, 6, 3], [0, 0.5, 1]),
    ([3, 6, 9], [1, 0.5, 0]),  # stored from apex to base
    ([5], [0]),
    ([], []),
])
def test_level_goes_from_base_to_apex(labelled, expected):
    maps = np.zeros((len(labelled), 1, 10), dtype=np.uint8)
    for k, count in enumerate(labelled):
        maps[k, 0, :count] = Label.LV
    assert slice_levels(maps).tolist() == expected


# ----------------------------------------------------------------------------------------- stored
def test_stored_slices_are_read_and_not_made_again(source, slices, tmp_path, monkeypatch):
    first = load_or_align(source, 32, tmp_path, progress=False)
    monkeypatch.setattr(align, "align_volume", None)
    again = load_or_align(source, 32, tmp_path, progress=False)
    for found in (first, again):
        assert (found.aligned == slices.aligned).all()
        assert (found.unrotated == slices.unrotated).all()
        pd.testing.assert_frame_equal(found.table, slices.table)
        assert found.fingerprint == slices.fingerprint


def test_another_label_file_or_size_makes_them_again(small, tmp_path):
    out = tmp_path / "out"
    first = load_or_align(open_source("ACDC", small), 16, out, progress=False)
    larger = load_or_align(open_source("ACDC", small), 32, out, progress=False)
    write_labels(small / "patient001" / "patient001_frame09_gt.nii.gz", stack(4))
    edited = load_or_align(open_source("ACDC", small), 16, out, progress=False)
    assert [len(s.table) for s in (first, larger, edited)] == [2, 2, 3]
    assert len({s.fingerprint for s in (first, larger, edited)}) == len(list(out.iterdir())) == 3


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_interrupted_alignment_leaves_nothing(source, tmp_path, monkeypatch, error):
    align_one, calls = align.align_volume, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return align_one(*arguments)

    monkeypatch.setattr(align, "align_volume", interrupted)
    with pytest.raises(error):
        load_or_align(source, 32, tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------- sources
def test_phantom_stands_in_where_there_is_no_acdc(tiny, tmp_path, monkeypatch, source):
    found = dataset.find_source(tmp_path / "data", tiny, tmp_path)
    assert (found.name, found.patients) == ("phantom", tiny.phantom_patients)
    assert found.root.parent == tmp_path / "data" / "raw"
    assert found.fingerprint == source.fingerprint  # the labels do not depend on the images

    monkeypatch.setenv("ACDC_ROOT", str(source.root))
    named = dataset.find_source(tmp_path / "data", tiny, tmp_path)
    assert (named.name, named.root) == ("ACDC", source.root)
    monkeypatch.setenv("CVAE_DATA", "phantom")
    assert dataset.find_source(tmp_path / "data", tiny, tmp_path).name == "phantom"

    monkeypatch.delenv("CVAE_DATA")
    monkeypatch.delenv("ACDC_ROOT")
    shutil.copytree(source.root, tmp_path / "data" / "raw" / "acdc")
    assert dataset.find_source(tmp_path / "data", tiny, tmp_path).name == "ACDC"


# ------------------------------------------------------------------------------------------ split
def patients(per_group, slices_each=3):
    rows = [{"patient": f"{group}{k}", "group": group}
            for group in GROUPS for k in range(per_group) for _ in range(slices_each)]
    return pd.DataFrame(rows).sample(frac=1, random_state=0).reset_index(drop=True)


@pytest.mark.parametrize("by", ["patient", "slice"])
def test_split_is_a_partition_that_depends_on_the_seed_alone(by):
    table = patients(6)
    parts = dataset.split(table, by, seed=1)
    assert list(parts) == ["train", "validation", "test"]
    assert np.sort(np.concatenate(list(parts.values()))).tolist() == list(range(len(table)))
    assert all((np.diff(rows) > 0).all() for rows in parts.values())
    again, other = dataset.split(table, by, seed=1), dataset.split(table, by, seed=2)
    assert all((parts[name] == again[name]).all() for name in parts)
    assert not np.array_equal(parts["test"], other["test"])


@pytest.mark.parametrize(("per_group", "expected"), [
    (2, [(1,), (0, 1), (0, 1)]),
    (10, [(5,), (2,), (3,)]),
    (20, [(10,), (4,), (6,)]),
    (30, [(15,), (6,), (9,)]),
])
def test_every_part_has_its_share_of_every_group_and_no_patient_twice(per_group, expected):
    table = patients(per_group)
    for seed in range(3):
        parts = dataset.split(table, "patient", seed)
        seen = [set(table["patient"].iloc[rows]) for rows in parts.values()]
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
        counts = [pd.Series([p[:-1].rstrip("0123456789") for p in part]).value_counts()
                  for part in seen]
        for part, allowed in zip(counts, expected):
            assert all(part.get(group, 0) in allowed for group in GROUPS)
        for part, share in zip(seen, (0.5, 0.2, 0.3)):
            assert abs(len(part) - share * 5 * per_group) < 1


def test_split_by_slice_is_50_20_30_and_puts_patients_on_both_sides():
    table = patients(4, slices_each=5)
    parts = dataset.split(table, "slice")
    assert [len(rows) for rows in parts.values()] == [50, 20, 30]
    assert set(table["patient"].iloc[parts["train"]]) & set(table["patient"].iloc[parts["test"]])


def test_split_that_cannot_be_made_is_refused():
    with pytest.raises(ValueError, match="'patient' or 'slice', found 'volume'"):
        dataset.split(patients(2), "volume")
    one = pd.DataFrame({"patient": ["a"] * 9, "group": ["NOR"] * 9})
    with pytest.raises(ValueError, match="three parts, found 1; at least 10"):
        dataset.split(one)


# ---------------------------------------------------------------------------------- measurements
def test_cardiac_function_by_hand(small):
    folder = small / "patient001"
    write_labels(folder / "patient001_frame01_gt.nii.gz", stack(4, 3), (2.0, 1.5, 10.0))
    write_labels(folder / "patient001_frame09_gt.nii.gz", stack(3, 1), (2.0, 1.5, 10.0))
    found = dataset.cardiac_function(open_source("ACDC", small), progress=False)
    assert found.to_dict("records") == [{
        "patient": "patient001", "group": "HCM",
        "ed_ml": pytest.approx(25 * 30 / 1000), "es_ml": pytest.approx(10 * 30 / 1000),
        "ef_percent": pytest.approx(60),
    }]


def test_averaging_keeps_hearts_at_least_as_well_as_nearest_neighbours(source):
    few = dataset.Source(source.name, source.root, source.frames[:6], source.fingerprint)
    found = dataset.compare_resampling(few, 48, progress=False)
    assert tuple(found.index) == align.METHODS and found.notna().all(axis=None)
    assert found.loc["area", "valid, %"] >= found.loc["nearest", "valid, %"] > 50
    change = "mean size of change, %"
    assert 0 < found.loc["area", change] < found.loc["nearest", change] < 10
    assert found.filter(like="area of").abs().max(axis=None) < 10


@pytest.mark.real_data
def test_counts_of_the_real_training_patients(real_source, tmp_path):
    slices = load_or_align(real_source, 32, tmp_path, progress=False)
    reasons = slices.skipped["skipped_because"].str.replace("volume without LV cavity: ", "")
    assert len(slices.table) == 1808
    assert len(slices.table) + reasons.eq("no LV cavity").sum() == 1841
    assert len(slices.table) + len(slices.skipped) == 1902
    assert slices.table["patient"].nunique() == 100
