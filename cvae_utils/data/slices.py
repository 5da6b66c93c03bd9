"""From a data set to aligned slices on disk and a table with a row for each."""

import hashlib
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm.auto import tqdm

from cvae_utils import shape_metrics
from cvae_utils.cache import kept, key_of
from cvae_utils.data import acdc
from cvae_utils.data.alignment import AlignedVolume, align_volume
from cvae_utils.data.sources import Source
from cvae_utils.data.volumes import Volume
from cvae_utils.files import DataError, read_json, write_json
from cvae_utils.labels import Label

#: Columns of the slice table that are never numbers.
TEXTS = ("patient", "subset", "group", "phase", "scan", "grid", "notice", "skipped_because")
#: From so many label volumes on, starting processes to align them pays.
MANY_VOLUMES = 1000


@dataclass(frozen=True)
class Slices:
    """Aligned slices and what is known of each.

    aligned, unrotated: (N, S, S) uint8 label maps, read from disk where they are used
    table: N rows; patient, subset, group, phase, scan, slice_index, level (0 base, 1 apex), grid
        (in-plane size of the volume), spacing_mm, thickness_mm, angle_deg, crop_mm,
        crop_unrotated_mm, notice (what was assumed or ignored, "" if nothing)
    skipped: the slices that were read and left out, with the reason
    source, fingerprint: name of the data set, and a hash of the label maps and the table
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
    """The aligned slices of a data set, from `folder` if they are there, else made and kept.

    workers: processes that align, by default one, and one a core for a large data set; the result
    is the same. What was assumed or ignored is printed when they are made. Raises DataError for
    unusable input.
    """
    def make(partial: Path) -> None:
        align_all(source, size, partial, progress, workers)
        finish(partial, source)
        for notice, count in notices(load(partial).table).items():
            print(f"{count} slices: {notice}")

    key = key_of(source.fingerprint, size, code=[align_all])
    return load(kept(folder, f"{source.name.lower()}-{size}", key, make))


def finish(folder: Path, source: Source) -> None:
    """Write source.json: the data set's name, and a hash of what the other files hold."""
    content = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
    write_json(folder / "source.json", {"source": source.name,
                                        "fingerprint": content.hexdigest()[:12]})


def load(folder: Path) -> Slices:
    """Read slices that were kept; their label maps stay on disk until they are used."""
    # Only numbers can be missing: a patient may well be called NA, or 007.
    table = pd.read_csv(folder / "slices.csv", keep_default_na=False,
                        dtype=dict.fromkeys(TEXTS, str), na_values={
                            name: [""] for name in ("level", "angle_deg", "crop_mm",
                                                    "crop_unrotated_mm")})
    is_kept = table["skipped_because"] == ""
    aligned = np.load(folder / "aligned.npy", mmap_mode="r")
    unrotated = folder / "unrotated.npy"
    return Slices(
        aligned=aligned,
        unrotated=np.load(unrotated, mmap_mode="r") if unrotated.is_file() else aligned,
        table=table[is_kept].drop(columns="skipped_because").reset_index(drop=True),
        skipped=table[~is_kept].reset_index(drop=True),
        **read_json(folder / "source.json"),
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
    count, has_wall = 0, False
    with ((folder / "aligned.npy").open("wb") as aligned,
          (folder / "unrotated.npy").open("wb") as unrotated,
          (folder / "slices.csv").open("w", newline="", encoding="utf-8") as table):
        for file in (aligned, unrotated):
            _write_header(file, 0, size)
        for rows, pictures, lying in tqdm(results, total=len(patients), desc="aligning",
                                          unit="patient", disable=not progress):
            rows.to_csv(table, index=False, header=table.tell() == 0)
            aligned.write(pictures)
            unrotated.write(lying)
            count += len(pictures)
            has_wall = has_wall or bool((pictures == Label.MYO).any())
        for file in (aligned, unrotated):
            _write_header(file, count, size)
    if not (count and has_wall):
        found = (f"{count} slices have a left-ventricle cavity (LV) and none has a myocardium (MYO)"
                 if count else f"{len(source.frames)} volumes were read and none has a "
                 "left-ventricle cavity (LV)")
        raise DataError(f"{source.root}: {found}. Expected ACDC labels: 1 RV, 2 MYO, 3 LV; if the "
                        "data set has others, say what they mean: begin(..., "
                        "labels={value: name}).")


def _align_patient(frames: list[acdc.Frame], size: int) -> tuple:
    """Table rows of one patient, and aligned and unrotated slices, (K, S, S) each."""
    rows, aligned, unrotated = [], [], []
    for frame, volume in zip(frames, acdc.read_patient(frames)):
        result = align_volume(volume.data, volume.spacing_mm, size)
        rows += _table_rows(frame, volume, result)
        aligned.append(result.aligned)
        unrotated.append(result.unrotated)
    return pd.DataFrame(rows), np.concatenate(aligned), np.concatenate(unrotated)


def _write_header(file, count: int, size: int) -> None:
    """The header of an .npy file of label maps, (count, size, size) uint8. NumPy keeps room in it
    for the first axis to grow, so it may be written anew when the count is known."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {
        "descr": "|u1", "fortran_order": False, "shape": (count, size, size)})


def _table_rows(frame: acdc.Frame, volume: Volume, result: AlignedVolume) -> list[dict]:
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
    labelled = shape_metrics.areas(maps).sum(axis=1)
    grows = np.dot(order - order.mean(), labelled) > 0
    return order[::-1] if grows else order
