"""From a file to labels and millimetres: which headers are read how, and what is refused."""

import gzip
import itertools
import struct
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from hearts import (
    HEADERS,
    LABELS,
    LPS,
    PLANES,
    SPACING,
    VOLUME,
    nifti,
    orientations,
    relabelled,
    with_value,
    write,
)

from cvae_utils.data import volumes
from cvae_utils.data.volumes import read_labels, read_volume
from cvae_utils.files import DataError
from cvae_utils.labels import find_label_map

AFFINE = np.diag([-1.5, -1.25, 8.0, 1.0])


@pytest.fixture
def read(tmp_path):
    """A function that reads the labels in the bytes of a file."""
    return lambda raw, name="a.nii", **given: read_labels(write(tmp_path / name, raw), **given)


# ------------------------------------------------------------------------------------ orientation
@pytest.mark.parametrize(("header", "plane"), [
    *itertools.product(HEADERS, ("straight", "35 -25")),
    *(("official", plane) for plane in PLANES if plane not in ("straight", "35 -25"))])
def test_the_same_volume_in_any_orientation_reads_the_same(read, header, plane):
    for raw in orientations(header, PLANES[plane]):
        volume = read(raw)
        assert np.array_equal(volume.data, LABELS) and volume.data.dtype == np.uint8
        assert volume.spacing_mm == pytest.approx(SPACING) and not volume.notice


@pytest.mark.parametrize("directions", [
    [[0, 0, 1], [-1, 0, 0], [0, -1, 0]],  # sagittal: x to the back, y to the feet, z to the right
    [[-1, 0, 0], [0, 0, -1], [0, -1, 0]],  # coronal: x to the left, y to the feet, z to the back
])
def test_stacks_along_other_axes_are_seen_as_radiologists_do(read, directions):
    for raw in orientations("clean", np.array(directions, dtype=float)):
        assert (read(raw).data == LABELS).all()


def no_codes(data, spacing):
    image = nib.Nifti1Image(data, None)
    image.header.set_zooms(spacing)
    image.header["sform_code"] = image.header["qform_code"] = 0
    return image.to_bytes()


def test_a_header_without_directions_is_read_as_stored_and_that_is_noted(read):
    volume = read(no_codes(LABELS, SPACING), "a.nii.gz")
    assert (volume.data == LABELS).all() and volume.spacing_mm == pytest.approx(SPACING)
    assert "both form codes are 0" in volume.notice and "as stored" in volume.notice
    moved = no_codes(np.moveaxis(LABELS, 2, 0), (8.0, 1.5, 1.25))  # coarse: the slice axis
    assert (read(moved).data == LABELS).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_axis_of_a_single_slice_is_the_slice_axis_whatever_its_thickness(read, axis):
    single = np.moveaxis(LABELS[:, :, :1], 2, axis)
    spacing = np.insert(np.array([1.5, 1.25]), axis, 1.4)
    directions = np.insert(LPS[:, :2], axis, LPS[:, 2], axis=1)
    assert (read(nifti(single, spacing, directions)).data == LABELS[:, :, :1]).all()


def test_nearly_cubic_voxels_are_sliced_along_the_third_axis_and_that_is_noted(read):
    volume = read(nifti(LABELS, (1.5, 1.5, 1.55), PLANES["35 0"]))
    assert (volume.data == LABELS).all() and "the file's third axis" in volume.notice
    for raw in orientations("clean", LPS, spacing=(1.5, 1.5, 1.5)):  # the affine says which
        assert (read(raw).data == LABELS).all()
    for raw in orientations("clean", PLANES["35 0"], spacing=(1.76, 1.76, 2.0)):  # clear enough
        volume = read(raw)
        assert (volume.data == LABELS).all() and not volume.notice


def test_forms_that_are_mirrored_against_each_other_are_noted(read):
    image = nib.Nifti1Image(LABELS, AFFINE)
    image.set_qform(np.diag([1.5, -1.25, 8.0, 1.0]), code=1)
    volume = read(image.to_bytes())
    assert (volume.data == LABELS).all()
    assert volume.notice == "sform and qform are mirrored against each other: read by the sform"


@pytest.mark.parametrize(("pixdim", "thickness"), [(0.0, 8.0), (1.0, 1.0), (8.0, 8.0)])
def test_one_slice_need_not_agree_on_its_thickness(read, pixdim, thickness):
    volume = read(edited(88, "<f", pixdim, raw=nifti(LABELS[:, :, :1])))
    assert (volume.data == LABELS[:, :, :1]).all() and volume.spacing_mm[2] == thickness


def test_a_sform_with_a_scale_of_its_own_must_agree_with_pixdim(read):
    for scale in ((1.0, 1.0, 8.0), (1.5, 1.25, 1.0), (2.0, 2.0, 2.0)):
        image = nib.Nifti1Image(LABELS, np.diag([-scale[0], -scale[1], scale[2], 1]))
        image.header.set_zooms(SPACING)
        with pytest.raises(DataError, match="as pixdim and .* in the affine"):
            read(image.to_bytes())


@pytest.mark.parametrize("code", [0, 1])
def test_directions_of_an_official_header_come_from_the_qform_if_there_is_one(read, code):
    image = nib.Nifti1Image(LABELS, np.diag([-1.0, -1, 1, 1]))
    image.set_qform(np.diag([1.5, -1.25, 8.0, 1]), code=code)
    image.header.set_zooms(SPACING)
    volume = read(image.to_bytes())
    assert volume.spacing_mm == pytest.approx(SPACING)
    # The qform is that of a mirrored stack: x the other way, and so z seen from the other side.
    assert (volume.data == (LABELS[::-1] if code else LABELS)).all()


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=2)))
def test_a_2d_file_is_one_slice(read, signs):
    stored = LABELS[:, :, 1][tuple(np.s_[::sign] for sign in signs)]
    volume = read(nifti(stored, SPACING, LPS * (*signs, 1)))
    assert volume.data.shape == (7, 6, 1) and (volume.data[:, :, 0] == LABELS[:, :, 1]).all()
    assert volume.spacing_mm == pytest.approx(SPACING)


def test_a_series_of_one_frame_is_a_volume(read):
    for shape in ((7, 6, 3, 1), (7, 6, 3, 1, 1)):
        assert (read(nifti(LABELS.reshape(shape))).data == LABELS).all()


# ------------------------------------------------------------------------------- numbers as labels
@pytest.mark.parametrize("kind", [np.int8, np.int16, np.uint32, np.int64, np.float32, np.float64,
                                  ">i2", ">f4"])
@pytest.mark.parametrize("shape", [(7, 6, 3), (7, 18)])
def test_whole_numbers_of_any_kind_are_labels(read, kind, shape):
    header = nib.Nifti1Header(endianness=np.dtype(kind).byteorder)
    image = nib.Nifti1Image(LABELS.reshape(shape).astype(kind), AFFINE, header,
                            dtype=np.dtype(kind))
    volume = read(image.to_bytes(), "a.nii.gz")
    assert volume.data.dtype == np.uint8
    assert (volume.data == LABELS.reshape(shape + (1,) * (3 - len(shape)))).all()


@pytest.mark.parametrize(("slope", "inter"), [(1.0, 0.0), (3 / 65535, 0.0), (0.01, 0.0),
                                              (0.5, -1.0), (0.0046, 1.5)])
def test_whole_numbers_that_were_scaled_on_disk_are_whole_numbers(read, slope, inter):
    stored = nifti(np.rint((LABELS - inter) / slope).astype(np.int32))
    assert (read(edited(112, "<2f", slope, inter, raw=stored)).data == LABELS).all()


@pytest.mark.parametrize("values", [(0, 0.4, 1.0, 2.0), (0, 1.02, 2, 3), (0, 1, 2, 2.6)])
def test_fractions_are_no_labels_however_they_are_stored(tmp_path, values):
    image = nib.Nifti1Image(np.array(values)[LABELS], AFFINE)
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="expected labels 0 .BACKGROUND."):
        read_labels(tmp_path / "a.nii.gz")


def test_several_values_of_one_class_are_joined(read):
    found = read(relabelled((7, 4, 9, 2)),
                 label_map=find_label_map({7: "BACKGROUND", 4: "MYO", 9: "MYO", 2: "LV"}))
    assert (found.data == np.array([0, 2, 2, 3])[LABELS]).all()


@pytest.mark.parametrize(("labels", "raw", "known", "found"), [
    ("ACDC", with_value(4, np.uint8), "0 (BACKGROUND), 1 (RV), 2 (MYO), 3 (LV)", "[0, 1, 2, 3, 4]"),
    ("MNMS", with_value(255, np.uint8), "1 (LV), 2 (MYO), 3 (RV)", "[0, 1, 2, 3, 255]"),
    ({3: "LV", 2: "MYO"}, with_value(-7, np.int16), "0 (BACKGROUND), 2 (MYO), 3 (LV)",
     "[-7, 0, 1, 2, 3]"),
    ("ACDC", with_value(0.5, np.float32), "3 (LV)", "[0.0, 0.5, 1.0, 2.0, 3.0]"),
    ("ACDC", with_value(np.inf, np.float32), "3 (LV)", "[0.0, 1.0, 2.0, 3.0, inf]"),
    ("ACDC", with_value(np.nan, np.float32), "3 (LV)", "[0.0, 1.0, 2.0, 3.0, nan]"),
    ("ACDC", nifti(np.arange(126, dtype=np.int16).reshape(7, 6, 3)), "3 (LV)",
     "[0, 1, 2, 3, 4, 5, 6, 7] ..."),
])
def test_values_that_mean_nothing_are_named_beside_those_that_do(read, labels, raw, known, found):
    with pytest.raises(DataError) as error:
        read(raw, label_map=find_label_map(labels))
    for part in ("a.nii", known, found, "begin(..., labels={value: name})"):
        assert part in str(error.value)


# -------------------------------------------------------------------------------- what is refused
def edited(offset, form, *values, raw=VOLUME):
    """A volume some numbers of whose header are replaced."""
    raw = bytearray(raw)
    struct.pack_into(form, raw, offset, *values)
    return bytes(raw)


PACKED = gzip.compress(VOLUME, mtime=0)


def flipped(share):
    at = int(share * len(PACKED))
    return PACKED[:at] + bytes([PACKED[at] ^ 0xFF]) + PACKED[at + 1:]


@pytest.mark.parametrize(("raw", "remedy"), [
    *(pytest.param(PACKED[:int(s * len(PACKED))], "download it again", id=f"cut at {s}")
      for s in (0, 0.1, 0.5, 0.9, 0.99)),
    *(pytest.param(flipped(s), "download it again", id=f"byte flipped at {s}")
      for s in (0.2, 0.5, 0.97)),
    pytest.param(VOLUME[:-10], "download it again", id="cut, not compressed"),
    pytest.param(b"not a volume at all" * 50, "download it again", id="text"),
    pytest.param(with_value(3 + 1j, np.complex64), "one number a voxel", id="complex number"),
    pytest.param(nifti(np.zeros(LABELS.shape, [(c, "u1") for c in "RGB"])), "one number a voxel",
                 id="colours"),
    pytest.param(nifti(LABELS[:, 0, 0]), "3-D", id="1-D"),
    pytest.param(nifti(np.stack([LABELS] * 2, axis=3)), "3-D", id="4-D"),
    pytest.param(nifti(LABELS[:, :, :0]), "3-D", id="no slice"),
    pytest.param(VOLUME[:352] + b"\0" * 16 + VOLUME[352:], "download it again", id="shifted"),
    pytest.param(VOLUME + b"\0", "download it again", id="a byte too many"),
    pytest.param(edited(40, "<4h", 3, 7, 6, 2), "download it again", id="a slice too few"),
    pytest.param(edited(76, "<4f", 1, 1.5, 0, 8), "pixdim and", id="no pixel size"),
    pytest.param(edited(76, "<4f", 1, 1.5, np.nan, 8), "pixdim and", id="pixel size NaN"),
    pytest.param(nifti(spacing=(150, 125, 800)), "0.01 to 100 mm", id="spacing in micrometres"),
    pytest.param(nifti(spacing=(1.5e-3, 1.25e-3, 8e-3)), "0.01 to 100 mm", id="spacing in metres"),
    pytest.param(edited(76, "<4f", 1, 1.5, 1.3, 8), "pixdim and", id="two voxel sizes"),
    pytest.param(nifti(spacing=(8.0, 1.25, 8.5)), "nearly square", id="two coarse axes"),
    pytest.param(nifti(spacing=(1.0, 4.0, 8.0)), "nearly square", id="oblong pixels"),
    pytest.param(nifti(directions=np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]])), "three directions",
                 id="singular affine"),
])
def test_unusable_volume_is_refused_with_path_and_remedy(tmp_path, raw, remedy):
    path = tmp_path / "patient001_frame01_gt.nii.gz"
    path.write_bytes(raw)
    with pytest.raises(DataError) as error:
        read_labels(path)
    assert str(path) in str(error.value) and remedy in str(error.value)


@pytest.mark.parametrize(("raw", "name"), [
    (b"BZh91AY" + bytes(400), "bzip2"), (b"PK\x03\x04" + bytes(400), "zip archive"),
    (gzip.compress(PACKED), "compressed twice"),
    (b"NRRD0004\n" + bytes(400), "NRRD"), (b"ObjectType = Image\n", "MetaImage"),
    (bytes(128) + b"DICM" + bytes(400), "DICOM"), (b"\x89HDF\r\n" + bytes(400), "HDF5"),
    (b"<!DOCTYPE html><html></html>", "web page"), (b"/annex/objects/MD5-s1", "git-annex pointer"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
    (VOLUME[:344] + b"ni1\0" + VOLUME[348:], "NIfTI pair"), (bytes(348), "Analyze"),
])
def test_a_sound_file_of_another_format_is_called_by_its_name(tmp_path, raw, name):
    (tmp_path / "a.nii.gz").write_bytes(raw)
    with pytest.raises(DataError, match=f"a.nii.gz: expected a NIfTI volume, found .*{name}") as e:
        read_labels(tmp_path / "a.nii.gz")
    assert "damaged" not in str(e.value)


MGH = HEADERS["MGH"](LABELS, SPACING, LPS)


@pytest.mark.parametrize(("raw", "message"), [
    (MGH[:100], "a NIfTI volume, but it cannot be read"),
    (MGH[:300], "a NIfTI volume, but it cannot be read"),
    (edited(20, ">i", 9, raw=MGH), "a NIfTI volume, but it cannot be read"),
    (edited(4, ">3i", 0, 0, 0, raw=MGH), "a NIfTI volume, but it cannot be read"),
    (edited(28, ">h", 0, raw=MGH), "a voxel size and directions.*goodRASFlag"),
])
def test_a_damaged_mgh_file_or_one_without_geometry_is_refused(read, raw, message):
    with pytest.raises(DataError, match=f"a.mgz: expected {message}"):
        read(raw, "a.mgz")


def test_volume_that_unpacks_to_more_than_any_is_not_unpacked(read, monkeypatch):
    monkeypatch.setattr(volumes, "LARGEST_VOLUME", len(VOLUME))
    assert (read(VOLUME, "large.nii.gz").data == LABELS).all()
    monkeypatch.setattr(volumes, "LARGEST_VOLUME", len(VOLUME) - 1)
    with pytest.raises(DataError, match=r"large.nii.gz: .*unpacks to more than"):
        read(VOLUME, "large.nii.gz")


def test_missing_volume_is_refused_with_its_path(tmp_path):
    with pytest.raises(DataError, match="nowhere.nii.gz"):
        read_volume(tmp_path / "nowhere.nii.gz")


@pytest.mark.parametrize(("form", "values"), [
    ("<4h", (3, 32767, 32767, 32767)),
    ("<8h", (7, *[32767] * 7)),
    ("<8h", (4, 7, 6, 3, 32767, 1, 1, 1)),
    ("<8h", (3, 7, 6, 32767, 1, 1, 1, 1)),
])
@pytest.mark.parametrize("kind", [(2, 8), (64, 64), (1792, 128)])  # 1, 8 and 16 bytes a voxel
def test_header_that_announces_gigabytes_is_refused_before_they_are_taken(
        read, form, values, kind):
    raw = edited(70, "<hh", *kind, raw=edited(40, form, *values))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="a.nii.gz.*header announces"):
            read(raw, "a.nii.gz")
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
