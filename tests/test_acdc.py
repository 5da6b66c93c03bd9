"""Reading the ACDC layout: what is accepted, in which orientation, and what is said of the rest."""

import gzip
import itertools
import shutil
import struct
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from cvae_utils import acdc
from cvae_utils.acdc import (
    DataError,
    list_frames,
    list_volumes,
    read_frame,
    read_image,
    read_labels,
    read_patient,
)
from cvae_utils.labels import Label, find_label_map

SPACING = (1.5, 1.25, 8.0)
LABELS = np.random.default_rng(0).integers(0, 4, (7, 6, 3)).astype(np.uint8)
LPS = np.diag([-1.0, -1.0, 1.0])  # columns: where x, y and z of our arrays point in RAS


def nifti(data=LABELS, spacing=SPACING, directions=LPS):
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    return nib.Nifti1Image(data, affine).to_bytes()


def write(path, raw):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)
    return path


def write_patient(base, name="patient001", group="DCM", images=True):
    folder = base / name
    for frame in ("frame01", "frame12"):
        write(folder / f"{name}_{frame}_gt.nii.gz", nifti())
        if images:
            write(folder / f"{name}_{frame}.nii.gz", nifti(LABELS.astype(np.int16) * 100))
    (folder / "Info.cfg").write_text(f"ED: 1\nES: 12\nGroup: {group}\nHeight: 184.0\n")
    return folder


@pytest.fixture
def root(tmp_path):
    """A data set of one patient, with images."""
    write_patient(tmp_path / "acdc" / "training")
    return tmp_path / "acdc"


@pytest.fixture
def patient(root):
    return root / "training" / "patient001"


# ----------------------------------------------------------------------------------------- layout
def test_frames_are_those_that_info_names(root, patient):
    ed, es = list_frames(root)
    assert (ed.patient, ed.subset, ed.group, ed.phase) == ("patient001", "training", "DCM", "ED")
    assert es.phase == "ES" and es.label_path == patient / "patient001_frame12_gt.nii.gz"
    assert es.image_path == patient / "patient001_frame12.nii.gz"


def test_both_subsets_are_read_in_order_of_patients(root):
    for name in ("patient102", "patient101"):
        write_patient(root / "testing", name)
    (root / "testing" / "patient103.zip").write_bytes(b"")  # not a folder
    frames = list_frames(root)
    assert [f.patient for f in frames[::2]] == ["patient001", "patient101", "patient102"]
    assert [f.subset for f in frames[::2]] == ["training", "testing", "testing"]


def test_patients_directly_in_the_root_are_read(root):
    frames = list_frames(root / "training")
    assert len(frames) == 2
    flat = root.parent / "flat"
    shutil.copytree(root / "training", flat)
    assert [f.subset for f in list_frames(flat)] == ["", ""]


def test_uncompressed_volumes_are_found(patient, root):
    packed = patient / "patient001_frame01_gt.nii.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    frame = list_frames(root)[0]
    assert frame.label_path.suffix == ".nii"
    assert (read_labels(frame.label_path).data == LABELS).all()


@pytest.mark.parametrize(("written", "group"), [("RV", "ARV"), ("NOR", "NOR"), ("ARV", "ARV")])
def test_group_rv_is_called_arv(patient, written, group):
    (patient / "Info.cfg").write_text(f"ED: 1\r\nES: 12\r\nGroup:  {written} \r\n")
    assert acdc.read_info(patient / "Info.cfg") == {"ED": 1, "ES": 12, "Group": group}


# ------------------------------------------------------------------------------------ orientation
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_same_volume_in_any_orientation_reads_the_same(tmp_path, order):
    for signs in itertools.product((1, -1), repeat=3):
        stored = LABELS.transpose(order)[tuple(np.s_[::sign] for sign in signs)]
        raw = nifti(stored, np.array(SPACING)[list(order)], LPS[:, list(order)] * signs)
        volume = read_labels(write(tmp_path / "a.nii.gz", raw))
        assert (volume.data == LABELS).all() and volume.data.dtype == np.uint8
        assert volume.spacing_mm == pytest.approx(SPACING)


def test_an_oblique_volume_keeps_its_nearest_axes(tmp_path):
    cos, sin = np.cos(0.6), np.sin(0.6)
    oblique = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ LPS
    volume = read_labels(write(tmp_path / "a.nii", nifti(directions=oblique)))
    assert (volume.data == LABELS).all() and volume.spacing_mm == pytest.approx(SPACING)


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
def no_root(root):
    shutil.rmtree(root)
    return root


def empty_root(root):
    shutil.rmtree(root / "training")
    return root


def no_patient_folder(root):
    shutil.rmtree(root / "training")
    (root / "images").mkdir()
    return root


def empty_subset(root):
    shutil.rmtree(root / "training" / "patient001")
    return root


def no_info(root):
    path = root / "training" / "patient001" / "Info.cfg"
    path.unlink()
    return path


def info(text):
    def damage(root):
        path = root / "training" / "patient001" / "Info.cfg"
        path.write_bytes(text)
        return path
    return damage


def folder_as_info(root):
    path = no_info(root)
    path.mkdir()
    return path


def no_labels(root):
    path = root / "training" / "patient001" / "patient001_frame12_gt.nii.gz"
    path.unlink()
    return path


def folder_as_labels(root):
    path = no_labels(root)
    path.mkdir()
    return path


@pytest.mark.parametrize("damage", [
    no_root, empty_root, no_patient_folder, empty_subset, no_info, folder_as_info, no_labels,
    folder_as_labels,
    pytest.param(info(b"ES: 12\nGroup: NOR\n"), id="no ED"),
    pytest.param(info(b"ED: 1\nGroup: NOR\n"), id="no ES"),
    pytest.param(info(b"ED: 1\nES: 12\n"), id="no group"),
    pytest.param(info(b"ED: one\nES: 12\nGroup: NOR\n"), id="ED in words"),
    pytest.param(info(b"ED: -1\nES: 12\nGroup: NOR\n"), id="negative ED"),
    pytest.param(info(b"ED: 1\nES: 12\nGroup: XYZ\n"), id="unknown group"),
    pytest.param(info(bytes(range(256))), id="binary garbage"),
    pytest.param(info(b""), id="empty"),
    pytest.param(info(b"ED: 12\nES: 12\nGroup: NOR\n"), id="ED and ES are one frame"),
    pytest.param(info(b"ED: 1.0\nES: 12\nGroup: NOR\n"), id="ED with a fraction"),
    pytest.param(info(b"ED: " + b"1" * 5000 + b"\nES: 12\nGroup: NOR\n"), id="endless ED"),
    pytest.param(info(b"ED: 1\nES: 12\nGroup: nor\n"), id="group in small letters"),
    pytest.param(info("ED: 1\nES: 12\nGroup: NOR\n".encode("utf-16")), id="UTF-16"),
])
def test_unusable_layout_is_refused_with_path_and_remedy(root, damage):
    path = damage(root)
    with pytest.raises(DataError) as error:
        list_frames(root)
    assert str(path) in str(error.value)
    assert any(word in str(error.value) for word in ("Restore", "Point", "point"))


def with_value(value, dtype):
    data = LABELS.astype(dtype)
    data[0, 0, 0] = value
    return nifti(data)


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
    pytest.param(nifti(spacing=(8.0, 1.25, 1.5)), "stacked along S", id="slices along L"),
    pytest.param(nifti(spacing=(1.5, 8.0, 1.5)), "stacked along S", id="slices along P"),
])
def test_unusable_volume_is_refused_with_path_and_remedy(tmp_path, raw, remedy):
    path = tmp_path / "patient001_frame01_gt.nii.gz"
    path.write_bytes(raw)
    with pytest.raises(DataError) as error:
        read_labels(path)
    assert str(path) in str(error.value) and remedy in str(error.value)


def test_volume_that_unpacks_to_more_than_any_is_not_unpacked(tmp_path, monkeypatch):
    path = write(tmp_path / "large.nii.gz", nifti())
    monkeypatch.setattr(acdc, "LARGEST_VOLUME", len(nifti()))
    assert (read_labels(path).data == LABELS).all()
    monkeypatch.setattr(acdc, "LARGEST_VOLUME", len(nifti()) - 1)
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


def test_file_that_cannot_be_read_is_refused_with_its_path(root, patient):
    frames = list_frames(root)
    (patient / "patient001_frame12_gt.nii.gz").unlink()
    with pytest.raises(DataError, match="patient001_frame12_gt.nii.gz: cannot be read"):
        acdc.fingerprint(frames)


# ------------------------------------------------------------------------------------- label maps
def relabelled(values, dtype=np.int16):
    """The volume with other values: values[label] stands for label."""
    return nifti(np.array(values, dtype=dtype)[LABELS])


@pytest.mark.parametrize(("labels", "values", "dtype"), [
    ("ACDC", (0, 1, 2, 3), np.uint8),
    ("MNMS", (0, 3, 2, 1), np.uint8),
    ("MNMS", (0, 3, 2, 1), np.float32),
    ({500: "LV", 205: "MYO", 600: "RV"}, (0, 600, 205, 500), np.int16),
    ({"10": "BACKGROUND", "-1": "RV", "2": "MYO", "0": "LV"}, (10, -1, 2, 0), np.int16),
])
def test_the_same_heart_under_other_labels_reads_the_same(tmp_path, labels, values, dtype):
    path = write(tmp_path / "a_ED.nii.gz", relabelled(values, dtype))
    frame, = list_volumes(tmp_path, "*.nii.gz", labels)
    for volume in (read_frame(frame), read_labels(path, find_label_map(labels))):
        assert volume.data.dtype == np.uint8 and (volume.data == LABELS).all()


def test_frames_of_acdc_layout_are_read_with_the_labels_of_the_data_set(root, patient):
    for frame in ("frame01", "frame12"):
        write(patient / f"patient001_{frame}_gt.nii.gz", relabelled((0, 3, 2, 1)))
    frames = list_frames(root, "MNMS")
    assert all((volume.data == LABELS).all() for volume in read_patient(frames))
    swapped = read_patient(list_frames(root))[0].data
    assert (swapped == np.array([0, 3, 2, 1])[LABELS]).all()  # nothing says that these are not ACDC


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


# ----------------------------------------------------------------------------------- plain folder
def plain(root, *names):
    for name in names:
        write(root / name, nifti())
    return root


def listed(frames, root):
    return [(f.patient, f.phase, f.label_path.relative_to(root).as_posix()) for f in frames]


@pytest.mark.parametrize(("name", "patient", "phase"), [
    ("patient7_ED_gt.nii.gz", "patient7_gt", "ED"),
    ("patient7_ES_gt.nii", "patient7_gt", "ES"),
    ("A0S9V9_sa_es.nii.gz", "A0S9V9_sa", "ES"),
    ("A0S9V9-Ed.nii.gz", "A0S9V9", "ED"),
    ("a.ED.seg.nii.gz", "a.seg", "ED"),
    ("case 3 es.nii.gz", "case 3", "ES"),
    ("ED_case3.nii.gz", "case3", "ED"),
    ("A/ES.nii.gz", "A", "ES"),
    ("ES/A.nii.gz", "A", "ES"),
    ("A/ED/seg.nii.gz", "A/seg", "ED"),
    ("A/seg_ED_ED.nii.gz", "A/seg", "ED"),
    ("ED.nii.gz", "", "ED"),
    ("AED.nii.gz", "AED", "unknown"),  # no part of its own
    ("RESEARCH_edema.nii.gz", "RESEARCH_edema", "unknown"),
    ("007.nii.gz", "007", "unknown"),
    ("a_ED_ES.nii.gz", "a_ED_ES", "unknown"),  # both: neither
    ("ES/a_ED.nii.gz", "ES/a_ED", "unknown"),
])
def test_phase_and_patient_of_a_plain_volume_come_from_its_name(tmp_path, name, patient, phase):
    frame, = list_volumes(plain(tmp_path, name), "**/*.nii*")
    assert listed([frame], tmp_path) == [(patient, phase, name)]
    assert (frame.group, frame.subset, frame.image_path) == ("unknown", "", None)
    assert (read_frame(frame).data == LABELS).all()


def test_plain_volumes_come_in_the_order_of_their_patients(tmp_path):
    plain(tmp_path, "b_ES.nii.gz", "b_ED.nii.gz", "sub/c_ED.nii.gz", "a.nii.gz", "a_ES.nii.gz")
    assert listed(list_volumes(tmp_path, "**/*.nii.gz"), tmp_path) == [
        ("a", "unknown", "a.nii.gz"), ("a", "ES", "a_ES.nii.gz"),
        ("b", "ED", "b_ED.nii.gz"), ("b", "ES", "b_ES.nii.gz"),
        ("sub/c", "ED", "sub/c_ED.nii.gz")]


@pytest.mark.parametrize(("pattern", "expected"), [
    ("*.nii.gz", ["a_ED.nii.gz", "a_ED_gt.nii.gz"]),
    ("*.nii", ["b_ED.nii"]),
    ("*_gt.nii.gz", ["a_ED_gt.nii.gz"]),
    ("**/*_gt.nii.gz", ["a_ED_gt.nii.gz", "sub/deep/c_ED_gt.nii.gz"]),
    ("sub/**/*.nii*", ["sub/deep/c_ED_gt.nii.gz"]),
    ("*/*/*.gz", ["sub/deep/c_ED_gt.nii.gz"]),
    ("[ab]_ED.nii*", ["a_ED.nii.gz", "b_ED.nii"]),
    ("b_ED.nii", ["b_ED.nii"]),
])
def test_pattern_chooses_the_volumes(tmp_path, pattern, expected):
    plain(tmp_path, "a_ED.nii.gz", "a_ED_gt.nii.gz", "b_ED.nii", "sub/deep/c_ED_gt.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()  # not a file
    (tmp_path / "notes.txt").write_text("")
    assert [name for *_, name in listed(list_volumes(tmp_path, pattern), tmp_path)] == expected


@pytest.mark.parametrize(("names", "patient"), [
    (["a_ED.nii", "a_ED.nii.gz"], "a at ED"),
    (["a_ED.nii.gz", "a-ed.nii.gz"], "a at ED"),
    (["ED/a.nii.gz", "a_ED.nii.gz"], "a at ED"),
    (["a.nii", "a.nii.gz"], "a at unknown"),
])
def test_two_volumes_of_one_phase_are_refused_with_both_paths(tmp_path, names, patient):
    plain(tmp_path, *names)
    with pytest.raises(DataError) as error:
        list_volumes(tmp_path, "**/*.nii*")
    for part in (patient, "Narrow the pattern", *(str(tmp_path / name) for name in names)):
        assert part in str(error.value)


@pytest.mark.parametrize(("pattern", "message"), [
    ("*.nii", "found none. Mind the ending"),
    ("*_gt.nii.gz", "found none. Mind the ending"),
    ("", "expected a pattern relative to"),
    ("/data/*.nii.gz", "expected a pattern relative to"),
])
def test_pattern_that_finds_nothing_or_cannot_is_refused(tmp_path, pattern, message):
    plain(tmp_path, "a_ED.nii.gz")
    with pytest.raises(DataError) as error:
        list_volumes(tmp_path, pattern)
    assert message in str(error.value) and str(tmp_path) in str(error.value)


def test_plain_folder_that_is_not_there_or_labels_without_meaning_are_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere: expected a folder"):
        list_volumes(tmp_path / "nowhere", "*.nii.gz")
    for list_them in (lambda: list_volumes(plain(tmp_path, "a.nii.gz"), "*.nii.gz", "mms"),
                      lambda: list_frames(tmp_path, "mms")):
        with pytest.raises(DataError, match="ACDC, MNMS.*found 'mms'"):
            list_them()


def test_a_file_that_is_no_volume_is_found_by_the_pattern_and_refused_when_read(tmp_path):
    (tmp_path / "notes.txt").write_text("no volume")
    frame, = list_volumes(tmp_path, "*")
    with pytest.raises(DataError, match="notes.txt: expected a NIfTI volume"):
        read_frame(frame)


def test_ed_and_es_must_have_one_pixel_size(root, patient):
    frames = list_frames(root)
    write(patient / "patient001_frame12_gt.nii.gz", nifti(LABELS[:5], (1.5, 1.25, 10.0)))
    # cropped apart, other slice thickness: accepted
    assert [v.data.shape for v in read_patient(frames)] == [(7, 6, 3), (5, 6, 3)]
    write(patient / "patient001_frame12_gt.nii.gz", nifti(spacing=(1.5, 1.3, 8.0)))
    with pytest.raises(DataError, match=r"(?s)patient001: .*frame12.*1\.3.*[Rr]estore both"):
        read_patient(frames)


# ----------------------------------------------------------------------------------------- images
def test_image_lies_on_the_grid_of_its_labels(root):
    assert (read_image(list_frames(root)[0]).data == LABELS.astype(int) * 100).all()


def test_image_of_another_size_is_refused(root, patient):
    path = write(patient / "patient001_frame01.nii.gz", nifti(LABELS[:5].astype(np.int16)))
    with pytest.raises(DataError) as error:
        read_image(list_frames(root)[0])
    assert str(path) in str(error.value) and "(5, 6, 3)" in str(error.value)
    assert "Restore both files" in str(error.value)


def test_label_only_copy_says_that_it_has_no_images(tmp_path):
    write_patient(tmp_path / "training", images=False)
    frame = list_frames(tmp_path)[0]
    with pytest.raises(DataError, match="label-only copy. Unzip the full ACDC"):
        read_image(frame)


# ------------------------------------------------------------------------------------ fingerprint
def test_fingerprint_is_that_of_the_labels_and_not_of_the_path(root, patient, tmp_path):
    before = acdc.fingerprint(list_frames(root))
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert acdc.fingerprint(list_frames(moved)) == before
    write(patient / "patient001_frame01.nii.gz", nifti(LABELS.astype(np.int16)))  # an image
    assert acdc.fingerprint(list_frames(root)) == before
    write(patient / "patient001_frame12_gt.nii.gz", nifti(LABELS[::-1]))
    assert acdc.fingerprint(list_frames(root)) != before
    (moved / "training" / "patient001" / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: NOR\n")
    assert acdc.fingerprint(list_frames(moved)) != before


def test_fingerprint_depends_on_what_the_labels_mean_and_not_on_how_that_is_said(root):
    before = acdc.fingerprint(list_frames(root))
    for same in ("acdc", {3: "LV", 2: "MYO", 1: "RV"}, {"0": 0, "1": 1, "2": 2, "3": 3}):
        assert acdc.fingerprint(list_frames(root, same)) == before
    others = ["MNMS", {2: "MYO", 3: "LV"}, {1: "RV", 2: "MYO", 3: "LV", 4: "LV"}]
    found = {acdc.fingerprint(list_frames(root, labels)) for labels in others}
    assert len(found | {before}) == 4


def test_fingerprint_of_a_plain_folder_depends_on_the_names_in_it(tmp_path):
    one = acdc.fingerprint(list_volumes(plain(tmp_path / "1", "a_ED.nii.gz"), "*"))
    assert acdc.fingerprint(list_volumes(plain(tmp_path / "2", "a_ED.nii.gz"), "*")) == one
    assert acdc.fingerprint(list_volumes(plain(tmp_path / "3", "a_ES.nii.gz"), "*")) != one
    assert acdc.fingerprint(list_volumes(plain(tmp_path / "4", "b_ED.nii.gz"), "*")) != one


# -------------------------------------------------------------------------------- which data set
def test_nothing_set_and_nothing_there_means_the_phantom(tmp_path):
    assert acdc.find_root(tmp_path / "acdc", tmp_path) is None
    (tmp_path / "acdc").mkdir()
    assert acdc.find_root(tmp_path / "acdc", tmp_path) is None  # an empty folder is no data set


def test_environment_goes_before_the_default_and_the_phantom_before_both(root, monkeypatch):
    assert acdc.find_root(root, root.parent) == root
    monkeypatch.setenv("ACDC_ROOT", str(root / "other"))
    assert acdc.find_root(root, root.parent) == root / "other"
    monkeypatch.setenv("CVAE_DATA", " Phantom ")
    assert acdc.find_root(root, root.parent) is None
    monkeypatch.setenv("CVAE_DATA", "acdc")
    assert acdc.find_root(root, root.parent) == root / "other"


def test_relative_acdc_root_is_relative_to_the_repository(tmp_path, monkeypatch):
    (tmp_path / "kernel").mkdir()
    monkeypatch.chdir(tmp_path / "kernel")
    monkeypatch.setenv("ACDC_ROOT", "../data")
    assert acdc.find_root(tmp_path / "none", tmp_path / "repo") == (tmp_path / "data").resolve()


@pytest.mark.parametrize(("name", "value", "message"), [
    ("ACDC_ROOT", "", "ACDC_ROOT is set but empty.*Unset it"),
    ("ACDC_ROOT", "  ", "ACDC_ROOT is set but empty.*Unset it"),
    ("CVAE_DATA", "acdc", "Download ACDC .*unzip it there"),
    ("CVAE_DATA", "mnms", "expected 'phantom', 'acdc' or nothing, found 'mnms'"),
    ("ACDC_ROOT", "~nobody-of-this-name/acdc", "ACDC_ROOT: expected a folder, found '~nobody"),
])
def test_settings_that_name_no_data_set_are_refused(tmp_path, monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match=message):
        acdc.find_root(tmp_path / "none", tmp_path)
