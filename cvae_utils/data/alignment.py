"""Centre, rotate, crop and resample: from slices of a volume to aligned square label maps.

Shown with columns = x and rows = y (origin at the top, axes L and P), the heart's RV lies to the
left of the LV. Alignment makes that exact: the LV centroid is the centre of the picture and the
RV centroid lies horizontally to its left. One crop per volume keeps the relative sizes of its
slices. There is one resampling, from the original grid straight to the working size.

What lies far from the heart, a stray island of labels, sets neither the centre nor the crop. And
only the heart counts, not the field of view: it is cut out of its grid first, with a border of
background, and turned by right angles so that the RV lies roughly to the left. So aligned slices
are the same to the byte however large the grid is and whichever way its axes run.
"""

import functools
import tempfile
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from cvae_utils.labels import CLASS_COUNT, STRUCTURES, Label

#: Added to the crop on every side, in pixels of the original grid.
MARGIN_PIXELS = 2
#: An island is stray if it lies further than this, in mm, from where the heart is in any slice.
STRAY_MM = 10.0
#: Neighbours, diagonal ones too, within a slice of a volume (Z, H, W) alone.
IN_PLANE = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])
METHODS = ("nearest", "linear", "area")


@functools.cache
def compiled(function):
    """numba.njit, whose result is kept on disk: beside the code, or where the user's caches lie, or
    only for this process where neither can be written to."""
    import numba  # takes half a second, and only who aligns hearts should wait for it

    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # no place for a cache
        numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="numba-")
        return numba.njit(cache=True)(function)


@dataclass(frozen=True)
class AlignedVolume:
    """The kept slices of one volume; K slices with an LV cavity out of Z.

    aligned: (K, S, S) uint8, centred, rotated, cropped
    unrotated: (K, S, S) uint8, centred and cropped alone, with a crop of its own
    slice_index: (K,) z of each kept slice in the volume
    angle_deg: (K,) in-plane angle that was taken out, counter-clockwise on the screen
    crop_mm, crop_unrotated_mm: side of the square crops
    notices: what lay far from the heart and did not count, in words, by z of its slice
    """

    aligned: np.ndarray
    unrotated: np.ndarray
    slice_index: np.ndarray
    angle_deg: np.ndarray
    crop_mm: float
    crop_unrotated_mm: float
    notices: dict[int, str] = field(default_factory=dict)


def centroid_mm(mask: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Centroid (x, y) in mm of a mask (..., H, W), pooled over leading axes.

    spacing_mm: (2,) pixel size along x (columns) and y (rows). The origin is the centre of the
    first pixel. An empty mask gives NaN.
    """
    pooled = mask.reshape(-1, *mask.shape[-2:]).sum(axis=0)
    return _centroids_mm(pooled[None], spacing_mm)[0]


def _centroids_mm(masks: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """`centroid_mm` of each mask (K, H, W) by itself, (K, 2)."""
    columns, rows = masks.sum(axis=1), masks.sum(axis=2)  # pixels in each: (K, W), (K, H)
    count = columns.sum(axis=1).astype(float)
    sums = np.stack([at @ np.arange(at.shape[1]) for at in (columns, rows)], axis=1)
    return sums / np.where(count > 0, count, np.nan)[:, None] * spacing_mm


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

    A slice without RV takes the angle of its volume.
    """
    centres = zip(_centroids_mm(maps == Label.LV, spacing_mm),
                  _centroids_mm(maps == Label.RV, spacing_mm))
    angles = np.array([rv_angle(*pair) for pair in centres])
    return np.where(np.isnan(angles), volume_angle(maps, spacing_mm), angles)


def volume_angle(maps: np.ndarray, spacing_mm: np.ndarray) -> float:
    """In-plane angle of label maps (K, H, W), in radians, from centroids pooled over all of them;
    0 without RV."""
    angle = rv_angle(centroid_mm(maps == Label.LV, spacing_mm),
                     centroid_mm(maps == Label.RV, spacing_mm))
    return 0.0 if np.isnan(angle) else angle


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
    slices, rows = np.nonzero(maps.any(axis=2))
    lines = maps[slices, rows] > 0  # (rows, W); their ends lie furthest
    ends = lines.argmax(axis=1), lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1)
    points = np.stack([np.stack([columns, rows], axis=1) for columns in ends])  # (2, rows, 2)
    offsets = points * spacing_mm - np.asarray(centres)[slices]
    turns = np.stack([rotation(angle) for angle in angles])[slices]  # (rows, 2, 2)
    reach = np.abs(offsets[..., :1] * turns[:, 0] + offsets[..., 1:] * turns[:, 1]).max()
    return float(reach + MARGIN_PIXELS * np.mean(spacing_mm))


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
        return compiled(_interpolate)(np.ascontiguousarray(label_map), rotation(angle), centre_mm,
                                      spacing_mm, ticks, fine)
    x, y = np.meshgrid(ticks, ticks)
    source = rotation(angle) @ np.stack([x.ravel(), y.ravel()]) + centre_mm[:, None]  # (2, points)
    rows_columns = source[::-1] / spacing_mm[::-1, None]
    taken = ndimage.map_coordinates(label_map, rows_columns, order=0, cval=Label.BACKGROUND)
    return taken.reshape(size, size)


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

    labels: (X, Y, Z) uint8, axes x, y, z; spacing_mm: (3,). A volume without LV gives K = 0.
    unrotated=False leaves that variant out (it is then empty).
    """
    spacing_mm = np.asarray(spacing_mm, dtype=float)[:2]
    maps = labels.T  # (Z, rows = y, columns = x)
    if maps.any():
        maps = _labelled_part(maps)
    maps, notices = _without_stray(maps, spacing_mm)
    kept = np.flatnonzero((maps == Label.LV).any(axis=(1, 2)))
    if not len(kept):
        empty = np.empty((0, size, size), dtype=np.uint8)
        return AlignedVolume(empty, empty, kept, np.empty(0), np.nan, np.nan, notices)
    # With a pixel of background around it, a heart at the border of its file is like any other.
    lying = np.pad(_labelled_part(maps[kept]), ((0, 0), (1, 1), (1, 1)))
    # Turned by so many right angles counter-clockwise, the RV lies rather to the left.
    turns = int(-np.round(volume_angle(lying, spacing_mm) / (np.pi / 2))) % 4
    turned, turned_mm = np.rot90(lying, turns, axes=(1, 2)), np.roll(spacing_mm, turns)
    angles = slice_angles(turned, turned_mm)
    aligned, crop_mm = _crop(turned, angles, turned_mm, size, method)
    as_it_lies, lying_mm = (_crop(lying, 0 * angles, spacing_mm, size, method) if unrotated else
                            (aligned[:0], np.nan))
    # The right angles have been taken out, too.
    degrees = (np.degrees(angles) - 90 * turns + 180) % 360 - 180
    return AlignedVolume(aligned, as_it_lies, kept, degrees, crop_mm, lying_mm, notices)


def crop_image(image, label_map, spacing_mm, angle_deg, crop_mm, size) -> np.ndarray:
    """The part of an MR slice that belongs to an aligned label map, (S, S) float64.

    image, label_map: (H, W), one slice and its labels; spacing_mm: (x, y) pixel size; angle_deg and
    crop_mm: of the aligned slice, see AlignedVolume. Linear between the pixels.
    """
    spacing_mm = np.asarray(spacing_mm, dtype=float)[:2]
    centre = centroid_mm(label_map == Label.LV, spacing_mm)
    ticks = ((np.arange(size) + 0.5) / size - 0.5) * crop_mm
    x, y = np.meshgrid(ticks, ticks)
    source = rotation(np.radians(angle_deg)) @ np.stack([x.ravel(), y.ravel()]) + centre[:, None]
    taken = ndimage.map_coordinates(np.asarray(image, dtype=float),
                                    source[::-1] / spacing_mm[::-1, None], order=1)
    return taken.reshape(size, size)


def _crop(maps, angles, spacing_mm, size, method) -> tuple[np.ndarray, float]:
    """Maps (K, H, W), centred on LV, turned by these angles, in one square crop: (K, S, S), and its
    side in mm."""
    centres = _centroids_mm(maps == Label.LV, spacing_mm)
    half = half_side_mm(maps, centres, angles, spacing_mm)
    return np.stack([resample(one, centre, angle, half, size, spacing_mm, method)
                     for one, centre, angle in zip(maps, centres, angles)]), 2 * half


def _labelled_part(maps: np.ndarray) -> np.ndarray:
    """The rows and columns of maps (K, H, W) between which every label lies."""
    used = maps.any(axis=0)
    rows, columns = (np.flatnonzero(used.any(axis=axis)) for axis in (1, 0))
    return maps[:, rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def _without_stray(maps: np.ndarray, spacing_mm: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Maps (Z, H, W) without the labels that lie far from the heart, and what they were, by slice.

    The heart is the connected part with the most LV and MYO, of the volume and then of each slice.
    Stray is each other part of which no pixel lies within STRAY_MM, in the plane, of a place where
    the heart of the volume is in any slice, or where the heart of the slice is in this one; and LV
    without MYO that is not connected to the heart of the volume.
    """
    labelled = maps > 0
    stray, used = np.zeros_like(labelled), labelled.any(axis=0)
    gaps = [np.diff(np.flatnonzero(used.any(axis=axis))).max(initial=0) * mm
            for axis, mm in ((1, spacing_mm[1]), (0, spacing_mm[0]))]
    there = labelled.any(axis=(1, 2))
    joined = (labelled[1:] & labelled[:-1]).any(axis=(1, 2))  # each slice with the next
    alone = there & ~np.append(joined, False) & ~np.append(False, joined)
    if max(gaps) > STRAY_MM or (alone.any() and there.sum() > 1):  # hardly ever
        stray = _far(maps, spacing_mm)
    parts, count = ndimage.label(labelled, structure=IN_PLANE)
    if count > there.sum():
        for z in np.flatnonzero([len(np.unique(part)) > 2 for part in parts]):
            stray[z] |= _far(maps[z:z + 1] * ~stray[z], spacing_mm)[0]
    notices = {}
    for z in np.flatnonzero(stray.any(axis=(1, 2))):
        pixels = ", ".join(f"{n} of {label.name}" for label in STRUCTURES
                           if (n := int((maps[z][stray[z]] == label).sum())))
        notices[int(z)] = f"ignored, for it lies far from the heart: {pixels} (pixels)"
    return (np.where(stray, np.uint8(Label.BACKGROUND), maps) if notices else maps), notices


def _far(maps: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Which pixels of maps (Z, H, W) belong to a part that is stray: see _without_stray."""
    parts, count = ndimage.label(maps, structure=np.ones((3, 3, 3)))
    lv, myo = (np.bincount(parts[maps == label], minlength=count + 1)
               for label in (Label.LV, Label.MYO))
    heart = (lv + myo).argmax()
    if not heart:  # nothing to be far from
        return np.zeros_like(maps, dtype=bool)
    away = ndimage.distance_transform_edt(~(parts == heart).any(axis=0), sampling=spacing_mm[::-1])
    nearest = ndimage.minimum(np.broadcast_to(away, maps.shape), parts, np.arange(count + 1))
    stray = nearest > STRAY_MM
    if len(maps) > 1 and myo[heart]:  # LV without a wall of its own, apart from the heart
        stray |= (lv > 0) & (myo == 0)
    stray[[0, heart]] = False
    return stray[parts]
