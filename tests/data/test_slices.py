"""From a data set to slices on disk: what is kept, what is stored, and how it is split."""

import io
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hearts import PLANES, nifti, orientations, paint, write, write_patient

from cvae_utils.data import acdc, sources, splits, volume_checks, volumes
from cvae_utils.data import slices as aligned_slices
from cvae_utils.data.alignment import METHODS, align_volume
from cvae_utils.data.slices import align_all, load_or_align, read_rows, slice_levels
from cvae_utils.data.sources import open_source
from cvae_utils.files import REPOSITORY, DataError
from cvae_utils.labels import GROUPS, UNKNOWN, Label


def stack(*sizes, spacing=(2.0, 2.0, 10.0), values=(0, 1, 2, 3)):
    """The bytes of a volume (8, 8, Z): in each slice a wall, and in it a square of LV of so many
    pixels a side; None: empty. values[label] stands for label."""
    labels = np.zeros((8, 8, len(sizes)), dtype=np.uint8)
    for z, size in enumerate(sizes):
        if size is not None:
            labels[1:7, 1:7, z] = Label.MYO
            labels[2:2 + size, 2:2 + size, z] = Label.LV
    return nifti(np.array(values, dtype=np.int16)[labels], spacing)


@pytest.fixture
def small(tmp_path):
    """One patient; at ED slices with no label, with MYO alone, and two with LV; at ES no LV."""
    write_patient(tmp_path / "small" / "patient001", stack(None, 0, 4, 3), stack(None, 0), "HCM")
    return tmp_path / "small"


@pytest.fixture
def load(tmp_path):
    """A function from a data set, or its folder, to its slices, which are kept in tmp_path/out."""
    def load(source, size=16, **given):
        if not isinstance(source, sources.Source):
            source = open_source("ACDC", source)
        return load_or_align(source, size, tmp_path / "out", progress=False, **given)

    return load


# ------------------------------------------------------------------------------- kept and skipped
def test_every_slice_is_kept_or_skipped_with_a_reason(small, load):
    slices = load(small)
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
    read = sum(volumes.read_labels(f.label_path).data.shape[2] for f in source.frames)
    assert len(slices.table) + len(slices.skipped) == read
    assert len(slices.aligned) == len(slices.unrotated) == len(slices.table) > 100
    assert (slices.aligned == Label.LV).any(axis=(1, 2)).all()
    assert slices.table["patient"].nunique() == source.patients == 10
    assert slices.table.notna().all(axis=None)
    assert set(slices.table["group"]) == set(GROUPS)
    assert set(slices.table["subset"]) == {"training"}


@pytest.mark.parametrize("names", [("007", "7"), ("1e3", "1000"), ("True", "1"), ("NA", "nan")])
def test_names_of_patients_stay_text_and_only_numbers_can_be_missing(tmp_path, load, names):
    for name in names:
        write(tmp_path / "in" / name / "ED.nii.gz", stack(None, 3))
        write(tmp_path / "in" / name / "ES.nii.gz", stack(0))
    slices = load(open_source("", tmp_path / "in", pattern="**/*.nii.gz"))
    assert slices.table["patient"].tolist() == sorted(names)
    assert set(slices.skipped["patient"]) == set(names) and set(slices.table["subset"]) == {""}
    numbers = ["level", "angle_deg", "crop_mm", "crop_unrotated_mm"]
    assert set(slices.table[numbers].dtypes) == {np.dtype(float)}
    assert slices.table[numbers].notna().all(axis=None)
    assert slices.skipped[["level", "angle_deg"]].isna().all(axis=None)
    assert slices.skipped["crop_mm"].notna().tolist() == [True, False] * 2  # ES has no LV at all


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


def test_what_was_assumed_or_ignored_is_in_the_table_and_said_once(tmp_path, load, capsys):
    x, y = np.arange(90)[:, None] * 1.5 - 45, np.arange(80)[None, :] * 1.5 - 45
    labels = np.stack([paint(x, y, cavity=12, outer=18, rv=8)] * 3, axis=2)
    labels[85:88, 70:73, 1] = Label.LV
    write(tmp_path / "a_ED.nii.gz", nifti(labels, (1.5, 1.5, 8.0)))
    source = open_source("", tmp_path, pattern="*.nii.gz")
    notice = "ignored, for it lies far from the heart: 9 of LV (pixels)"
    for said in (f"1 slices: {notice}\n", ""):
        capsys.readouterr()
        slices = load(source, 32)
        assert capsys.readouterr().out == said
        assert slices.table["notice"].tolist() == ["", notice, ""]
    assert aligned_slices.notices(slices.table) == {notice: 1}


def test_labels_that_mean_something_else_are_noticed(slices):
    for values, swapped in (((0, 1, 2, 3), False), ((0, 3, 2, 1), True), ((0, 0, 2, 3), False)):
        maps = np.array(values, np.uint8)[slices.aligned]
        assert aligned_slices.labels_seem_swapped(maps) == swapped


@pytest.mark.parametrize(("values", "sizes", "message"), [
    ((0, 1, 2, 0), (4, 3), "2 volumes were read and none.*Expected ACDC labels"),
    ((0, 1, 0, 3), (4, 3), "4 slices have a left-ventricle cavity .* none has a myocardium"),
])
def test_data_without_any_lv_or_wall_are_refused(small, load, tmp_path, values, sizes, message):
    write_patient(small / "patient001", *[stack(*sizes, values=values)] * 2)
    with pytest.raises(DataError, match=message):
        load(small)
    assert list((tmp_path / "out").iterdir()) == []


# ----------------------------------------------------------------------------------------- stored
FILES = ("aligned.npy", "unrotated.npy", "slices.csv")


def same(slices, other):
    """Whether they hold the same pictures and rows."""
    return (np.array_equal(slices.aligned, other.aligned) and slices.table.equals(other.table)
            and np.array_equal(slices.unrotated, other.unrotated))


def test_stored_slices_are_read_and_not_made_again(source, slices, load, tmp_path, monkeypatch):
    first = load(source, 32)
    monkeypatch.setattr(acdc, "read_patient", None)
    again = load(source, 32)
    assert same(first, slices) and same(again, slices)
    assert first.fingerprint == again.fingerprint == slices.fingerprint
    for maps in (again.aligned, again.unrotated):  # they are read where they are used
        assert isinstance(maps, np.memmap) and not maps.flags.writeable


def test_another_label_file_or_size_makes_them_again(small, load, tmp_path):
    first, larger = load(small), load(small, 32)
    write_patient(small / "patient001", stack(None, 0, 4, 3), stack(4), "HCM")
    edited = load(small)
    assert [len(s.table) for s in (first, larger, edited)] == [2, 2, 3]
    assert len({s.fingerprint for s in (first, larger, edited)}) == 3
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_fingerprint_is_that_of_the_content(small, load, tmp_path):
    first = load(small)
    elsewhere = open_source("ACDC", shutil.copytree(small, tmp_path / "elsewhere"))
    copy = load_or_align(elsewhere, 16, tmp_path / "other", progress=False)
    assert copy.fingerprint == first.fingerprint
    values = (0, 600, 200, 500)  # the same heart by other numbers
    write_patient(small / "patient001", stack(None, 0, 4, 3, values=values),
                  stack(None, 0, values=values), "HCM")
    other = load(open_source("ACDC", small, {500: "LV", 200: "MYO", 600: "RV"}))
    assert same(other, first) and other.fingerprint == first.fingerprint
    with pytest.raises(DataError, match="frame01_gt.nii.gz.*found values .*500"):
        load(small)
    folder, = (tmp_path / "other").iterdir()
    (folder / "source.json").unlink()
    maps = np.array(copy.aligned)
    maps[0, 0, 0] = Label.RV
    np.save(folder / "aligned.npy", maps)
    aligned_slices.finish(folder, elsewhere)
    assert aligned_slices.load(folder).fingerprint != first.fingerprint


def lopsided():
    """Labels (24, 22, 4) of hearts that no turn or mirror leaves as they are; and no heart."""
    x, y = np.arange(24)[:, None] * 1.5 - 19, np.arange(22)[None, :] * 1.25 - 12
    slices = [paint(x, y, cavity=cavity, outer=cavity + 3, rv=5, turn_deg=turn, lv_shift=(1, 0.6))
              for cavity, turn in ((6, 25), (5, 40), (4, -10))]
    return np.stack([*slices, np.zeros_like(slices[0])], axis=2)


def test_the_same_heart_in_any_orientation_gives_the_same_slices_to_the_byte(tmp_path):
    labels, spacing = lopsided(), (1.91964, 1.3671875, 6.4)
    expected = align_volume(labels, np.float32(spacing), 24)
    (out := tmp_path / "out").mkdir()
    found = []
    for header, plane in (("official", "straight"), ("clean", "35 -25"), ("NIfTI-2", "80 45")):
        for raw in orientations(header, PLANES[plane], labels, spacing):
            write_patient(tmp_path / "in" / "patient001", raw, raw)
            align_all(open_source("", tmp_path / "in"), 24, out, progress=False)
            found.append(tuple((out / name).read_bytes() for name in FILES))
    assert len(found) == 3 * 48 and len(set(found)) == 1
    aligned, unrotated = (np.load(io.BytesIO(raw)) for raw in found[0][:2])
    assert (aligned == np.concatenate([expected.aligned] * 2)).all()
    assert (unrotated == np.concatenate([expected.unrotated] * 2)).all()
    assert len(aligned) == 6 and (aligned != unrotated).any(axis=(1, 2)).all()


# --------------------------------------------------------------------------------- many at a time
@pytest.fixture
def six(source):
    """Three patients of the phantom."""
    return replace(source, frames=source.frames[:6])


def test_files_do_not_depend_on_the_number_of_workers(six, tmp_path):
    stored = []
    for workers in (1, 2, 3):
        slices = load_or_align(six, 16, tmp_path / str(workers), progress=False, workers=workers)
        folder, = (tmp_path / str(workers)).iterdir()
        assert {path.name for path in folder.iterdir()} == {*FILES, "source.json"}
        stored.append((folder.name, *(path.read_bytes() for path in sorted(folder.iterdir()))))
    assert len(set(stored)) == 1
    assert list(slices.table["patient"].unique()) == [frame.patient for frame in six.frames[::2]]
    np.save(tmp_path / "plain.npy", slices.aligned)  # the file that NumPy would have written
    assert (tmp_path / "plain.npy").read_bytes() == (folder / "aligned.npy").read_bytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_file_that_cannot_be_used_is_named_by_any_worker(six, tmp_path, load, workers):
    folder = shutil.copytree(six.root, tmp_path / "copy")
    damaged = folder / six.frames[3].label_path.relative_to(six.root)
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(DataError) as error:
        load(folder, workers=workers)
    assert str(damaged) in str(error.value) and "download it again" in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*tasks which were still being processed:UserWarning")
@pytest.mark.parametrize(("workers", "error"), [(1, MemoryError), (2, KeyboardInterrupt)])
def test_interrupted_alignment_leaves_nothing(six, tmp_path, load, monkeypatch, workers, error):
    def interrupted(results, **_):
        yield next(iter(results))
        assert list(tmp_path.glob("out/.phantom-16-*/slices.csv"))  # there is something to remove
        raise error

    monkeypatch.setattr(aligned_slices, "tqdm", interrupted)
    with pytest.raises(error):
        load(six, workers=workers)
    assert list((tmp_path / "out").iterdir()) == []


def test_rows_that_are_read_are_a_copy_wherever_they_lie(tmp_path):
    whole = np.random.default_rng(0).integers(0, 4, (40, 32, 32)).astype(np.uint8)
    np.save(tmp_path / "maps.npy", whole)
    mapped = np.load(tmp_path / "maps.npy", mmap_mode="r")
    for maps, expected in ((whole, whole), (mapped, whole), (mapped[::2], whole[::2])):
        for rows in ([5], [17, 2, 2, 19], np.arange(len(maps)), [-1], slice(4, 9)):
            found = read_rows(maps, rows)
            assert type(found) is np.ndarray and np.array_equal(found, expected[rows])
            found[:] = 9
            assert (read_rows(maps, rows) == expected[rows]).all()  # every page is read anew


READ_THROUGH = """
import sys
import numpy as np
from cvae_utils.data.slices import read_rows

def from_files():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) / 1024

maps = np.load(sys.argv[1], mmap_mode="r")
before, most, total = from_files(), 0.0, 0
for start in range(0, len(maps), 500):
    total += int(read_rows(maps, np.arange(start, min(start + 500, len(maps))))[:, 0, 0].sum())
    most = max(most, from_files() - before)
plain = np.array(maps[:, 0, 0])  # the same, without read_rows
print(total, int(plain.sum()), most, from_files() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux about memory")
def test_large_file_can_be_read_through_in_little_memory(tmp_path):
    """200 MB, of which at most a tenth counts as memory of the process at any time."""
    whole = np.lib.format.open_memmap(tmp_path / "maps.npy", "w+", np.uint8, (12_800, 125, 125))
    whole[:] = np.arange(12_800).astype(np.uint8)[:, None, None]
    whole.flush()
    ended = subprocess.run([sys.executable, "-c", READ_THROUGH, tmp_path / "maps.npy"],
                           cwd=REPOSITORY, capture_output=True, text=True, check=True)
    total, expected, most, plain = map(float, ended.stdout.split())
    assert total == expected > 0
    assert most < 20 and plain > 150  # MB; the latter shows that it would be noticed


# ---------------------------------------------------------------------------------------- sources
def test_phantom_stands_in_where_there_is_no_acdc(tiny, tmp_path, monkeypatch, source, capsys):
    def found():
        return sources.find_source(tmp_path / "data", tiny, tmp_path)

    assert (found().name, found().patients) == ("phantom", tiny.phantom_patients)
    assert found().root.parent == tmp_path / "data" / "raw"
    monkeypatch.setenv("CVAE_PATTERN", "*.nii")
    capsys.readouterr()
    assert found().name == "phantom"
    assert capsys.readouterr().out.startswith("CVAE_PATTERN: not used, for the data set is the")
    monkeypatch.delenv("CVAE_PATTERN")

    monkeypatch.setenv("ACDC_ROOT", str(source.root))
    assert (found().name, found().root) == ("own-phantom", source.root)  # in its layout, not ACDC
    monkeypatch.setenv("CVAE_DATA", "phantom")
    assert found().name == "phantom"
    monkeypatch.delenv("CVAE_DATA")
    monkeypatch.delenv("ACDC_ROOT")
    shutil.copytree(source.root, tmp_path / "data" / "raw" / "acdc")
    assert found().name == "own-acdc"
    monkeypatch.setattr(acdc, "is_official", lambda frames: True)
    assert found().name == "ACDC"


def test_plain_folder_gives_the_slices_of_its_volumes(source, slices, load, tmp_path):
    (folder := tmp_path / "My hearts").mkdir()
    for frame in source.frames:
        name = f"{frame.patient.removeprefix('patient')}_{frame.phase}.nii.gz"
        shutil.copy(frame.label_path, folder / name)
    plain = open_source("ACDC", folder, pattern="*.nii.gz")
    assert (plain.name, plain.patients, len(plain.frames)) == ("My hearts", 10, 20)
    found = load(plain, 32)
    assert (found.aligned == slices.aligned).all() and found.source == "My hearts"
    assert list((tmp_path / "out").glob("my hearts-32-*"))
    assert set(found.table["group"]) == {UNKNOWN} and set(found.table["subset"]) == {""}
    columns = ["phase", "slice_index", "level", "grid", "spacing_mm", "angle_deg", "crop_mm"]
    pd.testing.assert_frame_equal(found.table[columns], slices.table[columns])


# ------------------------------------------------------------------------------------------ split
def patients(per_group, slices_each=3):
    rows = [{"patient": f"{group}{k}", "group": group}
            for group in GROUPS for k in range(per_group) for _ in range(slices_each)]
    return pd.DataFrame(rows).sample(frac=1, random_state=0).reset_index(drop=True)


@pytest.mark.parametrize("by", ["patient", "slice"])
def test_split_is_a_partition_that_depends_on_the_seed_alone(by):
    table = patients(6)
    parts = splits.split(table, by, seed=1)
    assert list(parts) == ["train", "validation", "test"]
    assert np.sort(np.concatenate(list(parts.values()))).tolist() == list(range(len(table)))
    assert all((np.diff(rows) > 0).all() for rows in parts.values())
    again, other = splits.split(table, by, seed=1), splits.split(table, by, seed=2)
    assert all((parts[name] == again[name]).all() for name in parts)
    assert not np.array_equal(parts["test"], other["test"])


@pytest.mark.parametrize(("per_group", "expected"), [
    (2, [(1,), (0, 1), (0, 1)]),
    (10, [(5,), (2,), (3,)]),
    (30, [(15,), (6,), (9,)]),
])
def test_every_part_has_its_share_of_every_group_and_no_patient_twice(per_group, expected):
    table = patients(per_group)
    for seed in range(3):
        parts = splits.split(table, "patient", seed)
        seen = [table.iloc[rows].drop_duplicates("patient") for rows in parts.values()]
        assert sum(map(len, seen)) == 5 * per_group
        for part, allowed, share in zip(seen, expected, (0.5, 0.2, 0.3)):
            counts = part["group"].value_counts()
            assert all(counts.get(group, 0) in allowed for group in GROUPS)
            assert abs(len(part) - share * 5 * per_group) < 1


def test_split_by_slice_is_50_20_30_and_puts_patients_on_both_sides():
    table = patients(4, slices_each=5)
    parts = splits.split(table, "slice")
    assert [len(rows) for rows in parts.values()] == [50, 20, 30]
    assert set(table["patient"].iloc[parts["train"]]) & set(table["patient"].iloc[parts["test"]])


def test_patients_of_no_known_group_are_split_like_a_group():
    table = patients(4).assign(group=UNKNOWN)
    parts = splits.split(table)
    assert [table["patient"].iloc[rows].nunique() for rows in parts.values()] == [10, 4, 6]
    mixed = patients(4)
    mixed.loc[mixed["patient"].str.startswith("NOR"), "group"] = UNKNOWN
    counts = [(mixed["group"].iloc[rows] == UNKNOWN).sum() for rows in splits.split(mixed).values()]
    assert sum(counts) == 12 and counts[0] == 6  # three slices a patient


def test_split_that_cannot_be_made_is_refused():
    with pytest.raises(ValueError, match="one of patient, slice, official, found 'volume'"):
        splits.split(patients(2), "volume")
    few = pd.DataFrame({"patient": ["a", "b", "c"], "group": ["NOR", "DCM", UNKNOWN]})
    assert all(len(part) for part in splits.split(few).values())
    with pytest.raises(ValueError, match="enough patients for three parts, found 2; .* 3 are"):
        splits.split(few[:2])
    assert all(len(part) for part in splits.split(patients(1)[:4], "slice").values())
    with pytest.raises(ValueError, match="slices for three parts, found 3; .* 4 "):
        splits.split(patients(1)[:3], "slice")


# ----------------------------------------------------------------------- checks of whole volumes
def test_cardiac_function_by_hand(tmp_path):
    for name, sides in (("p1-1-ED", (4, 3)), ("p1-1-ES", (3, 1)), ("p1-2-ED", (4, None)),
                        ("p1-2-ES", (2, None)), ("p2-1-ES", (3,)), ("p3-1", (1,))):
        write(tmp_path / f"{name}.nii.gz", stack(*sides, spacing=(2.0, 1.5, 10.0)))
    found = volume_checks.cardiac_function(open_source("", tmp_path, pattern="*"), progress=False)
    assert list(found.columns) == ["patient", "group", "ed_ml", "es_ml", "ef_percent"]
    assert found["patient"].tolist() == ["p1", "p1", "p2", "p3"]
    assert set(found["group"]) == {UNKNOWN}
    assert found[["ed_ml", "es_ml", "ef_percent"]].to_numpy() == pytest.approx(np.array([
        [25 * 0.03, 10 * 0.03, 60], [16 * 0.03, 4 * 0.03, 75], [np.nan, 9 * 0.03, np.nan],
        [np.nan] * 3]), nan_ok=True)


def test_averaging_keeps_hearts_at_least_as_well_as_nearest_neighbours(six):
    found = volume_checks.compare_resampling(six, 48, progress=False)
    assert tuple(found.index) == METHODS and found.notna().all(axis=None)
    assert found.loc["area", "valid, %"] >= found.loc["nearest", "valid, %"] > 50
    change = "mean size of change, %"
    assert 0 < found.loc["area", change] < found.loc["nearest", change] < 10
    assert found.filter(like="area of").abs().max(axis=None) < 10


def test_resampling_of_hearts_without_rv_is_compared_without_it(tmp_path):
    write(tmp_path / "a_ED.nii.gz", stack(4, 3))
    found = volume_checks.compare_resampling(open_source("", tmp_path, pattern="*"), 16,
                                             progress=False)
    assert found["area of RV, %"].isna().all()
    assert found.drop(columns="area of RV, %").notna().all(axis=None)


# ---------------------------------------------------------------------------------------- ACDC
@pytest.mark.real_data
def test_counts_volumes_and_ejection_fractions_of_acdc(real_source, load, capsys):
    slices = load(real_source, 32)
    reasons = slices.skipped["skipped_because"].str.replace("volume without LV cavity: ", "")
    assert real_source.patients == slices.table["patient"].nunique() == 150
    assert len(slices.table) == 2785
    assert len(slices.table) + reasons.eq("no LV cavity").sum() == 2842
    assert len(slices.table) + len(slices.skipped) == 2978
    assert not aligned_slices.notices(slices.table) and not capsys.readouterr().out
    table = volume_checks.cardiac_function(real_source, progress=False)
    assert (table["group"].value_counts() == 30).all()
    found = table.groupby("group")[["ed_ml", "ef_percent"]].mean()
    expected = {"DCM": (283, 20), "NOR": (130, 62), "MINF": (181, 31), "HCM": (132, 70),
                "ARV": (117, 57)}
    for group, values in expected.items():
        assert found.loc[group].tolist() == pytest.approx(values, rel=0.02)
