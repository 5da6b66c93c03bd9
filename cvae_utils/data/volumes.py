"""Read one volume: from a file to an array with axes x, y, z and its voxel size in mm.

This is the one place where a header is interpreted. Everything else gets the heart as a reader of
short-axis slices sees it: x to the right of the screen, y down, z from slice to slice.

    voxel size   pixdim. The affine must agree, unless its columns have length 1: ACDC's own files
                 keep directions alone in the sform, and the voxel size in pixdim and the qform.
    slice axis   the file's own: the one with a single slice, else the clearly coarser one. It need
                 not be near an anatomical axis: a true short-axis plane is oblique. Of nearly cubic
                 voxels it is the head-to-feet axis in a straight stack, else the file's third.
    in-plane     seen from the side of the apex (from the feet, the left or the front): x towards
                 the patient's left, y towards the feet or the back, whichever axes come nearest to
                 that. For an axial stack these are the axes L, P, S of ACDC.

Formats: NIfTI-1 and NIfTI-2 in one file, MGH; each also compressed by gzip.
"""

import contextlib
import gzip
import io
import itertools
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from cvae_utils.files import DataError
from cvae_utils.labels import LABEL_MAPS, Label

#: Bytes of a volume, uncompressed; the largest of ACDC has a few MB.
LARGEST_VOLUME = 2**31
#: An axis is the slice axis if its voxels are so many times as long as those of any other.
COARSER = 1.1
#: In R, A, S of NIfTI: the screen's right is the patient's left, or else the back; its bottom lies
#: towards the feet, or else the back; and one looks from the apex of the heart towards its base.
RIGHT, DOWN, AWAY = (np.array(v) for v in ((-1.0, -0.2, 0.0), (0.0, -0.2, -1.0), (1.0, -1.0, 1.0)))

MGH = b"\0\0\0\1"  # what such a file begins with
#: What files of other kinds begin with (at this byte), and what to do with them.
OTHER_FORMATS = (
    (0, b"BZh", "a bzip2 archive: unpack it"), (0, b"\xfd7zXZ", "an xz archive: unpack it"),
    (0, b"(\xb5/\xfd", "a zstd archive: unpack it"), (0, b"PK\x03\x04", "a zip archive: unpack it"),
    (0, b"\x1f\x8b", "a file compressed twice by gzip: unpack it once"),
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch its content, git lfs pull"),
    (0, b"/annex/objects", "a git-annex pointer: fetch its content, datalad get"),
    (0, b"NRRD", "NRRD: convert it to NIfTI"), (0, b"ObjectType", "MetaImage: convert it to NIfTI"),
    (0, b"NDims", "MetaImage: convert it to NIfTI"), (0, b"\x93NUMPY", "NumPy: save it as NIfTI"),
    (0, b"\x89HDF", "HDF5: convert it to NIfTI"), (0, b"CDF", "NetCDF: convert it to NIfTI"),
    (0, b"MATLAB", "MATLAB: save it as NIfTI"), (128, b"DICM", "DICOM: convert it to NIfTI"),
    (0, b"\x89PNG", "a PNG picture: save label maps as NIfTI"),
    (0, b"II*\0", "a TIFF picture: save label maps as NIfTI"),
    (0, b"MM\0*", "a TIFF picture: save label maps as NIfTI"),
    (0, b"\xff\xd8\xff", "a JPEG picture: its labels are lost, save them as NIfTI"),
    (0, b"<!DOCTYPE", "a web page: download the file itself"),
    (0, b"<html", "a web page: download the file itself"),
    (344, b"ni1\0", "the header of a NIfTI pair (.hdr, .img): save both as one .nii file"),
    (4, b"ni2\0", "the header of a NIfTI pair (.hdr, .img): save both as one .nii file"),
)


@dataclass(frozen=True)
class Volume:
    """An oriented volume: data (X, Y, Z) with axes as above, and its voxel size in mm, (3,).

    notice: what had to be assumed in order to read it; "" if nothing was. step: what one unit on
    disk is worth, where values were scaled (scl_slope), else 0.
    """

    data: np.ndarray
    spacing_mm: np.ndarray
    notice: str = ""
    step: float = 0.0


def read_volume(path: Path) -> Volume:
    """Read a file with one volume, or one slice, and bring its axes to x, y, z.

    Raises DataError if it cannot be read, is of another format, not of three dimensions, or if its
    voxel size is not that of slices.
    """
    path = Path(path)
    image, stored_mm, data = _load(path)
    with _named(path), np.errstate(all="ignore"):  # numbers that overflow are refused later
        affine, affine_mm, doubt = _affine(image, stored_mm)
    said = slice(3 if data.shape[2] > 1 else 2)  # a single slice need not agree on its thickness
    if not np.allclose(stored_mm[said], affine_mm[:len(stored_mm)][said], rtol=0.01):
        raise DataError(f"{path}: expected one voxel size, found {stored_mm} mm as pixdim and "
                        f"{affine_mm} mm in the affine. Save the file with one for both.")
    thickness = next(mm for mm in (*stored_mm[2:], affine_mm[2], 1.0) if mm > 0)
    spacing_mm = np.array([*stored_mm[:2], thickness], dtype=np.float32).astype(float)
    if not ((spacing_mm >= 0.01) & (spacing_mm <= 100)).all():
        raise DataError(f"{path}: expected a voxel size of 0.01 to 100 mm, found {spacing_mm}. "
                        "Save the file with its voxel size in mm.")
    directions, notices = None, [doubt]
    if affine is not None:
        directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        if not abs(np.linalg.det(directions)) > 0.5:
            raise DataError(f"{path}: expected an affine with three directions, found "
                            f"{affine[:3, :3].tolist()}. Save the file with the affine of its "
                            "grid.")
    axis, assumed = _slice_axis(data.shape, spacing_mm, directions)
    notices.append(assumed)
    if directions is None:
        order, signs = [a for a in range(3) if a != axis] + [axis], (1, 1, 1)
        notices.append("no directions in the header (both form codes are 0): read as stored, x to "
                       "the patient's left and y to the back")
    else:
        order, signs = _as_seen(directions, axis)
    spacing_mm = spacing_mm[order]
    if spacing_mm[:2].max() > 2 * spacing_mm[:2].min():
        raise DataError(f"{path}: expected slices of nearly square pixels, found pixels of "
                        f"{spacing_mm[:2]} mm in slices {spacing_mm[2]} mm apart. Save the file "
                        "with the voxel size of its grid.")
    return Volume(data.transpose(order)[tuple(np.s_[::sign] for sign in signs)], spacing_mm,
                  "; ".join(filter(None, notices)), _step(image, data))


def _load(path: Path) -> tuple[nib.spatialimages.SpatialImage, np.ndarray, np.ndarray]:
    """The image in a file, the voxel size that its header states in mm, (3,) or for a single slice
    (2,), and its voxels along the file's axes, (A, B, C).

    The whole file is decompressed before it is parsed, so that gzip's checksum is verified and a
    truncated file cannot pass as a volume with fewer slices.
    """
    with _named(path):
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = _unzip(raw)
    if other := _other_format(raw):
        raise DataError(f"{path}: expected a NIfTI volume, found {other}.")
    if raw[:4] == MGH and raw[28:30] == b"\0\0":
        raise DataError(f"{path}: expected a voxel size and directions, found an MGH file without "
                        "(its goodRASFlag is 0). Convert it to NIfTI with both.")
    with _named(path), np.errstate(all="ignore"):  # numbers that overflow are refused later
        image, stored_mm = _open_image(raw)
        data = np.asanyarray(image.dataobj)
    while data.ndim > 3 and data.shape[-1] == 1:  # a series of one frame
        data = data[..., 0]
    if data.ndim == 2:
        data = data[:, :, None]
    if data.ndim != 3 or not data.size:
        raise DataError(f"{path}: expected a 3-D volume, found shape {data.shape}. Save "
                        "each frame of a 4-D series as a file of its own.")
    if data.dtype.kind not in "iuf":
        raise DataError(f"{path}: expected one number a voxel, found {data.dtype}.")
    return image, stored_mm, data


def _step(image: nib.spatialimages.SpatialImage, data: np.ndarray) -> float:
    slope = abs(float(getattr(image.dataobj, "slope", 1.0))) if data.dtype.kind == "f" else 1.0
    return 0.0 if slope == 1 else slope


@contextlib.contextmanager
def _named(path: Path):
    """Whatever a damaged file makes fail within this becomes a DataError that names it."""
    try:
        yield
    except (OSError, EOFError, zlib.error, ValueError, OverflowError, KeyError, TypeError,
            nib.freesurfer.mghformat.MGHError, nib.spatialimages.HeaderDataError,
            nib.filebasedimages.ImageFileError, nib.wrapstruct.WrapStructError) as error:
        raise DataError(f"{path}: expected a NIfTI volume, but it cannot be read "
                        f"({type(error).__name__}: {error}). The file looks damaged: copy or "
                        "download it again.") from None


def _unzip(compressed: bytes) -> bytes:
    """Like gzip.decompress, but it stops at what no volume needs."""
    file, raw = gzip.GzipFile(fileobj=io.BytesIO(compressed)), bytearray()
    while part := file.read(2**16):
        raw += part
        if len(raw) > LARGEST_VOLUME:
            raise ValueError(f"it unpacks to more than {LARGEST_VOLUME} bytes")
    return bytes(raw)


def _other_format(raw: bytes) -> str:
    """What a file is that is neither NIfTI nor MGH, and what to do with it; "" if unknown."""
    for start, magic, name in OTHER_FORMATS:
        if raw[start:start + len(magic)] == magic:
            return name
    # Analyze 7.5 has a size and no name; so has a header of NIfTI-1 that lost its own.
    return "an Analyze header (.hdr, .img): save both as one .nii file" if len(raw) == 348 else ""


def _open_image(raw: bytes) -> tuple[nib.spatialimages.SpatialImage, np.ndarray]:
    """The image in the bytes of a file, and the voxel size that its header states, (3,) or (2,).

    The size of the file is checked before memory is taken for the voxels that it announces.
    """
    kinds = {MGH: nib.MGHImage, b"\x1c\x02\0\0": nib.Nifti2Image,
             b"\0\0\x02\x1c": nib.Nifti2Image}
    kind = kinds.get(raw[:4], nib.Nifti1Image)
    image = kind.from_bytes(raw)
    announced = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    # Behind the voxels of MGH there may be what scanners say.
    if announced > len(raw) or (announced < len(raw) and kind is not nib.MGHImage):
        raise ValueError(f"its header announces {announced} bytes, not {len(raw)}")
    header = image.header
    if kind is not nib.MGHImage:  # the image's own is without impossible numbers
        header = type(header)(raw[:header.sizeof_hdr], check=False)
    return image, np.abs(np.asarray(header.get_zooms()[:3], dtype=float))


def _affine(image, stored_mm: np.ndarray) -> tuple[np.ndarray | None, np.ndarray, str]:
    """The affine (4, 4) to take directions from, None if there is none; its voxel size, (3,); and
    what may be doubted of it.

    stored_mm: that of pixdim, which is the voxel size where the sform holds directions alone.
    """
    header, count = image.header, len(stored_mm)  # of a single slice 2
    if isinstance(image, nib.MGHImage):
        return image.affine, nib.affines.voxel_sizes(image.affine), ""
    coded = header["sform_code"] != 0, header["qform_code"] != 0
    sform = header.get_sform() if coded[0] else None
    qform = header.get_qform() if coded[1] else None
    if not any(coded):
        return None, np.append(stored_mm, 1.0)[:3], ""
    affine = qform if sform is None else sform
    scale = nib.affines.voxel_sizes(affine)
    if np.allclose(scale[:count], 1, rtol=0.01) and not np.allclose(stored_mm, 1, rtol=0.01):
        affine = affine if qform is None else qform
        scale = np.append(stored_mm, scale[count:])
    doubt = ""
    if all(coded) and np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        doubt = (f"sform and qform are mirrored against each other: read by the "
                 f"{'qform' if affine is qform else 'sform'}")
    return affine, scale, doubt


def _slice_axis(shape, spacing_mm: np.ndarray, directions: np.ndarray | None) -> tuple[int, str]:
    """The axis along which slices are stacked, and what was assumed for it."""
    if shape.count(1) == 1:
        return shape.index(1), ""
    order = np.argsort(-spacing_mm, kind="stable")
    if spacing_mm[order[0]] > COARSER * spacing_mm[order[1]]:
        return int(order[0]), ""
    notice = "voxels are nearly as long in every direction: slices taken along the {} axis"
    if directions is not None and (np.abs(directions).max(axis=0) > 0.98).all():
        return int(np.abs(directions[2]).argmax()), notice.format("head-to-feet")
    return 2, notice.format("file's third")


def _as_seen(directions: np.ndarray, slice_axis: int) -> tuple[list[int], tuple[int, int, int]]:
    """Axes of the file that become x, y and z, and 1 or -1 for each, -1 where it is reversed.

    directions: (3, 3), unit columns in R, A, S. z leads away from the viewer, and x, y, z are
    right-handed as L, P, S are, so that a heart is never mirrored; of the four ways to turn the
    slice by right angles, x and y are the one that lies best on the screen.
    """
    away = directions[:, slice_axis]
    z_sign = 1 if away @ AWAY > 0 else -1
    best = None
    for x_axis, y_axis in itertools.permutations([a for a in range(3) if a != slice_axis]):
        for x_sign in (1, -1):
            x, y = x_sign * directions[:, x_axis], directions[:, y_axis]
            y_sign = 1 if np.cross(x, y) @ away * z_sign > 0 else -1
            score = x @ RIGHT + y_sign * y @ DOWN
            if best is None or score > best[0]:
                best = score, [x_axis, y_axis, slice_axis], (x_sign, y_sign, z_sign)
    return best[1:]


def read_labels(path: Path, label_map: Mapping[int, Label] = LABEL_MAPS["ACDC"]) -> Volume:
    """Read a label volume: data (X, Y, Z) uint8 with values of Label.

    label_map: what the values in the file mean. Whole numbers that were stored as floats, or scaled
    to whole numbers on disk and back, are whole numbers. Raises DataError, also if it holds others.
    """
    volume = read_volume(path)
    stored = volume.data
    if stored.dtype.kind == "f":
        whole = np.rint(stored)
        # Half a unit on disk, but never so much that any number would do; else what float32 rounds.
        off = max(min(volume.step / 2, 0.1), 1e-6) * 1.001
        with np.errstate(invalid="ignore"):  # infinity stays what it is
            stored = np.where(np.abs(stored - whole) <= off + 1e-6 * np.abs(whole), whole, stored)
    values = _values(stored)
    if not np.isin(values, list(label_map)).all():
        known = ", ".join(f"{value} ({label.name})" for value, label in sorted(label_map.items()))
        raise DataError(
            f"{path}: expected labels {known}, found values "
            f"{values[:8].tolist()}{' ...' if len(values) > 8 else ''}. Is this an MR image, or "
            "a data set with other labels? Say what they mean: begin(..., labels={value: name})."
        )
    data = stored.astype(np.uint8)
    for value in values:
        if label_map[int(value)] != value:  # in ACDC's own files, no value does
            data[stored == value] = label_map[int(value)]
    return Volume(data, volume.spacing_mm, volume.notice)


def _values(stored: np.ndarray) -> np.ndarray:
    """The values that occur, sorted."""
    if stored.dtype == np.uint8:  # counted several times as fast as sorted
        return np.flatnonzero(np.bincount(stored.ravel(order="K"), minlength=256))
    return np.unique(stored)
