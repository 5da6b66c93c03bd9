"""Find and read a data set in the official ACDC layout, or a plain folder of label volumes.

    python -m cvae_utils.acdc       download ACDC (see download.py)

    root/training/patient001/Info.cfg                       ED: 1, ES: 12, Group: DCM, ...
                             patient001_frame01_gt.nii.gz   labels at end diastole (ED)
                             patient001_frame12_gt.nii.gz   labels at end systole (ES)
                             patient001_frame01.nii.gz      MR image; not needed by the model
    root/testing/patient101/...

Bernard et al., IEEE TMI 37(11), 2018, doi 10.1109/TMI.2018.2837502.
"""

import gzip
import hashlib
import io
import math
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from cvae_utils.download import is_unfinished, main
from cvae_utils.labels import GROUPS, LABEL_MAPS, UNKNOWN, Label, find_label_map
from cvae_utils.storage import DataError

SUBSETS = ("training", "testing")
PHASES = ("ED", "ES")
#: Bytes of a volume, uncompressed; the largest of ACDC has a few MB.
LARGEST_VOLUME = 2**31
#: Axes of every array of this package: x to the patient's left, y to the back, z to the head.
AXES = ("L", "P", "S")


@dataclass(frozen=True)
class Frame:
    """The labels of one patient at one phase, and where they lie."""

    patient: str
    subset: str  # "training", "testing", or "" where the patients lie directly in the root
    group: str  # one of GROUPS, or UNKNOWN
    phase: str  # "ED", "ES" or UNKNOWN
    label_path: Path
    image_path: Path | None  # None in a label-only copy
    #: What the values in the file mean: {value: Label}.
    label_map: Mapping[int, Label] = field(default_factory=LABEL_MAPS["ACDC"].copy, hash=False)


@dataclass(frozen=True)
class Volume:
    """An oriented volume: data (X, Y, Z) with axes L, P, S, and its voxel size in mm, (3,)."""

    data: np.ndarray
    spacing_mm: np.ndarray


def list_frames(root: Path, labels: str | Mapping = "ACDC") -> list[Frame]:
    """All ED and ES label volumes below `root`, ordered by patient and phase.

    labels: what the values in the files mean, see labels.find_label_map. Raises DataError if the
    folder is missing or holds no patients, if an Info.cfg is missing or cannot be parsed, or if a
    label volume that it announces is not there.
    """
    root, label_map = _folder(root), find_label_map(labels)
    bases = [root / subset for subset in SUBSETS if (root / subset).is_dir()] or [root]
    folders = [f for base in bases for f in sorted(base.glob("patient*")) if f.is_dir()]
    if not folders:
        raise DataError(
            f"{root}: expected training/patient001 ..., found no patient folder. Unzip ACDC here, "
            "point ACDC_ROOT at the folder that holds training/, or unset it to use the phantom."
        )
    return [frame for folder in folders for frame in _patient_frames(folder, label_map)]


def _folder(root: Path) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"{root}: expected a folder with label volumes, but there is no such folder. Point "
            "ACDC_ROOT at the folder that holds training/ (and testing/), or unset it to use the "
            "phantom."
        )
    return root


def list_volumes(root: Path, pattern: str, labels: str | Mapping = "ACDC") -> list[Frame]:
    """Label volumes of a plain folder, without Info.cfg, in the order of their names.

    pattern: a glob below `root`, for instance "**/*_gt.nii.gz". labels: see list_frames. A volume
    is at the phase whose name, ED or ES, is a part of its own; volumes whose names differ in that
    alone are of one patient. Groups are UNKNOWN, and so is a phase that no name gives. Raises
    DataError if there is no such folder or no such file, or if two files are the same phase of one
    patient.
    """
    root, label_map = _folder(root), find_label_map(labels)
    try:
        paths = sorted(path for path in root.glob(pattern) if path.is_file())
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"{pattern!r}: expected a pattern relative to {root}, such as "
                        f"'**/*_gt.nii.gz' ({error}).") from None
    if not paths:
        raise DataError(f"{root}: expected label volumes named {pattern}, found none. Mind the "
                        "ending: .nii and .nii.gz are different patterns.")
    frames: dict[tuple, Frame] = {}
    for path in paths:
        name = re.sub(r"\.nii(\.gz)?$", "", path.relative_to(root).as_posix())
        parts = re.split(r"([/_.\- ])", name)
        phases = {part.upper() for part in parts} & set(PHASES)
        phase = phases.pop() if len(phases) == 1 else UNKNOWN
        patient = "".join(part for part in parts if part.upper() != phase)
        patient = re.sub(r"([/_.\- ])[/_.\- ]+", r"\1", patient).strip("/_.- ")
        if (patient, phase) in frames:
            raise DataError(f"{path}: expected one volume of {patient} at {phase}, found another: "
                            f"{frames[patient, phase].label_path}. Narrow the pattern {pattern!r}.")
        frames[patient, phase] = Frame(patient, "", UNKNOWN, phase, path, None, label_map)
    return sorted(frames.values(), key=lambda frame: frame.patient)


def _patient_frames(folder: Path, label_map: Mapping[int, Label]) -> list[Frame]:
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
                label_map=label_map,
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
        if not re.fullmatch(r"\d{1,6}", info.get(phase, "")):
            raise DataError(f"{path}: expected a line '{phase}: <frame number>', found "
                            f"{info.get(phase)!r}. {remedy}")
        info[phase] = int(info[phase])
    if info["ED"] == info["ES"]:
        raise DataError(f"{path}: expected ED and ES to be two frames, found frame {info['ED']} "
                        f"for both. {remedy}")
    group = {"RV": "ARV"}.get(info.get("Group"), info.get("Group"))
    if group not in GROUPS:
        raise DataError(f"{path}: expected Group to be one of NOR, MINF, DCM, HCM, RV, found "
                        f"{group!r}. {remedy}")
    return info | {"Group": group}


def read_volume(path: Path) -> Volume:
    """Read a NIfTI file, 3-D or one slice, and bring its axes to L, P, S by the affine.

    The whole file is decompressed before it is parsed, so that gzip's checksum is verified and a
    truncated file cannot pass as a volume with fewer slices. Raises DataError if that fails, if
    the volume is not 3-D, or if its voxel size is not that of slices stacked along S.
    """
    remedy = "The file looks damaged: copy or download it again."
    try:
        raw = Path(path).read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = _unzip(raw)
        with np.errstate(all="ignore"):  # numbers that overflow are refused below
            image, header_mm, affine_mm = _open_image(raw)
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
                        "each frame of a 4-D series as a file of its own.")
    if data.dtype.kind not in "iuf":
        raise DataError(f"{path}: expected one number a voxel, found {data.dtype}.")
    if not np.allclose(header_mm, affine_mm, rtol=0.01):
        raise DataError(f"{path}: expected one voxel size, found {header_mm} mm as pixdim and "
                        f"{affine_mm} mm in the affine. Save the file with one for both.")
    if not ((spacing_mm >= 0.01) & (spacing_mm <= 100)).all():
        raise DataError(f"{path}: expected a voxel size of 0.01 to 100 mm, found {spacing_mm}. "
                        "Save the file with its voxel size in mm.")
    if spacing_mm[:2].max() > 2 * spacing_mm[:2].min():
        raise DataError(f"{path}: expected slices stacked along {AXES[2]}, with nearly square "
                        f"pixels, found voxels of {spacing_mm} mm along {', '.join(AXES)}. Save "
                        "the file with an affine that says so.")
    return Volume(data, spacing_mm)


def _unzip(compressed: bytes) -> bytes:
    """Like gzip.decompress, but it stops at what no volume needs."""
    file, raw = gzip.GzipFile(fileobj=io.BytesIO(compressed)), bytearray()
    while part := file.read(2**16):
        raw += part
        if len(raw) > LARGEST_VOLUME:
            raise ValueError(f"it unpacks to more than {LARGEST_VOLUME} bytes")
    return bytes(raw)


def _open_image(raw: bytes) -> tuple[nib.Nifti1Image, np.ndarray, np.ndarray]:
    """The image in the bytes of a file, and its voxel size by pixdim and by the affine.

    The size of the file is checked before memory is taken for the voxels that it announces.
    """
    image = nib.Nifti1Image.from_bytes(raw)
    announced = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    if announced != len(raw):
        raise ValueError(f"its header announces {announced} bytes, not {len(raw)}")
    stored = nib.Nifti1Header(raw[:348], check=False)  # the image's is without impossible numbers
    header_mm = np.abs(np.asarray(stored.get_zooms()[:3], dtype=float))
    affine_mm = nib.affines.voxel_sizes(image.affine)[:len(header_mm)]
    if len(image.shape) == 2:  # one slice
        data = np.asanyarray(image.dataobj)[:, :, None]
        image = nib.Nifti1Image(data, image.affine, dtype=data.dtype)
    return image, header_mm, affine_mm


def read_labels(path: Path, label_map: Mapping[int, Label] = LABEL_MAPS["ACDC"]) -> Volume:
    """Read a label volume: data (X, Y, Z) uint8 with values of Label.

    label_map: what the values in the file mean. Raises DataError, also if it holds others.
    """
    volume = read_volume(path)
    values = np.unique(volume.data)
    if not np.isin(values, list(label_map)).all():
        known = ", ".join(f"{value} ({label.name})" for value, label in sorted(label_map.items()))
        raise DataError(
            f"{path}: expected labels {known}, found values "
            f"{values[:8].tolist()}{' ...' if len(values) > 8 else ''}. Is this an MR image, or "
            "a data set with other labels? Say what they mean: begin(..., labels={value: name})."
        )
    data = volume.data.astype(np.uint8)
    for value in values:
        if label_map[int(value)] != value:  # in ACDC's own files, no value does
            data[volume.data == value] = label_map[int(value)]
    return Volume(data, volume.spacing_mm)


def read_frame(frame: Frame) -> Volume:
    """The labels of one frame, as read_labels gives them."""
    return read_labels(frame.label_path, frame.label_map)


def read_patient(frames: list[Frame]) -> list[Volume]:
    """Labels of one patient's frames; raises DataError if their in-plane pixel sizes differ.

    ED and ES are two frames of one acquisition. Their in-plane sizes may differ, because
    label-only copies are cropped around the heart, volume by volume; each is then aligned on its
    own grid. Their pixel sizes may not: then one file is not the one its name says.
    """
    volumes = [read_frame(frame) for frame in frames]
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
        digest.update(f"{frame.subset}/{frame.patient}/{frame.group}/{frame.phase}/"
                      f"{sorted(frame.label_map.items())}\n".encode())
        try:
            digest.update(hashlib.sha256(frame.label_path.read_bytes()).digest())
        except OSError as error:
            raise DataError(f"{frame.label_path}: cannot be read ({error.strerror}). Mend its "
                            "permissions, or copy it again.") from None
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
        try:
            return (base / Path(value).expanduser()).resolve()
        except RuntimeError as error:  # ~nobody
            raise DataError(f"ACDC_ROOT: expected a folder, found {value!r} ({error}).") from None
    if is_unfinished(default):
        raise DataError(f"{default}: expected all of ACDC, but its download was interrupted. Begin "
                        "it again, it goes on where it stopped: python -m cvae_utils.acdc "
                        "--accept-licence. CVAE_DATA=phantom does without it.")
    if default.is_dir() and any(default.glob("*")):
        return default
    if choice == "acdc":
        raise DataError(f"CVAE_DATA=acdc, but ACDC_ROOT is not set and {default} does not exist or "
                        "is empty. Download ACDC (python -m cvae_utils.acdc), unzip it there, or "
                        "point ACDC_ROOT at it.")
    return None


if __name__ == "__main__":
    raise SystemExit(main())
