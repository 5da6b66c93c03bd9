"""The layout of ACDC and plain folders: what is found there, and what is said of the rest."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hearts import LABELS, VOLUME, nifti, relabelled, write, write_patient

from cvae_utils.data import acdc
from cvae_utils.data.acdc import list_frames, list_volumes, read_frame, read_image, read_patient
from cvae_utils.files import DataError

IMAGE = nifti(LABELS.astype(np.int16) * 100)


@pytest.fixture
def root(tmp_path):
    """A data set of one patient, with an MR image at ED."""
    folder = write_patient(tmp_path / "acdc" / "training" / "patient001")
    write(folder / "patient001_frame01.nii.gz", IMAGE)
    return tmp_path / "acdc"


@pytest.fixture
def patient(root):
    return root / "training" / "patient001"


# ----------------------------------------------------------------------------------------- layout
def test_frames_are_those_that_info_names(root, patient):
    ed, es = list_frames(root)
    assert (ed.patient, ed.subset, ed.group, ed.phase) == ("patient001", "training", "DCM", "ED")
    assert es.phase == "ES" and es.label_path == patient / "patient001_frame12_gt.nii.gz"
    assert ed.image_path == patient / "patient001_frame01.nii.gz" and es.image_path is None


def test_both_subsets_are_read_in_order_and_one_number_in_both_is_two_patients(root):
    for name in ("patient102", "patient101", "patient001"):
        write_patient(root / "testing" / name, group="NOR")
    (root / "testing" / "patient103.zip").write_bytes(b"")  # not a folder
    frames = list_frames(root)
    assert [(f.patient, f.subset, f.group) for f in frames[::2]] == [
        ("training/patient001", "training", "DCM"), ("testing/patient001", "testing", "NOR"),
        ("patient101", "testing", "NOR"), ("patient102", "testing", "NOR")]
    assert frames[2].label_path.parent == root / "testing" / "patient001"


def test_patients_directly_in_the_root_are_read(root):
    assert len(list_frames(root / "training")) == 2
    flat = shutil.copytree(root / "training", root.parent / "flat")
    assert [f.subset for f in list_frames(flat)] == ["", ""]


def test_uncompressed_volumes_are_found_but_not_two_of_one_frame(patient, root):
    write(patient / "patient001_frame01_gt.nii", VOLUME)
    with pytest.raises(DataError, match="frame01_gt.nii.gz: expected one .*frame01_gt.nii, too"):
        list_frames(root)
    (patient / "patient001_frame01_gt.nii.gz").unlink()
    assert (read_frame(list_frames(root)[0]).data == LABELS).all()


@pytest.mark.parametrize("encode", [
    lambda text: text.encode("utf-8-sig"), lambda text: text.encode("utf-16"),
    lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    lambda text: text.replace("\n", " \r\n").encode("utf-8-sig"),
    lambda text: text.replace("\n", "\r").encode(),
])
@pytest.mark.parametrize(("written", "group"), [("RV", "ARV"), ("ARV", "ARV"), ("NOR", "NOR"),
                                                ("unknown", "unknown")])
def test_info_saved_by_any_system_is_read(patient, encode, written, group):
    (patient / "Info.cfg").write_bytes(encode(f"ED: 1\nES: 12\nGroup:  {written}\n"))
    assert acdc.read_info(patient / "Info.cfg") == {"ED": 1, "ES": 12, "Group": group}


def test_folders_of_patients_may_be_links_but_not_to_nowhere(root, patient, tmp_path):
    patient.rename(tmp_path / "store")
    patient.symlink_to(tmp_path / "store", target_is_directory=True)
    assert len(list_frames(root)) == 2
    (root / "training" / "patient002").symlink_to(tmp_path / "gone", target_is_directory=True)
    with pytest.raises(DataError, match="patient002: .*a link to one that is not there"):
        list_frames(root)


# -------------------------------------------------------------------------------- what is refused
def removed(name, folder_instead=False):
    def damage(root):
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if folder_instead:
            path.mkdir()
        return path if path.suffix else root
    return damage


def info(text):
    def damage(root):
        path = root / "training" / "patient001" / "Info.cfg"
        path.write_bytes(text)
        return path
    return damage


@pytest.mark.parametrize("damage", [
    pytest.param(removed(""), id="no root"),
    pytest.param(removed("training"), id="no training"),
    pytest.param(removed("training", folder_instead=True), id="no patient"),
    *(pytest.param(removed(f"training/patient001/{name}", instead), id=f"{name} {instead}")
      for name in ("Info.cfg", "patient001_frame12_gt.nii.gz") for instead in (False, True)),
    pytest.param(info(b"ES: 12\nGroup: NOR\n"), id="no ED"),
    pytest.param(info(b"ED: 1\nGroup: NOR\n"), id="no ES"),
    pytest.param(info(b"ED: 1\nES: 12\n"), id="no group"),
    pytest.param(info(b"ED: one\nES: 12\nGroup: NOR\n"), id="ED in words"),
    pytest.param(info(b"ED: -1\nES: 12\nGroup: NOR\n"), id="negative ED"),
    pytest.param(info(b"ED: 1\nES: 12\nGroup: XYZ\n"), id="unknown group"),
    pytest.param(info(b"ED: 1\nES: 12\nGroup: nor\n"), id="group in small letters"),
    pytest.param(info(bytes(range(256))), id="binary garbage"),
    pytest.param(info(b""), id="empty"),
    pytest.param(info(b"ED: 12\nES: 12\nGroup: NOR\n"), id="ED and ES are one frame"),
    pytest.param(info(b"ED: 1.0\nES: 12\nGroup: NOR\n"), id="ED with a fraction"),
    pytest.param(info(b"ED: " + b"1" * 5000 + b"\nES: 12\nGroup: NOR\n"), id="endless ED"),
])
def test_unusable_layout_is_refused_with_path_and_remedy(root, damage):
    path = damage(root)
    with pytest.raises(DataError) as error:
        list_frames(root)
    assert str(path) in str(error.value)
    assert any(word in str(error.value) for word in ("Restore", "Point", "point"))


@pytest.mark.parametrize("other", ["patient002", "validation/patient002", "Patient002"])
def test_patients_beside_training_are_not_left_out_in_silence(root, other):
    write_patient(root / other)
    with pytest.raises(DataError, match="atient002: expected patients in training/ and testing/"):
        list_frames(root)


def test_file_that_cannot_be_read_is_refused_with_its_path(root, patient):
    frames = list_frames(root)
    (patient / "patient001_frame12_gt.nii.gz").unlink()
    with pytest.raises(DataError, match="patient001_frame12_gt.nii.gz: cannot be read"):
        acdc.fingerprint(frames)


def test_ed_and_es_must_have_one_pixel_size(root, patient):
    frames = list_frames(root)
    write(patient / "patient001_frame12_gt.nii.gz", nifti(LABELS[:5], (1.5, 1.25, 10.0)))
    # cropped apart, other slice thickness: accepted
    assert [v.data.shape for v in read_patient(frames)] == [(7, 6, 3), (5, 6, 3)]
    write(patient / "patient001_frame12_gt.nii.gz", nifti(spacing=(1.5, 1.3, 8.0)))
    with pytest.raises(DataError, match=r"(?s)patient001: .*frame12.*1\.3.*[Rr]estore both"):
        read_patient(frames)


def test_image_lies_on_the_grid_of_its_labels_or_is_refused(root, patient):
    ed, es = list_frames(root)
    assert (read_image(ed).data == LABELS.astype(int) * 100).all()
    with pytest.raises(DataError, match="label-only copy. Unzip the full ACDC"):
        read_image(es)
    write(ed.image_path, nifti(LABELS[:5].astype(np.int16)))
    with pytest.raises(DataError, match=r"frame01.nii.gz: .*\(5, 6, 3\). Restore both files"):
        read_image(ed)


# ------------------------------------------------------------------------------------- label maps
@pytest.mark.parametrize(("labels", "values", "dtype"), [
    ("ACDC", (0, 1, 2, 3), np.uint8),
    ("MNMS", (0, 3, 2, 1), np.uint8),
    ("MNMS", (0, 3, 2, 1), np.float32),
    ({500: "LV", 205: "MYO", 600: "RV"}, (0, 600, 205, 500), np.int16),
    ({"10": "BACKGROUND", "-1": "RV", "2": "MYO", "0": "LV"}, (10, -1, 2, 0), np.int16),
])
def test_the_same_heart_under_other_labels_reads_the_same(tmp_path, labels, values, dtype):
    raw = relabelled(values, dtype)
    write(tmp_path / "plain" / "a_ED.nii.gz", raw)
    write_patient(tmp_path / "acdc" / "patient001", raw, raw)
    for frame in (*list_volumes(tmp_path / "plain", "*.nii.gz", labels),
                  *list_frames(tmp_path / "acdc", labels)):
        volume = read_frame(frame)
        assert volume.data.dtype == np.uint8 and (volume.data == LABELS).all()


# ----------------------------------------------------------------------------------- plain folder
def plain(root, *names):
    for name in names:
        write(root / name, VOLUME)
    return root


def patients(root, pattern):
    return [frame.patient for frame in list_volumes(root, pattern)]


def test_plain_volumes_come_in_the_order_of_their_patients(tmp_path):
    plain(tmp_path, "b_ES.nii.gz", "b_ED.nii.gz", "sub/c_sa_ed.nii.gz", "a.nii.gz", "a_ES.nii.gz")
    frames = list_volumes(tmp_path, "**/*.nii.gz")
    assert [(f.patient, f.phase, f.label_path.name) for f in frames] == [
        ("a", "unknown", "a.nii.gz"), ("a", "ES", "a_ES.nii.gz"),
        ("b", "ED", "b_ED.nii.gz"), ("b", "ES", "b_ES.nii.gz"),
        ("sub/c", "ED", "c_sa_ed.nii.gz")]
    assert {(f.group, f.subset, f.image_path) for f in frames} == {("unknown", "", None)}
    assert (read_frame(frames[-1]).data == LABELS).all()


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
    assert [frame.label_path.relative_to(tmp_path).as_posix()
            for frame in list_volumes(tmp_path, pattern)] == expected


@pytest.mark.parametrize(("names", "patient"), [
    (["a_ED.nii", "a_ED.nii.gz"], "a at ED"),
    (["a_ED.nii.gz", "a-ed.nii.gz"], "a at ED"),
    (["ED/a.nii.gz", "a_ED.nii.gz"], "a at ED"),
    (["a.nii", "a.nii.gz"], "a at unknown"),
    (["P01-1-ED.nii.gz", "P01-1-ED-label.nii.gz"], "P01-1 at ED"),  # an image and its labels
    (["a_ED_slice2.nii", "a_ED_slice02.nii.gz"], "a at ED"),
    (["a_ED.nii", "a_ED_slice1.nii"], "a at ED"),
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


def test_folder_that_is_not_there_or_file_that_is_no_volume_is_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere: expected a folder"):
        list_volumes(tmp_path / "nowhere", "*.nii.gz")
    (tmp_path / "notes.txt").write_text("no volume")
    frame, = list_volumes(tmp_path, "*")
    with pytest.raises(DataError, match="notes.txt: expected a NIfTI volume"):
        read_frame(frame)


def test_links_are_followed_and_hidden_files_left_out(tmp_path):
    root = plain(tmp_path / "data", "a_ED.nii.gz", "._a_ED.nii.gz", "__MACOSX/._a_ED.nii.gz",
                 ".git/b_ED.nii.gz")
    plain(tmp_path / "store", "c/c_ED.nii.gz", "d_ED.nii.gz")
    (root / "c").symlink_to(tmp_path / "store" / "c", target_is_directory=True)
    (root / "d_ED.nii.gz").symlink_to(tmp_path / "store" / "d_ED.nii.gz")
    (root / "circle").symlink_to(root, target_is_directory=True)
    assert patients(root, "**/*.nii.gz") == ["a", "c", "d"]
    (root / "e_ED.nii.gz").symlink_to(tmp_path / "store" / "gone")
    with pytest.raises(DataError, match="e_ED.nii.gz: .*a link to one that is not there.*datalad"):
        list_volumes(root, "**/*.nii.gz")


def test_a_folder_that_is_reached_in_two_ways_is_read_once_and_never_lost(tmp_path):
    store = plain(tmp_path / "data" / "store", "p1/ED.nii", "p2/ED.nii")
    (tmp_path / "data" / "atrain").mkdir()
    (tmp_path / "data" / "atrain" / "p2").symlink_to(store / "p2", target_is_directory=True)
    for pattern, expected in (("store/**/*.nii", ["p1", "p2"]), ("./atrain//*/*.nii", ["p2"]),
                              ("**/*.nii", ["atrain/p2", "store/p1"])):
        assert patients(tmp_path / "data", pattern) == expected


def test_what_is_wrong_with_files_that_are_not_asked_for_does_not_matter(tmp_path):
    root = plain(tmp_path / "data", "p1_ED_gt.nii")
    (root / "p1_ED.nii").symlink_to(tmp_path / "gone")  # an image that was not fetched
    (root / "odd\rname.txt").write_text("")
    for pattern in ("*_gt.nii", r"(?P<patient>p\d)_(?P<phase>E.)_gt"):
        assert patients(root, pattern) == ["p1"]
    with pytest.raises(DataError, match="found none among 3 files"):
        list_volumes(root, "*.mgz")


@pytest.mark.parametrize("name", ["p\r1_ED.nii", "p\x071_ED.nii", os.fsdecode(b"Jos\xe9_ED.nii")])
def test_names_that_cannot_be_printed_are_refused(tmp_path, name):
    write(tmp_path / name, VOLUME)
    with pytest.raises(DataError, match="expected a name of letters that can be printed. Rename"):
        list_volumes(tmp_path, "*")


@pytest.mark.parametrize(("pattern", "names"), [
    ("**/*", ["P01/ED/slice_1.nii.gz", "P01/ED/slice_2.nii.gz", "P01/ED/slice_10.nii.gz"]),
    ("*.nii", ["P01_ED_03.nii", "P01_ED_04.nii", "P01_ED_15.nii"]),
    (r"(?P<patient>P\d+)x(?P<slice>\d+)y(?P<phase>ed)", ["P01x7yed.nii", "P01x8yed.nii",
                                                         "P01x11yed.nii"]),
])
def test_slices_in_files_of_their_own_are_stacked_in_their_order(tmp_path, pattern, names):
    for k, name in enumerate(names):
        write(tmp_path / name, nifti(LABELS[:, :, k]))
    frame, = list_volumes(tmp_path, pattern)
    assert (frame.patient, frame.phase, len(frame.slice_paths)) == ("P01", "ED", 3)
    assert (read_frame(frame).data == LABELS).all()
    before = acdc.fingerprint([frame])
    write(tmp_path / names[2], nifti(LABELS[:, :, 0]))
    assert acdc.fingerprint([frame]) != before
    write(tmp_path / names[1], VOLUME)
    with pytest.raises(DataError, match=f"{names[1]}: expected one slice of"):
        read_frame(frame)


# ----------------------------------------------------------------------------- what is said of them
def test_one_file_under_two_names_is_said_to_be_one(tmp_path):
    frames = list_volumes(plain(tmp_path, "p1_ED.nii", "p9_ED.nii", "p9_ES.nii"), "*")
    said = acdc.copies(frames, acdc.hash_files(frames))
    assert "p9_ED.nii holds the same labels as " in said
    assert "p1_ED.nii of another patient (2 such)" in said
    own = [replace(frame, patient="p1") for frame in frames]
    assert acdc.copies(own, acdc.hash_files(own)) == ""
    for frame in frames:  # there may be many empty volumes
        write(frame.label_path, nifti(LABELS * 0))
    assert acdc.copies(frames, acdc.hash_files(frames)) == ""


@pytest.mark.parametrize(("names", "said", "lines"), [
    (["p1_frame01.nii", "p1_frame12.nii"], "2 files, 2 volumes (phase: 2 unknown), 1 patients, at "
     "most 2 of one patient. For instance: p1_frame01.nii (p1 frame01), p1_frame12.nii (p1 "
     "frame12).", 2),
    (["abc.nii", "xyz_ED.nii"], "No two volumes share a patient", 3),
    (["P1_x_ED.nii", "P1_x_ES.nii", "p1_y_ED.nii"], "P1_x and p1_y begin alike", 3),
])
def test_what_was_read_from_the_names_is_said_and_what_they_cannot_say(
        tmp_path, names, said, lines):
    text = acdc.understood(list_volumes(plain(tmp_path, *names), "*"))
    assert said in text and len(text.splitlines()) == lines


def fingerprint(root, pattern="", labels="ACDC"):
    return acdc.fingerprint(list_volumes(root, pattern, labels) if pattern else
                            list_frames(root, labels))


def test_fingerprint_is_that_of_the_labels_and_not_of_the_path(root, patient, tmp_path):
    before = fingerprint(root)
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert fingerprint(moved) == before
    write(patient / "patient001_frame01.nii.gz", VOLUME)  # an image
    assert fingerprint(root) == before
    write(patient / "patient001_frame12_gt.nii.gz", nifti(LABELS[::-1]))
    assert fingerprint(root) != before
    write_patient(moved / "training" / "patient001", group="NOR")
    assert fingerprint(moved) != before
    plains = [plain(tmp_path / str(k), name) for k, name in
              enumerate(("a_ED.nii.gz", "a_ED.nii.gz", "a_ES.nii.gz", "b_ED.nii.gz"))]
    first, second, *others = (fingerprint(folder, "*") for folder in plains)
    assert first == second and len({first, *others}) == 3


def test_fingerprint_depends_on_what_the_labels_mean_and_not_on_how_that_is_said(root):
    before = fingerprint(root)
    for same in ("acdc", {3: "LV", 2: "MYO", 1: "RV"}, {"0": 0, "1": 1, "2": 2, "3": 3}):
        assert fingerprint(root, labels=same) == before
    others = ["MNMS", {2: "MYO", 3: "LV"}, {1: "RV", 2: "MYO", 3: "LV", 4: "LV"}]
    assert len({fingerprint(root, labels=labels) for labels in others} | {before}) == 4


# -------------------------------------------------------------------------------- which data set
def test_environment_goes_before_the_default_and_the_phantom_before_both(root, monkeypatch):
    def found():
        return acdc.find_root(root, root.parent)

    assert found() == root
    monkeypatch.setenv("ACDC_ROOT", str(root / "other"))
    assert found() == root / "other"
    monkeypatch.setenv("CVAE_DATA", " Phantom ")
    assert found() is None
    monkeypatch.setenv("CVAE_DATA", "acdc")
    assert found() == root / "other"


def test_nothing_or_hidden_files_alone_mean_the_phantom(tmp_path):
    assert acdc.find_root(tmp_path / "acdc", tmp_path) is None
    (tmp_path / "acdc").mkdir()
    assert acdc.find_root(tmp_path / "acdc", tmp_path) is None
    (tmp_path / "acdc" / ".DS_Store").write_bytes(b"")
    assert acdc.find_root(tmp_path / "acdc", tmp_path) is None


def test_relative_acdc_root_is_relative_to_the_repository(tmp_path, monkeypatch):
    (tmp_path / "kernel").mkdir()
    monkeypatch.chdir(tmp_path / "kernel")
    monkeypatch.setenv("ACDC_ROOT", "../data")
    assert acdc.find_root(tmp_path / "none", tmp_path / "repo") == (tmp_path / "data").resolve()


@pytest.mark.parametrize(("name", "value", "message"), [
    ("ACDC_ROOT", "  ", "ACDC_ROOT is set but empty.*Unset it"),
    ("CVAE_DATA", "acdc", "Download ACDC .*unzip it there"),
    ("CVAE_DATA", "mnms", "expected 'phantom', 'acdc' or nothing, found 'mnms'"),
    ("ACDC_ROOT", "~nobody-of-this-name/acdc", "ACDC_ROOT: expected a folder, found '~nobody"),
])
def test_settings_that_name_no_data_set_are_refused(tmp_path, monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match=message):
        acdc.find_root(tmp_path / "none", tmp_path)


# ------------------------------------------------------------------------------------- ACDC itself
def test_what_lies_in_the_layout_of_acdc_is_not_yet_acdc(root, source):
    assert not acdc.is_official(list_frames(root)) and not acdc.is_official(source.frames)


@pytest.mark.real_data
def test_acdc_is_told_from_other_labels_of_its_patients(real_source):
    assert acdc.is_official(real_source.frames) and acdc.is_official(real_source.frames[:10])
    own = [replace(frame, label_map=frame.label_map | {1: 0}) for frame in real_source.frames[:10]]
    assert not acdc.is_official(own)  # without RV
    assert not acdc.is_official([replace(frame, group="NOR") for frame in real_source.frames[:10]])
    assert not acdc.is_official([replace(frame, patient=f"patient{k + 151}")
                                 for k, frame in enumerate(real_source.frames[:10])])
