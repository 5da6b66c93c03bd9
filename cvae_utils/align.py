"""Centre, rotate, crop and resample: from slices of a volume to aligned square label maps.

Shown with columns = x and rows = y (origin at the top, axes L and P), the heart's RV lies to the
left of the LV. Alignment makes that exact: the LV centroid is the centre of the picture and the
RV centroid lies horizontally to its left. One crop per volume keeps the relative sizes of its
slices. There is one resampling, from the original grid straight to the working size.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cvae_utils.labels import CLASS_COUNT, STRUCTURES, Label

#: Added to the crop on every side, in pixels of the original grid.
MARGIN_PIXELS = 2
METHODS = ("nearest", "linear", "area")


@dataclass(frozen=True)
class AlignedVolume:
    """The kept slices of one volume; K slices with an LV cavity out of Z.

    aligned: (K, S, S) uint8, centred, rotated, cropped
    unrotated: (K, S, S) uint8, centred and cropped alone, with a crop of its own
    slice_index: (K,) z of each kept slice in the volume
    angle_deg: (K,) in-plane angle that was taken out, counter-clockwise on the screen
    crop_mm, crop_unrotated_mm: side of the square crops
    """

    aligned: np.ndarray
    unrotated: np.ndarray
    slice_index: np.ndarray
    angle_deg: np.ndarray
    crop_mm: float
    crop_unrotated_mm: float


def centroid_mm(mask: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Centroid (x, y) in mm of a mask (..., H, W), pooled over leading axes.

    spacing_mm: (2,) pixel size along x (columns) and y (rows). The origin is the centre of the
    first pixel. An empty mask gives NaN.
    """
    *_, rows, columns = np.nonzero(mask)
    if not len(rows):
        return np.full(2, np.nan)
    return np.array([columns.mean(), rows.mean()]) * spacing_mm


def rv_angle(lv_centre: np.ndarray, rv_centre: np.ndarray) -> float:
    """Angle in radians by which the RV direction is turned away from 'horizontally left'.

    0: the RV centroid lies straight to the left; positive: it lies below the horizontal (on the
    screen, where y points down, the heart has been turned counter-clockwise). In (-pi, pi].
    NaN if either centroid is.
    """
    dx, dy = rv_centre - lv_centre
    return float(np.arctan2(dy, -dx))


def slice_angles(maps: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """In-plane angle of each slice, (K,) in radians, for label maps (K, H, W) that all have LV.

    A slice without RV takes the volume's angle (centroids pooled over its slices); a volume
    without any RV is left unrotated.
    """
    pooled = rv_angle(
        centroid_mm(maps == Label.LV, spacing_mm), centroid_mm(maps == Label.RV, spacing_mm)
    )
    angles = [
        rv_angle(centroid_mm(m == Label.LV, spacing_mm), centroid_mm(m == Label.RV, spacing_mm))
        for m in maps
    ]
    fallback = 0.0 if np.isnan(pooled) else pooled
    return np.where(np.isnan(angles), fallback, angles)


def rotation(angle: float) -> np.ndarray:
    """Matrix (2, 2) from aligned (x, y) offsets to offsets in a heart turned by `angle`.

    It carries (-1, 0), the aligned direction of the RV, to (-cos, sin), where `rv_angle` saw it.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def half_side_mm(maps, centres, angles, spacing_mm) -> float:
    """Half-side of the volume's crop: the largest |x| or |y| of any label pixel, plus a margin.

    maps: (K, H, W); centres: (K, 2) in mm; angles: (K,) in radians.
    """
    reach = 0.0
    for label_map, centre, angle in zip(maps, centres, angles):
        rows, columns = np.nonzero(label_map)
        offsets = np.column_stack([columns, rows]) * spacing_mm - centre  # (pixels, 2)
        reach = max(reach, float(np.abs(offsets @ rotation(angle)).max()))  # inverse rotation
    return reach + MARGIN_PIXELS * float(np.mean(spacing_mm))


def resample(label_map, centre_mm, angle, half_mm, size, spacing_mm, method="area") -> np.ndarray:
    """One square, rotated crop of a label map, resampled once.

    label_map: (H, W) uint8; centre_mm: (x, y); angle: radians; half_mm: half-side of the crop;
    size: pixels S of the result; spacing_mm: (x, y) pixel size. Returns (S, S) uint8.

    method: 'nearest' takes the label at each new pixel's centre. 'linear' interpolates the
    one-hot maps there and takes the class with the largest weight. 'area' (default) averages
    that weight over a grid of points inside each new pixel, as fine as the original grid, so
    that a thin wall is not missed between two centres; without downsampling it is 'linear'.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, found {method!r}")
    step = 2 * half_mm / size
    fine = 2 * int(np.ceil(step / float(np.min(spacing_mm)))) - 1 if method == "area" else 1
    ticks = (np.arange(size * fine) + 0.5) / (size * fine) * 2 * half_mm - half_mm
    x, y = np.meshgrid(ticks, ticks)
    source = rotation(angle) @ np.stack([x.ravel(), y.ravel()]) + centre_mm[:, None]  # (2, points)
    rows_columns = source[::-1] / spacing_mm[::-1, None]
    if method == "nearest":
        taken = ndimage.map_coordinates(label_map, rows_columns, order=0, cval=Label.BACKGROUND)
        return taken.reshape(size, size)
    weights = np.empty((CLASS_COUNT, size, size), dtype=np.float32)
    for label in STRUCTURES:
        one_hot = (label_map == label).astype(np.float32)
        values = ndimage.map_coordinates(one_hot, rows_columns, order=1)
        weights[label] = values.reshape(size, fine, size, fine).mean(axis=(1, 3))
    weights[Label.BACKGROUND] = 1 - weights[1:].sum(axis=0)  # also outside the original grid
    return weights.argmax(axis=0).astype(np.uint8)


def align_volume(labels, spacing_mm, size, method="area", unrotated=True) -> AlignedVolume:
    """Align every slice with an LV cavity of one label volume.

    labels: (X, Y, Z) uint8, axes L, P, S; spacing_mm: (3,). A volume without LV gives K = 0.
    unrotated=False leaves that variant out (it is then empty).
    """
    spacing_mm = np.asarray(spacing_mm, dtype=float)[:2]
    maps = np.ascontiguousarray(labels.T)  # (Z, rows = y, columns = x)
    kept = np.flatnonzero((maps == Label.LV).any(axis=(1, 2)))
    if not len(kept):
        empty = np.empty((0, size, size), dtype=np.uint8)
        return AlignedVolume(empty, empty, kept, np.empty(0), np.nan, np.nan)
    maps = maps[kept]
    centres = np.array([centroid_mm(m == Label.LV, spacing_mm) for m in maps])
    angles = slice_angles(maps, spacing_mm)

    def crop(turns):
        half = half_side_mm(maps, centres, turns, spacing_mm)
        slices = [resample(m, c, t, half, size, spacing_mm, method)
                  for m, c, t in zip(maps, centres, turns)]
        return np.stack(slices), 2 * half

    aligned, crop_mm = crop(angles)
    lying, lying_mm = crop(np.zeros_like(angles)) if unrotated else (aligned[:0], np.nan)
    return AlignedVolume(aligned, lying, kept, np.degrees(angles), crop_mm, lying_mm)
