"""The layout of ACDC and plain folders: what is found there, and what is said of the rest."""

import gzip
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hearts import LABELS, nifti, relabelled, write

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
from cvae_utils.labels import find_label_map


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


@pytest.mark.parametrize("encode", [
    lambda text: text.encode("utf-8-sig"), lambda text: text.encode("utf-16"),
    lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    lambda text: text.replace("\n", "\r").encode(),
])
def test_info_saved_by_any_system_is_read(patient, encode):
    (patient / "Info.cfg").write_bytes(encode("ED: 1\nES: 12\nGroup: HCM\n"))
    assert acdc.read_info(patient / "Info.cfg") == {"ED": 1, "ES": 12, "Group": "HCM"}


def test_same_number_in_training_and_testing_is_two_patients(root):
    write_patient(root / "testing", "patient001", "NOR")
    write_patient(root / "testing", "patient002")
    frames = list_frames(root)
    assert [(f.patient, f.subset, f.group) for f in frames[::2]] == [
        ("training/patient001", "training", "DCM"), ("testing/patient001", "testing", "NOR"),
        ("patient002", "testing", "DCM")]
    assert frames[2].label_path.parent == root / "testing" / "patient001"


def test_folders_of_patients_may_be_links_but_not_to_nowhere(root, tmp_path):
    moved = tmp_path / "store"
    (root / "training" / "patient001").rename(moved)
    (root / "training" / "patient001").symlink_to(moved, target_is_directory=True)
    assert len(list_frames(root)) == 2
    (root / "training" / "patient002").symlink_to(tmp_path / "gone", target_is_directory=True)
    with pytest.raises(DataError, match="patient002: .*a link to one that is not there"):
        list_frames(root)


@pytest.mark.parametrize(("written", "group"), [("RV", "ARV"), ("NOR", "NOR"), ("ARV", "ARV"),
                                                  ("unknown", "unknown")])
def test_group_rv_is_called_arv(patient, written, group):
    (patient / "Info.cfg").write_text(f"ED: 1\r\nES: 12\r\nGroup:  {written} \r\n")
    assert acdc.read_info(patient / "Info.cfg") == {"ED": 1, "ES": 12, "Group": group}


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
])
def test_unusable_layout_is_refused_with_path_and_remedy(root, damage):
    path = damage(root)
    with pytest.raises(DataError) as error:
        list_frames(root)
    assert str(path) in str(error.value)
    assert any(word in str(error.value) for word in ("Restore", "Point", "point"))


def test_file_that_cannot_be_read_is_refused_with_its_path(root, patient):
    frames = list_frames(root)
    (patient / "patient001_frame12_gt.nii.gz").unlink()
    with pytest.raises(DataError, match="patient001_frame12_gt.nii.gz: cannot be read"):
        acdc.fingerprint(frames)


# ------------------------------------------------------------------------------------- label maps
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


# ----------------------------------------------------------------------------------- plain folder
def plain(root, *names):
    for name in names:
        write(root / name, nifti())
    return root


def listed(frames, root):
    return [(f.patient, f.phase, f.label_path.relative_to(root).as_posix()) for f in frames]


def test_a_plain_volume_is_read_with_what_its_name_says(tmp_path):
    frame, = list_volumes(plain(tmp_path, "A0S9V9/A0S9V9_sa_es_gt.nii.gz"), "**/*.nii.gz")
    assert listed([frame], tmp_path) == [("A0S9V9", "ES", "A0S9V9/A0S9V9_sa_es_gt.nii.gz")]
    assert (frame.group, frame.subset, frame.image_path) == ("unknown", "", None)
    assert (read_frame(frame).data == LABELS).all()


def test_plain_volumes_come_in_the_order_of_their_patients(tmp_path):
    plain(tmp_path, "b_ES.nii.gz", "b_ED.nii.gz", "sub/c_ED.nii.gz", "a.nii.gz", "a_ES.nii.gz")
    assert listed(list_volumes(tmp_path, "**/*.nii.gz"), tmp_path) == [
        ("a", "unknown", "a.nii.gz"), ("a", "ES", "a_ES.nii.gz"),
        ("b", "ED", "b_ED.nii.gz"), ("b", "ES", "b_ES.nii.gz"),
        ("sub/c", "ED", "sub/c_ED.nii.gz")]


@pytest.mark.parametrize(("pattern", "expected"), [
    ("*_ED.nii.gz", ["a_ED.nii.gz"]),
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
    (["P01-1-ED.nii.gz", "P01-1-ED-label.nii.gz"], "P01-1 at ED"),  # an image and its labels
])
def test_two_volumes_of_one_phase_are_refused_with_both_paths(tmp_path, names, patient):
    plain(tmp_path, *names)
    with pytest.raises(DataError) as error:
        list_volumes(tmp_path, "**/*.nii*")
    for part in (patient, "Narrow the pattern", *(str(tmp_path / name) for name in names)):
        assert part in str(error.value)


@pytest.mark.parametrize(("pattern", "message"), [
    ("*.nii", "found none among 1 files, such as a_ED.nii.gz. Mind the ending"),
    (r"(?P<patient>q)", "found none among 1 files, such as a_ED.nii.gz"),
    ("", "expected a pattern relative to"),
    ("/data/*.nii.gz", "expected a pattern relative to"),
])
def test_pattern_that_finds_nothing_or_cannot_is_refused(tmp_path, pattern, message):
    plain(tmp_path, "a_ED.nii.gz")
    with pytest.raises(DataError) as error:
        list_volumes(tmp_path, pattern)
    assert message in str(error.value) and str(tmp_path) in str(error.value)


def test_links_are_followed_and_hidden_files_left_out(tmp_path):
    root = plain(tmp_path / "data", "a_ED.nii.gz", "._a_ED.nii.gz", "__MACOSX/._a_ED.nii.gz",
                 ".git/b_ED.nii.gz")
    plain(tmp_path / "store", "c/c_ED.nii.gz", "d_ED.nii.gz")
    (root / "c").symlink_to(tmp_path / "store" / "c", target_is_directory=True)
    (root / "d_ED.nii.gz").symlink_to(tmp_path / "store" / "d_ED.nii.gz")
    (root / "circle").symlink_to(root, target_is_directory=True)
    assert [f.patient for f in list_volumes(root, "**/*.nii.gz")] == ["a", "c", "d"]
    (root / "e_ED.nii.gz").symlink_to(tmp_path / "store" / "gone")
    with pytest.raises(DataError, match="e_ED.nii.gz: .*a link to one that is not there.*datalad"):
        list_volumes(root, "**/*.nii.gz")


def test_a_folder_that_is_reached_in_two_ways_is_read_once_and_never_lost(tmp_path):
    store = plain(tmp_path / "data" / "store", "p1/ED.nii", "p2/ED.nii")
    write(store / "p2" / "ED.nii", nifti(LABELS[::-1]))
    (tmp_path / "data" / "atrain").mkdir()
    (tmp_path / "data" / "atrain" / "p2").symlink_to(store / "p2", target_is_directory=True)
    for pattern, patients in (("store/**/*.nii", ["p1", "p2"]), ("./atrain//*/*.nii", ["p2"]),
                              ("**/*.nii", ["atrain/p2", "store/p1"])):
        assert [f.patient for f in list_volumes(tmp_path / "data", pattern)] == patients


def test_one_file_under_two_names_is_said_to_be_one(tmp_path):
    frames = list_volumes(plain(tmp_path, "p1_ED.nii", "p9_ED.nii", "p9_ES.nii"), "*")
    said = acdc.copies(frames, acdc.hash_files(frames))
    assert "p9_ED.nii holds the same labels as " in said
    assert "p1_ED.nii of another patient (2 such)" in said
    for name in ("p1_ED.nii", "p9_ED.nii", "p9_ES.nii"):  # there may be many empty volumes
        write(tmp_path / name, nifti(LABELS * 0))
    assert acdc.copies(frames, acdc.hash_files(frames)) == ""
    own = [replace(frame, patient="p1") for frame in frames]
    assert acdc.copies(own, acdc.hash_files(own)) == ""


def test_what_is_wrong_with_files_that_are_not_asked_for_does_not_matter(tmp_path):
    root = plain(tmp_path / "data", "p1_ED_gt.nii")
    (root / "p1_ED.nii").symlink_to(tmp_path / "gone")  # an image that was not fetched
    (root / "odd\rname.txt").write_text("")
    for pattern in ("*_gt.nii", r"(?P<patient>p\d)_(?P<phase>E.)_gt"):
        assert [f.patient for f in list_volumes(root, pattern)] == ["p1"]
    with pytest.raises(DataError, match="found none among 3 files"):
        list_volumes(root, "*.mgz")


@pytest.mark.parametrize("name", ["p\r1_ED.nii", "p\x071_ED.nii", b"Jos\xe9_ED.nii"])
def test_names_that_cannot_be_printed_are_refused(tmp_path, name):
    path = tmp_path / (os.fsdecode(name) if isinstance(name, bytes) else name)
    write(path, nifti())
    with pytest.raises(DataError, match="expected a name of letters that can be printed. Rename"):
        list_volumes(tmp_path, "*")


def one_slice_each(root, *names):
    for k, name in enumerate(names):
        write(root / name, nifti(LABELS[:, :, k]))
    return root


@pytest.mark.parametrize(("pattern", "names"), [
    ("**/*", ["P01/ED/slice_1.nii.gz", "P01/ED/slice_2.nii.gz", "P01/ED/slice_10.nii.gz"]),
    ("*.nii", ["P01_ED_03.nii", "P01_ED_04.nii", "P01_ED_15.nii"]),
    (r"(?P<patient>P\d+)x(?P<slice>\d+)y(?P<phase>ed)", ["P01x7yed.nii", "P01x8yed.nii",
                                                         "P01x11yed.nii"]),
])
def test_slices_in_files_of_their_own_are_stacked_in_their_order(tmp_path, pattern, names):
    one_slice_each(tmp_path, *names)
    frame, = list_volumes(tmp_path, pattern)
    assert (frame.patient, frame.phase, len(frame.slice_paths)) == ("P01", "ED", 3)
    assert (read_frame(frame).data == LABELS).all()
    before = acdc.fingerprint([frame])
    write(tmp_path / names[2], nifti(LABELS[:, :, 0]))
    assert acdc.fingerprint([frame]) != before
    write(tmp_path / names[1], nifti(LABELS))
    with pytest.raises(DataError, match=f"{names[1]}: expected one slice of"):
        read_frame(frame)


@pytest.mark.parametrize("other", ["patient002", "validation/patient002", "Patient002"])
def test_patients_beside_training_are_not_left_out_in_silence(root, other):
    write_patient((root / other).parent, (root / other).name)
    with pytest.raises(DataError, match="atient002: expected patients in training/ and testing/"):
        list_frames(root)


def test_two_files_of_one_frame_are_refused(root, patient):
    write(patient / "patient001_frame01_gt.nii", nifti(LABELS[::-1]))
    with pytest.raises(DataError, match="frame01_gt.nii.gz: expected one .*frame01_gt.nii, too"):
        list_frames(root)


def test_what_was_read_from_the_names_is_said_and_what_they_cannot_say(tmp_path):
    two = list_volumes(plain(tmp_path / "2", "p1_frame01.nii", "p1_frame12.nii"), "*")
    assert ("2 files, 2 volumes (phase: 2 unknown), 1 patients, at most 2 of one patient"
            in acdc.understood(two))
    assert "p1_frame12.nii (p1 frame12)" in acdc.understood(two)
    assert "No two volumes share a patient" not in acdc.understood(two)
    apart = list_volumes(plain(tmp_path / "1", "abc.nii", "xyz.nii"), "*")
    assert "No two volumes share a patient" in acdc.understood(apart)
    alike = list_volumes(plain(tmp_path / "3", "P1_x_ED.nii", "P1_x_ES.nii", "p1_y_ED.nii"), "*")
    assert "P1_x and p1_y begin alike" in acdc.understood(alike)


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


def test_a_folder_with_hidden_files_alone_is_no_data_set(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"")
    assert acdc.find_root(tmp_path, tmp_path) is None


# ------------------------------------------------------------------------------------- ACDC itself
def test_what_lies_in_the_layout_of_acdc_is_not_yet_acdc(root, source):
    assert not acdc.is_official(list_frames(root)) and not acdc.is_official(source.frames)


@pytest.mark.real_data
def test_acdc_is_told_from_other_labels_of_its_patients(real_source, tmp_path):
    assert acdc.is_official(real_source.frames) and acdc.is_official(real_source.frames[:10])
    own = [replace(frame, label_map=frame.label_map | {1: 0}) for frame in real_source.frames[:10]]
    assert not acdc.is_official(own)  # without RV
    assert not acdc.is_official([replace(frame, group="NOR") for frame in real_source.frames[:10]])
    assert not acdc.is_official([replace(frame, patient=f"patient{k + 151}")
                                 for k, frame in enumerate(real_source.frames[:10])])
