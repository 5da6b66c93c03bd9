"""Find and read a data set in the official ACDC layout.

    root/training/patient001/Info.cfg                       ED: 1, ES: 12, Group: DCM, ...
                             patient001_frame01_gt.nii.gz   labels at end diastole (ED)
                             patient001_frame12_gt.nii.gz   labels at end systole (ES)
                             patient001_frame01.nii.gz      MR image; not needed by the model
    root/testing/patient101/...

Bernard et al., IEEE TMI 37(11), 2018, doi 10.1109/TMI.2018.2837502.
"""

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from cvae_utils.labels import GROUPS, Label

SUBSETS = ("training", "testing")
PHASES = ("ED", "ES")
#: Axes of every array of this package: x to the patient's left, y to the back, z to the head.
AXES = ("L", "P", "S")


class DataError(ValueError):
    """Input that cannot be used: says what was expected, what came, and what to do."""


@dataclass(frozen=True)
class Frame:
    """The labels of one patient at one phase, and where they lie."""

    patient: str
    subset: str  # "training", "testing", or "" where the patients lie directly in the root
    group: str  # one of GROUPS
    phase: str  # "ED" or "ES"
    label_path: Path
    image_path: Path | None  # None in a label-only copy


@dataclass(frozen=True)
class Volume:
    """An oriented volume: data (X, Y, Z) with axes L, P, S, and its voxel size in mm, (3,)."""

    data: np.ndarray
    spacing_mm: np.ndarray


def list_frames(root: Path) -> list[Frame]:
    """All ED and ES label volumes below `root`, ordered by patient and phase.

    Raises DataError if the folder is missing or holds no patients, if an Info.cfg is missing or
    cannot be parsed, or if a label volume that it announces is not there.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"{root}: expected a folder with ACDC patients, but there is no such folder. Point "
            "ACDC_ROOT at the folder that holds training/ (and testing/), or unset it to use the "
            "phantom."
        )
    bases = [root / subset for subset in SUBSETS if (root / subset).is_dir()] or [root]
    folders = [f for base in bases for f in sorted(base.glob("patient*")) if f.is_dir()]
    if not folders:
        raise DataError(
            f"{root}: expected training/patient001 ..., found no patient folder. Unzip ACDC here, "
            "point ACDC_ROOT at the folder that holds training/, or unset it to use the phantom."
        )
    return [frame for folder in folders for frame in _patient_frames(folder)]


def _patient_frames(folder: Path) -> list[Frame]:
    info = read_info(folder / "Info.cfg")
    frames = []
    for phase in PHASES:
        stem = f"{folder.name}_frame{info[phase]:02d}"
        label_path = _first_existing(folder, f"{stem}_gt")
        if label_path is None:
            raise DataError(
                f"{folder / (stem + '_gt.nii.gz')}: Info.cfg names frame {info[phase]} as {phase}, "
                "but its label volume is missing. Restore the file, or move the patient's folder "
                "out of the data set."
            )
        frames.append(
            Frame(
                patient=folder.name,
                subset=folder.parent.name if folder.parent.name in SUBSETS else "",
                group=info["Group"],
                phase=phase,
                label_path=label_path,
                image_path=_first_existing(folder, stem),
            )
        )
    return frames


def _first_existing(folder: Path, stem: str) -> Path | None:
    candidates = (folder / f"{stem}{suffix}" for suffix in (".nii.gz", ".nii"))
    return next((path for path in candidates if path.is_file()), None)


def read_info(path: Path) -> dict:
    """Parse an Info.cfg: {"ED": int, "ES": int, "Group": one of GROUPS, ...}.

    Raises DataError if the file is missing or one of the three entries is missing or not usable.
    """
    remedy = "Restore the file from the ACDC archive, or move the patient's folder out."
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: expected the patient's ED, ES and Group, but the file is "
                        f"missing. {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}). {remedy}") from None
    info = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            info[key.strip()] = value.strip()
    for phase in PHASES:
        if not info.get(phase, "").isdecimal():
            raise DataError(f"{path}: expected a line '{phase}: <frame number>', found "
                            f"{info.get(phase)!r}. {remedy}")
        info[phase] = int(info[phase])
    group = {"RV": "ARV"}.get(info.get("Group"), info.get("Group"))
    if group not in GROUPS:
        raise DataError(f"{path}: expected Group to be one of NOR, MINF, DCM, HCM, RV, found "
                        f"{group!r}. {remedy}")
    return info | {"Group": group}


def read_volume(path: Path) -> Volume:
    """Read a 3-D NIfTI file and bring its axes to L, P, S by the affine.

    The whole file is decompressed before it is parsed, so that gzip's checksum is verified and a
    truncated file cannot pass as a volume with fewer slices. Raises DataError if that fails, or
    if the volume is not 3-D or has no positive voxel size.
    """
    remedy = "The file looks damaged: copy or download it again."
    try:
        raw = Path(path).read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        image = nib.Nifti1Image.from_bytes(raw)
        orientation = nib.orientations.ornt_transform(
            nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(AXES)
        )
        image = image.as_reoriented(orientation)
        data = np.asanyarray(image.dataobj)
        spacing_mm = np.asarray(image.header.get_zooms()[:3], dtype=float)
    except (OSError, EOFError, zlib.error, ValueError, OverflowError,
            nib.spatialimages.HeaderDataError, nib.filebasedimages.ImageFileError,
            nib.wrapstruct.WrapStructError, nib.orientations.OrientationError) as error:
        raise DataError(f"{path}: expected a NIfTI volume, but it cannot be read "
                        f"({type(error).__name__}: {error}). {remedy}") from None
    if data.ndim != 3:
        raise DataError(f"{path}: expected a 3-D volume, found shape {data.shape}. Save "
                        "each frame of a 4-D series as a file of its own; stack single slices.")
    if not (np.isfinite(spacing_mm).all() and (spacing_mm > 0).all()):
        raise DataError(f"{path}: expected a positive voxel size in mm, found {spacing_mm}. "
                        f"{remedy}")
    return Volume(data, spacing_mm)


def read_labels(path: Path) -> Volume:
    """Read a label volume: data (X, Y, Z) uint8 with values of Label. Raises DataError."""
    volume = read_volume(path)
    values = np.unique(volume.data)
    if not np.isin(values, list(Label)).all():
        raise DataError(
            f"{path}: expected labels 0 (background), 1 (RV), 2 (MYO), 3 (LV), found values "
            f"{values[:8].tolist()}{' ...' if len(values) > 8 else ''}. Is this an MR image, or "
            "a data set with other labels? Map its labels to these four first."
        )
    return Volume(volume.data.astype(np.uint8), volume.spacing_mm)


def read_patient(frames: list[Frame]) -> list[Volume]:
    """Labels of one patient's frames; raises DataError if their in-plane pixel sizes differ.

    ED and ES are two frames of one acquisition. Their in-plane sizes may differ, because
    label-only copies are cropped around the heart, volume by volume; each is then aligned on its
    own grid. Their pixel sizes may not: then one file is not the one its name says.
    """
    volumes = [read_labels(frame.label_path) for frame in frames]
    spacings = np.array([volume.spacing_mm[:2] for volume in volumes])
    if not np.allclose(spacings, spacings[0], rtol=1e-3):
        found = ", ".join(f"{frame.label_path}: {volume.spacing_mm[:2].round(4).tolist()} mm"
                          for frame, volume in zip(frames, volumes))
        raise DataError(f"{frames[0].patient}: expected ED and ES with one in-plane pixel size, "
                        f"found {found}. One of them belongs to another patient: restore both "
                        "from the same source.")
    return volumes


def read_image(frame: Frame) -> Volume:
    """The MR image of a frame, on the grid of its labels: data (X, Y, Z).

    Raises DataError if the copy has no images, or if image and labels differ in size.
    """
    if frame.image_path is None:
        raise DataError(f"{frame.label_path}: expected the MR image beside it, but this is a "
                        "label-only copy. Unzip the full ACDC archive to have images.")
    image, labels = read_volume(frame.image_path), read_volume(frame.label_path)
    if image.data.shape != labels.data.shape:
        raise DataError(f"{frame.image_path}: expected the size of its labels "
                        f"{labels.data.shape}, found {image.data.shape}. Restore both files from "
                        "the same source.")
    return image


def fingerprint(frames: list[Frame]) -> str:
    """16 hex digits that change when any label file, group or phase changes."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(f"{frame.subset}/{frame.patient}/{frame.group}/{frame.phase}\n".encode())
        digest.update(hashlib.sha256(frame.label_path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def find_root(default: Path, base: Path) -> Path | None:
    """The ACDC folder that the environment or the repository names, or None for the phantom.

    CVAE_DATA=phantom forces the phantom; else ACDC_ROOT (relative to `base`, so that it means the
    same wherever a kernel runs); else `default` where it exists and is not empty.
    """
    choice = os.environ.get("CVAE_DATA", "").strip().lower()
    if choice not in ("", "phantom", "acdc"):
        raise DataError(f"CVAE_DATA: expected 'phantom', 'acdc' or nothing, found {choice!r}.")
    if choice == "phantom":
        return None
    if "ACDC_ROOT" in os.environ:
        value = os.environ["ACDC_ROOT"].strip()
        if not value:
            raise DataError("ACDC_ROOT is set but empty: expected the folder that holds "
                            "training/. Unset it to use data/raw/acdc or the phantom.")
        return (base / Path(value).expanduser()).resolve()
    if default.is_dir() and any(default.glob("*")):
        return default
    if choice == "acdc":
        raise DataError(f"CVAE_DATA=acdc, but ACDC_ROOT is not set and {default} does not exist or "
                        "is empty. Unzip ACDC there, or point ACDC_ROOT at it.")
    return None
