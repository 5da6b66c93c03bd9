"""Generated slices beside real ones: fidelity, variety, copying, and the rules of anatomy.

Label maps are aligned, (N, S, S) uint8 with values of `Label`. Measure drawn maps and held-out real
ones: what real slices reach is the mark, not 0 or 1.
"""

import re

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import cdist
from skimage.measure import perimeter
from sklearn.neighbors import NearestNeighbors

from cvae_utils import shape_metrics
from cvae_utils.labels import STRUCTURES, Label

#: The sixteen criteria of Painchaud et al. 2020, in the order of every table. The first nine are
#: the rules of shape_metrics.is_valid, in its words.
CRITERIA = (
    "RV in parts", "MYO in parts", "LV in parts",
    "hole in LV", "hole in RV", "hole in MYO and LV",
    "LV touches RV", "LV touches background", "RV apart from MYO",
    "gap between LV and MYO", "gap between RV and MYO",
    "LV concave", "RV concave", "MYO concave", "LV not round", "MYO not round",
)
#: A concavity may be this deep (mm); see `criteria` for the pixel that is allowed besides.
CONCAVITY_MM = {"LV": 4.0, "RV": 30.0, "MYO": 0.0}
#: Circularity 4 pi A / P^2, which is 1 for a disc, must reach this.
CIRCULARITY = 0.2
#: Maps that are worked on at a time, and the bytes that their pixels may take.
BLOCK, BLOCK_BYTES = 1024, 2**26


class Reference:
    """The training slices that others are judged by, and the scale of their descriptors.

    maps: (N, S, S). mean, sd: (D,), of shape_metrics.DESCRIPTORS over the slices where each is
    defined; points: (N, D), `of(maps)`. Raises ValueError for fewer than two slices.
    """

    def __init__(self, training: np.ndarray):
        _expect_maps(training, 2)
        table = _describe(training)
        sd = table.std(ddof=0).to_numpy()
        self.maps, self.mean = training, table.mean().to_numpy()
        # What is the same in every training slice, but for rounding, has no scale: its own unit.
        self.sd = np.where(sd > 1e-9, sd, 1.0)
        self.points = self._standardise(table)

    def of(self, maps: np.ndarray) -> np.ndarray:
        """Descriptors of label maps (N, S, S) in standard deviations of the training's, (N, D).

        A slice without RV has an area of RV of 0, as it is. What a missing structure leaves
        undefined (the eccentricity of an absent RV) takes the training mean, which is 0 here, so
        it neither adds nor removes distance.
        """
        _expect_maps(maps, 1, self.maps)
        return self._standardise(_describe(maps))

    def _standardise(self, table: pd.DataFrame) -> np.ndarray:
        return np.nan_to_num((table.to_numpy() - self.mean) / self.sd, nan=0.0)


def beside_training(maps: np.ndarray, reference: Reference,
                    neighbours: int = 5) -> dict[str, float]:
    """The numbers of label maps (N, S, S), drawn or real, beside the training slices.

    They depend on how many slices there are: compare drawn with held-out maps at equal N only. Of
    no more training slices than neighbours, all the others are neighbours. Raises ValueError for
    fewer than two maps, or maps of another size than the training slices. Returns floats:

    no_rv                    share without RV
    frechet                  `frechet_distance` from the training slices' descriptors, in sd^2
    density, coverage        `density_coverage` of the training slices' descriptors
    nearest, specificity     median and mean of `nearest_training`; the mean is the specificity of
                             Davies et al. 2002: how far shapes lie from the nearest training shape
    """
    _expect_maps(maps, 2, reference.maps)
    points = reference.of(maps)
    density, coverage = density_coverage(reference.points, points,
                                         min(neighbours, len(reference.points) - 1))
    nearest = nearest_training(maps, reference.maps)
    return {
        "no_rv": float((shape_metrics.areas(maps)[:, 0] == 0).mean()),
        "frechet": frechet_distance(points, reference.points),
        "density": density, "coverage": coverage,
        "nearest": float(np.median(nearest)), "specificity": float(nearest.mean()),
    }


def valid_shares(maps: np.ndarray, mm_per_pixel) -> dict[str, float]:
    """Anatomy of label maps (N, S, S). mm_per_pixel: (N,) or one number; drawn slices have no
    spacing, give them the training median. Returns floats:

    valid, valid_open_wall   share that passes shape_metrics.is_valid, and without LV-background
    valid_sixteen            share with LV and MYO that breaks none of `criteria`
    """
    heart = (shape_metrics.areas(maps)[:, 1:] > 0).all(axis=1)
    broken = criteria(maps, mm_per_pixel)
    nine = broken[list(CRITERIA[:9])]
    return {name: float((heart & ~rules.any(axis=1)).mean()) for name, rules in (
        ("valid", nine), ("valid_open_wall", nine.drop(columns="LV touches background")),
        ("valid_sixteen", broken))}


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Wasserstein-2 distance between the Gaussians fitted to clouds a (N, D), b (M, D).

    |mean a - mean b|^2 + tr(Ca + Cb - 2 (Ca Cb)^(1/2)) (Dowson and Landau 1982; between pictures,
    Heusel et al. 2017), in the squared unit of the clouds. C may be singular. Raises ValueError
    for fewer than two points or another D.
    """
    _expect_clouds(a, b, least=2)
    shift = a.mean(axis=0) - b.mean(axis=0)
    # C = R' R, and the roots of the eigenvalues of Ca Cb are the singular values of Ra Rb': no root
    # of an eigenvalue that rounding made negative.
    ra, rb = (np.linalg.qr(x - x.mean(axis=0), mode="r") / np.sqrt(len(x) - 1) for x in (a, b))
    both = (ra**2).sum() + (rb**2).sum() - 2 * np.linalg.norm(ra @ rb.T, "nuc")
    return max(0.0, float(shift @ shift + both))


def density_coverage(real: np.ndarray, fake: np.ndarray, neighbours: int = 5):
    """Density and coverage (Naeem et al. 2020) of fake (M, D) beside real (N, D): two floats.

    Round each real point lies a ball that ends at its `neighbours`-th nearest other real point.
    Density: how many balls a fake point lies in, mean, over `neighbours`; about 1 for one and the
    same distribution, more if fakes crowd where reals do. Coverage: share of the balls with a fake
    point inside. Holds (N, M) distances. Raises ValueError for N <= neighbours, M = 0, another D.
    """
    # The authors' package prdc gives the same numbers; these lines are less than a dependency.
    _expect_clouds(real, fake, least=1)
    if not 1 <= neighbours < len(real):
        raise ValueError(f"expected 1 neighbour or more, and more real points than that; found "
                         f"{neighbours} and {len(real)}; give fewer neighbours or more slices")
    radii = NearestNeighbors(n_neighbors=neighbours).fit(real).kneighbors()[0][:, -1]
    within = cdist(real, fake) < radii[:, None]
    return float(within.sum() / (neighbours * len(fake))), float(within.any(axis=1).mean())


def nearest_training(maps: np.ndarray, training: np.ndarray) -> np.ndarray:
    """1 - Dice of each map (N, S, S) and the training slice most like it, (N,), 0 for a copy.

    Dice is shape_metrics.dice_per_slice: the mean over the classes in either map. A map without any
    structure is like nothing: 1. Raises ValueError for no maps or two sizes.
    """
    _expect_maps(training, 1)
    _expect_maps(maps, 1, training)
    best = [np.max([_dice(part, others).max(axis=1) for others in _blocks(training)], axis=0)
            for part in _blocks(maps)]
    return 1 - np.concatenate(best)


def _dice(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """dice_per_slice of every pair of a (N, S, S) and b (M, S, S), (N, M); 0 for NaN."""
    total, present = np.zeros((len(a), len(b))), np.zeros((len(a), len(b)))
    for label in STRUCTURES:
        in_a, in_b = a == label, b == label
        # Pixels that one side never has add nothing. float32 counts exactly up to 2^24.
        used = in_a.any(axis=0) & in_b.any(axis=0)
        overlap = in_a[:, used].astype(np.float32) @ in_b[:, used].astype(np.float32).T
        size = np.add.outer(in_a.sum(axis=(1, 2)), in_b.sum(axis=(1, 2)))
        total += 2 * overlap / np.maximum(size, 1)
        present += size > 0
    return total / np.maximum(present, 1)


def neighbour_distance(points: np.ndarray, described: np.ndarray, neighbours: int = 15) -> float:
    """How unlike the neighbours in a space are: 0 as if copies, 1 as slices at random.

    points: (N, D) in that space; described: (N, K), what likeness is measured by. The mean distance
    in `described` of each slice to its nearest others in `points`, over the mean of all pairs; of
    no more slices than neighbours, all are near, and it is 1. NaN if all slices are alike. Raises
    ValueError for fewer than two slices.
    """
    _expect_clouds(points, points, 2)
    near = min(neighbours, len(points) - 1)
    nearest = NearestNeighbors(n_neighbors=near).fit(points).kneighbors(
        return_distance=False)  # (N, near), without the slice itself
    apart = cdist(described, described)
    if not apart.any():
        return np.nan
    return float(np.take_along_axis(apart, nearest, axis=1).mean()
                 / (apart.sum() / (len(points) * (len(points) - 1))))


def criteria(maps: np.ndarray, mm_per_pixel) -> pd.DataFrame:
    """Which of CRITERIA each label map (N, S, S) breaks: bool (N, 16), True where broken.

    mm_per_pixel: (N,) or one number. After Painchaud et al. 2020; components, holes and contact
    are those of shape_metrics.is_valid, so a gap between LV and MYO is a hole in both together,
    too. What is absent breaks nothing: LV and MYO must be there for a map to be valid, but that is
    not one of the sixteen. Raises ValueError for no maps or no such spacing.

    A gap is background that LV and MYO, or RV and MYO, enclose together and both border on. MYO
    concave and not round: MYO and LV together, filled. A concavity's depth is how far the centre
    of a pixel that is not of the structure lies inside the hull of the centres of those that are;
    it must exceed CONCAVITY_MM and one pixel, which is what resampling may shift an outline by.
    """
    _expect_maps(maps, 1)
    mm = np.asarray(mm_per_pixel, dtype=float)
    if mm.shape not in ((), (len(maps),)) or not (mm > 0).all():
        raise ValueError(f"mm_per_pixel: expected one number above 0, or {len(maps)} of them, one "
                         f"a map; found {mm_per_pixel!r}")
    rows = [[name in broken for name in CRITERIA]
            for broken in map(_broken, maps, np.broadcast_to(mm, len(maps)))]
    return pd.DataFrame(rows, columns=list(CRITERIA), dtype=bool)


def _broken(label_map: np.ndarray, mm: float) -> set[str]:
    """Names of the CRITERIA that one label map breaks, and of the rule that LV and MYO be there."""
    broken = {re.sub(r"in \d+ parts", "in parts", rule)
              for rule in shape_metrics.broken_rules(label_map)}
    masks = {label.name: label_map == label for label in STRUCTURES}
    background = label_map == Label.BACKGROUND
    if ndimage.label(background)[1] > 1:
        broken |= {f"gap between {name} and MYO" for name in ("LV", "RV")
                   if _has_gap(masks[name], masks["MYO"], background)}
    if masks["MYO"].any():
        masks["MYO"] |= masks["LV"]
    for name, mask in masks.items():
        if not mask.any():
            continue
        mask = mask[ndimage.find_objects(mask.astype(np.uint8))[0]]
        if broken & {f"hole in {name}", f"hole in {name} and LV"}:
            mask = ndimage.binary_fill_holes(mask)
        if _depth(mask) * mm > max(CONCAVITY_MM[name], mm):
            broken.add(f"{name} concave")
        # A single pixel has no perimeter, and is round.
        if name != "RV" and 4 * np.pi * mask.sum() < CIRCULARITY * perimeter(mask)**2:
            broken.add(f"{name} not round")
    return broken


def _has_gap(a: np.ndarray, b: np.ndarray, background: np.ndarray) -> bool:
    enclosed = ndimage.label(ndimage.binary_fill_holes(a | b) & background)[0]
    # What borders on one of the two alone is a hole of its own.
    beside_a, beside_b = (enclosed[ndimage.binary_dilation(mask)] for mask in (a, b))
    return bool((set(beside_a) & set(beside_b)) - {0})


def _depth(mask: np.ndarray) -> float:
    """Depth of the deepest concavity of a mask (H, W) without holes, in pixels; 0 in one line.

    0, too, for whatever shape is all the pixels whose centres lie in some convex outline.
    """
    # The first and the last pixel of each row have the hull of them all.
    rows = np.flatnonzero(mask.any(axis=1))
    first, last = mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    try:
        hull = ConvexHull(np.concatenate([np.stack([rows, first], 1), np.stack([rows, last], 1)]))
    except QhullError:
        return 0.0
    # Each equation is the distance from one edge's line, negative inside.
    outside = np.argwhere(~mask) @ hull.equations[:, :2].T + hull.equations[:, 2]
    return -float(outside.max(axis=1).min(initial=0.0))


def _describe(maps: np.ndarray) -> pd.DataFrame:
    return pd.concat([shape_metrics.describe(part) for part in _blocks(maps)])


def _blocks(maps: np.ndarray):
    """Parts of maps (N, S, S) that are no more than BLOCK maps and BLOCK_BYTES as float32."""
    count = max(1, min(BLOCK, BLOCK_BYTES // (4 * maps[0].size)))
    return (maps[start:start + count] for start in range(0, len(maps), count))


def _expect_maps(maps: np.ndarray, least: int, like: np.ndarray | None = None) -> None:
    if maps.ndim != 3 or maps.shape[1] != maps.shape[2] or len(maps) < least:
        raise ValueError(f"expected at least {least} square label maps, (N, S, S); found an array "
                         f"of {maps.shape}; give more slices, or one map as map[None]")
    if like is not None and maps.shape[1:] != like.shape[1:]:
        raise ValueError(f"expected maps of the training slices' size {like.shape[1:]}, found "
                         f"{maps.shape[1:]}; draw or align both at one working size")


def _expect_clouds(a: np.ndarray, b: np.ndarray, least: int) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise ValueError(f"expected two clouds of at least {least} points, (N, D) and (M, D) with "
                         f"one D; found {a.shape} and {b.shape}")
