"""The synthetic data set: its layout, its anatomy, its statistics and its manners on disk."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from cvae_utils.data import acdc, sources
from cvae_utils.data.phantom import write_phantom
from cvae_utils.labels import GROUPS, Label
from cvae_utils.shape_metrics import is_valid

# Drawn independently of each other when `independent=True` (scars and harmonics left out).
FACTORS = ["slice_level", "lv_radius_mm", "wall_thickness_mm", "eccentricity", "wall_asymmetry",
           "wall_tilt", "rv_width_mm", "rv_extent_deg", "rv_roundness", "rv_flatness", "rv_skew",
           "rotation_deg"]


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """The default 60 patients, without images."""
    root = tmp_path_factory.mktemp("phantom") / "acdc"
    return write_phantom(root, images=False, progress=False)


@pytest.fixture(scope="module")
def with_images(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("images"), patients=5, progress=False)


@pytest.fixture(scope="module")
def independent(tmp_path_factory):
    root = tmp_path_factory.mktemp("independent")
    return write_phantom(root, patients=40, independent=True, images=False, progress=False)


def slice_table(root):
    """factors.csv next to what is measured on the masks, one row a slice."""
    rows = []
    for frame in acdc.list_frames(root):
        volume = acdc.read_frame(frame)
        pixel_mm2 = volume.spacing_mm[0] ** 2
        for z, labels in enumerate(np.moveaxis(volume.data, 2, 0)):
            rv, myo, lv = (labels == c for c in (Label.RV, Label.MYO, Label.LV))
            row = {"patient": frame.patient, "phase": frame.phase, "z": z,
                   "rv_mm2": rv.sum() * pixel_mm2, "lv_mm2": lv.sum() * pixel_mm2,
                   "lv_myo_mm2": (lv | myo).sum() * pixel_mm2}
            row["lv_ml"] = row["lv_mm2"] * volume.spacing_mm[2] / 1000
            if lv.any():
                lv_at, whole = (np.array(ndimage.center_of_mass(m)) for m in (lv, lv | myo))
                row["offset_x_mm"], row["offset_y_mm"] = (lv_at - whole) * volume.spacing_mm[0]
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


def test_layout_is_that_of_acdc(with_images):
    frames = acdc.list_frames(with_images)
    assert [f.patient for f in frames[::2]] == [f"patient{k:03d}" for k in range(1, 6)]
    assert tuple(f.group for f in frames[::2]) == GROUPS  # one of each
    assert tuple(pd.read_csv(with_images / "factors.csv")["group"].unique()) == GROUPS
    for frame in frames:
        folder = frame.label_path.parent
        text = (folder / "Info.cfg").read_text()
        info = dict(line.split(": ") for line in text.splitlines())
        assert set(info) == {"ED", "ES", "Group", "Height", "NbFrame", "Weight"}
        assert info["ED"] == "1" and 8 <= int(info["ES"]) <= 14 < int(info["NbFrame"])
        assert info["Group"] == {"ARV": "RV"}.get(frame.group, frame.group)  # the official name
        assert 130 < float(info["Height"]) < 210 and 40 < float(info["Weight"]) < 120
        stem = f"{frame.patient}_frame{int(info[frame.phase]):02d}"
        assert frame.label_path == folder / f"{stem}_gt.nii.gz"
        assert frame.image_path == folder / f"{stem}.nii.gz" and len(list(folder.iterdir())) == 5
        image, labels = nib.load(frame.image_path), nib.load(frame.label_path)
        assert image.get_data_dtype() == np.int16 and labels.get_data_dtype() == np.uint8
        assert image.shape == labels.shape and (image.affine == labels.affine).all()
        assert nib.aff2axcodes(labels.affine) == ("L", "P", "S")


def test_same_seed_same_bytes_and_another_seed_another_heart(tmp_path):
    first, again, other = (contents(write_phantom(tmp_path / name, patients=2, seed=seed,
                                                  progress=False))
                           for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first == again
    shared = [name for name in first if name in other and name.endswith("frame01_gt.nii.gz")]
    assert len(shared) == 2 and all(first[name] != other[name] for name in shared)


def test_patients_and_labels_do_not_depend_on_how_much_is_asked(tmp_path, with_images):
    few = write_phantom(tmp_path, patients=2, images=False, progress=False)
    assert contents(few / "training").items() < contents(with_images / "training").items()
    prefix = pd.read_csv(few / "factors.csv")
    whole = pd.read_csv(with_images / "factors.csv").head(len(prefix))
    pd.testing.assert_frame_equal(whole, prefix, check_dtype=False)


@pytest.mark.parametrize("name", ["full_size", "independent"])
def test_every_slice_is_a_heart_within_its_picture(name, request):
    seen = 0
    for frame in acdc.list_frames(request.getfixturevalue(name)):
        maps = acdc.read_frame(frame).data.T
        maps_with_lv = maps[(maps == Label.LV).any(axis=(1, 2))]
        assert is_valid(maps_with_lv).all(), frame.name
        seen += len(maps_with_lv)
        maps[:, 5:-5, 5:-5] = 0
        assert not maps.any(), f"{frame.name} comes close to the border"
    assert seen > 500


def test_groups_have_their_volumes_and_ejection_fractions(full_size):
    """Means of ACDC's labels; 12 patients a group, so within 12 % and 4 points."""
    volume = slice_table(full_size).pivot_table("lv_ml", ["patient", "group"], "phase",
                                                aggfunc="sum")
    volume["EF"] = 100 * (1 - volume["ES"] / volume["ED"])
    found = volume.groupby("group")[["ED", "EF"]].agg(["mean", "std", "count"])
    expected = {"NOR": (130, 62), "MINF": (181, 31), "DCM": (283, 20), "HCM": (132, 70),
                "ARV": (117, 57)}
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
    area = cut.groupby("phase")["lv_mm2"].mean()
    assert area["ED"] == pytest.approx(1925, rel=0.2) and area["ES"] == pytest.approx(1215, rel=0.2)
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
    empty, cut = table[~table["has_lv"]], table[table["has_lv"]]
    assert len(empty) and empty[FACTORS].isna().all(axis=None)
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
    # Of a wall that is thicker on the lateral side, the cavity lies towards the septum.
    assert np.corrcoef(cut["wall_asymmetry"], x)[0, 1] < -0.6


def test_rotation_is_the_angle_between_the_ventricles(full_size):
    cut = slice_table(full_size).dropna(subset=["angle_deg"])
    error = (cut["angle_deg"] - cut["rotation_deg"] + 180) % 360 - 180
    assert np.abs(error.median()) < 2
    assert np.abs(error).quantile(0.95) < 20  # a skewed RV has its centroid off its axis


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
    for frame in acdc.list_frames(with_images)[::2]:
        image, labels = acdc.read_image(frame).data, acdc.read_frame(frame).data
        background, rv, myo, lv = (image[labels == label] for label in Label)
        assert np.median(lv) > 2 * np.median(myo) and np.median(rv) > 2 * np.median(myo)
        assert image.min() >= 0  # magnitudes
        assert np.percentile(background, 95) > 5 * np.percentile(background, 5)  # fat and lung


def test_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for taken in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(FileExistsError, match="expected no folder or an empty one, found"):
            write_phantom(taken, patients=1, images=False, progress=False)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}
    with pytest.raises(ValueError, match="at least 1 patient, found 0"):
        write_phantom(tmp_path / "none", patients=0)


def test_phantom_is_made_once_and_kept(tmp_path):
    first = sources.make_phantom(tmp_path, 1, images=False)
    assert (first.name, first.patients, first.root.parent) == ("phantom", 1, tmp_path / "raw")
    assert first.root.name.startswith("phantom-1-seed0-")
    made = {path: path.stat().st_mtime_ns for path in first.root.rglob("*")}
    again = sources.make_phantom(tmp_path, 1, images=False)
    assert again == first and made == {path: path.stat().st_mtime_ns for path in made}
    others = [sources.make_phantom(tmp_path, 2, images=False),
              sources.make_phantom(tmp_path, 1, seed=1, images=False),
              sources.make_phantom(tmp_path, 1, independent=True, images=False),
              sources.make_phantom(tmp_path, 1)]
    assert len({source.root for source in (first, *others)}) == 5
    assert others[-1].frames[0].image_path and not first.frames[0].image_path
    assert others[-1].fingerprint == first.fingerprint  # the labels do not depend on the images


def test_interrupted_phantom_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(numbers, **_):
        yield from list(numbers)[:1]
        assert list(tmp_path.glob("raw/.*/training/patient001"))  # there is something that must go
        raise KeyboardInterrupt

    monkeypatch.setattr("cvae_utils.data.phantom.tqdm", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sources.make_phantom(tmp_path, 2, images=False)
    assert list((tmp_path / "raw").iterdir()) == []
