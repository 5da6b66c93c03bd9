"""The synthetic data set: its layout, its anatomy, its statistics and its manners on disk."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from cvae_utils import phantom
from cvae_utils.labels import GROUPS, Label
from cvae_utils.phantom import write_phantom

# Drawn independently of each other when `independent=True` (scars and harmonics left out).
FACTORS = [
    "slice_level", "lv_radius_mm", "wall_thickness_mm", "eccentricity", "wall_asymmetry",
    "wall_tilt", "rv_width_mm", "rv_extent_deg", "rv_roundness", "rv_flatness", "rv_skew",
    "rotation_deg",
]  # fmt: skip


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """The default 60 patients, without images."""
    root = tmp_path_factory.mktemp("phantom") / "acdc"
    return write_phantom(root, images=False, progress=False)


@pytest.fixture(scope="module")
def with_images(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "images"
    return write_phantom(root, patients=5, progress=False)


@pytest.fixture(scope="module")
def independent(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "independent"
    return write_phantom(root, patients=40, independent=True, images=False, progress=False)


def parse_info(patient):
    return dict(line.split(": ") for line in (patient / "Info.cfg").read_text().splitlines())


def label_volumes(root):
    """Yield (patient, phase, labels (x, y, z), spacing_mm (3,)) of every volume."""
    for patient in sorted((root / "training").iterdir()):
        info = parse_info(patient)
        for phase in ("ED", "ES"):
            path = patient / f"{patient.name}_frame{int(info[phase]):02d}_gt.nii.gz"
            image = nib.load(path)
            yield patient.name, phase, np.asarray(image.dataobj), image.header.get_zooms()


def slice_table(root):
    """factors.csv next to what is measured on the masks: one row a slice, LV slices only."""
    rows = []
    for patient, phase, labels, spacing in label_volumes(root):
        pixel_mm2 = spacing[0] * spacing[1]
        for z in range(labels.shape[2]):
            rv, myo, lv = (labels[:, :, z] == c for c in (Label.RV, Label.MYO, Label.LV))
            row = {"patient": patient, "phase": phase, "z": z}
            row |= {"rv_mm2": rv.sum() * pixel_mm2, "lv_mm2": lv.sum() * pixel_mm2}
            row["lv_myo_mm2"] = (lv | myo).sum() * pixel_mm2
            row["lv_ml"] = row["lv_mm2"] * spacing[2] / 1000
            if lv.any():
                lv_at = np.array(ndimage.center_of_mass(lv))
                whole = np.array(ndimage.center_of_mass(lv | myo))
                row["offset_x_mm"], row["offset_y_mm"] = (lv_at - whole) * spacing[0]
                if rv.any():
                    across = lv_at - np.array(ndimage.center_of_mass(rv))
                    row["angle_deg"] = np.degrees(np.arctan2(-across[1], across[0]))  # y is down
            rows.append(row)
    factors = pd.read_csv(root / "factors.csv")
    table = factors.merge(pd.DataFrame(rows), on=["patient", "phase", "z"], validate="1:1")
    assert len(table) == len(factors) == len(rows)
    return table


def contents(root):
    """{relative path: bytes} of a folder."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def breaks_anatomy(labels):
    """The first broken rule of one slice (H, W), or None; by flood fill, unlike the module's."""
    labels = labels[ndimage.find_objects((labels > 0).astype(int))[0]]
    rv, myo, lv = (labels == c for c in (Label.RV, Label.MYO, Label.LV))
    if not (lv.any() and myo.any()):
        return "LV or MYO missing"
    for name, mask in (("RV", rv), ("MYO", myo), ("LV", lv)):
        if mask.any():
            seed = np.zeros_like(mask)
            seed[tuple(np.argwhere(mask)[0])] = True
            if (ndimage.binary_propagation(seed, np.ones((3, 3)), mask) != mask).any():
                return f"{name} in pieces"
    for name, mask in (("RV", rv), ("LV", lv), ("LV + MYO", lv | myo)):
        outside = np.pad(~mask, 1, constant_values=True)
        seed = np.zeros_like(outside)
        seed[0, 0] = True
        if (ndimage.binary_propagation(seed, mask=outside) != outside).any():
            return f"hole in {name}"
    padded = np.pad(labels, 1)
    x, y = np.nonzero(padded == Label.LV)
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        if not np.isin(padded[x + dx, y + dy], (Label.MYO, Label.LV)).all():
            return "LV not enclosed"
    x, y = np.nonzero(np.pad(rv, 1))
    around = [padded[x + dx, y + dy] for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    if rv.any() and not np.isin(around, Label.MYO).any():
        return "RV apart from MYO"
    return None


def test_layout_is_that_of_acdc(with_images):
    patients = sorted((with_images / "training").iterdir())
    assert [p.name for p in patients] == [f"patient{k:03d}" for k in range(1, 6)]
    groups = []
    for patient in patients:
        info = parse_info(patient)
        assert set(info) == {"ED", "ES", "Group", "Height", "NbFrame", "Weight"}
        assert info["ED"] == "1" and 8 <= int(info["ES"]) <= 14 < int(info["NbFrame"])
        assert 130 < float(info["Height"]) < 210 and 40 < float(info["Weight"]) < 120
        groups.append(info["Group"])
        stems = [f"{patient.name}_frame{int(info[phase]):02d}" for phase in ("ED", "ES")]
        expected = {stem + end for stem in stems for end in (".nii.gz", "_gt.nii.gz")}
        assert {p.name for p in patient.iterdir()} == expected | {"Info.cfg"}
        for stem in stems:
            image = nib.load(patient / f"{stem}.nii.gz")
            labels = nib.load(patient / f"{stem}_gt.nii.gz")
            assert image.get_data_dtype() == np.int16 and labels.get_data_dtype() == np.uint8
            assert image.shape == labels.shape and (image.affine == labels.affine).all()
            assert nib.aff2axcodes(labels.affine) == ("L", "P", "S")
            assert set(np.unique(labels.dataobj)) == {0, 1, 2, 3}
    assert groups == ["NOR", "MINF", "DCM", "HCM", "RV"]  # the official names, one of each
    factors = pd.read_csv(with_images / "factors.csv")
    assert tuple(factors["group"].unique()) == GROUPS  # ours: ARV, never mistaken for the class RV


def test_same_seed_same_bytes_and_another_seed_another_heart(tmp_path):
    options = dict(patients=2, progress=False)
    first = contents(write_phantom(tmp_path / "a", **options))
    assert contents(write_phantom(tmp_path / "b", **options)) == first
    other = contents(write_phantom(tmp_path / "c", seed=1, **options))
    shared = [k for k in first if k in other and k.endswith("frame01_gt.nii.gz")]
    assert len(shared) == 2 and all(first[k] != other[k] for k in shared)


def test_patients_and_labels_do_not_depend_on_how_much_is_asked(tmp_path, with_images):
    few = write_phantom(tmp_path / "few", patients=2, images=False, progress=False)
    many = contents(with_images / "training")
    for path, data in contents(few / "training").items():
        assert many[path] == data
    prefix = pd.read_csv(few / "factors.csv")
    pd.testing.assert_frame_equal(
        pd.read_csv(with_images / "factors.csv").head(len(prefix)), prefix, check_dtype=False
    )


@pytest.mark.parametrize("name", ["full_size", "independent"])
def test_every_slice_is_a_heart(name, request):
    broken, seen = [], 0
    for patient, phase, labels, _ in label_volumes(request.getfixturevalue(name)):
        edge = np.ones(labels.shape[:2], bool)
        edge[5:-5, 5:-5] = False
        assert not labels[edge].any(), f"{patient} {phase} comes close to the border"
        for z in range(labels.shape[2]):
            if (labels[:, :, z] == Label.LV).any():
                seen += 1
                reason = breaks_anatomy(labels[:, :, z])
                broken += [(patient, phase, z, reason)] if reason else []
    assert seen > 500 and not broken


def test_groups_have_their_volumes_and_ejection_fractions(full_size):
    """Means of ACDC's labels; 12 patients a group, so within 12 % and 4 points."""
    table = slice_table(full_size)
    volume = table.pivot_table("lv_ml", ["patient", "group"], "phase", aggfunc="sum")
    volume["EF"] = 100 * (1 - volume["ES"] / volume["ED"])
    found = volume.groupby("group")[["ED", "EF"]].agg(["mean", "std", "count"])
    expected = {
        "NOR": (130, 62), "MINF": (181, 31), "DCM": (283, 20), "HCM": (132, 70), "ARV": (117, 57)
    }  # fmt: skip
    for group, (ml, ef) in expected.items():
        assert found.loc[group, ("ED", "count")] == 12
        assert found.loc[group, ("ED", "mean")] == pytest.approx(ml, rel=0.12)
        assert found.loc[group, ("EF", "mean")] == pytest.approx(ef, abs=4)
        assert found.loc[group, ("ED", "std")] > 10 and found.loc[group, ("EF", "std")] > 2


def test_slices_are_as_varied_as_real_ones(full_size):
    """Shares and spreads of the real labels, with room on both sides."""
    table = slice_table(full_size)
    cut = table[table["has_lv"]]
    assert 0.02 < 1 - len(cut) / len(table) < 0.09  # real 0.05
    assert 0.08 < (~cut["has_rv"]).mean() < 0.20  # real 0.15
    assert 25 < cut["angle_deg"].std() < 42  # real 33
    assert (table["has_rv"] & ~table["has_lv"]).any()  # an RV above the LV's base
    area = cut.groupby("phase")[["lv_mm2", "rv_mm2"]].mean()
    assert area.loc["ED", "lv_mm2"] == pytest.approx(1925, rel=0.2)
    assert area.loc["ES", "lv_mm2"] == pytest.approx(1215, rel=0.2)
    # The base is at z = 0, where the RV is large; towards the apex both shrink.
    level = pd.cut(cut["slice_level"], [0, 0.33, 0.67, 1])
    means = cut.groupby(level, observed=True)[["lv_mm2", "rv_mm2"]].mean().to_numpy()
    assert (np.diff(means, axis=0) < 0).all()
    for _, volume in cut.sort_values("z").groupby(["patient", "phase"]):
        assert (np.diff(volume["z"]) == 1).all() and (np.diff(volume["slice_level"]) > 0).all()


@pytest.mark.parametrize("name", ["full_size", "independent"])
def test_factors_are_those_of_the_masks(name, request):
    table = slice_table(request.getfixturevalue(name))
    assert (table["has_lv"] == (table["lv_mm2"] > 0)).all()
    assert (table["has_rv"] == (table["rv_mm2"] > 0)).all()
    empty = table[~table["has_lv"]]
    assert len(empty) and empty[FACTORS].isna().all(axis=None)

    cut = table[table["has_lv"]]
    assert cut[FACTORS].notna().all(axis=None)
    assert ((cut["rv_width_mm"] > 0) == cut["has_rv"]).all()
    radius = np.sqrt(cut["lv_mm2"] / np.pi)
    thickness = np.sqrt(cut["lv_myo_mm2"] / np.pi) - radius
    for measured, name in ((radius, "lv_radius_mm"), (thickness, "wall_thickness_mm")):
        error = np.abs(measured - cut[name])
        assert error.mean() < 0.1 and error.max() < 0.6  # a third of a pixel at worst
    # The offset is given in the heart's own frame: turn it into the image's.
    turn = -np.radians(cut["rotation_deg"])  # y is down
    x, y = cut["lv_offset_x_mm"], cut["lv_offset_y_mm"]
    error_x = np.abs(x * np.cos(turn) - y * np.sin(turn) - cut["offset_x_mm"])
    error_y = np.abs(x * np.sin(turn) + y * np.cos(turn) - cut["offset_y_mm"])
    assert max(error_x.max(), error_y.max()) < 0.7  # small cavities are a dozen pixels
    assert max(error_x.mean(), error_y.mean()) < 0.12


def test_rotation_is_the_angle_between_the_ventricles(full_size):
    cut = slice_table(full_size).dropna(subset=["angle_deg"])
    error = (cut["angle_deg"] - cut["rotation_deg"] + 180) % 360 - 180
    assert np.abs(error).quantile(0.95) < 20  # a skewed RV has its centroid off its axis
    assert np.corrcoef(cut["angle_deg"], cut["rotation_deg"])[0, 1] > 0.95


def test_unrotated_rv_is_left_of_lv():
    heart = phantom._draw_heart(np.random.default_rng(0), "NOR", np.zeros(2), False)
    factors = next(s.factors for s in heart.volumes["ED"] if s.factors and s.factors.rv_width_mm)
    upright = phantom.Slice(phantom.replace(factors, rotation_deg=0.0, rv_skew=0.0), has_lv=True)
    image = phantom._paint(upright, (160, 128), np.array([90, 60]), 1.5).T  # (rows, columns)
    (lv_row, lv_column), (rv_row, rv_column) = (
        ndimage.center_of_mass(image == c) for c in (Label.LV, Label.RV)
    )
    assert rv_column < lv_column - 10 and abs(rv_row - lv_row) < 3
    assert lv_row == pytest.approx(60, abs=3) and lv_column == pytest.approx(90, abs=3)


def test_curves_enclose_the_areas_they_are_named_after():
    """A circle of 20 mm with a 10 mm wall, lateral wall thicker by half."""
    values = dict.fromkeys(phantom.SliceFactors.__annotations__, 0.0)
    values |= dict(lv_radius_mm=20.0, wall_thickness_mm=10.0, wall_asymmetry=0.5)
    factors = phantom.SliceFactors(**values | dict(rv_extent_deg=90.0, rv_roundness=2.0))
    endo, epi, rv = phantom._curves(factors)
    assert endo == pytest.approx(np.full(720, 20.0))
    assert (epi**2).mean() == pytest.approx(30**2)  # area / pi
    assert (rv == epi).all()  # no width, no RV
    wall = epi - endo
    assert wall[0] / wall[360] == pytest.approx(1.5 / 0.5)  # lateral to septal
    # and so the cavity lies towards the septum
    assert (phantom._centroid(endo) - phantom._centroid(epi))[0] < -3

    wide = phantom._with_rv_area(factors, 1000.0)
    _, epi, rv = phantom._curves(wide)
    assert ((rv**2 - epi**2) / 2).sum() * 2 * np.pi / 720 == pytest.approx(1000.0)
    assert phantom._with_rv_area(factors, 10.0).rv_width_mm == 0  # a speck is no RV


def test_independent_factors_are_uncorrelated(independent, full_size):
    def correlations(root):
        cut = pd.read_csv(root / "factors.csv").query("has_lv")
        cut = cut.assign(dcm=cut["group"] == "DCM", systole=cut["phase"] == "ES")
        return len(cut), cut[[*FACTORS, "dcm", "systole"]].astype(float).corr().abs()

    slices, r = correlations(independent)
    off_diagonal = r.where(~np.eye(len(r), dtype=bool))
    assert off_diagonal.max(axis=None) < 4 / np.sqrt(slices)  # four standard errors of r = 0
    _, bound = correlations(full_size)
    assert bound.loc["slice_level", "lv_radius_mm"] > 0.4
    assert bound.loc["dcm", "lv_radius_mm"] > 0.3


def test_blood_is_brighter_than_muscle_in_the_image(with_images):
    for patient in sorted((with_images / "training").iterdir()):
        stem = patient / f"{patient.name}_frame01"
        image = np.asarray(nib.load(f"{stem}.nii.gz").dataobj).astype(float)
        labels = np.asarray(nib.load(f"{stem}_gt.nii.gz").dataobj)
        rv, myo, lv = (image[labels == c] for c in (Label.RV, Label.MYO, Label.LV))
        assert np.median(lv) > 2 * np.median(myo) and np.median(rv) > 2 * np.median(myo)
        assert image.min() >= 0  # magnitudes
        background = image[labels == Label.BACKGROUND]
        assert np.percentile(background, 95) > 5 * np.percentile(background, 5)  # fat and lung


def test_existing_phantom_is_kept_or_replaced(tmp_path):
    root = tmp_path / "acdc"
    options = dict(images=False, progress=False)
    assert write_phantom(root, patients=1, **options) == root
    stamp = (root / "phantom.json").stat().st_mtime_ns
    write_phantom(root, patients=1, **options)
    assert (root / "phantom.json").stat().st_mtime_ns == stamp  # left alone

    write_phantom(root, patients=2, **options)
    assert json.loads((root / "phantom.json").read_text())["patients"] == 2
    assert len(list((root / "training").iterdir())) == 2

    lost = next(root.glob("training/*/*_gt.nii.gz"))
    lost.unlink()
    write_phantom(root, patients=2, **options)
    assert lost.exists()  # an incomplete one is written anew
    assert [p.name for p in tmp_path.iterdir()] == ["acdc"]


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    write_one = phantom._write_patient

    def interrupted(folder, number, *rest):
        if number == 2:
            raise KeyboardInterrupt
        return write_one(folder, number, *rest)

    monkeypatch.setattr(phantom, "_write_patient", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "acdc", patients=2, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_foreign_folder_is_refused_untouched(tmp_path):
    options = dict(patients=1, images=False, progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="expected .* found other files .* another folder"):
        write_phantom(tmp_path / "mine", **options)
    assert contents(tmp_path / "mine") == {"thesis.txt": b"years of work"}

    root = write_phantom(tmp_path / "acdc", **options)
    (root / "notes.txt").write_text("mine too")  # a phantom with something added
    with pytest.raises(FileExistsError):
        write_phantom(root, **{**options, "patients": 2})
    assert (root / "notes.txt").exists() and len(list((root / "training").iterdir())) == 1

    (tmp_path / "empty").mkdir()
    assert (write_phantom(tmp_path / "empty", **options) / "factors.csv").exists()
    with pytest.raises(ValueError, match="at least 1"):
        write_phantom(tmp_path / "none", patients=0)
