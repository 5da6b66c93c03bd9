"""A walk through one run's latent space: where it started, where it is, and what is seen there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cvae_utils import shape_metrics
from cvae_utils.analysis import projections
from cvae_utils.analysis.dimensions import LIMIT
from cvae_utils.analysis.latent_priors import Prior
from cvae_utils.data.slices import Slices
from cvae_utils.explorer.atlas import KEYS, Atlas, Coordinates, slice_name
from cvae_utils.labels import STRUCTURE_NAMES, STRUCTURES
from cvae_utils.model import encoding

STRIP_STEPS = 13  # every 0.5 from -3 to 3


@dataclass(frozen=True)
class View:
    """A latent point and all that is shown of it.

    u: (Z,), the point in `coordinates`; label_map, start_map: (S, S), the decoded heart and the one
    that the walk began with; dimension: the selected coordinate; strip: (STRIP_STEPS, S, S), its
    traversal through the point; point (2,) and path (STRIP_STEPS, 2): the point and the strip in
    the UMAP plane; dice_to_mean: Dice of the heart to the mean shape; measures: name and value of
    each live measurement.
    """

    u: np.ndarray
    coordinates: Coordinates
    label_map: np.ndarray
    start_map: np.ndarray
    dimension: int
    strip: np.ndarray
    point: np.ndarray
    path: np.ndarray
    dice_to_mean: float
    measures: Sequence[tuple[str, str]]

    @property
    def value(self) -> float:
        return float(self.u[self.dimension])

    @property
    def label(self) -> str:
        """Of the selected coordinate."""
        return self.coordinates.label(self.dimension)


class SliceSearch:
    """The slice of a set that overlaps best with a label map, by exhaustive search.

    maps: (N, S, S). One bit a pixel and class, so that a thousand slices take well under a
    millisecond.
    """

    def __init__(self, maps: np.ndarray):
        self.bits = _bits(maps)                             # (N, 3, words)
        self.sizes = np.bitwise_count(self.bits).sum(-1, dtype=np.int64)  # (N, 3)

    def __call__(self, label_map: np.ndarray) -> tuple[int, float]:
        """Row of the best slice, and its Dice as shape_metrics.dice_per_slice has it; (S, S)."""
        bits = _bits(label_map[None])
        both = np.bitwise_count(self.bits & bits).sum(-1, dtype=np.int64)
        total = self.sizes + np.bitwise_count(bits).sum(-1, dtype=np.int64)
        present = np.maximum((total > 0).sum(axis=1), 1)
        dice = (2 * both / np.maximum(total, 1)).sum(axis=1) / present
        return int(dice.argmax()), float(dice.max())


def _bits(maps: np.ndarray) -> np.ndarray:
    """Label maps (N, S, S) -> one-hot structures, 64 pixels a word, (N, 3, S * S / 64) uint64."""
    one_hot = np.stack([maps == label for label in STRUCTURES], axis=1)
    return np.packbits(one_hot.reshape(*one_hot.shape[:2], -1), axis=-1).view(np.uint64)


class Exploration:
    """The state of an explorer: a run (`atlas`), a point `z` (Z,), the selected `dimension`, and
    the `start` (Z,) whose heart is drawn as an outline, with its name in `start_name`.

    A walk moves along `coordinates`, in which z is `u` (Z,): see `use`. labels: called with a
    picture's side in pixels, gives the aligned slices (data.slices.Slices) that a walk can start
    from; without it there are no patients and no nearest training slice.
    """

    def __init__(self, atlas: Atlas, labels: Callable[[int], Slices] | None = None):
        self._labels = labels
        self.slices: Slices | None = None
        self._training: dict[str, SliceSearch | None] = {}
        self.coordinates: Coordinates | None = None
        self.open(atlas)

    # ------------------------------------------------------------------------- going somewhere
    def open(self, atlas: Atlas) -> None:
        """Another run, at its mean heart. If that raises, everything stays as it was.

        The prior stays too; a run that does not have it opens with N(0, I).
        """
        if self.slices is not None:
            self._read_labels(atlas.run.model.size)
        kind = self.prior.kind if self.coordinates else "standard"
        self.atlas = atlas
        self._training.clear()
        self._strip_key = None
        self.use(kind if kind in atlas.priors else "standard")

    def use(self, prior: str) -> None:
        """Draw from a prior of the run, and begin at its mean heart.

        Moves go along the prior's principal axes, in standard deviations; those of N(0, I) are the
        latent dimensions. Raises ValueError, and changes nothing, if the run has no such prior.
        """
        self.coordinates = self.atlas.coordinates(prior)
        self.dimension = self.order[0]
        self._mean_shape = self._decode(self.prior.mean[None])[0]
        self.to_mean()

    @property
    def prior(self) -> Prior:
        """That of the coordinates."""
        return self.coordinates.prior

    @property
    def latent_dim(self) -> int:
        return self.atlas.run.model.latent_dim

    @property
    def order(self) -> list[int]:
        """The coordinates as a list shows them."""
        return self.coordinates.order

    @property
    def z(self) -> np.ndarray:
        """Where the walk is, (Z,). To be set: what is read is a copy."""
        return self._z.copy()

    @z.setter
    def z(self, z: np.ndarray) -> None:
        self._stand(z, self.prior.to_axes(z))

    @property
    def u(self) -> np.ndarray:
        """z in the coordinates, (Z,). To be set likewise."""
        return self._u.copy()

    @u.setter
    def u(self, u: np.ndarray) -> None:
        self._stand(self.prior.from_axes(u), u)

    def _stand(self, z: np.ndarray, u: np.ndarray) -> None:
        # Both are kept: a move must leave the other coordinates as they are, to the last digit.
        self._z, self._u = (np.array(point, dtype=np.float32) for point in (z, u))

    def begin(self, z: np.ndarray, name: str, crop_mm: float | None = None) -> None:
        """Start again from z (Z,). crop_mm: side of the slice it comes from; generated hearts have
        none, and then nothing is said in millimetres."""
        self.z = np.asarray(z, dtype=np.float32)
        self.start, self.start_name, self.crop_mm = self.z, name, crop_mm
        self._way: tuple[np.ndarray, np.ndarray] | None = None
        self.share = 0.0  # of the way from ED to ES
        self._start_map = self.decode()

    def move(self, dimension: int, value: float) -> None:
        """Select a coordinate and give it a value."""
        u = self.u
        u[dimension] = value
        self.dimension, self.u = dimension, u

    def back(self) -> None:
        """Return to the start."""
        self.z = self.start
        if self._way:
            self.share, self.crop_mm = 0.0, self._way_mm[0]

    def to_mean(self) -> None:
        """Start from the mean of the prior: z = 0 of N(0, I)."""
        self.begin(self.prior.mean, "mean heart")

    def to_group(self, group: str, phase: str) -> None:
        """Start from the mean of mu over training slices of a group and a phase ('' is any)."""
        name = " ".join(filter(None, (group or "all groups", phase)))
        self.begin(self.atlas.group_mean(group, phase), f"mean of {name}")

    def to_random(self, generator: np.random.Generator) -> None:
        """Start from a sample of the prior."""
        if self.prior.kind == "standard":
            self.begin(generator.standard_normal(self.latent_dim), "a sample of N(0, I)")
        else:
            z = self.prior.sample(1, generator.integers(2**63))[0]
            self.begin(z, f"a sample of the {self.prior.title}")

    def load_labels(self) -> Slices:
        """The slices to start from, of this run's size; the first time this may take seconds.

        Raises ValueError if there are none.
        """
        return self._read_labels(self.atlas.run.model.size)

    def _read_labels(self, size: int) -> Slices:
        if self._labels is None:
            raise ValueError("expected label data to start from, but this explorer was made "
                             "without: Explorer(atlases, labels=study.slices_of)")
        if self.slices is None or self.slices.size != size:
            self.slices = self._labels(size)
        return self.slices

    def to_slice(self, ed: int, es: int | None = None) -> None:
        """Start from a slice, encoded: row `ed` of load_labels(). es: the same slice at end
        systole; `along` then walks from one to the other."""
        slices = self.load_labels()
        row = slices.table.iloc[ed]
        rows = [ed] if es is None else [ed, es]
        mu = encoding.encode(self.atlas.run.model, slices.aligned[rows]).mu
        self.begin(mu[0], slice_name(row), row.crop_mm)
        if es is not None:
            self._way = mu[0], mu[1]
            self._way_mm = row.crop_mm, slices.table.iloc[es].crop_mm

    @property
    def has_way(self) -> bool:
        """Whether the walk started from a slice that is known at ED and at ES."""
        return self._way is not None

    def along(self, share: float) -> None:
        """Go to a share of the straight way from ED (0) to ES (1); what was edited stays edited."""
        if self._way is None:
            return
        self.z = self.z + np.float32(share - self.share) * (self._way[1] - self._way[0])
        self.share = share
        self.crop_mm = (1 - share) * self._way_mm[0] + share * self._way_mm[1]

    # ------------------------------------------------------------------------- what is there
    def view(self) -> View:
        """All there is to see of z."""
        label_map = self.decode()
        strip, path = self.strip()
        dice = shape_metrics.dice_per_slice(label_map[None], self._mean_shape[None])[0]
        return View(self.u, self.coordinates, label_map, self._start_map, self.dimension, strip,
                    self.place(), path, float(dice), self.measure(label_map))

    def _decode(self, z: np.ndarray) -> np.ndarray:
        return encoding.decode(self.atlas.run.model, z)

    def decode(self) -> np.ndarray:
        """The heart at z, (S, S)."""
        return self._decode(self.z[None])[0]

    def place(self) -> np.ndarray:
        """z in the UMAP plane, (2,)."""
        return self._place(self.z[None])[0]

    def _place(self, z: np.ndarray) -> np.ndarray:
        return projections.place(z, self.atlas.posterior.mu, self.atlas.plane)

    def strip(self) -> tuple[np.ndarray, np.ndarray]:
        """The traversal of the selected coordinate through z, (STRIP_STEPS, S, S), and its path in
        the UMAP plane. It stays the same while only that coordinate moves."""
        path = self._through(np.linspace(-LIMIT, LIMIT, STRIP_STEPS))
        if path.tobytes() != self._strip_key:
            self._strip = self._decode(path), self._place(path)
            self._strip_key = path.tobytes()
        return self._strip

    def sweep(self, frames: int) -> np.ndarray:
        """Hearts (frames, S, S) of the selected coordinate from -3 to 3 and back, through z."""
        values = LIMIT * -np.cos(np.linspace(0, 2 * np.pi, frames, endpoint=False))
        return self._decode(self._through(values))

    def _through(self, values: np.ndarray) -> np.ndarray:
        """z with the selected coordinate at each of these values (K,), (K, Z)."""
        path = np.repeat(self.u[None], len(values), axis=0)
        path[:, self.dimension] = values
        return self.prior.from_axes(path)

    def measure(self, label_map: np.ndarray) -> list[tuple[str, str]]:
        """Name and value of each live measurement of a heart (S, S)."""
        side, wall = len(label_map), shape_metrics.describe(label_map[None])["wall"][0]
        pixels = dict(zip(STRUCTURE_NAMES, shape_metrics.areas(label_map[None])[0]))
        if self.crop_mm is None:
            area, thickness = "{:.1f} % of picture", f"{100 * wall:.1f} % of its side"
            unit = 100 / side**2
        else:
            area, thickness = "{:.0f} mm\N{SUPERSCRIPT TWO}", f"{wall * self.crop_mm:.1f} mm"
            unit = (self.crop_mm / side) ** 2
        rows = [("start", self.start_name),
                *((f"{name} area", area.format(count * unit)) for name, count in pixels.items()),
                ("wall thickness", thickness if pixels["MYO"] else "none"),
                ("anatomy", "; ".join(shape_metrics.broken_rules(label_map)) or "valid"),
                ("nearest training slice", self.nearest(label_map))]
        if beyond := np.flatnonzero(np.abs(self.u) > LIMIT + 0.05).tolist():
            shown = ", ".join(f"{self.coordinates.label(d)} {self.u[d]:.1f}" for d in beyond[:3])
            rows.append((f"beyond \N{PLUS-MINUS SIGN}{LIMIT:g}",
                         shown + (f" and {len(beyond) - 3} more" if len(beyond) > 3 else "")))
        return rows

    def nearest(self, label_map: np.ndarray) -> str:
        """The training slice that overlaps best with a heart (S, S), or what is lacking for it."""
        if self.slices is None:
            return "needs the labels: load patients" if self._labels else "needs the labels"
        if self.atlas.name not in self._training:
            rows = training_rows(self.atlas, self.slices)
            self._training[self.atlas.name] = (
                None if rows is None else SliceSearch(self.slices.aligned[rows]))
        search = self._training[self.atlas.name]
        if search is None:
            return f"needs the {self.atlas.source} labels"
        row, dice = search(label_map)
        return f"Dice {dice:.2f} ({slice_name(self.atlas.table.iloc[row])})"


def training_rows(atlas: Atlas, slices: Slices) -> np.ndarray | None:
    """Which rows of `slices` the run was trained on, in the atlas's order, (N,); None if they are
    not all there, as with another data set."""
    # An atlas of before there were scans has none, and its phases are enough.
    keys = [key for key in KEYS if key in slices.table and key in atlas.table]
    if slices.source != atlas.source or slices.table.duplicated(keys).any():
        return None
    rows = slices.table[keys].reset_index().merge(atlas.table[keys].reset_index(), on=keys,
                                                  suffixes=("_slice", "_atlas"))
    found = rows.set_index("index_atlas")["index_slice"].reindex(range(len(atlas.table)))
    return None if found.isna().any() else found.to_numpy(dtype=int)
