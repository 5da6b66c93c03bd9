"""Reading the ACDC layout: what is accepted, in which orientation, and what is said of the rest."""

import gzip
import itertools
import shutil

import nibabel as nib
import numpy as np
import pytest

from cvae_utils import acdc
from cvae_utils.acdc import DataError, list_frames, read_image, read_labels, read_patient

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


def test_whole_numbers_stored_as_floats_are_labels(tmp_path):
    path = write(tmp_path / "a.nii.gz", nifti(LABELS.astype(np.float32)))
    volume = read_labels(path)
    assert volume.data.dtype == np.uint8 and (volume.data == LABELS).all()


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


def no_labels(root):
    path = root / "training" / "patient001" / "patient001_frame12_gt.nii.gz"
    path.unlink()
    return path


@pytest.mark.parametrize("damage", [
    no_root, empty_root, no_patient_folder, empty_subset, no_info, no_labels,
    pytest.param(info(b"ES: 12\nGroup: NOR\n"), id="no ED"),
    pytest.param(info(b"ED: 1\nGroup: NOR\n"), id="no ES"),
    pytest.param(info(b"ED: 1\nES: 12\n"), id="no group"),
    pytest.param(info(b"ED: one\nES: 12\nGroup: NOR\n"), id="ED in words"),
    pytest.param(info(b"ED: -1\nES: 12\nGroup: NOR\n"), id="negative ED"),
    pytest.param(info(b"ED: 1\nES: 12\nGroup: XYZ\n"), id="unknown group"),
    pytest.param(info(bytes(range(256))), id="binary garbage"),
    pytest.param(info(b""), id="empty"),
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


@pytest.mark.parametrize(("raw", "remedy"), [
    *(pytest.param(cut(s), "download it again", id=f"cut at {s}") for s in
      (0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)),
    *(pytest.param(flipped(s), "download it again", id=f"byte flipped at {s}") for s in
      (0.2, 0.5, 0.8, 0.97)),
    pytest.param(nifti()[:-10], "download it again", id="cut, not compressed"),
    pytest.param(b"not a volume at all" * 50, "download it again", id="text"),
    pytest.param(gzip.compress(b"not a volume" * 50), "download it again", id="text, compressed"),
    pytest.param(with_value(4, np.uint8), "Map its labels", id="label 4"),
    pytest.param(with_value(-1, np.int16), "Map its labels", id="negative label"),
    pytest.param(with_value(1.5, np.float32), "Map its labels", id="half a label"),
    pytest.param(with_value(np.nan, np.float32), "Map its labels", id="not a number"),
    pytest.param(nifti(LABELS[:, :, 0]), "3-D", id="2-D"),
    pytest.param(nifti(np.stack([LABELS] * 2, axis=3)), "3-D", id="4-D"),
])
def test_unusable_volume_is_refused_with_path_and_remedy(tmp_path, raw, remedy):
    path = tmp_path / "patient001_frame01_gt.nii.gz"
    path.write_bytes(raw)
    with pytest.raises(DataError) as error:
        read_labels(path)
    assert str(path) in str(error.value) and remedy in str(error.value)


def test_missing_volume_is_refused_with_its_path(tmp_path):
    with pytest.raises(DataError, match="nowhere.nii.gz"):
        read_labels(tmp_path / "nowhere.nii.gz")


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
    ("CVAE_DATA", "acdc", "Unzip ACDC there"),
    ("CVAE_DATA", "mnms", "expected 'phantom', 'acdc' or nothing, found 'mnms'"),
])
def test_settings_that_name_no_data_set_are_refused(tmp_path, monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match=message):
        acdc.find_root(tmp_path / "none", tmp_path)
