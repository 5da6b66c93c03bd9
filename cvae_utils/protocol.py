"""The protocol of published numbers: every slice, not rotated, the official split.

Elsewhere a slice is kept if it has an LV cavity, is turned upright, and a pair of absent structures
has no Dice. Numbers that were published for auto-encoders on ACDC count otherwise, so a comparison
with them needs slices, split and Dice of its own.
"""

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from cvae_utils import acdc, align, dataset, metrics
from cvae_utils.dataset import Slices, Source
from cvae_utils.labels import Label
from cvae_utils.storage import code_stamp, short_hash

#: Rows at 128 x 128, not rotated, of all slices of patients 101-150, 8 latent dimensions ("Cardiac
#: Shape Analysis with Nouveau Variational Autoencoder", 2024). Their loss sums cross-entropy over
#: the picture, so their beta is 4 of ours: 256^2 / 128^2. valid, dice: lowest and highest given.
PUBLISHED = (
    {"title": "VAE, their beta 1", "beta": 4, "dice": (0.873, 0.873), "valid": (0.19, 0.19)},
    {"title": "VAE, their beta 100", "beta": 400, "dice": (0.849, 0.849), "valid": (0.745, 0.745)},
    {"title": "VAE, their beta 1000", "beta": 4000, "dice": (0.646, 0.646),
     "valid": (0.099, 0.099)},
    {"title": "hierarchical NVAE", "beta": None, "dice": (0.951, 0.964), "valid": (0.86, 0.97)},
)


def every_slice(source: Source, size: int, progress: bool = True) -> Slices:
    """All slices of a data set, not rotated, (N, S, S), those without any label included.

    Each is centred on its LV, or without one on the LV of its volume; one crop a volume. `aligned`
    and `unrotated` are the same array. Raises DataError for unusable input.
    """
    parts, rows = [], []
    for frame in tqdm(source.frames, desc="every slice", unit="volume", disable=not progress):
        volume = acdc.read_frame(frame)
        spacing = volume.spacing_mm[:2]
        maps = np.ascontiguousarray(volume.data.T)  # (Z, rows = y, columns = x)
        pooled = align.centroid_mm(maps == Label.LV, spacing)
        if np.isnan(pooled).any():
            continue  # no LV in the volume: nothing to centre on
        own = [align.centroid_mm(label_map == Label.LV, spacing) for label_map in maps]
        centres = [pooled if np.isnan(centre).any() else centre for centre in own]
        drawn = [z for z, label_map in enumerate(maps) if label_map.any()]
        half = align.half_side_mm(maps[drawn], [centres[z] for z in drawn], np.zeros(len(drawn)),
                                  spacing)
        parts += [align.resample(m, c, 0.0, half, size, spacing) for m, c in zip(maps, centres)]
        rows += [{"patient": frame.patient, "subset": frame.subset, "group": frame.group,
                  "phase": frame.phase, "slice_index": z, "crop_mm": 2 * half}
                 for z in range(len(maps))]
    found, table = np.stack(parts), pd.DataFrame(rows)
    key = short_hash([source.fingerprint, size, "every slice", code_stamp(acdc, align)])
    return Slices(found, found, table, table[:0].assign(skipped_because=""), source.name, key)


def official_split(table: pd.DataFrame, seed: int = 0) -> tuple[dict[str, np.ndarray], bool]:
    """Row numbers of training, validation and test, and whether test is the official one.

    With ACDC's testing part in the table, that is test, and 20 % of the training patients are
    validation. Without it, a hold-out of the training patients stands for it: dataset.split.
    """
    official = (table["subset"] == "testing").to_numpy()
    if not official.any():
        return dataset.split(table, "patient", seed), False
    rows = np.flatnonzero(~official)
    parts = dataset.split(table.iloc[rows].reset_index(drop=True), "patient", seed)
    return {"train": rows[np.sort(np.concatenate([parts["train"], parts["test"]]))],
            "validation": rows[parts["validation"]], "test": np.flatnonzero(official)}, True


def dice_counting_empty(predicted: np.ndarray, target: np.ndarray) -> float:
    """Mean Dice over slices and RV, MYO, LV, where a class absent from both maps counts 1."""
    return float(np.nan_to_num(metrics.dice_per_class(predicted, target), nan=1.0).mean())


def valid_with_lv(maps: np.ndarray) -> float:
    """Share of anatomically valid ones among the maps (N, S, S) that have an LV."""
    return float(metrics.is_valid(maps[(maps == Label.LV).any(axis=(1, 2))]).mean())
