"""Centre, rotate, crop and resample: from slices of a volume to aligned square label maps.

Shown with columns = x and rows = y (origin at the top, axes L and P), the heart's RV lies to the
left of the LV. Alignment makes that exact: the LV centroid is the centre of the picture and the
RV centroid lies horizontally to its left. One crop per volume keeps the relative sizes of its
slices. There is one resampling, from the original grid straight to the working size.
"""

from dataclasses import dataclass

import numba
import numpy as np
from scipy import ndimage

from cvae_utils.labels import CLASS_COUNT, Label

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
    counts, sums, _ = _scan(np.ascontiguousarray(maps))
    centres = _centres(counts, sums, spacing_mm)
    pooled = _centres(counts.sum(axis=0)[None], sums.sum(axis=0)[None], spacing_mm)[0]
    angles = [rv_angle(centre[Label.LV], centre[Label.RV]) for centre in (pooled, *centres)]
    fallback = 0.0 if np.isnan(angles[0]) else angles[0]
    return np.where(np.isnan(angles[1:]), fallback, angles[1:])


def _centres(counts, sums, spacing_mm) -> np.ndarray:
    """Centroid (x, y) in mm of each class of each slice, (K, 4, 2); NaN where it is not."""
    counts = np.where(counts > 0, counts, np.nan)
    return sums / counts[..., None] * np.asarray(spacing_mm)


@numba.njit(cache=True)
def _scan(maps):
    """Of label maps (K, H, W), in one pass: pixels of each class (K, 4), the sums of their columns
    and rows (K, 4, 2), and the first and last labelled column of each row (K, H, 2), -1 if none.
    """
    slices, rows, columns = maps.shape
    counts = np.zeros((slices, CLASS_COUNT))
    sums = np.zeros((slices, CLASS_COUNT, 2))
    ends = np.full((slices, rows, 2), -1)
    for k in range(slices):
        for row in range(rows):
            for column in range(columns):
                label = maps[k, row, column]
                if label:
                    counts[k, label] += 1
                    sums[k, label, 0] += column
                    sums[k, label, 1] += row
                    if ends[k, row, 0] < 0:
                        ends[k, row, 0] = column
                    ends[k, row, 1] = column
    return counts, sums, ends


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
    # What lies furthest in any direction is the first or the last pixel of its row.
    ends = _scan(np.ascontiguousarray(maps))[2]
    reach = 0.0
    for row_ends, centre, angle in zip(ends, centres, angles):
        rows = np.flatnonzero(row_ends[:, 0] >= 0)
        pixels = np.column_stack([row_ends[rows].T.ravel(), np.tile(rows, 2)])
        offsets = pixels * spacing_mm - centre  # (pixels, 2)
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
    if method != "nearest":
        return _interpolate(np.ascontiguousarray(label_map), rotation(angle), centre_mm, spacing_mm,
                            ticks, fine)
    x, y = np.meshgrid(ticks, ticks)
    source = rotation(angle) @ np.stack([x.ravel(), y.ravel()]) + centre_mm[:, None]  # (2, points)
    rows_columns = source[::-1] / spacing_mm[::-1, None]
    taken = ndimage.map_coordinates(label_map, rows_columns, order=0, cval=Label.BACKGROUND)
    return taken.reshape(size, size)


@numba.njit(cache=True)
def _interpolate(label_map, turn, centre_mm, spacing_mm, ticks, fine):
    """Class with the largest bilinear weight, averaged over fine x fine points a pixel.

    label_map (H, W); ticks: x, and y, in mm from the centre of each row of points. Outside the grid
    there is background. Compiled, because in NumPy every class and every point of every pixel goes
    through memory several times, though most of them lie where there is one class alone.
    """
    # Beyond the neighbours of what is labelled there is background, and nothing to interpolate.
    rows, columns = label_map.shape
    first_row, last_row, first_column, last_column = rows, -1, columns, -1
    for row in range(rows):
        for column in range(columns):
            if label_map[row, column]:
                first_row, last_row = min(first_row, row), row
                first_column, last_column = min(first_column, column), max(last_column, column)
    first_row, last_row = max(first_row - 1, 0), min(last_row + 1, rows - 1)
    first_column, last_column = max(first_column - 1, 0), min(last_column + 1, columns - 1)
    # A point is at (row, column) of the grid: a part that depends on its x, and one on its y.
    column_x = turn[0, 0] * ticks / spacing_mm[0]
    column_y = (turn[0, 1] * ticks + centre_mm[0]) / spacing_mm[0]
    row_x = turn[1, 0] * ticks / spacing_mm[1]
    row_y = (turn[1, 1] * ticks + centre_mm[1]) / spacing_mm[1]
    size = len(ticks) // fine
    taken = np.empty((size, size), dtype=np.uint8)
    weights = np.empty(CLASS_COUNT)
    for i in range(size):
        for j in range(size):
            weights[:] = 0.0
            for a in range(i * fine, (i + 1) * fine):
                for b in range(j * fine, (j + 1) * fine):
                    x, y = column_x[b] + column_y[a], row_x[b] + row_y[a]
                    if not (first_row <= y <= last_row and first_column <= x <= last_column):
                        weights[0] += 1.0
                        continue
                    top, left = int(y), int(x)
                    bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
                    one, two = label_map[top, left], label_map[top, right]
                    three, four = label_map[bottom, left], label_map[bottom, right]
                    if one == two == three == four:
                        weights[one] += 1.0
                        continue
                    down, across = y - top, x - left
                    weights[one] += (1 - down) * (1 - across)
                    weights[two] += (1 - down) * across
                    weights[three] += down * (1 - across)
                    weights[four] += down * across
            largest = 0
            for label in range(1, CLASS_COUNT):
                if weights[label] > weights[largest]:
                    largest = label
            taken[i, j] = largest
    return taken


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
    centres = _centres(*_scan(maps)[:2], spacing_mm)[:, Label.LV]
    angles = slice_angles(maps, spacing_mm)

    def crop(turns):
        half = half_side_mm(maps, centres, turns, spacing_mm)
        slices = [resample(m, c, t, half, size, spacing_mm, method)
                  for m, c, t in zip(maps, centres, turns)]
        return np.stack(slices), 2 * half

    aligned, crop_mm = crop(angles)
    lying, lying_mm = crop(np.zeros_like(angles)) if unrotated else (aligned[:0], np.nan)
    return AlignedVolume(aligned, lying, kept, np.degrees(angles), crop_mm, lying_mm)
