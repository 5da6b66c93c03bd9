"""What the explorer shows of one run, beside its weights: measured once and kept with the run.

    data/runs/quick-beta1000-seed0-<key>/   a run folder: see model.runs
        prior-gaussian-<key>.safetensors    the priors fitted to it: see analysis.latent_priors
        prior-mixture-<key>.safetensors
        atlas-<key>/
            posterior.safetensors           mu and logvar of the training slices, (N, Z) float16
            slices.csv                      which slices these are, and where UMAP puts them
            atlas.json                      influence and names of the dimensions and of the
                                            principal axes, UMAP's parameters

A run that comes with the repository, in data/pretrained, has weights in float16, and no key in the
names of its atlas and its priors.
"""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cvae_utils import shape_metrics
from cvae_utils.analysis import dimensions, latent_priors, projections
from cvae_utils.analysis.run_results import key_for
from cvae_utils.cache import kept
from cvae_utils.data.file_names import PHASES
from cvae_utils.data.slices import Slices
from cvae_utils.files import REPOSITORY, complete_folder, read_json, short_hash, write_json
from cvae_utils.labels import STRUCTURE_NAMES, groups_of
from cvae_utils.model import encoding
from cvae_utils.model.runs import Run, load_run

#: Runs that come with the repository.
PRETRAINED = REPOSITORY / "data" / "pretrained"
#: Which slice a row is, where there are such columns.
KEYS = ("patient", "phase", "scan", "slice_index")
TABLE_COLUMNS = ("patient", "group", "phase", "scan", "slice_index", "level", "crop_mm")
TEXTS = dict.fromkeys(("patient", "group", "phase", "scan"), str)
#: How many hearts along a slider, and how many samples of a prior, are judged.
VALID_STEPS, VALID_SAMPLES = 9, 500
FOLDER, FILES = "atlas", ("posterior.safetensors", "slices.csv", "atlas.json")
AGAIN = "make it again with study.atlas(run), as notebook 04 does."


class Effects(NamedTuple):
    """What Z coordinates do, each alone from -3 to 3: dimensions.influence, the most influential
    first, and dimensions.describe_moves, (Z,)."""

    ranking: pd.DataFrame
    names: list[str]


@dataclass(frozen=True)
class Coordinates:
    """What sliders move: the latent dimensions, or the principal axes of a fitted prior, in its
    standard deviations.

    effects: what each coordinate does; active: those that tell slices apart, and order: all of them
    as a list shows them.
    """

    effects: Effects
    active: list[int]
    order: list[int]


@dataclass(frozen=True)
class Atlas:
    """A run, its training slices in the latent space, and what its dimensions do.

    posterior: q(z|x) of the N training slices. table: N rows, TABLE_COLUMNS and umap_1, umap_2.
    effects: what each latent dimension does. active: dimensions with a KL above encoding.ACTIVE_KL,
    most informative first. umap: parameters of the plane, and the error of projections.place in it.
    source: name of the data set; stamp: what all of this was made from, in a line. priors: by kind,
    "standard" always among them. axes: what the principal axes of the fitted ones do; the kinds
    share them, because all take them from the same moments. validity: see `valid_shares`; sizes:
    see `real_sizes`.
    """

    name: str
    run: Run
    posterior: encoding.Posterior
    table: pd.DataFrame
    effects: Effects
    active: list[int]
    umap: dict
    source: str
    stamp: str
    priors: dict[str, latent_priors.Prior] = field(default_factory=dict)
    axes: Effects | None = None
    validity: dict = field(default_factory=dict)
    sizes: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self):
        standard = {"standard": latent_priors.standard(self.run.model.latent_dim)}
        object.__setattr__(self, "priors", standard | self.priors)

    @property
    def beta(self) -> float:
        return self.run.config["beta"]

    @property
    def plane(self) -> np.ndarray:
        """UMAP of the training slices, (N, 2)."""
        return self.table[["umap_1", "umap_2"]].to_numpy(dtype=np.float32)

    @property
    def groups(self) -> list[str]:
        """The groups of the training slices, in the order of every list."""
        return groups_of(self.table["group"])

    @property
    def phases(self) -> list[str]:
        """The known phases of the training slices, ED first."""
        return [phase for phase in PHASES if (self.table["phase"] == phase).any()]

    def coordinates(self, kind: str) -> Coordinates:
        """The latent dimensions ("standard"), or the principal axes of a fitted prior.

        Dimensions are listed as they influence the heart, the active ones first; axes by their
        signal, and active are those that tell more than encoding.ACTIVE_KL nats of a slice. Raises
        ValueError for a kind that is not of `priors`.
        """
        if kind not in self.priors:
            raise ValueError(f"{self.name}: expected a prior of {', '.join(self.priors)}, found "
                             f"{kind!r}")
        chosen = self.priors[kind]
        if kind == "standard":
            order = sorted(self.effects.ranking["dimension"], key=lambda d: d not in self.active)
            return Coordinates(self.effects, self.active, order)
        # Along an axis of that signal, a slice and its z share -log(1 - signal) / 2 nats.
        active = np.flatnonzero(chosen.signal > 1 - np.exp(-2 * encoding.ACTIVE_KL)).tolist()
        return Coordinates(self.axes, active, list(range(chosen.latent_dim)))

    def group_mean(self, group: str = "", phase: str = "") -> np.ndarray:
        """Mean of mu over the training slices of a group and a phase (either may be ''), (Z,).

        Raises ValueError if there is none.
        """
        chosen = self.table["group"].eq(group) | (not group)
        chosen &= self.table["phase"].eq(phase) | (not phase)
        if not chosen.any():
            raise ValueError(f"expected a group and a phase of the training slices, found {group!r}"
                             f" and {phase!r}")
        return self.posterior.mu[chosen].mean(axis=0)


def slice_name(row) -> str:
    """What a row of a slice table is called: "patient001 ED, slice 4"; without what is not known.

    row: has patient, phase and slice_index, and may have scan.
    """
    scan = getattr(row, "scan", "")
    volume = " ".join(filter(None, (row.patient, scan, row.phase if row.phase in PHASES else "")))
    return f"{volume}, slice {row.slice_index}"


def build(run: Run, slices: Slices, split: dict[str, np.ndarray], stamp: str, seed: int,
          priors: dict[str, latent_priors.Prior]) -> Atlas:
    """Measure what the explorer needs of a run on its training slices; UMAP takes seconds.

    priors: those fitted to the run, by kind.
    """
    training = slices.aligned[split["train"]]
    posterior = encoding.encode(run.model, training)
    described = shape_metrics.describe(training)
    fitted = projections.fit_umap(posterior.mu, seed)
    table = slices.table.iloc[split["train"]].reset_index(drop=True)
    table = table[[name for name in TABLE_COLUMNS if name in table]].copy()
    table["umap_1"], table["umap_2"] = fitted.embedding_.T
    return Atlas(
        name=run.folder.name, run=run, posterior=posterior, table=table,
        effects=measure(run, latent_priors.standard(run.model.latent_dim), described, posterior.mu),
        active=run.results["kl_order"][:run.results["active_dimensions"]],
        umap={"n_neighbors": fitted.n_neighbors, "min_dist": fitted.min_dist,
              "random_state": seed} | placement_error(fitted, posterior.mu),
        source=slices.source, stamp=stamp, priors=priors,
        axes=measure(run, next(iter(priors.values())), described, posterior.mu),
        validity=valid_shares(run, posterior, priors, seed), sizes=real_sizes(described, table))


def measure(run: Run, prior: latent_priors.Prior, training: pd.DataFrame,
            mu: np.ndarray) -> Effects:
    """What the axes of a prior do to its mean heart; of N(0, I) these are the latent dimensions.

    training: shape_metrics.describe of the training slices; mu: (N, Z), where they lie. The words
    are of moves that a reader makes: from the mean of the training slices, to where they end on
    either side. Effects that one line does not describe, because the ends differ the other way, are
    left out.
    """
    traversals = np.stack([encoding.decode(run.model, prior.traverse(axis))
                           for axis in range(prior.latent_dim)])
    mean_shape = encoding.decode(run.model, prior.mean[None])[0]
    moved = np.stack([encoding.decode(run.model, z) for z in real_moves(prior, mu)])
    effect, ends = (dimensions.effects(maps, training) for maps in (moved, moved[:, [0, -1]]))
    words = dimensions.describe_moves(effect.where(np.sign(effect) == np.sign(ends), 0.0))
    return Effects(dimensions.influence(traversals, mean_shape), words)


def real_moves(prior: latent_priors.Prior, mu: np.ndarray) -> np.ndarray:
    """z along each coordinate of a prior, (Z, STEPS, Z): from the 1st to the 99th percentile of mu
    (N, Z), the other coordinates at its mean."""
    u = prior.to_axes(mu)
    moves = np.tile(u.mean(axis=0), (prior.latent_dim, dimensions.STEPS, 1))
    for axis, (low, high) in enumerate(np.percentile(u, [1, 99], axis=0).T):
        moves[axis, :, axis] = np.linspace(low, high, dimensions.STEPS)
    return prior.from_axes(moves.reshape(-1, prior.latent_dim)).reshape(moves.shape)


def real_sizes(described: pd.DataFrame, table: pd.DataFrame) -> dict[str, list[float]]:
    """Smallest and largest area of RV, MYO and LV, in cm2, and thickness of the wall, in mm, of the
    training slices; described: by shape_metrics.describe, table: theirs, with crop_mm."""
    mm = table["crop_mm"].fillna(table["crop_mm"].median()).to_numpy()
    sizes = {name: described[f"area_{name.lower()}"] * (mm / 10)**2 for name in STRUCTURE_NAMES}
    sizes["wall"] = described["wall"] * mm
    return {name: [float(values.min()), float(values.max())] for name, values in sizes.items()}


def valid_shares(run: Run, posterior: encoding.Posterior,
                 priors: dict[str, latent_priors.Prior], seed: int) -> dict:
    """Share of anatomically valid hearts: "along" the sliders, each alone from -3 to 3 through the
    mean of the training slices, for the latent "dimensions" and the "axes" of the fitted priors;
    and of "samples" of each prior by kind, at the "temperature" that the explorer draws with."""
    def valid(z: np.ndarray) -> float:
        return float(shape_metrics.is_valid(encoding.decode(run.model, z)).mean())

    standard = latent_priors.standard(run.model.latent_dim)
    ways = {"dimensions": standard} | ({"axes": list(priors.values())[-1]} if priors else {})
    along = {}
    for name, prior in ways.items():
        middle = prior.to_axes(posterior.mu.mean(axis=0))
        u = np.repeat(middle[None], VALID_STEPS * len(middle), axis=0)
        place = np.arange(len(middle)).repeat(VALID_STEPS)
        u[np.arange(len(u)), place] = np.tile(
            np.linspace(-dimensions.LIMIT, dimensions.LIMIT, VALID_STEPS), len(middle))
        along[name] = valid(prior.from_axes(u))
    kinds = {"standard": standard} | priors
    heat = {kind: latent_priors.TEMPERATURE if kind == "mixture" else 1.0 for kind in kinds}
    return {"along": along, "temperature": heat,
            "samples": {kind: valid(prior.sample(VALID_SAMPLES, seed, heat[kind]))
                        for kind, prior in kinds.items()}}


def placement_error(fitted, mu: np.ndarray, count: int = 300, seed: int = 1) -> dict:
    """How far projections.place is from `transform` of the fitted UMAP: median and 90th percentile.

    In units of the plane. Tried where a hand on the sliders leads: one dimension anywhere in -3..3
    from the origin, from a training slice and from a sample of the prior, `count` points together.
    """
    generator = np.random.default_rng(seed)
    third, latent_dim = count // 3, mu.shape[1]
    z = np.concatenate([np.zeros((third, latent_dim)), mu[generator.integers(len(mu), size=third)],
                        generator.standard_normal((third, latent_dim))]).astype(np.float32)
    moved, limit = generator.integers(latent_dim, size=len(z)), dimensions.LIMIT
    z[np.arange(len(z)), moved] = generator.uniform(-limit, limit, len(z))
    placed = projections.place(z, mu, fitted.embedding_)
    error = np.linalg.norm(placed - fitted.transform(z), axis=1)
    return {"error_median": float(np.median(error)), "error_p90": float(np.quantile(error, 0.9))}


def load_or_build(run: Run, slices: Slices, split: dict[str, np.ndarray], stamp: str,
                  seed: int = 0) -> Atlas:
    """The atlas that lies in the run's folder, else it is made and kept there; so are the fitted
    priors. Other atlases of the run are removed."""
    priors = {kind: latent_priors.load_or_fit(run, kind, slices, split)
              for kind in latent_priors.FITTED}

    def make(partial: Path) -> None:
        _write(build(run, slices, split, stamp, seed, priors), partial)

    # Results and priors go in as they are: neither is part of the run's name.
    marks = {kind: _mark(prior) for kind, prior in priors.items()}
    key = key_for(slices, split, stamp, seed, run.results, marks, code=[build, _write])
    place = kept(run.folder, FOLDER, key, make)
    for other in run.folder.glob(f"{FOLDER}-{'[0-9a-f]' * len(key)}"):
        if other != place:
            shutil.rmtree(other, ignore_errors=True)
    return replace(_read(place, run), priors=priors)


def _mark(prior: latent_priors.Prior) -> str:
    """12 hex digits of a prior's axes, as its file holds them."""
    return short_hash(prior.axes.astype(np.float32).tolist())


def _write(made: Atlas, folder: Path) -> None:
    # Half precision: a thousandth of a value is far below what a picture or a histogram shows.
    save_file({name: torch.from_numpy(value).half()
               for name, value in made.posterior._asdict().items()},
              folder / "posterior.safetensors")
    made.table.to_csv(folder / "slices.csv", index=False, float_format="%.5g")
    effects, axes = ({"ranking": each.ranking.to_dict("list"), "names": each.names}
                     for each in (made.effects, made.axes))
    write_json(folder / "atlas.json", {
        **effects, "active": made.active, "axes": axes,
        "priors": {kind: _mark(prior) for kind, prior in made.priors.items()},
        "validity": made.validity, "sizes": made.sizes,
        "umap": made.umap, "source": made.source, "stamp": made.stamp})


def load(folder: Path) -> Atlas:
    """Read a run folder with an atlas in it.

    Raises FileNotFoundError or ValueError, with the remedy, if a file is missing or broken, or if
    the atlas or a prior is not of this run. A prior that is not there is not offered.
    """
    run, place = load_run(folder), folder / FOLDER
    if not place.is_dir():
        place = max(folder.glob(f"{FOLDER}-*"), key=lambda path: path.stat().st_mtime_ns,
                    default=place)
    if not place.is_dir():
        raise FileNotFoundError(f"{folder}: expected an atlas, but there is none. Make it with "
                                "study.atlas(run), as notebook 04 does.")
    return replace(_read(place, run), priors=_read_priors(place, run.model.latent_dim))


def _read(place: Path, run: Run) -> Atlas:
    """An atlas without its fitted priors."""
    if lacking := [name for name in FILES if not (place / name).is_file()]:
        raise FileNotFoundError(f"{place}: expected {', '.join(lacking)}, but there is none. "
                                f"Delete this folder and {AGAIN}")
    try:
        arrays = load_file(place / "posterior.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{place}: posterior.safetensors is broken ({error}). Delete this folder "
                         f"and {AGAIN}") from error
    posterior = encoding.Posterior(*(arrays[name].float().numpy()
                                     for name in encoding.Posterior._fields))
    known = read_json(place / "atlas.json")
    # A patient may well be called NA, or 007.
    table = pd.read_csv(place / "slices.csv", keep_default_na=False, dtype=TEXTS,
                        na_values={"level": [""], "crop_mm": [""]})
    effects, axes = (Effects(pd.DataFrame(each["ranking"]), each["names"])
                     for each in (known, known["axes"]))
    sizes = {posterior.mu.shape[1], *map(len, (*effects, *axes))}
    if sizes != {run.model.latent_dim} or len(table) != len(posterior.mu):
        raise ValueError(f"{place}: expected an atlas of {run.model.latent_dim} latent "
                         f"dimensions, as the run has, found one of {min(sizes)}, with "
                         f"{len(posterior.mu)} slices in one file and {len(table)} in the other. "
                         f"Delete this folder and {AGAIN}")
    return Atlas(place.parent.name, run, posterior, table, effects, known["active"], known["umap"],
                 known["source"], known["stamp"], axes=axes,
                 validity=known["validity"], sizes=known["sizes"])


def _read_priors(place: Path, latent_dim: int) -> dict[str, latent_priors.Prior]:
    """The fitted priors that lie beside an atlas, by kind."""
    marks, priors = read_json(place / "atlas.json").get("priors", {}), {}
    ending = latent_priors.ENDING if place.name == FOLDER else f"-*{latent_priors.ENDING}"
    for kind in latent_priors.FITTED:
        for path in place.parent.glob(f"prior-{kind}{ending}"):
            prior = priors[kind] = latent_priors.load(path)
            # An atlas without marks, of the repository's runs, came in one piece with its priors.
            if prior.latent_dim != latent_dim or marks.get(kind, _mark(prior)) != _mark(prior):
                raise ValueError(f"{path}: expected the prior of {latent_dim} latent dimensions "
                                 f"whose axes {place.name} describes, found another, of "
                                 f"{prior.latent_dim}. Delete it and {AGAIN}")
    return priors


def pretrained_folders(folder: Path = PRETRAINED) -> list[Path]:
    """The runs that come with the repository: the sharp one first, then from the highest beta."""
    found = {path.parent: read_json(path) for path in folder.glob("*/config.json")}
    return sorted(found, key=lambda path: (
        found[path]["profile"].get("network") != "field", -found[path]["beta"], path.name))


def export(source: Atlas, name: str, folder: Path = PRETRAINED) -> None:
    """Copy a run, its fitted priors and its atlas to the runs that come with the repository,
    weights as float16."""
    run = source.run
    with complete_folder(folder / name) as partial:
        save_file({key: value.half().cpu().contiguous()
                   for key, value in run.model.state_dict().items()}, partial / "model.safetensors")
        for file, value in (("config", run.config), ("environment", run.environment),
                            ("results", run.results)):
            write_json(partial / f"{file}.json", value)
        for file, table in (("history", run.history), ("steps", run.steps)):
            table.to_csv(partial / f"{file}.csv", index=False, float_format="%.4g")
        for kind, prior in source.priors.items():
            if kind in latent_priors.FITTED:
                latent_priors.save(partial / f"prior-{kind}{latent_priors.ENDING}", prior)
        (partial / FOLDER).mkdir()
        _write(source, partial / FOLDER)
