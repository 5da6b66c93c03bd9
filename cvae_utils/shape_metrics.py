"""Numbers of label maps: Dice, areas, anatomical validity, ten descriptors of shape."""

import numpy as np
import pandas as pd
from scipy import ndimage

from cvae_utils.labels import STRUCTURE_NAMES, STRUCTURES, Label

EIGHT = np.ones((3, 3), dtype=bool)


def dice_per_class(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Dice coefficient 2 |A and B| / (|A| + |B|) per slice and structure, (N, 3): RV, MYO, LV.

    A class in only one of the two maps counts 0; a class in neither is NaN.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"expected two arrays of one shape, found {predicted.shape} and "
                         f"{target.shape}")
    scores = np.full((len(target), len(STRUCTURES)), np.nan)
    for column, label in enumerate(STRUCTURES):
        a, b = predicted == label, target == label
        total = a.sum(axis=(1, 2)) + b.sum(axis=(1, 2))
        overlap = (a & b).sum(axis=(1, 2))
        np.divide(2 * overlap, total, out=scores[:, column], where=total > 0)
    return scores


def dice_per_slice(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Mean Dice over the classes present in either map, (N,); NaN for two empty maps."""
    return mean_of_present(dice_per_class(predicted, target), axis=1)


def mean_of_present(scores: np.ndarray, axis: int) -> np.ndarray:
    """Mean along an axis, NaN left out; NaN where there is nothing else, and no warning."""
    present = (~np.isnan(scores)).sum(axis=axis)
    return np.where(present > 0, np.nansum(scores, axis=axis) / np.maximum(present, 1), np.nan)


def mean_by_class(scores: np.ndarray) -> dict[str, float]:
    """Mean over slices of (N, 3) Dice scores, NaN left out: {"RV": ..., "MYO": ..., "LV": ...}."""
    return dict(zip(STRUCTURE_NAMES, mean_of_present(scores, axis=0).tolist()))


def hd95(a: np.ndarray, b: np.ndarray, mm_per_pixel: np.ndarray) -> np.ndarray:
    """Distance of outlines in mm, (N, 3) for RV, MYO and LV; a, b: (N, S, S), mm_per_pixel: (N,).

    From each pixel of an outline to the nearest one of the other: the 95th percentile, in the
    direction in which it is larger. NaN where a structure is absent from either map.
    """
    found = np.full((len(a), len(STRUCTURES)), np.nan)
    for n, (one, two, mm) in enumerate(zip(a, b, mm_per_pixel)):
        for k, label in enumerate(STRUCTURES):
            masks = one == label, two == label
            if not all(mask.any() for mask in masks):
                continue
            rims = [mask & ~ndimage.binary_erosion(mask) for mask in masks]
            away = [ndimage.distance_transform_edt(~rim) for rim in rims]  # pixels, from each rim
            found[n, k] = mm * max(np.percentile(away[1][rims[0]], 95),
                                   np.percentile(away[0][rims[1]], 95))
    return found


def is_valid(maps: np.ndarray, open_wall_allowed: bool = False) -> np.ndarray:
    """Anatomical validity of each label map, (N,) bool, after Painchaud et al. 2020.

    LV and MYO are there; LV, MYO and RV have at most one 8-connected component each; no hole in
    LV, in RV, or in MYO and LV together; LV touches neither background nor RV (4-neighbours); RV,
    if there, touches MYO (8-neighbours). `open_wall_allowed` leaves out the rule LV-background:
    at the base, a wall that is open is true anatomy.

    These are nine of the sixteen criteria there (three each on components, holes and contact);
    gaps between structures, concavity and circularity are not among them.
    """
    return np.array([not broken_rules(label_map, open_wall_allowed) for label_map in maps], bool)


def broken_rules(label_map: np.ndarray, open_wall_allowed: bool = False) -> list[str]:
    """The rules of `is_valid` that one label map (S, S) breaks, in words; empty if it is valid."""
    # A frame of background, so that a structure at the border still has an outside.
    label_map = np.pad(label_map, 1)
    masks = {name: label_map == label for name, label in zip(STRUCTURE_NAMES, STRUCTURES)}
    rv, myo, lv = masks.values()
    broken = [f"no {name}" for name in ("LV", "MYO") if not masks[name].any()]
    parts = {name: ndimage.label(mask, EIGHT)[1] for name, mask in masks.items()}
    broken += [f"{name} in {count} parts" for name, count in parts.items() if count > 1]
    solid = {"LV": lv, "RV": rv, "MYO and LV": myo | lv}
    # What is around a structure is one piece, unless the structure encloses some of it.
    broken += [f"hole in {name}" for name, mask in solid.items() if ndimage.label(~mask)[1] > 1]
    around_lv = label_map[ndimage.binary_dilation(lv) & ~lv]
    if (around_lv == Label.RV).any():
        broken.append("LV touches RV")
    if not open_wall_allowed and (around_lv == Label.BACKGROUND).any():
        broken.append("LV touches background")
    if rv.any() and not (ndimage.binary_dilation(rv, EIGHT) & myo).any():
        broken.append("RV apart from MYO")
    return broken


def areas(maps: np.ndarray) -> np.ndarray:
    """Pixels of each structure, (N, 3): RV, MYO, LV."""
    return np.stack([(maps == label).sum(axis=(1, 2)) for label in STRUCTURES], axis=1)


def structures_in(maps: np.ndarray) -> tuple[str, ...]:
    """Names of the structures that occur in label maps, in the order of STRUCTURE_NAMES."""
    return tuple(label.name for label in STRUCTURES if (maps == label).any())


#: Descriptors of a slice, in the order of every table, with what a change of each is called.
DESCRIPTORS = {
    "area_lv": "LV size",
    "area_myo": "MYO size",
    "area_rv": "RV size",
    "area_lv_myo": "LV + MYO size",
    "wall": "wall thickness",
    "offset_x": "LV offset in MYO, horizontal",
    "offset_y": "LV offset in MYO, vertical",
    "extent_x": "LV + MYO extent, horizontal",
    "extent_y": "LV + MYO extent, vertical",
    "rv_eccentricity": "RV eccentricity",
}


def describe(maps: np.ndarray) -> pd.DataFrame:
    """Shape descriptors of aligned label maps (N, S, S), one row a slice.

    Lengths are in units of the picture's side and areas in units of its square, so they mean the
    same at every working size; multiply by the crop's side in mm for millimetres. Columns are
    DESCRIPTORS. Wall thickness is that of a ring of circles, sqrt((LV + MYO) / pi) - sqrt(LV / pi).
    The offset is the centroid of LV minus that of LV + MYO (x to the right, y down). The extents
    are the standard deviations of LV + MYO times 4, which is the diameter of a filled ellipse.
    Eccentricity of RV is sqrt(1 - minor^2 / major^2) of the ellipse of equal second moments.
    What a missing structure leaves undefined is NaN.
    """
    side = maps.shape[-1]
    rv, _, lv = (maps == label for label in STRUCTURES)
    heart = lv | (maps == Label.MYO)
    area_rv, area_myo, area_lv = (areas(maps) / side**2).T
    lv_mean, _ = _moments(lv)
    heart_mean, heart_cov = _moments(heart)
    _, rv_cov = _moments(rv)
    offset = lv_mean - heart_mean
    extent = 4 * np.sqrt(np.diagonal(heart_cov, axis1=1, axis2=2))
    return pd.DataFrame({
        "area_lv": area_lv,
        "area_myo": area_myo,
        "area_rv": area_rv,
        "area_lv_myo": area_lv + area_myo,
        "wall": np.sqrt((area_lv + area_myo) / np.pi) - np.sqrt(area_lv / np.pi),
        "offset_x": offset[:, 0],
        "offset_y": offset[:, 1],
        "extent_x": extent[:, 0],
        "extent_y": extent[:, 1],
        "rv_eccentricity": _eccentricity(rv_cov),
    })


def _moments(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (N, 2) and covariance (N, 2, 2) of (x, y) in each mask; the picture's side is 1."""
    side = masks.shape[-1]
    ticks = (np.arange(side) + 0.5) / side - 0.5
    weights = masks.astype(float)
    count = weights.sum(axis=(1, 2))
    count = np.where(count > 0, count, np.nan)
    columns, rows = weights.sum(axis=1), weights.sum(axis=2)  # (N, W), (N, H)
    x, y = columns @ ticks / count, rows @ ticks / count
    # A pixel is a square, not a point: 1/12 of its squared side is its own variance.
    own = 1 / (12 * side**2)
    xx = columns @ ticks**2 / count - x**2 + own
    yy = rows @ ticks**2 / count - y**2 + own
    xy = np.einsum("nhw,h,w->n", weights, ticks, ticks) / count - x * y
    cov = np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2)
    return np.stack([x, y], axis=-1), cov


def _eccentricity(cov: np.ndarray) -> np.ndarray:
    """Eccentricity (N,) of the ellipses with covariances (N, 2, 2); NaN stays NaN."""
    half_trace = (cov[:, 0, 0] + cov[:, 1, 1]) / 2
    root = np.sqrt(((cov[:, 0, 0] - cov[:, 1, 1]) / 2) ** 2 + cov[:, 0, 1] ** 2)
    return np.sqrt(1 - (half_trace - root) / (half_trace + root))
