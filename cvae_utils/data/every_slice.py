"""Every slice as published work takes it: not rotated, empty ones included."""

from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from cvae_utils.cache import kept, key_of
from cvae_utils.data import acdc
from cvae_utils.data.alignment import centroid_mm, half_side_mm, resample
from cvae_utils.data.slices import Slices, finish, load
from cvae_utils.data.sources import Source
from cvae_utils.labels import Label


def load_or_make(source: Source, size: int, folder: Path, progress: bool = True) -> Slices:
    """All slices of a data set, not rotated, (N, S, S): from `folder`, else made and kept.

    `aligned` and `unrotated` are the same array. Raises DataError for unusable input.
    """
    def make(partial: Path) -> None:
        maps, table = every_slice(source, size, progress)
        np.save(partial / "aligned.npy", maps)
        table.to_csv(partial / "slices.csv", index=False)
        finish(partial, source)

    key = key_of(source.fingerprint, size, code=[every_slice])
    return load(kept(folder, f"{source.name.lower()}-{size}-every-slice", key, make))


def every_slice(source: Source, size: int,
                progress: bool = True) -> tuple[np.ndarray, pd.DataFrame]:
    """Label maps of all slices, (N, S, S), those without any label included, and their table.

    Each is centred on its LV, or without one on the LV of its volume; one crop a volume. A volume
    without LV is left out.
    """
    parts, rows = [], []
    for frame in tqdm(source.frames, desc="every slice", unit="volume", disable=not progress):
        volume = acdc.read_frame(frame)
        spacing = volume.spacing_mm[:2]
        maps = np.ascontiguousarray(volume.data.T)  # (Z, rows = y, columns = x)
        pooled = centroid_mm(maps == Label.LV, spacing)
        if np.isnan(pooled).any():
            continue  # nothing to centre on
        own = [centroid_mm(label_map == Label.LV, spacing) for label_map in maps]
        centres = [pooled if np.isnan(centre).any() else centre for centre in own]
        drawn = [z for z, label_map in enumerate(maps) if label_map.any()]
        half = half_side_mm(maps[drawn], [centres[z] for z in drawn], np.zeros(len(drawn)),
                            spacing)
        parts += [resample(m, c, 0.0, half, size, spacing) for m, c in zip(maps, centres)]
        rows += [{"patient": frame.patient, "subset": frame.subset, "group": frame.group,
                  "phase": frame.phase, "slice_index": z, "crop_mm": 2 * half, "notice": "",
                  "skipped_because": ""} for z in range(len(maps))]
    return np.stack(parts), pd.DataFrame(rows)
