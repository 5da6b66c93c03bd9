"""Synthetic hearts in the folder layout of ACDC, with the factors that made them.

The data set of everyone who has not downloaded ACDC: `write_phantom` writes NIfTI files that the
rest of the package reads like the real ones, and `factors.csv`, which real data cannot offer: the
numbers each slice was drawn from, to hold against the dimensions that a model finds.

A slice is drawn in the heart's own polar frame, centred on the LV cavity, with the RV on the left
(angle pi) and y pointing down as in the displayed image. Three curves r(angle) make it:

    endocardium   an ellipse of given area and eccentricity, with harmonics 3 and 4
    epicardium    endocardium + wall; the wall is thicker to one side, or thinned by a scar
    RV free wall  epicardium + width * g(u), u in [-1, 1] across the RV's angular extent

so the LV lies inside the MYO and the RV against it by construction. A patient's slices hang
together through three volumes (LV cavity, MYO, RV) that are spread over the slice level, 0 at the
base and 1 at the apex. Means and spreads were fitted by eye to the labels of ACDC (Bernard et
al., IEEE TMI 37(11), 2018, doi 10.1109/TMI.2018.2837502).
"""

import gzip
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage, special
from tqdm.auto import tqdm

from cvae_utils.data.file_names import PHASES
from cvae_utils.files import write_json
from cvae_utils.labels import GROUPS, Label
from cvae_utils.shape_metrics import is_valid

ANGLES = np.arange(720) * (2 * np.pi / 720)  # (720,) rad, the samples of every curve
STEP = ANGLES[1]
SEPTUM = np.pi  # the angle of the RV seen from the LV
THINNEST_WALL_MM = 4.3  # thinner ones break when a slice is resampled to 64 x 64
SMALLEST_RV_MM2 = 160.0


@dataclass(frozen=True)
class GroupTraits:
    """Mean (and SD) of a diagnostic group: volumes at ED in ml, ejection fractions in %."""

    lv_ml: tuple[float, float]
    lv_ef: tuple[float, float]
    myo_ml: tuple[float, float]
    rv_ml: tuple[float, float]
    rv_ef: tuple[float, float]
    rv_extent_deg: float = 0.0  # added to everybody's
    wall_asymmetry: float = 0.0  # negative: thick septum
    scar_depth: float = 0.0  # share of the wall lost in the middle of the scar


TRAITS = {
    "NOR": GroupTraits((130, 26), (62, 5), (99, 20), (164, 35), (54, 8), rv_extent_deg=3),
    "MINF": GroupTraits((181, 43), (31, 8), (119, 18), (129, 33), (54, 10), scar_depth=0.4),
    "DCM": GroupTraits((283, 48), (20, 6), (163, 28), (192, 55), (31, 14), rv_extent_deg=-3),
    "HCM": GroupTraits((132, 32), (70, 6), (169, 38), (126, 30), (58, 9), rv_extent_deg=-10,
                       wall_asymmetry=-0.2),
    "ARV": GroupTraits((117, 32), (57, 6), (82, 20), (212, 46), (31, 13), rv_extent_deg=10),
}

#: (mean, SD) of what shapes a slice apart from its size. The same for every group.
SHAPE = {
    "eccentricity": (0.45, 0.13),
    "axis_deg": (85.0, 35.0),  # of the cavity's long axis, from horizontal, y down
    "third_cos": (0.0, 0.028),  # harmonics of the endocardium, relative to its radius
    "third_sin": (0.0, 0.028),
    "fourth_cos": (0.0, 0.018),
    "fourth_sin": (0.0, 0.018),
    "wall_asymmetry": (-0.02, 0.14),  # lateral minus septal, relative to the mean wall
    "wall_tilt": (0.0, 0.14),  # inferior minus anterior
    "wall_wave": (0.0, 0.09),  # septal and lateral minus the other two
    "rv_extent_deg": (0.0, 17.0),  # added to the extent that belongs to the level
    "rv_roundness": (1.9, 0.45),  # 1: pointed, 2: round, 3: box-like
    "rv_flatness": (0.4, 0.6),  # 0: bulging, 1: flat free wall, tall; negative: triangular
    "rv_skew": (0.0, 0.35),  # positive: wider above than below
}
#: What these are kept within.
LIMITS = {"eccentricity": (0.05, 0.75), "rv_extent_deg": (50, 170), "rv_roundness": (1.0, 3.0),
          "rv_flatness": (-0.7, 1.6), "rv_skew": (-0.6, 0.6)}
#: What these are drawn from, evenly, where every factor is independent of the others.
EVEN = {"eccentricity": (0.1, 0.65), "rv_roundness": (1.2, 2.6), "rv_flatness": (-0.5, 1.2),
        "rv_skew": (-0.5, 0.5), "rv_extent_deg": (70, 140)}


@dataclass(frozen=True)
class SliceFactors:
    """Everything one slice is drawn from; the generating columns of factors.csv."""

    slice_level: float  # 0 base, 1 apex
    lv_radius_mm: float  # of the circle with the cavity's area
    wall_thickness_mm: float  # between the circles with the areas of LV + MYO and of LV
    eccentricity: float
    axis_deg: float
    third_cos: float
    third_sin: float
    fourth_cos: float
    fourth_sin: float
    wall_asymmetry: float
    wall_tilt: float
    wall_wave: float
    scar_depth: float
    scar_deg: float
    rv_width_mm: float  # 0: no RV
    rv_extent_deg: float
    rv_roundness: float
    rv_flatness: float
    rv_skew: float
    rotation_deg: float  # counter-clockwise on the screen; positive: the LV is higher


@dataclass(frozen=True)
class Slice:
    """One slice of a volume in place. `factors` is None where the heart is not cut."""

    factors: SliceFactors | None = None
    has_lv: bool = False  # False with factors: only the RV is seen, above the LV's base
    centre_mm: tuple[float, float] = (0.0, 0.0)  # x, y of the LV's centre, from the heart's


# ------------------------------------------------------------------------------ one slice: curves
def _positive_root(square: float, linear: float, value: float) -> float:
    """The k above 0 with square k^2 + linear k = value."""
    return (np.sqrt(linear**2 + 4 * square * value) - linear) / (2 * square)


def _scale_to_area(inner: np.ndarray, band: np.ndarray, area: float) -> float:
    """The k for which the band between `inner` and `inner + k * band` (720,) has this area.

    Area = int (k * inner * band + k^2 * band^2 / 2) d angle, a quadratic in k.
    """
    return _positive_root((band**2).sum() * STEP / 2, (inner * band).sum() * STEP, area)


def _endocardium(f: SliceFactors) -> np.ndarray:
    """(720,) mm; encloses exactly pi * lv_radius_mm^2."""
    axis = ANGLES - np.radians(f.axis_deg)
    ellipse = (1 - (f.eccentricity * np.cos(axis)) ** 2) ** -0.5  # polar form, up to scale
    curve = ellipse * (
        1 + f.third_cos * np.cos(3 * ANGLES) + f.third_sin * np.sin(3 * ANGLES)
        + f.fourth_cos * np.cos(4 * ANGLES) + f.fourth_sin * np.sin(4 * ANGLES))
    return f.lv_radius_mm * curve / np.sqrt(np.mean(curve**2))


def _wall(f: SliceFactors, endo: np.ndarray) -> np.ndarray:
    """(720,) mm, radial thickness; endo + wall encloses pi * (radius + thickness)^2."""
    away = np.angle(np.exp(1j * (ANGLES - np.radians(f.scar_deg))))  # from the scar, -pi to pi
    wall = (1 + f.wall_asymmetry * np.cos(ANGLES) + f.wall_tilt * np.sin(ANGLES)
            + f.wall_wave * np.cos(2 * ANGLES))
    wall *= 1 - f.scar_depth * np.exp(-0.5 * (away / 0.6) ** 2)
    wall = np.maximum(wall, THINNEST_WALL_MM / f.wall_thickness_mm)
    area = np.pi * f.wall_thickness_mm * (2 * f.lv_radius_mm + f.wall_thickness_mm)
    return wall * _scale_to_area(endo, wall, area)


def _rv_profile(f: SliceFactors) -> np.ndarray:
    """(720,), RV width by angle relative to rv_width_mm; 0 outside the RV's angular extent."""
    u = (ANGLES - SEPTUM) / np.radians(f.rv_extent_deg / 2)
    inside = np.clip(1 - np.abs(u) ** f.rv_roundness, 0, None) ** 0.6
    return inside * np.clip(1 + f.rv_skew * u + f.rv_flatness * u**2, 0.1, None)


def _curves(f: SliceFactors) -> np.ndarray:
    """(3, 720) mm: endocardium, epicardium, RV free wall (the epicardium where there is no RV)."""
    endo = _endocardium(f)
    epi = endo + _wall(f, endo)
    rv = epi + f.rv_width_mm * _rv_profile(f)
    return np.stack([endo, epi, rv])


def _centroid(curve: np.ndarray) -> np.ndarray:
    """(2,) mm, centroid of the area inside a curve (720,) about the origin."""
    direction = np.stack([np.cos(ANGLES), np.sin(ANGLES)])  # (2, 720)
    return (direction * curve**3 / 3).sum(1) / (curve**2 / 2).sum()


# ------------------------------------------------------------- one patient: factors of its slices
def _draw_shape(rng, traits: np.ndarray, level: float, group: GroupTraits) -> dict[str, float]:
    """SHAPE for one slice: the patient's own `traits` (13, 2), a trend to the apex, and noise."""
    noise = rng.normal(size=len(SHAPE))
    unit = 0.75 * traits[:, 0] + 0.45 * traits[:, 1] * (2 * level - 1) + 0.5 * noise
    shape = {name: mean + sd * u for (name, (mean, sd)), u in zip(SHAPE.items(), unit)}
    shape["rv_roundness"] -= 0.6 * (level - 0.2)
    shape["rv_flatness"] = shape["rv_flatness"] + 0.5 - 1.4 * level
    shape["rv_extent_deg"] += group.rv_extent_deg + 126 - 46 * level**1.4
    for name, (low, high) in LIMITS.items():
        shape[name] = float(np.clip(shape[name], low, high))
    # The septum is membranous, hence thin, at the very base.
    shape["wall_asymmetry"] += group.wall_asymmetry + 0.25 * max(0.0, 1 - level / 0.2)
    return shape


def _phase_factors(rng, patient: dict, volumes_ml: tuple, level: np.ndarray, systole: bool):
    """The factors of one volume: [SliceFactors], base to apex, for the levels (n,) given.

    volumes_ml: LV, MYO and RV; each is spread over the slices so that it is met exactly, except
    where a floor (thinnest wall, smallest cavity) holds.
    """
    lv_mm2, myo_mm2, rv_mm2 = (1000 * ml / patient["thickness_mm"] for ml in volumes_ml)
    # The cavity is half an ellipsoid that is cut a little past its waist.
    area = np.maximum(1 - ((level - 0.15) / 0.88) ** 2, 0.04)
    area *= np.exp(rng.normal(0, 0.07, len(level)))
    radius = np.sqrt(np.maximum(area * lv_mm2 / area.sum(), 30) / np.pi)  # (n,) mm

    wall = (1 - 0.33 * level**2) * np.exp(rng.normal(0, 0.06, len(level)))
    if systole:
        wall *= 1 - 0.2 * np.clip(1 - level / 0.25, 0, None)
    # sum pi (2 r w + w^2) = MYO area, solved for the scale of w
    wall *= _positive_root(np.pi * (wall**2).sum(), 2 * np.pi * (radius * wall).sum(), myo_mm2)
    wall = np.maximum(wall, THINNEST_WALL_MM + 0.7)  # (n,) mm

    rv_area = np.cos(np.pi / 2 * np.clip(level / patient["rv_end_level"], 0, 1)) ** 2 + 0.05
    rv_area *= np.exp(rng.normal(0, 0.12, len(level))) * (level < patient["rv_end_level"] - 0.09)
    if rng.random() < (0.75 if systole else 0.1):
        rv_area[0] = 0  # the valve plane is tilted: the most basal LV slice is above the RV
    rv_area *= rv_mm2 / rv_area.sum()

    slices, group = [], TRAITS[patient["group"]]
    scar_depth = group.scar_depth * (1.3 if systole else 1)  # a scar does not thicken
    for i, at in enumerate(level):
        shape = _draw_shape(rng, patient["traits"], at, group)
        away = (at - patient["scar_level"]) / 0.3
        factors = SliceFactors(
            slice_level=float(at), lv_radius_mm=float(radius[i]), wall_thickness_mm=float(wall[i]),
            scar_depth=float(scar_depth * np.exp(-0.5 * away**2)), scar_deg=patient["scar_deg"],
            rv_width_mm=0.0, rotation_deg=patient["rotation_deg"] - 13 + 28 * at + rng.normal(0, 7),
            **shape)
        slices.append(_with_rv_area(factors, rv_area[i]))
    return slices


def _with_rv_area(f: SliceFactors, area_mm2: float) -> SliceFactors:
    """The factors with the RV width that gives this area; without RV where it would be a speck."""
    if area_mm2 < SMALLEST_RV_MM2:
        return f
    width = _scale_to_area(_curves(f)[1], _rv_profile(f), area_mm2)
    return replace(f, rv_width_mm=float(np.clip(width, 5, 60)))


def _independent_factors(rng, level: np.ndarray) -> list[SliceFactors]:
    """Factors drawn independently of each other, of the group and of the level, one per slice."""
    slices = []
    for at in level:
        shape = {name: rng.normal(mean, sd) for name, (mean, sd) in SHAPE.items()}
        shape |= {name: rng.uniform(*ends) for name, ends in EVEN.items()}
        slices.append(SliceFactors(
            slice_level=float(at), lv_radius_mm=rng.uniform(9, 32),
            wall_thickness_mm=rng.uniform(6.5, 14), scar_depth=rng.uniform(0, 0.4),
            scar_deg=rng.uniform(0, 360), rv_width_mm=rng.uniform(10, 36) * (rng.random() < 0.87),
            rotation_deg=rng.normal(8, 30), **shape))
    return slices


def _spread(rng, mean: float, sd: float) -> float:
    """A normal number, cut off at 2 SD: no heart without volume, no angle beyond belief."""
    return mean + sd * float(np.clip(rng.normal(), -2, 2))


def _stratum(seed: int, number: int) -> np.ndarray:
    """(2,) standard normal: where this patient stands in its group by LV size and by EF.

    Not drawn but taken from an additive (Kronecker) sequence, whose points are spread evenly, so
    that the means of a dozen patients are already those of TRAITS.
    """
    member, group = divmod(number - 1, len(GROUPS))
    start = np.random.default_rng(seed).random((len(GROUPS), 2))[group]
    return special.ndtri(0.02 + 0.96 * ((start + member * np.array([0.754878, 0.569840])) % 1))


def _draw_heart(rng, group: str, stratum: np.ndarray, independent: bool) -> tuple[tuple, dict]:
    """Spacing of the grid in mm, (x, y, z), and {phase: [Slice]} from base to apex, z = position in
    the list, of one patient; the same patient traits shape both phases."""
    traits = TRAITS[group]
    size, contraction = stratum.tolist()
    pixel = float(rng.choice([1.3672, 1.4063, 1.5625, 1.6797, 1.7578]))
    thickness = float(rng.choice([10.0, 8.0, 5.0], p=[0.87, 0.06, 0.07]))

    def volume(mean: float, sd: float) -> float:  # ml; a large LV comes with large everything
        return mean + sd * float(np.clip(0.5 * size + 0.85 * rng.normal(), -2, 2))

    lv_ml = traits.lv_ml[0] + traits.lv_ml[1] * size
    myo_ml, rv_ml = volume(*traits.myo_ml), volume(*traits.rv_ml)
    ef = traits.lv_ef[0] + traits.lv_ef[1] * contraction
    rv_ef = np.clip(_spread(rng, *traits.rv_ef), 8, 75)
    thickening = _spread(rng, 1.15, 0.07)  # in ACDC's labels MYO gains 8 to 18 % at ES
    volumes_ml = {
        "ED": (lv_ml, myo_ml, rv_ml),
        "ES": (lv_ml * (1 - ef / 100), myo_ml * thickening, rv_ml * (1 - rv_ef / 100)),
    }
    patient = {
        "group": group, "thickness_mm": thickness, "traits": rng.normal(size=(len(SHAPE), 2)),
        "rv_end_level": _spread(rng, 1.03, 0.09), "rotation_deg": _spread(rng, 15, 31),
        "scar_level": rng.uniform(0.2, 0.8), "scar_deg": rng.uniform(0, 360),
    }
    length_mm = 86 * (lv_ml / 140) ** 0.17 + _spread(rng, 0, 6)
    count = max(6, round(length_mm / thickness))
    # The heart shortens in systole, so fewer slices cut it: about 4 mm at each end at 62 %.
    lost = [int(rng.random() + 0.06 * ef / thickness) for _ in ("base", "apex")]
    above, below = int(rng.random() < 0.1), int(rng.random() < 0.04)
    lean = rng.normal(0, 7, 2)  # mm, by how much the long axis leans from base to apex

    volumes = {}
    for phase in PHASES:
        first, last = (0, count) if phase == "ED" else (lost[0], count - lost[1])
        level = (np.arange(last - first) + 0.5 + rng.uniform(-0.25, 0.25)) / (last - first)
        if independent:
            factors = _independent_factors(rng, level)
        else:
            factors = _phase_factors(rng, patient, volumes_ml[phase], level, phase == "ES")
        centres = np.linspace(-0.5, 0.5, len(level))[:, None] * lean  # (slices, 2)
        centres += rng.normal(0, 1, centres.shape)  # breath-holds differ
        cut = [Slice(f, True, tuple(c)) for f, c in zip(factors, centres.tolist())]
        before = [Slice()] * (above + first)
        if before and cut[0].factors.rv_width_mm > 0:  # the RV reaches higher than the LV
            before[-1] = replace(cut[0], has_lv=False)
        volumes[phase] = before + cut + [Slice()] * (below + count - last)
    return (pixel, pixel, thickness), volumes


# ------------------------------------------------------------------------------- painting: labels
def _outline(s: Slice) -> np.ndarray:
    """(2, 720) mm, the outermost curve of a slice in place: what must fit into the grid."""
    outer = _curves(s.factors)[2]
    turned = ANGLES - np.radians(s.factors.rotation_deg)
    return np.array(s.centre_mm)[:, None] + outer * np.stack([np.cos(turned), np.sin(turned)])


def _place(rng, pixel: float, volumes: dict) -> tuple[tuple[int, int], np.ndarray]:
    """The grid (nx, ny), at least 16 mm larger than the heart all round, and the heart's place.

    The place is that of the heart's origin, (2,), in pixels.
    """
    points = np.concatenate([_outline(s) for slices in volumes.values() for s in slices
                             if s.factors], axis=1)  # (2, points)
    low, high = points.min(axis=1), points.max(axis=1)
    usual = rng.choice([(128, 112), (128, 128), (144, 120)])
    shape = np.maximum(8 * np.ceil((high - low + 32) / pixel / 8), usual).astype(int)
    slack = shape - (high - low + 32) / pixel  # pixels by which the heart may be off-centre
    return tuple(shape.tolist()), (16 - low) / pixel + rng.uniform(0.25, 0.75, 2) * slack


def _paint(s: Slice, shape: tuple[int, int], origin: np.ndarray, pixel: float) -> np.ndarray:
    """The label map (nx, ny) uint8 of one slice: each pixel takes the label at its centre."""
    labels = np.zeros(shape, np.uint8)
    if s.factors is None:
        return labels
    at = [(np.arange(n) - o) * pixel - c for n, o, c in zip(shape, origin, s.centre_mm)]
    x, y = np.meshgrid(*at, indexing="ij")  # (nx, ny) mm, from the LV's centre
    # y points down, so turning counter-clockwise on the screen lowers the angle
    angle = np.arctan2(y, x) + np.radians(s.factors.rotation_deg)
    nearest = np.round(angle / STEP).astype(int) % len(ANGLES)
    endo, epi, rv = _curves(s.factors)[:, nearest]  # (nx, ny) each
    radius = np.hypot(x, y)
    labels[(radius >= epi) & (radius < rv)] = Label.RV
    if s.has_lv:
        labels[radius < epi] = Label.MYO
        labels[radius < endo] = Label.LV
    # Specks where the crescent's tips are thinner than a pixel.
    parts, count = ndimage.label(labels == Label.RV, structure=np.ones((3, 3)))
    if count > 1:
        largest = np.bincount(parts.ravel())[1:].argmax() + 1
        labels[(parts > 0) & (parts != largest)] = Label.BACKGROUND
    return labels


def _draw_patient(rng, group: str, stratum: np.ndarray, independent: bool):
    """Draw and paint until every slice is anatomical: spacing and slices of _draw_heart, and
    {phase: (nx, ny, nz) uint8}."""
    for _ in range(100):  # hardly ever more than once
        spacing_mm, volumes = _draw_heart(rng, group, stratum, independent)
        shape, origin = _place(rng, spacing_mm[0], volumes)
        labels, sound = {}, True
        for phase, slices in volumes.items():
            maps = [_paint(s, shape, origin, spacing_mm[0]) for s in slices]
            with_lv = np.stack([m for m, s in zip(maps, slices) if s.has_lv])
            sound = sound and bool(is_valid(with_lv).all())
            labels[phase] = np.stack(maps, axis=-1)
        if sound:
            return spacing_mm, volumes, labels
    raise RuntimeError("expected a valid heart within 100 draws, got none; TRAITS or SHAPE is off")


# ------------------------------------------------------------------------------- painting: images
def _smooth_noise(rng, shape: tuple[int, ...], sigma: tuple[float, ...]) -> np.ndarray:
    """Noise of unit variance without detail finer than `sigma` pixels per axis."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    return noise / noise.std()


def _thorax(rng, shape: tuple[int, int], origin: np.ndarray, pixel: float) -> np.ndarray:
    """The surroundings (nx, ny, 1) without the heart: muscle, lungs, liver, chest wall, air."""
    x, y = np.meshgrid(*[(np.arange(n) - o) * pixel for n, o in zip(shape, origin)], indexing="ij")
    wobble = [8 * _smooth_noise(rng, shape, (12, 12)) for _ in range(4)]  # mm
    tissue = np.full(shape, 0.3)
    tissue[x + 0.3 * y + wobble[0] > 45] = 0.08  # left lung, beside the free wall
    tissue[(x - 0.2 * y + wobble[1] < -80) & (y < 40)] = 0.08  # right lung
    tissue[(y - 0.25 * x + wobble[2] > 55) & (x < 25)] = 0.42  # liver
    chest = y - 0.15 * x + 0.3 * wobble[3] + x**2 / 900
    tissue[chest < -62] = 0.25
    tissue[chest < -70] = 0.7  # fat under the skin
    tissue[chest < -92] = 0.0
    return tissue[..., None]


def _papillary(labels: np.ndarray, pixel: float, turn: float) -> np.ndarray:
    """Two round muscles inside the cavity, (nx, ny, nz) bool; only the image shows them."""
    muscle = np.zeros(labels.shape, bool)
    for z in range(labels.shape[2]):
        cavity = labels[:, :, z] == Label.LV
        radius = np.sqrt(cavity.sum() / np.pi)
        if radius * pixel < 12:
            continue
        centre = np.array(ndimage.center_of_mass(cavity))
        for angle in (turn, turn + 2.2):
            at = centre + 0.62 * radius * np.array([np.cos(angle), np.sin(angle)])
            away = np.hypot(*(np.indices(cavity.shape) - at[:, None, None]))
            muscle[:, :, z] |= cavity & (away < 0.17 * radius)
    return muscle


def _paint_image(rng, labels: np.ndarray, thorax: np.ndarray, pixel: float, turn: float):
    """A cine-MR-like image (nx, ny, nz) int16: bright blood, dark muscle, coil shading, noise.

    Magnitude images have Rician noise: the modulus of a signal with noise in both channels.
    """
    heart = labels > 0
    signal = np.broadcast_to(thorax, labels.shape).copy()
    fat = ndimage.binary_dilation(heart, np.ones((3, 3, 1)), iterations=3) & ~heart
    patches = _smooth_noise(rng, labels.shape, (3, 3, 0.5))
    signal[fat & (patches > -0.2)] = 0.55
    signal[labels == Label.MYO] = 0.25
    signal[labels == Label.RV] = 0.82
    signal[labels == Label.LV] = 0.9
    signal[_papillary(labels, pixel, turn)] = 0.35
    signal *= 1 + 0.08 * _smooth_noise(rng, labels.shape, (2, 2, 0))
    signal = ndimage.gaussian_filter(signal, (0.6, 0.6, 0))  # pixels at an edge see both sides
    anterior = np.linspace(0.25, -0.25, labels.shape[1])[None, :, None]  # the coil lies there
    signal *= np.exp(anterior + 0.12 * _smooth_noise(rng, labels.shape[:2], (25, 25))[..., None])
    real, imaginary = 0.035 * rng.normal(size=(2, *labels.shape))
    return np.round(280 * np.hypot(signal + real, imaginary)).astype(np.int16)


# -------------------------------------------------------------------------------- writing to disk
def _write_nifti(path: Path, array: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    """Write (x, y, z) with axes L, P, S; the bytes depend on nothing but the content.

    As in ACDC's own files, the voxel size stands in pixdim and the qform alone; the sform has
    directions of length 1.
    """
    directions = np.diag([-1.0, -1.0, 1.0, 1.0])
    image = nib.Nifti1Image(array, directions)
    image.set_qform(directions @ np.diag([*spacing_mm, 1.0]), code=1)  # sets pixdim, too
    image.set_sform(directions, code=1)
    image.header.set_xyzt_units("mm", "sec")
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=2, mtime=0))


def _factor_rows(name: str, group: str, volumes: dict, labels: dict) -> list[dict]:
    """One row a slice; factors are left out (NaN in the table) where there is no LV."""
    rows = []
    for phase, slices in volumes.items():
        for z, s in enumerate(slices):
            row = {"patient": name, "group": group, "phase": phase, "z": z, "has_lv": s.has_lv,
                   "has_rv": bool((labels[phase][:, :, z] == Label.RV).any())}
            if s.has_lv:
                endo, epi, _ = _curves(s.factors)
                row |= asdict(s.factors)
                offset = (_centroid(endo) - _centroid(epi)).tolist()  # in the heart's frame
                row |= {"lv_offset_x_mm": offset[0], "lv_offset_y_mm": offset[1]}
            rows.append(row)
    return rows


def _write_patient(folder: Path, number: int, seed: int, independent: bool, images: bool):
    """Write one patient's folder; returns its rows of factors.csv."""
    rng = np.random.default_rng([seed, number])
    name, group = f"patient{number:03d}", GROUPS[(number - 1) % len(GROUPS)]
    spacing_mm, volumes, labels = _draw_patient(rng, group, _stratum(seed, number), independent)
    es = int(rng.integers(8, 15))
    info = {
        "ED": 1, "ES": es, "Group": "RV" if group == "ARV" else group,  # the official name
        "Height": round(_spread(rng, 170, 9), 1), "NbFrame": int(rng.integers(2 * es, 2 * es + 8)),
        "Weight": round(_spread(rng, 76, 14), 1),
    }
    target = folder / "training" / name
    target.mkdir(parents=True)
    (target / "Info.cfg").write_text("".join(f"{key}: {value}\n" for key, value in info.items()))

    pixel, shape = spacing_mm[0], labels["ED"].shape[:2]
    image_rng = np.random.default_rng([seed, number, 1])  # labels are the same without images
    centre = np.array(ndimage.center_of_mass((labels["ED"] > 0).any(axis=2)))
    thorax = _thorax(image_rng, shape, centre, pixel) if images else None
    turn = image_rng.uniform(0, 2 * np.pi)
    for phase in PHASES:
        stem = target / f"{name}_frame{info[phase]:02d}"
        _write_nifti(stem.with_name(stem.name + "_gt.nii.gz"), labels[phase], spacing_mm)
        if images:
            image = _paint_image(image_rng, labels[phase], thorax, pixel, turn)
            _write_nifti(stem.with_name(stem.name + ".nii.gz"), image, spacing_mm)
    return _factor_rows(name, group, volumes, labels)


def write_phantom(root: Path, *, patients: int = 60, seed: int = 0, independent: bool = False,
                  images: bool = True, progress: bool = True) -> Path:
    """Write the synthetic data set to `root`, a folder that is empty or not there yet.

    patients: they cycle through the five groups, so a multiple of 5 is balanced. Patient k is
        the same however many are asked for.
    independent: draw the factors of each slice independently of each other, of the group and of
        the level, to measure disentanglement; volumes then mean nothing.
    images: also write the MR-like images; the labels do not depend on it.

    Writes training/patientNNN/ as in ACDC; factors.csv, one row a slice: patient, group, phase, z
    (index along the third axis, 0 at the base), has_lv, has_rv, the fields of SliceFactors, and
    the LV's offset inside LV + MYO in mm that follows from them; phantom.json with the parameters.
    Returns `root`. Raises FileExistsError if something is there.
    """
    root = Path(root)
    if patients < 1:
        raise ValueError(f"expected at least 1 patient, found {patients}; the default is 60")
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise FileExistsError(f"{root}: expected no folder or an empty one, found other files. "
                              "Choose another folder, or move them away.")
    rows = []
    for number in tqdm(range(1, patients + 1), desc="phantom", disable=not progress):
        rows += _write_patient(root, number, seed, independent, images)
    pd.DataFrame(rows).to_csv(root / "factors.csv", index=False, float_format="%.5g")
    write_json(root / "phantom.json", {"patients": patients, "seed": seed, "images": images,
                                       "independent": independent})
    return root
