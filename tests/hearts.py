"""Hearts of circles for the tests: every area, length and angle is known; and label files."""

import gzip

import nibabel as nib
import numpy as np

from cvae_utils.labels import Label


def paint(x, y, *, cavity, outer, rv=0.0, turn_deg=0.0, lv_shift=(0.0, 0.0)):
    """Label map on the points x (to the right), y (down), in any unit; the heart is at 0, 0.

    LV is a disc of radius `cavity`, shifted by lv_shift; LV + MYO one of radius `outer`; RV what
    a disc of radius `rv` round a point of their rim adds. That point lies straight to the left,
    and below that by turn_deg.
    """
    turn = np.radians(turn_deg)
    labels = np.zeros(np.broadcast(x, y).shape, dtype=np.uint8)
    labels[np.hypot(x + outer * np.cos(turn), y - outer * np.sin(turn)) < rv] = Label.RV
    labels[np.hypot(x, y) < outer] = Label.MYO
    labels[np.hypot(x - lv_shift[0], y - lv_shift[1]) < cavity] = Label.LV
    return labels


def picture(side=64, **shape):
    """A heart in the middle of a square picture (side, side) whose side is the unit of length."""
    ticks = (np.arange(side) + 0.5) / side - 0.5
    return paint(ticks[None, :], ticks[:, None], **shape)


def square_heart():
    """LV 8 x 8 in a wall of 4 pixels, and an RV to its left, in 40 x 40."""
    heart = np.zeros((40, 40), dtype=np.uint8)
    heart[12:28, 14:30] = Label.MYO
    heart[16:24, 18:26] = Label.LV
    heart[14:26, 6:14] = Label.RV
    return heart


# ------------------------------------------------------------------------------------ label files
SPACING = (1.5, 1.25, 8.0)
LABELS = np.random.default_rng(0).integers(0, 4, (7, 6, 3)).astype(np.uint8)
LPS = np.diag([-1.0, -1.0, 1.0])  # columns: where x, y and z of our arrays point in RAS


def nifti(data=LABELS, spacing=SPACING, directions=LPS, kind=nib.Nifti1Image):
    """The bytes of a volume whose header says it all, with one affine."""
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    return kind(data, affine).to_bytes()


def official(data=LABELS, spacing=SPACING, directions=LPS):
    """The same as in ACDC's own files: the sform has directions of length 1, the voxel size stands
    in pixdim and the qform."""
    affine, bare = np.eye(4), np.eye(4)
    bare[:3, :3], affine[:3, :3] = directions, directions * spacing
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, code=1)
    image.set_sform(bare, code=1)
    return image.to_bytes()


def write(path, raw):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix in (".gz", ".mgz") else raw)
    return path


def relabelled(values, dtype=np.int16):
    """The volume with other values: values[label] stands for label."""
    return nifti(np.array(values, dtype=dtype)[LABELS])


def with_value(value, dtype):
    data = LABELS.astype(dtype)
    data[0, 0, 0] = value
    return nifti(data)
