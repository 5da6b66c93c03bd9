"""Are these hearts plausible, and does resampling keep them? Volumes, ejection fractions, areas."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from cvae_utils import shape_metrics
from cvae_utils.data import acdc
from cvae_utils.data.alignment import METHODS, align_volume
from cvae_utils.data.file_names import PHASES
from cvae_utils.data.sources import Source
from cvae_utils.data.volumes import Volume
from cvae_utils.labels import STRUCTURE_NAMES, Label


def _volumes(source: Source, task: str, progress: bool) -> Iterator[tuple[acdc.Frame, Volume]]:
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
        key = frame.patient, frame.scan if frame.phase in PHASES else ""
        row = rows.setdefault(key, {"patient": frame.patient, "group": frame.group})
        millilitres = (volume.data == Label.LV).sum() * volume.spacing_mm.prod() / 1000
        row[f"{frame.phase.lower()}_ml"] = millilitres
    table = pd.DataFrame(rows.values()).reindex(columns=["patient", "group", "ed_ml", "es_ml"])
    table = table.astype({"ed_ml": float, "es_ml": float})
    return table.assign(ef_percent=100 * (1 - table["es_ml"] / table["ed_ml"].where(
        table["ed_ml"] > 0)))


def compare_resampling(source: Source, size: int, progress: bool = True) -> pd.DataFrame:
    """What each way of resampling does to the slices, one row a method of alignment.METHODS.

    Columns: the share of aligned slices that are anatomically valid, and the mean change of the
    area of each structure against the original grid, both in %; and the mean size of that change.
    """
    valid, changes = {method: [] for method in METHODS}, {method: [] for method in METHODS}
    for _, volume in _volumes(source, "resampling", progress):
        maps = volume.data.T
        for method in METHODS:
            result = align_volume(volume.data, volume.spacing_mm, size, method, unrotated=False)
            before = shape_metrics.areas(maps[result.slice_index]) * volume.spacing_mm[:2].prod()
            after = shape_metrics.areas(result.aligned) * (result.crop_mm / size) ** 2
            changes[method].append(after / np.where(before > 0, before, np.nan) - 1)
            valid[method].append(shape_metrics.is_valid(result.aligned))
    rows = {}
    for method in METHODS:
        change = pd.DataFrame(100 * np.concatenate(changes[method]), columns=STRUCTURE_NAMES)
        rows[method] = {"valid, %": 100 * np.concatenate(valid[method]).mean(),
                        **change.mean().add_prefix("area of ").add_suffix(", %"),
                        "mean size of change, %": np.nanmean(np.abs(change))}
    return pd.DataFrame(rows).T
