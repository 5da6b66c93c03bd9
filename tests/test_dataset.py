"""From a data set to slices on disk: what is kept, what is stored, and how it is split."""

import io
import itertools
import shutil
import subprocess
import sys
from dataclasses import replace

import joblib
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hearts import nifti, official, paint, write

from cvae_utils import acdc, align, dataset
from cvae_utils.dataset import load_or_align, open_source, read_rows, slice_levels
from cvae_utils.labels import GROUPS, UNKNOWN, Label
from cvae_utils.storage import REPOSITORY


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
    with pytest.raises(acdc.DataError, match="2 volumes were read and none.*Expected ACDC labels"):
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


FILES = ("aligned.npy", "unrotated.npy", "slices.csv")


def stored_bytes(folder):
    """The files of the one data set stored in a folder."""
    stored, = folder.iterdir()
    assert sorted(path.name for path in stored.iterdir()) == sorted((*FILES, "source.json"))
    return {name: (stored / name).read_bytes() for name in FILES}


def lopsided():
    """Labels (24, 22, 4) of hearts that no turn or mirror leaves as they are; and no heart."""
    x, y = np.arange(24)[:, None] * 1.5 - 19, np.arange(22)[None, :] * 1.25 - 12
    slices = [paint(x, y, cavity=cavity, outer=cavity + 3, rv=5, turn_deg=turn, lv_shift=(1, 0.6))
              for cavity, turn in ((6, 25), (5, 40), (4, -10))]
    return np.stack([*slices, np.zeros_like(slices[0])], axis=2)


def headers(spacing):
    """{name: (what writes the file, directions of x, y, z in RAS)}, 15 ways to say the same."""
    straight = np.diag([-1.0, -1.0, 1.0])
    ways = {"clean": (nifti, straight), "official": (official, straight),
            "NIfTI-2": (lambda *given: nifti(*given, kind=nib.Nifti2Image), straight)}
    for k, (azimuth, elevation) in enumerate(itertools.product((10, 35, 55, 80), (-25, 0, 45))):
        a, e = np.radians([azimuth, elevation])
        away = np.array([np.cos(e) * np.cos(a), -np.cos(e) * np.sin(a), np.sin(e)])
        x = np.cross(away, [0, 0, 1]) / np.cos(e)
        ways[f"plane {k}"] = nifti, np.stack([x, np.cross(away, x), away], axis=1)
    return ways


def test_the_same_heart_in_any_orientation_gives_the_same_slices_to_the_byte(tmp_path):
    labels, spacing = lopsided(), (1.91964, 1.3671875, 6.4)
    expected = align.align_volume(labels, np.float32(spacing), 24)
    folder, out, found = tmp_path / "in", tmp_path / "out", []
    out.mkdir()
    for header, directions in headers(spacing).values():
        for order in map(list, itertools.permutations(range(3))):
            for signs in itertools.product((1, -1), repeat=3):
                stored = labels.transpose(order)[tuple(np.s_[::sign] for sign in signs)]
                raw = header(stored, np.array(spacing)[order], directions[:, order] * signs)
                write(folder / "training" / "patient001" / "patient001_frame01_gt.nii", raw)
                write(folder / "training" / "patient001" / "patient001_frame02_gt.nii", raw)
                (folder / "training" / "patient001" / "Info.cfg").write_text(
                    "ED: 1\nES: 2\nGroup: NOR\n")
                dataset.align_all(open_source("", folder), 24, out, progress=False)
                found.append(tuple((out / name).read_bytes() for name in FILES))
    assert len(found) == 15 * 48 and len(set(found)) == 1
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
    for workers in (1, 2, 3):
        load_or_align(six, 16, tmp_path / str(workers), progress=False, workers=workers)
    one, *others = (stored_bytes(tmp_path / str(workers)) for workers in (1, 2, 3))
    assert all(other == one for other in others)
    assert len({path.name for k in "123" for path in (tmp_path / k).iterdir()}) == 1
    table = pd.read_csv(io.BytesIO(one["slices.csv"]))
    assert list(table["patient"].unique()) == [frame.patient for frame in six.frames[::2]]


@pytest.mark.parametrize("workers", [1, 2])
def test_file_that_cannot_be_used_is_named_by_any_worker(six, tmp_path, workers):
    folder = shutil.copytree(six.root, tmp_path / "copy")
    damaged = folder / six.frames[3].label_path.relative_to(six.root)
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(acdc.DataError) as error:
        load_or_align(open_source("phantom", folder), 16, tmp_path / "out", progress=False,
                      workers=workers)
    assert str(damaged) in str(error.value) and "download it again" in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*tasks which were still being processed:UserWarning")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_alignment_interrupted_between_patients_leaves_nothing(
        six, tmp_path, monkeypatch, workers, error):
    def interrupted(results, **_):
        yield next(iter(results))
        written, = tmp_path.glob(".*/slices.csv")  # there is something that must go
        assert written.parent.name.startswith(".phantom-16-")
        raise error

    monkeypatch.setattr(dataset, "tqdm", interrupted)
    with pytest.raises(error):
        load_or_align(six, 16, tmp_path, progress=False, workers=workers)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("many", "cores", "asked", "expected"), [
    (7, 8, None, None), (6, 8, None, 8), (6, None, None, None), (6, 1, None, None),
    (7, 8, 3, 3), (6, 8, 1, None),
])
def test_processes_are_started_when_asked_for_or_when_that_pays(
        six, tmp_path, monkeypatch, many, cores, asked, expected):
    started, parallel = [], joblib.Parallel

    def in_this_process(workers, **options):
        started.append(workers)
        return parallel(1, **options)

    monkeypatch.setattr(dataset, "MANY_VOLUMES", many)
    monkeypatch.setattr(dataset.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(dataset.joblib, "Parallel", in_this_process)
    slices = load_or_align(six, 16, tmp_path, progress=False, workers=asked)
    assert started == ([] if expected is None else [expected])
    assert slices.table["patient"].nunique() == 3


@pytest.mark.parametrize("counts", [[], [0], [9], [9, 1], [1] * 10, [0, 9, 0, 90, 1], [12345],
                                    [99, 1, 9900, 0, 2345]])
def test_slice_file_that_grows_is_the_file_that_numpy_would_write(tmp_path, counts):
    maps = np.random.default_rng(0).integers(0, 4, (sum(counts), 3, 3)).astype(np.uint8)
    with dataset._SliceFile(tmp_path / "a.npy", 3) as file:
        for part in np.split(maps, np.cumsum(counts)[:-1]) if counts else ():
            file.append(part)
    found = np.load(tmp_path / "a.npy")
    assert found.shape == (sum(counts), 3, 3) and found.dtype == np.uint8
    np.save(tmp_path / "b.npy", maps)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_slices_are_read_from_disk_where_they_are_used(slices):
    for maps in (slices.aligned, slices.unrotated):
        assert isinstance(maps, np.memmap) and not maps.flags.writeable


MAPS = np.random.default_rng(0).integers(0, 4, (40, 32, 32)).astype(np.uint8)


@pytest.fixture(params=["in memory", "mapped", "part of a mapped one"])
def maps(request, tmp_path):
    """The same label maps, wherever they lie."""
    if request.param == "in memory":
        return MAPS
    np.save(tmp_path / "maps.npy", MAPS if request.param == "mapped" else np.repeat(MAPS, 2, 0))
    mapped = np.load(tmp_path / "maps.npy", mmap_mode="r")
    return mapped if request.param == "mapped" else mapped[::2]


@pytest.mark.parametrize("rows", [[5], [30, 2, 2, 17], np.arange(40), [-1], slice(4, 9)])
def test_rows_that_are_read_are_a_copy_wherever_they_lie(maps, rows):
    found = read_rows(maps, rows)
    assert (found == MAPS[rows]).all() and found.shape == MAPS[rows].shape
    assert found.dtype == np.uint8 and type(found) is np.ndarray and found.flags.writeable
    found[:] = 9
    assert (read_rows(maps, rows) == MAPS[rows]).all()  # every page is read anew


READ_THROUGH = """
import sys
import numpy as np
from cvae_utils.dataset import read_rows

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
    found = dataset.find_source(tmp_path / "data", tiny, tmp_path)
    assert (found.name, found.patients) == ("phantom", tiny.phantom_patients)
    assert found.root.parent == tmp_path / "data" / "raw"
    assert found.fingerprint == source.fingerprint  # the labels do not depend on the images

    monkeypatch.setenv("CVAE_PATTERN", "*.nii")
    capsys.readouterr()
    assert dataset.find_source(tmp_path / "data", tiny, tmp_path).name == "phantom"
    assert capsys.readouterr().out.startswith("CVAE_PATTERN: not used, for the data set is the")
    monkeypatch.delenv("CVAE_PATTERN")

    monkeypatch.setenv("ACDC_ROOT", str(source.root))
    named = dataset.find_source(tmp_path / "data", tiny, tmp_path)
    assert (named.name, named.root) == ("own-phantom", source.root)  # in ACDC's layout, not ACDC
    monkeypatch.setenv("CVAE_DATA", "phantom")
    assert dataset.find_source(tmp_path / "data", tiny, tmp_path).name == "phantom"

    monkeypatch.delenv("CVAE_DATA")
    monkeypatch.delenv("ACDC_ROOT")
    shutil.copytree(source.root, tmp_path / "data" / "raw" / "acdc")
    assert dataset.find_source(tmp_path / "data", tiny, tmp_path).name == "own-acdc"
    monkeypatch.setattr(acdc, "is_official", lambda frames: frames == found_frames(tmp_path))
    assert dataset.find_source(tmp_path / "data", tiny, tmp_path).name == "ACDC"


def found_frames(tmp_path):
    return acdc.list_frames(tmp_path / "data" / "raw" / "acdc")


@pytest.fixture
def folder(source, tmp_path):
    """The phantom's volumes as a plain folder of files 001_ED.nii.gz to 010_ES.nii.gz."""
    plain = tmp_path / "My hearts"
    plain.mkdir()
    for frame in source.frames:
        name = f"{frame.patient.removeprefix('patient')}_{frame.phase}.nii.gz"
        shutil.copy(frame.label_path, plain / name)
    return plain


def test_plain_folder_gives_the_slices_of_its_volumes_and_a_split(folder, slices, tmp_path):
    source = open_source("ACDC", folder, pattern="*.nii.gz")
    assert (source.name, source.patients, len(source.frames)) == ("My hearts", 10, 20)
    found = load_or_align(source, 32, tmp_path / "out", progress=False)
    assert (found.aligned == slices.aligned).all() and found.source == "My hearts"
    assert (tmp_path / "out" / f"my hearts-32-{found.fingerprint}").is_dir()
    assert set(found.table["group"]) == {UNKNOWN} and set(found.table["subset"]) == {""}
    same = ["phase", "slice_index", "level", "grid", "spacing_mm", "angle_deg", "crop_mm"]
    pd.testing.assert_frame_equal(found.table[same], slices.table[same])
    parts = dataset.split(found.table)
    seen = [set(found.table["patient"].iloc[rows]) for rows in parts.values()]
    assert [len(part) for part in seen] == [5, 2, 3] and len(set.union(*seen)) == 10


@pytest.mark.parametrize("names", [("007", "7"), ("1e3", "1000"), ("True", "1"), ("", "nan")])
def test_names_of_patients_stay_text(tmp_path, names):
    for size, name in enumerate(names, start=2):
        (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
        write_labels(tmp_path / "in" / name / "ED.nii.gz", stack(None, size))
    source = open_source("", tmp_path / "in", pattern="**/*.nii.gz")
    slices = load_or_align(source, 16, tmp_path / "out", progress=False)
    assert slices.table["patient"].tolist() == sorted(names) == slices.skipped["patient"].tolist()


def test_volumes_of_no_known_phase_are_kept_each_on_its_own(tmp_path):
    write_labels(tmp_path / "b.nii.gz", stack(3))
    write_labels(tmp_path / "a.nii.gz", stack(4), (1.5, 1.5, 8.0))
    source = open_source("", tmp_path, pattern="*.nii.gz")
    slices = load_or_align(source, 16, tmp_path / "out", progress=False)
    assert slices.table[["patient", "phase", "spacing_mm"]].to_numpy().tolist() == [
        ["a", UNKNOWN, 1.5], ["b", UNKNOWN, 2.0]]


def test_2d_file_is_one_slice_of_the_data_set(tmp_path):
    labels = stack(4)
    for name, data in (("flat", labels[:, :, 0]), ("deep", labels)):
        (tmp_path / name).mkdir()
        write_labels(tmp_path / name / "a.nii.gz", data)
        load_or_align(open_source("", tmp_path / name, pattern="*.nii.gz"), 16,
                      tmp_path / f"{name}.out", progress=False)
    flat = stored_bytes(tmp_path / "flat.out")
    assert flat == stored_bytes(tmp_path / "deep.out")
    assert np.load(io.BytesIO(flat["aligned.npy"])).shape == (1, 16, 16)


def test_other_labels_give_the_same_slices_and_another_key(small, tmp_path):
    first = load_or_align(open_source("ACDC", small), 16, tmp_path / "out", progress=False)
    for path in small.glob("*/*_gt.nii.gz"):
        labels = np.asarray(nib.load(path).dataobj)
        write_labels(path, np.array([0, 600, 200, 500], dtype=np.int16)[labels])
    named = open_source("ACDC", small, {500: "LV", 200: "MYO", 600: "RV"})
    other = load_or_align(named, 16, tmp_path / "out", progress=False)
    assert (other.aligned == first.aligned).all() and (other.unrotated == first.unrotated).all()
    pd.testing.assert_frame_equal(other.table, first.table)
    assert other.fingerprint != first.fingerprint
    with pytest.raises(acdc.DataError, match="frame01_gt.nii.gz.*found values .*500"):
        load_or_align(open_source("ACDC", small), 16, tmp_path / "out", progress=False)


@pytest.mark.parametrize("open_it", [
    lambda root: open_source("ACDC", root, "mms"),
    lambda root: open_source("ACDC", root, {1: "RV"}),
    lambda root: open_source("ACDC", root, pattern="*.mha"),
    lambda root: open_source("ACDC", root, pattern="/*"),
    lambda root: open_source("ACDC", root / "nowhere", pattern="*"),
])
def test_unusable_labels_pattern_or_folder_are_refused(small, open_it):
    with pytest.raises(acdc.DataError, match="expected"):
        open_it(small)


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


def test_patients_of_no_known_group_are_split_like_a_group():
    table = patients(4).assign(group=UNKNOWN)
    parts = dataset.split(table)
    assert [table["patient"].iloc[rows].nunique() for rows in parts.values()] == [10, 4, 6]
    mixed = patients(4)
    mixed.loc[mixed["patient"].str.startswith("NOR"), "group"] = UNKNOWN
    counts = [table["patient"].iloc[rows].str.startswith("NOR").sum()
              for rows in dataset.split(mixed).values()]
    assert sum(counts) == 12 and counts[0] == 6  # three slices a patient


def test_split_that_cannot_be_made_is_refused():
    with pytest.raises(ValueError, match="'patient' or 'slice', found 'volume'"):
        dataset.split(patients(2), "volume")
    one = pd.DataFrame({"patient": ["a"] * 9, "group": ["NOR"] * 9})
    with pytest.raises(ValueError, match="enough patients for three parts, found 1; .* 3 are"):
        dataset.split(one)
    assert all(len(part) for part in dataset.split(pd.DataFrame(
        {"patient": ["a", "b", "c"], "group": ["NOR", "DCM", UNKNOWN]})).values())
    for count in range(1, 8):
        table = patients(1)[:count]
        if count < 4:
            with pytest.raises(ValueError, match=f"slices for three parts, found {count}; .* 4 "):
                dataset.split(table, "slice")
        else:
            assert all(len(part) for part in dataset.split(table, "slice").values())


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


def test_cardiac_function_of_unknown_phases_is_not_a_number(tmp_path):
    for name, side in (("a_ED", 4), ("a_ES", 2), ("b_ES", 3), ("c", 1)):
        write_labels(tmp_path / f"{name}.nii.gz", stack(side), (2.0, 1.5, 10.0))
    found = dataset.cardiac_function(open_source("", tmp_path, pattern="*"), progress=False)
    assert list(found.columns) == ["patient", "group", "ed_ml", "es_ml", "ef_percent"]
    assert found["patient"].tolist() == ["a", "b", "c"] and set(found["group"]) == {UNKNOWN}
    assert found[["ed_ml", "es_ml", "ef_percent"]].to_numpy() == pytest.approx(np.array([
        [16 * 0.03, 4 * 0.03, 75], [np.nan, 9 * 0.03, np.nan], [np.nan] * 3]), nan_ok=True)


def test_averaging_keeps_hearts_at_least_as_well_as_nearest_neighbours(source):
    few = dataset.Source(source.name, source.root, source.frames[:6], source.fingerprint)
    found = dataset.compare_resampling(few, 48, progress=False)
    assert tuple(found.index) == align.METHODS and found.notna().all(axis=None)
    assert found.loc["area", "valid, %"] >= found.loc["nearest", "valid, %"] > 50
    change = "mean size of change, %"
    assert 0 < found.loc["area", change] < found.loc["nearest", change] < 10
    assert found.filter(like="area of").abs().max(axis=None) < 10


def test_ejection_fractions_of_several_scans_are_apart(tmp_path):
    for name, side in (("p1-1-ED", 4), ("p1-1-ES", 2), ("p1-2-ED", 4), ("p1-2-ES", 3),
                       ("p2-1-ED", 1)):
        write_labels(tmp_path / f"{name}.nii.gz", stack(side, None))
    found = dataset.cardiac_function(open_source("", tmp_path, pattern="*"), progress=False)
    assert found["patient"].tolist() == ["p1", "p1", "p2"]
    assert found["ef_percent"].to_numpy() == pytest.approx([75, 43.75, np.nan], nan_ok=True)


# -------------------------------------------------------------------------- odd masks, populations
def test_what_was_assumed_or_ignored_is_in_the_table_and_said_once(tmp_path, capsys):
    x, y = np.arange(90)[:, None] * 1.5 - 45, np.arange(80)[None, :] * 1.5 - 45
    labels = np.stack([paint(x, y, cavity=12, outer=18, rv=8)] * 3, axis=2)
    labels[85:88, 70:73, 1] = Label.LV
    write_labels(tmp_path / "a_ED.nii.gz", labels, (1.5, 1.5, 8.0))
    source = open_source("", tmp_path, pattern="*.nii.gz")
    capsys.readouterr()
    slices = load_or_align(source, 32, tmp_path / "out", progress=False)
    notice = "ignored, for it lies far from the heart: 9 of LV (pixels)"
    assert slices.table["notice"].tolist() == ["", notice, ""]
    assert dataset.notices(slices.table) == {notice: 1}
    assert capsys.readouterr().out == f"1 slices: {notice}\n"
    again = load_or_align(source, 32, tmp_path / "out", progress=False)
    assert again.table["notice"].tolist() == ["", notice, ""] and not capsys.readouterr().out


def test_labels_that_mean_something_else_are_noticed(slices):
    assert not dataset.labels_seem_swapped(slices.aligned)
    assert dataset.labels_seem_swapped(np.array([0, 3, 2, 1], np.uint8)[slices.aligned])
    without_rv = np.array([0, 0, 2, 3], np.uint8)[slices.aligned]
    assert not dataset.labels_seem_swapped(without_rv)


def test_data_without_any_wall_are_refused(tmp_path):
    labels = stack(4, 3)
    labels[labels == Label.MYO] = Label.BACKGROUND
    write_labels(tmp_path / "a_ED.nii.gz", labels)
    with pytest.raises(acdc.DataError, match="2 slices have a left-ventricle cavity .* none has a"):
        load_or_align(open_source("", tmp_path, pattern="*"), 16, tmp_path / "out", progress=False)


def test_resampling_of_hearts_without_rv_is_compared_without_it(tmp_path):
    write_labels(tmp_path / "a_ED.nii.gz", stack(4, 3))
    found = dataset.compare_resampling(open_source("", tmp_path, pattern="*"), 16, progress=False)
    assert found["area of RV, %"].isna().all()
    assert found.drop(columns="area of RV, %").notna().all(axis=None)


# ---------------------------------------------------------------------------------------- ACDC
@pytest.mark.real_data
def test_counts_volumes_and_ejection_fractions_of_acdc(real_source, tmp_path, capsys):
    slices = load_or_align(real_source, 32, tmp_path, progress=False)
    reasons = slices.skipped["skipped_because"].str.replace("volume without LV cavity: ", "")
    assert real_source.patients == slices.table["patient"].nunique() == 150
    assert len(slices.table) == 2785
    assert len(slices.table) + reasons.eq("no LV cavity").sum() == 2842
    assert len(slices.table) + len(slices.skipped) == 2978
    assert not dataset.notices(slices.table) and not capsys.readouterr().out
    table = dataset.cardiac_function(real_source, progress=False)
    assert (table["group"].value_counts() == 30).all()
    found = table.groupby("group")[["ed_ml", "ef_percent"]].mean()
    expected = {"DCM": (283, 20), "NOR": (130, 62), "MINF": (181, 31), "HCM": (132, 70),
                "ARV": (117, 57)}
    for group, values in expected.items():
        assert found.loc[group].tolist() == pytest.approx(values, rel=0.02)
