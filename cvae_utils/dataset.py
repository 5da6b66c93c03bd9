"""From a data set to aligned slices on disk, a slice table, and training, validation and test."""

import json
import mmap
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm.auto import tqdm

from cvae_utils import acdc, align, metrics, naming, phantom, volumes
from cvae_utils.labels import STRUCTURE_NAMES, Label, groups_of
from cvae_utils.profiles import PROFILES, Profile
from cvae_utils.storage import (
    DataError,
    code_stamp,
    complete_folder,
    read_json,
    short_hash,
    write_json,
)

SPLIT_NAMES = ("train", "validation", "test")
SPLIT_FRACTIONS = (0.5, 0.2, 0.3)
#: From so many patients, or slices, on, no part is empty.
LEAST = {"patient": 3, "slice": 4}
#: Columns of the slice table that are never numbers.
TEXTS = ("patient", "subset", "group", "phase", "scan", "grid", "notice", "skipped_because")
#: From so many label volumes on, starting processes to align them pays.
MANY_VOLUMES = 1000


@dataclass(frozen=True)
class Source:
    """A data set that was found: what it is called, where it lies, and its label volumes."""

    name: str  # "ACDC", "phantom", or for any other data set the name of its folder
    root: Path
    frames: list[acdc.Frame]
    fingerprint: str

    @property
    def patients(self) -> int:
        return len(acdc.by_patient(self.frames))


def find_source(data: Path, profile: Profile, base: Path, seed: int = 0,
                labels: str | Mapping = "ACDC", pattern: str = "") -> Source:
    """The data set in ACDC_ROOT, else in data/raw/acdc, else the phantom, made there if need be.

    data: the folder data/; base: what a relative ACDC_ROOT is relative to, see acdc.find_root.
    labels and pattern: see open_source; the phantom needs neither. CVAE_LABELS (a name, or a
    mapping as JSON) and CVAE_PATTERN, where they are set, come first. The name is "ACDC" for ACDC's
    own labels alone; any other data set in its layout has the name of its folder.
    """
    labels = labels if (named := _labels_setting()) == "" else named
    pattern = os.environ.get("CVAE_PATTERN", "").strip() or pattern
    root = acdc.find_root(data / "raw" / "acdc", base)
    if root is None:
        if ignored := [name for name in ("CVAE_LABELS", "CVAE_PATTERN")
                       if os.environ.get(name, "").strip()]:
            print(f"{' and '.join(ignored)}: not used, for the data set is the phantom. Set "
                  "ACDC_ROOT to the folder of your own.")
        return make_phantom(data, profile.phantom_patients, seed)
    found = open_source("ACDC", root, labels, pattern)
    if not pattern and not acdc.is_official(found.frames):
        found = replace(found, name=own_name(root))
    return found


def own_name(root: Path) -> str:
    """What a data set that is neither ACDC nor the phantom is called, after its folder."""
    name = root.name or "data"
    taken = re.fullmatch(r"acdc(-\d+)?", name.lower()) or name.lower() in ("phantom", *PROFILES)
    return f"own-{name}" if taken else name


def _labels_setting() -> str | dict:
    """CVAE_LABELS: a name, or a mapping as JSON; '' if it is not set."""
    value = os.environ.get("CVAE_LABELS", "").strip()
    if not value.startswith("{"):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise DataError(f"CVAE_LABELS: expected a name or a mapping as JSON, such as "
                        f'{{"1": "LV", "2": "MYO", "3": "RV"}}, found {value!r} ({error}).'
                        ) from None


def make_phantom(data: Path, patients: int, seed: int = 0) -> Source:
    """A phantom of so many patients in data/raw, made unless it is there."""
    root = phantom.write_phantom(data / "raw" / f"phantom-{patients}-seed{seed}",
                                 patients=patients, seed=seed)
    return open_source("phantom", root)


def open_source(name: str, root: Path, labels: str | Mapping = "ACDC",
                pattern: str = "") -> Source:
    """List the label volumes of a data set; raises acdc.DataError if it cannot be used.

    labels: what the values in the files mean, see labels.find_label_map. pattern: a glob, or a
    regular expression with named groups, if the data set is a plain folder of label volumes
    (acdc.list_volumes); it then has the folder's name, and what was read from the names of its
    files is printed.
    """
    if pattern:
        frames, name = acdc.list_volumes(root, pattern, labels), own_name(root)
        print(acdc.understood(frames))
    else:
        frames = acdc.list_frames(root, labels)
    hashes = acdc.hash_files(frames)
    if found := acdc.copies(frames, hashes):
        print(found, file=sys.stderr)
    return Source(name, root, frames, acdc.fingerprint(frames, hashes))


@dataclass(frozen=True)
class Slices:
    """Aligned slices and what is known of each.

    aligned, unrotated: (N, S, S) uint8 label maps, read from disk where they are used
    table: N rows; patient, subset, group, phase, scan, slice_index, level (0 base, 1 apex), grid
        (in-plane size of the volume), spacing_mm, thickness_mm, angle_deg, crop_mm,
        crop_unrotated_mm, notice (what was assumed or ignored, "" if nothing)
    skipped: the slices that were read and left out, with the reason
    source, fingerprint: name of the data set, and a hash of everything these slices depend on
    """

    aligned: np.ndarray
    unrotated: np.ndarray
    table: pd.DataFrame
    skipped: pd.DataFrame
    source: str
    fingerprint: str

    @property
    def size(self) -> int:
        return self.aligned.shape[-1]


def load_or_align(source: Source, size: int, folder: Path, progress: bool = True,
                  workers: int | None = None) -> Slices:
    """The aligned slices of a data set, from `folder` if they are there, else made and stored.

    The stored folder is named by data set, size and a hash of the label files and of the code
    that aligns them; it appears only when complete. workers: processes that align, by default one,
    and one a core for a large data set; the result is the same. Raises acdc.DataError for unusable
    input.
    """
    key = short_hash([source.fingerprint, size, code_stamp(volumes, acdc, naming, align, metrics,
                                                           sys.modules[__name__])])
    target = folder / f"{source.name.lower()}-{size}-{key}"
    made = not target.is_dir()
    if made:
        with complete_folder(target, replace=False) as partial:
            align_all(source, size, partial, progress, workers)
            write_json(partial / "source.json", {"source": source.name, "fingerprint": key})
    # Only numbers can be missing: a patient may well be called NA, or 007.
    texts = dict.fromkeys(TEXTS, str)
    table = pd.read_csv(target / "slices.csv", keep_default_na=False, dtype=texts, na_values={
        name: [""] for name in ("level", "angle_deg", "crop_mm", "crop_unrotated_mm")})
    if made and (said := notices(table)):
        print("\n".join(f"{count} slices: {notice}" for notice, count in said.items()))
    kept = table["skipped_because"] == ""
    return Slices(
        aligned=np.load(target / "aligned.npy", mmap_mode="r"),
        unrotated=np.load(target / "unrotated.npy", mmap_mode="r"),
        table=table[kept].drop(columns="skipped_because").reset_index(drop=True),
        skipped=table[~kept].reset_index(drop=True),
        **read_json(target / "source.json"),
    )


def labels_seem_swapped(maps: np.ndarray) -> bool:
    """Whether MYO encloses more of what is read as RV than of LV, in a hundred of the slices
    (N, S, S): then the labels mean something else."""
    some = maps[np.linspace(0, len(maps) - 1, min(100, len(maps))).astype(int)]
    inside = np.array([ndimage.binary_fill_holes(wall) & ~wall for wall in some == Label.MYO])
    lv, rv = (inside[some == label].mean() if (some == label).any() else 0.0
              for label in (Label.LV, Label.RV))
    return bool(rv > lv)


def notices(table: pd.DataFrame) -> dict[str, int]:
    """What was assumed or ignored in order to read slices, and of how many; table: Slices.table."""
    return table.loc[table["notice"] != "", "notice"].value_counts().to_dict()


def read_rows(maps: np.ndarray, rows) -> np.ndarray:
    """A copy of these rows of label maps that may lie on disk.

    What was read is then let go: it stays in the system's cache, but does not count as this
    process's memory, however much of a large file has been read.
    """
    found = np.array(maps[rows])
    if isinstance(maps.base, mmap.mmap) and hasattr(maps.base, "madvise"):
        maps.base.madvise(mmap.MADV_DONTNEED)
    return found


def align_all(source: Source, size: int, folder: Path, progress: bool = True,
              workers: int | None = None) -> None:
    """Write aligned.npy, unrotated.npy and slices.csv of a data set to `folder`.

    A patient at a time goes to disk, in the order of the data set, so memory does not grow with
    the number of patients, and the files do not depend on the number of workers.
    """
    if workers is None:
        workers = os.cpu_count() or 1 if len(source.frames) >= MANY_VOLUMES else 1
    patients = list(acdc.by_patient(source.frames).values())
    tasks = (joblib.delayed(_align_patient)(frames, size) for frames in patients)
    results = (joblib.Parallel(workers, return_as="generator")(tasks) if workers > 1 else
               (act(*given) for act, given, _ in tasks))
    kept, has_wall = 0, False
    with (_SliceFile(folder / "aligned.npy", size) as aligned,
          _SliceFile(folder / "unrotated.npy", size) as unrotated,
          (folder / "slices.csv").open("w", newline="", encoding="utf-8") as table):
        for rows, pictures, lying in tqdm(results, total=len(patients), desc="aligning",
                                          unit="patient", disable=not progress):
            rows.to_csv(table, index=False, header=table.tell() == 0)
            aligned.append(pictures)
            unrotated.append(lying)
            kept += len(pictures)
            has_wall = has_wall or bool((pictures == Label.MYO).any())
    if kept and not has_wall:
        raise acdc.DataError(
            f"{source.root}: {kept} slices have a left-ventricle cavity (LV) and none has a "
            "myocardium (MYO). Expected label maps with both, since validity, thickness and the "
            "names of dimensions are measured on the wall; if another value means it, say so: "
            "begin(..., labels={value: name}).")
    if not kept:
        raise acdc.DataError(
            f"{source.root}: {len(source.frames)} volumes were read and none has a left-ventricle "
            "cavity. Expected ACDC labels: 1 RV, 2 MYO, 3 LV; if the data set has others, say what "
            "they mean: begin(..., labels={value: name}).")


def _align_patient(frames: list[acdc.Frame], size: int) -> tuple:
    """Table rows of one patient, and aligned and unrotated slices, (K, S, S) each."""
    rows, aligned, unrotated = [], [], []
    for frame, volume in zip(frames, acdc.read_patient(frames)):
        result = align.align_volume(volume.data, volume.spacing_mm, size)
        rows += _table_rows(frame, volume, result)
        aligned.append(result.aligned)
        unrotated.append(result.unrotated)
    return pd.DataFrame(rows), np.concatenate(aligned), np.concatenate(unrotated)


class _SliceFile:
    """An .npy file of label maps, (N, S, S) uint8, that grows with each `append`."""

    def __init__(self, path: Path, size: int):
        self.path, self.size, self.count = path, size, 0

    def __enter__(self):
        self.file = self.path.open("wb")
        self._write_header()
        return self

    def append(self, maps: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(maps, dtype=np.uint8).data)
        self.count += len(maps)

    def __exit__(self, *_):
        self.file.seek(0)
        self._write_header()  # NumPy keeps room in it for the first axis to grow
        self.file.close()

    def _write_header(self) -> None:
        np.lib.format.write_array_header_1_0(self.file, {
            "descr": "|u1", "fortran_order": False, "shape": (self.count, self.size, self.size)})


def _volumes(source: Source, task: str,
             progress: bool = True) -> Iterator[tuple[acdc.Frame, acdc.Volume]]:
    """Each label volume with its frame, read a patient at a time, under a progress bar."""
    for frames in tqdm(acdc.by_patient(source.frames).values(), desc=task, unit="patient",
                       disable=not progress):
        yield from zip(frames, acdc.read_patient(frames))


def cardiac_function(source: Source, progress: bool = True) -> pd.DataFrame:
    """LV volume at ED and ES in ml, and ejection fraction in %, one row a patient and scan.

    Volume is the number of LV voxels times the voxel's volume; the ejection fraction is
    100 (ED - ES) / ED. NaN where a phase is not known.
    """
    rows: dict[tuple, dict] = {}
    for frame, volume in _volumes(source, "measuring", progress):
        key = frame.patient, frame.scan if frame.phase in acdc.PHASES else ""
        row = rows.setdefault(key, {"patient": frame.patient, "group": frame.group})
        millilitres = (volume.data == Label.LV).sum() * volume.spacing_mm.prod() / 1000
        row[f"{frame.phase.lower()}_ml"] = millilitres
    table = pd.DataFrame(rows.values()).reindex(columns=["patient", "group", "ed_ml", "es_ml"])
    table = table.astype({"ed_ml": float, "es_ml": float})
    return table.assign(ef_percent=100 * (1 - table["es_ml"] / table["ed_ml"].where(
        table["ed_ml"] > 0)))


def compare_resampling(source: Source, size: int, progress: bool = True) -> pd.DataFrame:
    """What each way of resampling does to the slices, one row a method of align.METHODS.

    Columns: the share of aligned slices that are anatomically valid, and the mean change of the
    area of each structure against the original grid, both in %; and the mean size of that change.
    """
    valid, changes = {m: [] for m in align.METHODS}, {m: [] for m in align.METHODS}
    for _, volume in _volumes(source, "resampling", progress):
        maps = volume.data.T
        for method in align.METHODS:
            result = align.align_volume(volume.data, volume.spacing_mm, size, method,
                                        unrotated=False)
            before = metrics.areas(maps[result.slice_index]) * volume.spacing_mm[:2].prod()
            after = metrics.areas(result.aligned) * (result.crop_mm / size) ** 2
            changes[method].append(after / np.where(before > 0, before, np.nan) - 1)
            valid[method].append(metrics.is_valid(result.aligned))
    rows = {}
    for method in align.METHODS:
        change = pd.DataFrame(100 * np.concatenate(changes[method]), columns=STRUCTURE_NAMES)
        rows[method] = {"valid, %": 100 * np.concatenate(valid[method]).mean(),
                        **change.mean().add_prefix("area of ").add_suffix(", %"),
                        "mean size of change, %": np.nanmean(np.abs(change))}
    return pd.DataFrame(rows).T


def _table_rows(frame: acdc.Frame, volume: acdc.Volume, result: align.AlignedVolume) -> list[dict]:
    """One row a slice of the volume, kept or not."""
    maps = volume.data.T  # (Z, rows = y, columns = x)
    position = {int(z): k for k, z in enumerate(result.slice_index)}
    levels = slice_levels(maps[result.slice_index])
    has_label = maps.any(axis=(1, 2))
    rows = []
    for z in range(len(maps)):
        k = position.get(z)
        reason = "" if k is not None else "no LV cavity" if has_label[z] else "no label"
        if not len(position):
            reason = f"volume without LV cavity: {reason}"
        rows.append({
            "patient": frame.patient, "subset": frame.subset, "group": frame.group,
            "phase": frame.phase, "scan": frame.scan, "slice_index": z,
            "level": np.nan if k is None else levels[k],
            "grid": "x".join(map(str, volume.data.shape[:2])),
            "spacing_mm": volume.spacing_mm[0], "thickness_mm": volume.spacing_mm[2],
            "angle_deg": np.nan if k is None else result.angle_deg[k],
            "crop_mm": result.crop_mm, "crop_unrotated_mm": result.crop_unrotated_mm,
            "notice": "; ".join(filter(None, (volume.notice, result.notices.get(z)))),
            "skipped_because": reason,
        })
    return rows


def slice_levels(maps: np.ndarray) -> np.ndarray:
    """Position of each slice from base (0) to apex (1), for the K kept slices of a volume, (K,).

    The S axis of a short-axis stack is nominal, so the apex is the end where less is labelled.
    """
    if len(maps) < 2:
        return np.zeros(len(maps))
    order = np.linspace(0, 1, len(maps))
    labelled = metrics.areas(maps).sum(axis=1)
    grows = np.dot(order - order.mean(), labelled) > 0
    return order[::-1] if grows else order


def split(table: pd.DataFrame, by: str = "patient", seed: int = 0) -> dict[str, np.ndarray]:
    """Row numbers of training, validation and test, 50 / 20 / 30 %.

    by='patient' (default): all slices of a patient fall in one part, and each part has its share
    of every group. by='slice': slices are drawn at random, as in the report, so that a patient's
    neighbouring slices are on both sides. Raises ValueError for another `by`, or if a part would
    be empty, which takes fewer than LEAST of them.
    """
    generator = np.random.default_rng(seed)
    if by == "slice":
        order = generator.permutation(len(table))
        parts = np.split(order, _cuts(len(table)))
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
        raise ValueError(f"by: expected 'patient' or 'slice', found {by!r}")
    if any(len(part) == 0 for part in parts):
        found = table["patient"].nunique() if by == "patient" else len(table)
        raise ValueError(f"expected enough {by}s for three parts, found {found}; at least "
                         f"{LEAST[by]} are needed")
    return {name: np.sort(part) for name, part in zip(SPLIT_NAMES, parts)}


def _cuts(count: int) -> np.ndarray:
    return np.round(np.cumsum(SPLIT_FRACTIONS)[:-1] * count).astype(int)
