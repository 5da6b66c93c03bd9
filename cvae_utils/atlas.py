"""What the explorer shows of one run, beside its weights: measured once and kept with the run.

    data/pretrained/quick-beta1000/     a run folder (see runs.py), weights in float16
        prior-gaussian.safetensors      the priors fitted to it (see prior.py), where there are any
        prior-mixture.safetensors
        atlas/
            posterior.safetensors       mu and logvar of the training slices, (N, Z) float16
            slices.csv                  which slices these are, and where UMAP puts them
            atlas.json                  influence and names of the dimensions and of the principal
                                        axes, UMAP's parameters
"""

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cvae_utils import augment, latents, metrics, prior
from cvae_utils.acdc import PHASES
from cvae_utils.dataset import Slices
from cvae_utils.labels import groups_of
from cvae_utils.runs import RUN_FILES, Run, load_run
from cvae_utils.storage import REPOSITORY, code_stamp, complete_folder, read_json, write_json

#: Runs that come with the repository.
PRETRAINED = REPOSITORY / "data" / "pretrained"
#: Which slice a row is, where there are such columns: see `slice_keys`.
KEYS = ("patient", "phase", "scan", "slice_index")
TABLE_COLUMNS = ("patient", "group", "phase", "scan", "slice_index", "level", "crop_mm")
TEXTS = dict.fromkeys(("patient", "group", "phase", "scan"), str)
FOLDER, FILES = "atlas", ("posterior.safetensors", "slices.csv", "atlas.json")


class Effects(NamedTuple):
    """What Z coordinates do, each alone from -3 to 3: latents.influence, the most influential
    first, and the name of each, (Z,)."""

    ranking: pd.DataFrame
    names: list[str]


@dataclass(frozen=True)
class Coordinates:
    """Z numbers u that stand for a latent point: z itself, or in standard deviations along the
    principal axes of a fitted prior.

    prior: leads from u to z and back, and its mean is u = 0; that of z itself is N(0, I). effects:
    what each coordinate does; active: those that tell slices apart, and order: all of them as a
    list shows them. values: the training slices, (N, Z).
    """

    prior: prior.Prior
    effects: Effects
    active: list[int]
    order: list[int]
    values: np.ndarray

    @property
    def noun(self) -> str:
        return "dimension" if self.prior.kind == "standard" else "axis"

    def label(self, index: int) -> str:
        """z0 is a model's first dimension, axis 1 the first of a prior's axes."""
        return f"z{index}" if self.noun == "dimension" else f"axis {index + 1}"

    def name(self, index: int) -> str:
        """Label and effect of a coordinate."""
        effect = self.effects.names[index] if index in self.active else "inactive"
        return f"{self.label(index)}  {effect}"


@dataclass(frozen=True)
class Atlas:
    """A run, its training slices in the latent space, and what its dimensions do.

    posterior: q(z|x) of the N training slices. table: N rows, TABLE_COLUMNS and umap_1, umap_2.
    ranking: latents.influence, most influential first; names: (Z,), what each dimension does;
    active: dimensions with a KL above metrics.ACTIVE_KL, most informative first. umap: parameters
    of the plane, and the error of latents.place in it. source: name of the data set; stamp: what
    all of this was made from, in a line. priors: by kind, "standard" always among them. axes: what
    the principal axes of the fitted ones do; the kinds share them, because all take them from the
    same moments. None if that was not measured.
    """

    name: str
    run: Run
    posterior: latents.Posterior
    table: pd.DataFrame
    ranking: pd.DataFrame
    names: list[str]
    active: list[int]
    umap: dict
    source: str
    stamp: str
    priors: dict[str, prior.Prior] = field(default_factory=dict)
    axes: Effects | None = None

    def __post_init__(self):
        standard = {"standard": prior.standard(self.run.model.latent_dim)}
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

    @property
    def kinds(self) -> list[str]:
        """The priors whose axes are known: of prior.KINDS, in that order."""
        return [kind for kind in prior.KINDS
                if kind in self.priors and (kind == "standard" or self.axes)]

    def coordinates(self, kind: str) -> Coordinates:
        """The latent dimensions ("standard"), or the principal axes of a fitted prior.

        Dimensions are listed as they influence the heart, the active ones first; axes by their
        signal, and active are those that tell more than metrics.ACTIVE_KL nats of a slice. Their
        values are one draw of q(z|x) a slice, which is what the prior was fitted to. Raises
        ValueError for a kind that is not of `kinds`.
        """
        if kind not in self.kinds:
            raise ValueError(f"{self.name}: expected the axes of a prior of "
                             f"{', '.join(self.kinds)}, found {kind!r}")
        chosen = self.priors[kind]
        if kind == "standard":
            order = sorted(self.ranking["dimension"], key=lambda d: d not in self.active)
            return Coordinates(chosen, Effects(self.ranking, self.names), self.active, order,
                               self.posterior.mu)
        # Along an axis of that signal, a slice and its z share -log(1 - signal) / 2 nats.
        active = np.flatnonzero(chosen.signal > 1 - np.exp(-2 * metrics.ACTIVE_KL)).tolist()
        drawn = self.posterior.sample() if self.beta else self.posterior.mu  # beta 0: no noise
        return Coordinates(chosen, self.axes, active, list(range(chosen.latent_dim)),
                           chosen.to_axes(drawn))

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


def build(run: Run, slices: Slices, split: dict[str, np.ndarray], stamp: str,
          seed: int = 0, priors: dict[str, prior.Prior] | None = None) -> Atlas:
    """Measure what the explorer needs of a run on its training slices; UMAP takes seconds.

    priors: those fitted to the run, by kind.
    """
    training = slices.aligned[split["train"]]
    posterior = latents.encode(run.model, training)
    described = metrics.describe(training)
    dimensions = measure(run, prior.standard(run.model.latent_dim), described)
    fitted = latents.fit_umap(posterior.mu, seed)
    table = slices.table.iloc[split["train"]].reset_index(drop=True)
    table = table[[name for name in TABLE_COLUMNS if name in table]].copy()
    table["umap_1"], table["umap_2"] = fitted.embedding_.T
    return Atlas(
        name=run.folder.name if run.folder else "run", run=run, posterior=posterior, table=table,
        ranking=dimensions.ranking, names=dimensions.names,
        active=run.results["kl_order"][:run.results["active_dimensions"]],
        umap={"n_neighbors": fitted.n_neighbors, "min_dist": fitted.min_dist,
              "random_state": seed} | placement_error(fitted, posterior.mu),
        source=slices.source, stamp=stamp, priors=priors or {},
        axes=measure(run, next(iter(priors.values())), described) if priors else None)


def measure(run: Run, centre: prior.Prior, training: pd.DataFrame) -> Effects:
    """What the axes of a prior do to its mean heart; of N(0, I) these are the latent dimensions.

    training: metrics.describe of the training slices.
    """
    latent_dim = run.model.latent_dim
    traversals = np.stack([
        latents.decode(run.model, centre.from_axes(latents.traverse(axis, latent_dim)))
        for axis in range(latent_dim)])
    mean_shape = latents.decode(run.model, centre.mean[None])[0]
    names = latents.name_dimensions(latents.effects(traversals, training))["name"].tolist()
    return Effects(latents.influence(traversals, mean_shape), names)


def placement_error(fitted, mu: np.ndarray, count: int = 300, seed: int = 1) -> dict:
    """How far latents.place is from `transform` of the fitted UMAP: median and 90th percentile.

    In units of the plane. Tried where a hand on the sliders leads: one dimension anywhere in -3..3
    from the origin, from a training slice and from a sample of the prior, `count` points together.
    """
    generator = np.random.default_rng(seed)
    third, latent_dim = count // 3, mu.shape[1]
    z = np.concatenate([np.zeros((third, latent_dim)), mu[generator.integers(len(mu), size=third)],
                        generator.standard_normal((third, latent_dim))]).astype(np.float32)
    moved = generator.integers(latent_dim, size=len(z))
    z[np.arange(len(z)), moved] = generator.uniform(-latents.LIMIT, latents.LIMIT, len(z))
    error = np.linalg.norm(latents.place(z, mu, fitted.embedding_) - fitted.transform(z), axis=1)
    return {"error_median": float(np.median(error)), "error_p90": float(np.quantile(error, 0.9))}


def load_or_build(run: Run, slices: Slices, split: dict[str, np.ndarray], stamp: str,
                  seed: int = 0) -> Atlas:
    """The atlas that lies in the run's folder, else it is made and kept there; so are the fitted
    priors."""
    priors = {kind: prior.load_or_fit(run, kind, slices, split) for kind in prior.FITTED}
    # That of latents and metrics is in the run's name.
    code = code_stamp(augment, prior, sys.modules[__name__])
    folder = run.folder / FOLDER
    whole = all((folder / name).is_file() for name in FILES)
    if not whole or read_json(folder / "atlas.json").get("code") != code:
        made = build(run, slices, split, stamp, seed, priors)
        with complete_folder(folder) as partial:
            _write(made, partial, code)
    return load(run.folder, run)


def _write(made: Atlas, folder: Path, code: str) -> None:
    # Half precision: a thousandth of a value is far below what a picture or a histogram shows.
    save_file({name: torch.from_numpy(value).half()
               for name, value in made.posterior._asdict().items()},
              folder / "posterior.safetensors")
    made.table.to_csv(folder / "slices.csv", index=False, float_format="%.5g")
    axes = made.axes and {"ranking": made.axes.ranking.to_dict("list"), "names": made.axes.names}
    write_json(folder / "atlas.json", {
        "ranking": made.ranking.to_dict("list"), "names": made.names, "active": made.active,
        "axes": axes, "umap": made.umap, "source": made.source, "stamp": made.stamp, "code": code})


def load(folder: Path, run: Run | None = None) -> Atlas:
    """Read a run folder with an atlas in it; `run` if it has been read already.

    Raises FileNotFoundError or ValueError, with the remedy, if a file is missing, or if the atlas
    or a fitted prior is broken, or not of a run with so many latent dimensions. An atlas without
    priors, or made before there were any, has N(0, I) alone.
    """
    run = run or load_run(folder)
    if lacking := [name for name in FILES if not (folder / FOLDER / name).is_file()]:
        raise FileNotFoundError(f"{folder / FOLDER}: expected {', '.join(lacking)}, but there is "
                                "none. Make it with study.atlas(run), as notebook 04 does.")
    try:
        arrays = load_file(folder / FOLDER / "posterior.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{folder / FOLDER}: posterior.safetensors is broken ({error}). Delete "
                         "this folder and make it again with study.atlas(run), as notebook 04 "
                         "does.") from error
    posterior = latents.Posterior(*(arrays[name].float().numpy()
                                    for name in latents.Posterior._fields))
    known = read_json(folder / FOLDER / "atlas.json")
    # A patient may well be called NA, or 007.
    table = pd.read_csv(folder / FOLDER / "slices.csv", keep_default_na=False, dtype=TEXTS,
                        na_values={"level": [""], "crop_mm": [""]})
    axes = known.get("axes")  # none where nothing was fitted
    sizes = {posterior.mu.shape[1]} | {
        size for effects in (known, axes) if effects
        for size in (len(effects["names"]), len(effects["ranking"]["dimension"]))}
    if sizes != {run.model.latent_dim} or len(table) != len(posterior.mu):
        raise ValueError(f"{folder / FOLDER}: expected an atlas of {run.model.latent_dim} latent "
                         f"dimensions, as the run has, found one of {min(sizes)}, with "
                         f"{len(posterior.mu)} slices in one file and {len(table)} in the other. "
                         "Delete this folder and make it again with study.atlas(run), as notebook "
                         "04 does.")
    return Atlas(folder.name, run, posterior, table, pd.DataFrame(known["ranking"]),
                 known["names"], known["active"], known["umap"], known["source"], known["stamp"],
                 _load_priors(folder, run.model.latent_dim),
                 axes and Effects(pd.DataFrame(axes["ranking"]), axes["names"]))


def _load_priors(folder: Path, latent_dim: int) -> dict[str, prior.Prior]:
    found = {}
    for kind in prior.FITTED:
        path = folder / prior.FILE.format(kind)
        if loaded := prior.load(path):
            if loaded.latent_dim != latent_dim:
                raise ValueError(f"{path}: expected a prior of {latent_dim} latent dimensions, as "
                                 f"the run has, found one of {loaded.latent_dim}. Delete it: it is "
                                 "then fitted again.")
            found[kind] = loaded
    return found


def pretrained(name: str, folder: Path = PRETRAINED) -> Atlas:
    """A run that comes with the repository, by name: no training, no data set, no network.

    Raises FileNotFoundError with the names that there are.
    """
    if name not in (names := [path.name for path in pretrained_folders(folder)]):
        raise FileNotFoundError(f"{folder}: expected one of {', '.join(names) or 'none'}, found "
                                f"{name!r}. Train a run with notebook 02 or 03.")
    return load(folder / name)


def pretrained_folders(folder: Path = PRETRAINED) -> list[Path]:
    """The runs that come with the repository, highest beta first."""
    found = [path.parent for path in folder.glob("*/config.json")]
    return sorted(found, key=lambda path: (-read_json(path / "config.json")["beta"], path.name))


def export(source: Atlas, name: str, folder: Path = PRETRAINED) -> None:
    """Copy a run, its fitted priors and its atlas to the runs that come with the repository,
    weights as float16."""
    with complete_folder(folder / name) as partial:
        priors = [prior.FILE.format(kind) for kind in prior.FITTED if kind in source.priors]
        for file in (*RUN_FILES, *priors):
            shutil.copyfile(source.run.folder / file, partial / file)
        shutil.copytree(source.run.folder / FOLDER, partial / FOLDER)
        weights = load_file(partial / "model.safetensors")
        save_file({key: value.half() for key, value in weights.items()},
                  partial / "model.safetensors")
        for table in ("history.csv", "steps.csv"):  # of these, fewer digits are enough
            pd.read_csv(partial / table).to_csv(partial / table, index=False, float_format="%.4g")
