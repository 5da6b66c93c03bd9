"""From a file to labels and millimetres: which headers are read how, and what is refused."""

import gzip
import itertools
import struct
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from hearts import LABELS, LPS, SPACING, nifti, official, relabelled, with_value, write

from cvae_utils import volumes
from cvae_utils.labels import Label, find_label_map
from cvae_utils.storage import DataError
from cvae_utils.volumes import read_labels, read_volume


# ------------------------------------------------------------------------------------ orientation
def plane(normal, spin_deg=0.0):
    """A true short-axis plane: unit columns where x, y, z of the stack point in RAS."""
    z = np.array(normal) / np.linalg.norm(normal)
    x = np.cross(z, [0, 0, 1])  # horizontal
    x, y = x / np.linalg.norm(x), np.cross(z, x / np.linalg.norm(x))
    cos, sin = np.cos(np.radians(spin_deg)), np.sin(np.radians(spin_deg))
    return np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=1)


#: Away from the apex: to the right, to the back, and up or down.
PLANES = {f"{azimuth} {elevation}": plane([
    np.cos(np.radians(elevation)) * np.cos(np.radians(azimuth)),
    -np.cos(np.radians(elevation)) * np.sin(np.radians(azimuth)), np.sin(np.radians(elevation))],
    spin_deg=azimuth / 3) for azimuth in (10, 35, 55, 80) for elevation in (-25, 0, 45)}
HEADERS = {
    "clean": nifti, "official": official,
    "NIfTI-2": lambda *given: nifti(*given, kind=nib.Nifti2Image),
    "MGH": lambda data, *given: nifti(data.astype(np.int32), *given, kind=nib.MGHImage),
}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("directions", [LPS, *PLANES.values()], ids=["straight", *PLANES])
def test_the_same_volume_in_any_orientation_reads_the_same(tmp_path, header, directions):
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            stored = LABELS.transpose(order)[tuple(np.s_[::sign] for sign in signs)]
            raw = HEADERS[header](stored, np.array(SPACING)[list(order)],
                                  directions[:, list(order)] * signs)
            volume = read_labels(write(tmp_path / "a.nii", raw))
            assert np.array_equal(volume.data, LABELS) and volume.data.dtype == np.uint8
            assert volume.spacing_mm == pytest.approx(SPACING) and not volume.notice


@pytest.mark.parametrize("directions", [
    [[0, 0, 1], [-1, 0, 0], [0, -1, 0]],  # sagittal: x to the back, y to the feet, z to the right
    [[-1, 0, 0], [0, 0, -1], [0, -1, 0]],  # coronal: x to the left, y to the feet, z to the back
])
def test_stacks_along_other_axes_are_seen_as_radiologists_do(tmp_path, directions):
    for signs in itertools.product((1, -1), repeat=3):
        stored = LABELS[tuple(np.s_[::sign] for sign in signs)]
        raw = nifti(stored, SPACING, np.array(directions, dtype=float) * signs)
        assert (read_volume(write(tmp_path / "a.nii", raw)).data == LABELS).all()


def no_codes(data=LABELS, spacing=SPACING):
    image = nib.Nifti1Image(data, None)
    image.header.set_zooms(spacing)
    image.header["sform_code"] = image.header["qform_code"] = 0
    return image.to_bytes()


def test_a_header_without_directions_is_read_as_stored_and_that_is_noted(tmp_path):
    volume = read_labels(write(tmp_path / "a.nii.gz", no_codes()))
    assert (volume.data == LABELS).all() and volume.spacing_mm == pytest.approx(SPACING)
    assert "both form codes are 0" in volume.notice and "as stored" in volume.notice
    moved = no_codes(np.moveaxis(LABELS, 2, 0), (8.0, 1.5, 1.25))  # coarse: the slice axis
    assert (read_labels(write(tmp_path / "b.nii", moved)).data == LABELS).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_axis_of_a_single_slice_is_the_slice_axis_whatever_its_thickness(tmp_path, axis):
    single = np.moveaxis(LABELS[:, :, :1], 2, axis)
    spacing = np.insert(np.array([1.5, 1.25]), axis, 1.4)
    directions = np.insert(LPS[:, :2], axis, LPS[:, 2], axis=1)
    volume = read_labels(write(tmp_path / "a.nii", nifti(single, spacing, directions)))
    assert (volume.data == LABELS[:, :, :1]).all()


def test_nearly_cubic_voxels_are_sliced_along_the_third_axis_and_that_is_noted(tmp_path):
    oblique = PLANES["35 0"]
    volume = read_labels(write(tmp_path / "a.nii", nifti(LABELS, (1.5, 1.5, 1.55), oblique)))
    assert (volume.data == LABELS).all() and "the file's third axis" in volume.notice
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):  # straight: the affine says which
        raw = nifti(LABELS.transpose(order), (1.5, 1.5, 1.5), LPS[:, list(order)])
        assert (read_labels(write(tmp_path / "b.nii", raw)).data == LABELS).all()


def test_slices_of_nearly_cubic_voxels_are_found_in_any_order_of_axes(tmp_path):
    spacing = np.array([1.76, 1.76, 2.0])
    for order in itertools.permutations(range(3)):
        raw = nifti(LABELS.transpose(order), spacing[list(order)], PLANES["35 0"][:, list(order)])
        volume = read_labels(write(tmp_path / "a.nii", raw))
        assert (volume.data == LABELS).all() and not volume.notice


def test_forms_that_are_mirrored_against_each_other_are_noted(tmp_path):
    image = nib.Nifti1Image(LABELS, np.diag([-1.5, -1.25, 8.0, 1.0]))
    image.set_qform(np.diag([1.5, -1.25, 8.0, 1.0]), code=1)
    volume = read_labels(write(tmp_path / "a.nii", image.to_bytes()))
    assert (volume.data == LABELS).all()
    assert volume.notice == "sform and qform are mirrored against each other: read by the sform"


@pytest.mark.parametrize(("pixdim", "thickness"), [(0.0, 8.0), (1.0, 1.0), (8.0, 8.0)])
def test_one_slice_need_not_agree_on_its_thickness(tmp_path, pixdim, thickness):
    raw = bytearray(nifti(LABELS[:, :, :1], (1.5, 1.25, 8.0)))
    struct.pack_into("<f", raw, 88, pixdim)
    volume = read_labels(write(tmp_path / "a.nii", bytes(raw)))
    assert (volume.data == LABELS[:, :, :1]).all() and volume.spacing_mm[2] == thickness


def mgh():
    return HEADERS["MGH"](LABELS, SPACING, LPS)


@pytest.mark.parametrize("raw", [mgh()[:100], mgh()[:20] + struct.pack(">i", 9) + mgh()[24:],
                                 mgh()[:4] + bytes(12) + mgh()[16:], mgh()[:300]])
def test_a_damaged_mgh_file_is_refused_like_any_other(tmp_path, raw):
    with pytest.raises(DataError, match="a.mgh: expected a NIfTI volume, but it cannot be read"):
        read_labels(write(tmp_path / "a.mgh", raw))


def test_an_mgh_file_without_geometry_is_refused(tmp_path):
    raw = mgh()[:28] + bytes(2) + mgh()[30:]
    with pytest.raises(DataError, match="expected a voxel size and directions.*goodRASFlag"):
        read_labels(write(tmp_path / "a.mgz", raw))


def test_a_sform_with_a_scale_of_its_own_must_agree_with_pixdim(tmp_path):
    for scale in ((1.0, 1.0, 8.0), (1.5, 1.25, 1.0), (2.0, 2.0, 2.0)):
        image = nib.Nifti1Image(LABELS, np.diag([-scale[0], -scale[1], scale[2], 1]))
        image.header.set_zooms(SPACING)
        with pytest.raises(DataError, match="as pixdim and .* in the affine"):
            read_labels(write(tmp_path / "a.nii.gz", image.to_bytes()))


@pytest.mark.parametrize("code", [0, 1])
def test_directions_of_an_official_header_come_from_the_qform_if_there_is_one(tmp_path, code):
    bare, turned = np.diag([-1.0, -1, 1, 1]), np.diag([1.5, -1.25, 8.0, 1])
    image = nib.Nifti1Image(LABELS, bare)
    image.set_qform(turned, code=code)
    image.header.set_zooms(SPACING)
    volume = read_labels(write(tmp_path / "a.nii.gz", image.to_bytes()))
    assert volume.spacing_mm == pytest.approx(SPACING)
    # The qform is that of a mirrored stack: x the other way, and so z seen from the other side.
    assert (volume.data == (LABELS[::-1] if code else LABELS)).all()


@pytest.mark.parametrize("scale", [(1.0, 0.0), (3 / 65535, 0.0), (0.01, 0.0), (0.5, -1.0),
                                   (0.0046, 1.5)])
def test_whole_numbers_that_were_scaled_on_disk_are_whole_numbers(tmp_path, scale):
    slope, inter = scale
    raw = bytearray(nib.Nifti1Image(np.rint((LABELS - inter) / slope).astype(np.int32),
                                    np.diag([-1.5, -1.25, 8.0, 1.0])).to_bytes())
    struct.pack_into("<2f", raw, 112, slope, inter)
    assert (read_labels(write(tmp_path / "a.nii", bytes(raw))).data == LABELS).all()


@pytest.mark.parametrize("values", [(0, 0.4, 1.0, 2.0), (0, 1.02, 2, 3), (0, 1, 2, 2.6)])
def test_fractions_are_no_labels_however_they_are_stored(tmp_path, values):
    image = nib.Nifti1Image(np.array(values)[LABELS], np.diag([-1.5, -1.25, 8.0, 1.0]))
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="expected labels 0 .BACKGROUND."):
        read_labels(tmp_path / "a.nii.gz")


def test_a_series_of_one_frame_is_a_volume(tmp_path):
    for shape in ((7, 6, 3, 1), (7, 6, 3, 1, 1)):
        raw = nifti(LABELS.reshape(shape))
        assert (read_labels(write(tmp_path / "a.nii", raw)).data == LABELS).all()


@pytest.mark.parametrize(("raw", "name"), [
    (b"BZh91AY" + bytes(400), "bzip2"), (b"PK\x03\x04" + bytes(400), "zip archive"),
    (gzip.compress(gzip.compress(nifti())), "compressed twice"),
    (b"NRRD0004\n" + bytes(400), "NRRD"), (b"ObjectType = Image\n", "MetaImage"),
    (bytes(128) + b"DICM" + bytes(400), "DICOM"), (b"\x89HDF\r\n" + bytes(400), "HDF5"),
    (b"<!DOCTYPE html><html></html>", "web page"), (b"/annex/objects/MD5-s1", "git-annex pointer"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
    (nifti()[:344] + b"ni1\0" + nifti()[348:], "NIfTI pair"), (bytes(348), "Analyze"),
])
def test_a_sound_file_of_another_format_is_called_by_its_name(tmp_path, raw, name):
    (tmp_path / "a.nii.gz").write_bytes(raw)
    with pytest.raises(DataError) as error:
        read_labels(tmp_path / "a.nii.gz")
    assert "a.nii.gz: expected a NIfTI volume, found" in str(error.value)
    assert name in str(error.value) and "damaged" not in str(error.value)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.uint32, np.int64, np.float32, np.float64,
                                  ">i2", ">f4"])
@pytest.mark.parametrize("shape", [(7, 6, 3), (7, 18)])
def test_whole_numbers_of_any_kind_are_labels(tmp_path, kind, shape):
    stored = LABELS.reshape(shape)
    affine = np.diag([-1.5, -1.25, 8.0, 1.0])
    order = np.dtype(kind).byteorder
    image = nib.Nifti1Image(stored.astype(kind), affine, nib.Nifti1Header(endianness=order),
                            dtype=np.dtype(kind))
    volume = read_labels(write(tmp_path / "a.nii.gz", image.to_bytes()))
    assert volume.data.dtype == np.uint8
    assert (volume.data == stored.reshape(shape + (1,) * (3 - len(shape)))).all()


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=2)))
def test_a_2d_file_is_one_slice(tmp_path, signs):
    stored = LABELS[:, :, 1][tuple(np.s_[::sign] for sign in signs)]
    volume = read_labels(write(tmp_path / "a.nii.gz", nifti(stored, SPACING, LPS * (*signs, 1))))
    assert volume.data.shape == (7, 6, 1) and (volume.data[:, :, 0] == LABELS[:, :, 1]).all()
    assert volume.spacing_mm == pytest.approx(SPACING)


# -------------------------------------------------------------------------------- what is refused
def cut(share):
    raw = gzip.compress(nifti(), mtime=0)
    return raw[:int(share * len(raw))]


def flipped(share):
    raw = bytearray(gzip.compress(nifti(), mtime=0))
    raw[int(share * len(raw))] ^= 0xFF
    return bytes(raw)


def edited(offset, form, *values):
    """A volume some numbers of whose header are replaced."""
    raw = bytearray(nifti())
    struct.pack_into(form, raw, offset, *values)
    return bytes(raw)


@pytest.mark.parametrize(("raw", "remedy"), [
    *(pytest.param(cut(s), "download it again", id=f"cut at {s}") for s in
      (0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)),
    *(pytest.param(flipped(s), "download it again", id=f"byte flipped at {s}") for s in
      (0.2, 0.5, 0.8, 0.97)),
    pytest.param(nifti()[:-10], "download it again", id="cut, not compressed"),
    pytest.param(b"not a volume at all" * 50, "download it again", id="text"),
    pytest.param(gzip.compress(b"not a volume" * 50), "download it again", id="text, compressed"),
    pytest.param(with_value(4, np.uint8), "Say what they mean", id="label 4"),
    pytest.param(with_value(-1, np.int16), "Say what they mean", id="negative label"),
    pytest.param(with_value(1.5, np.float32), "Say what they mean", id="half a label"),
    pytest.param(with_value(np.nan, np.float32), "Say what they mean", id="not a number"),
    pytest.param(with_value(3 + 1j, np.complex64), "one number a voxel", id="complex number"),
    pytest.param(nifti(np.zeros(LABELS.shape, [(c, "u1") for c in "RGB"])), "one number a voxel",
                 id="colours"),
    pytest.param(nifti(LABELS[:, 0, 0]), "3-D", id="1-D"),
    pytest.param(nifti(np.stack([LABELS] * 2, axis=3)), "3-D", id="4-D"),
    pytest.param(nifti(LABELS[:, :, :0]), "3-D", id="no slice"),
    pytest.param(nifti()[:352] + b"\0" * 16 + nifti()[352:], "download it again", id="shifted"),
    pytest.param(nifti() + b"\0", "download it again", id="a byte too many"),
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


def test_volume_that_unpacks_to_more_than_any_is_not_unpacked(tmp_path, monkeypatch):
    path = write(tmp_path / "large.nii.gz", nifti())
    monkeypatch.setattr(volumes, "LARGEST_VOLUME", len(nifti()))
    assert (read_labels(path).data == LABELS).all()
    monkeypatch.setattr(volumes, "LARGEST_VOLUME", len(nifti()) - 1)
    with pytest.raises(DataError, match=r"large.nii.gz: .*unpacks to more than"):
        read_labels(path)


def test_missing_volume_is_refused_with_its_path(tmp_path):
    with pytest.raises(DataError, match="nowhere.nii.gz"):
        read_labels(tmp_path / "nowhere.nii.gz")


@pytest.mark.parametrize("offset_form_values", [
    (40, "<4h", 3, 32767, 32767, 32767),
    (40, "<4h", 3, 20000, 20000, 3),
    (40, "<8h", 7, *[32767] * 7),
    (40, "<8h", 4, 7, 6, 3, 32767, 1, 1, 1),
    (40, "<8h", 3, 7, 6, 32767, 1, 1, 1, 1),
])
@pytest.mark.parametrize("kind", [(2, 8), (64, 64), (1792, 128)])  # 1, 8 and 16 bytes a voxel
def test_header_that_announces_gigabytes_is_refused_before_they_are_taken(
        tmp_path, offset_form_values, kind):
    raw = bytearray(edited(*offset_form_values))
    struct.pack_into("<hh", raw, 70, *kind)
    path = write(tmp_path / "a.nii.gz", bytes(raw))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="a.nii.gz.*header announces"):
            read_labels(path)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------- label maps
def test_several_values_of_one_class_are_joined(tmp_path):
    path = write(tmp_path / "a.nii.gz", relabelled((7, 4, 9, 2)))
    found = read_labels(path, find_label_map({7: "BACKGROUND", 4: "MYO", 9: "MYO", 2: "LV"}))
    assert (found.data == np.array([0, 2, 2, 3])[LABELS]).all()
    assert Label.RV not in found.data


@pytest.mark.parametrize(("labels", "value", "dtype", "known", "found"), [
    ("ACDC", 4, np.uint8, "0 (BACKGROUND), 1 (RV), 2 (MYO), 3 (LV)", "[0, 1, 2, 3, 4]"),
    ("MNMS", 255, np.uint8, "0 (BACKGROUND), 1 (LV), 2 (MYO), 3 (RV)", "[0, 1, 2, 3, 255]"),
    ({3: "LV", 2: "MYO"}, -7, np.int16, "0 (BACKGROUND), 2 (MYO), 3 (LV)", "[-7, 0, 1, 2, 3]"),
    ("ACDC", 0.5, np.float32, "3 (LV)", "[0.0, 0.5, 1.0, 2.0, 3.0]"),
    ("ACDC", np.inf, np.float32, "3 (LV)", "[0.0, 1.0, 2.0, 3.0, inf]"),
])
def test_values_that_mean_nothing_are_named_beside_those_that_do(
        tmp_path, labels, value, dtype, known, found):
    path = write(tmp_path / "a.nii.gz", with_value(value, dtype))
    with pytest.raises(DataError) as error:
        read_labels(path, find_label_map(labels))
    for part in (str(path), known, found, "begin(..., labels={value: name})"):
        assert part in str(error.value)


def test_of_many_unknown_values_eight_are_named(tmp_path):
    path = write(tmp_path / "a.nii.gz", nifti(np.arange(126, dtype=np.int16).reshape(7, 6, 3)))
    with pytest.raises(DataError, match=r"found values \[0, 1, 2, 3, 4, 5, 6, 7\] \.\.\.\. Is"):
        read_labels(path)
