"""Hearts of circles for the tests: every area, length and angle is known; and label files."""

import gzip
import itertools

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


VOLUME = nifti()


def official(data=LABELS, spacing=SPACING, directions=LPS):
    """The same as in ACDC's own files: the sform has directions of length 1, the voxel size stands
    in pixdim and the qform."""
    affine, bare = np.eye(4), np.eye(4)
    bare[:3, :3], affine[:3, :3] = directions, directions * spacing
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, code=1)
    image.set_sform(bare, code=1)
    return image.to_bytes()


def plane(azimuth, elevation, spin_deg):
    """A true short-axis plane: unit columns where x, y, z of the stack point in RAS. z, away from
    the apex, leads to the right, to the back, and up or down."""
    a, e, spin = np.radians([azimuth, elevation, spin_deg])
    z = np.array([np.cos(e) * np.cos(a), -np.cos(e) * np.sin(a), np.sin(e)])
    x = np.cross(z, [0, 0, 1]) / np.cos(e)  # horizontal
    y = np.cross(z, x)
    return np.stack([np.cos(spin) * x + np.sin(spin) * y, np.cos(spin) * y - np.sin(spin) * x, z],
                    axis=1)


#: Planes of a stack: straight, and oblique ones.
PLANES = {"straight": LPS} | {f"{azimuth} {elevation}": plane(azimuth, elevation, azimuth / 3)
                              for azimuth in (10, 35, 55, 80) for elevation in (-25, 0, 45)}
#: What writes the bytes of a file.
HEADERS = {
    "clean": nifti, "official": official,
    "NIfTI-2": lambda *given: nifti(*given, kind=nib.Nifti2Image),
    "MGH": lambda data, *given: nifti(data.astype(np.int32), *given, kind=nib.MGHImage),
}


def orientations(header, directions, data=LABELS, spacing=SPACING):
    """The bytes of a volume for each of the 48 ways to order and reverse the axes of its file."""
    for order in map(list, itertools.permutations(range(3))):
        for signs in itertools.product((1, -1), repeat=3):
            stored = data.transpose(order)[tuple(np.s_[::sign] for sign in signs)]
            yield HEADERS[header](stored, np.array(spacing)[order], directions[:, order] * signs)


def write(path, raw):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix in (".gz", ".mgz") else raw)
    return path


def write_patient(folder, ed=VOLUME, es=VOLUME, group="DCM"):
    """A patient in the layout of ACDC, with the bytes of two label volumes."""
    for frame, raw in (("frame01", ed), ("frame12", es)):
        write(folder / f"{folder.name}_{frame}_gt.nii.gz", raw)
    (folder / "Info.cfg").write_text(f"ED: 1\nES: 12\nGroup: {group}\n")
    return folder


def with_value(value, dtype):
    """The volume with this value in one of its voxels."""
    data = LABELS.astype(dtype)
    data[0, 0, 0] = value
    return nifti(data)


def relabelled(values, dtype=np.int16):
    """The volume with other values: values[label] stands for label."""
    return nifti(np.array(values, dtype=dtype)[LABELS])
