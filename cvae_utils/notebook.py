"""What the first cell of every notebook does: profile, data, seed, device and folders."""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from cvae_utils import (
    acdc,
    atlas,
    augment,
    dataset,
    download,
    hardware,
    judge,
    latents,
    metrics,
    pca,
    phantom,
    profiles,
    protocol,
    results,
    runs,
    train,
)
from cvae_utils import prior as priors
from cvae_utils.figures import save_figure, stamp_figure, use_style
from cvae_utils.labels import LABEL_MAPS
from cvae_utils.storage import REPOSITORY, code_stamp, kept_json, output_root, short_hash

#: How a finding begins: see `finding`.
FINDINGS = {True: "found", False: "not found here", None: "cannot be told here"}


@dataclass
class Study:
    """One notebook's view of the study: its data, runs, figures and findings.

    Made by `begin`. Everything heavy is loaded when it is first asked for, and once.
    """

    section: str  # the notebook's name, under which its numbers are recorded
    profile: profiles.Profile
    source: dataset.Source
    device: torch.device
    processes: int  # that train together
    seed: int
    split_by: str
    data_folder: Path
    figure_folder: Path
    claims: list[dict] = field(default_factory=list)
    numbers: dict = field(default_factory=dict)

    @functools.cached_property
    def slices(self) -> dataset.Slices:
        return self.slices_of(self.profile.size)

    def slices_of(self, size: int) -> dataset.Slices:
        """The aligned slices at so many pixels a side: made the first time, then loaded."""
        return dataset.load_or_align(self.source, size, self.data_folder / "processed")

    @functools.cached_property
    def split(self) -> dict[str, np.ndarray]:
        return dataset.split(self.slices.table, self.split_by, self.seed)

    def part(self, name: str) -> np.ndarray:
        """Aligned label maps of 'train', 'validation' or 'test', (N, S, S)."""
        return self.slices.aligned[self.split[name]]

    def table_of(self, name: str) -> pd.DataFrame:
        """Rows of the slice table of one part."""
        return self.slices.table.iloc[self.split[name]].reset_index(drop=True)

    @functools.cached_property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures that the slices have, in the order of every table."""
        return metrics.structures_in(self.slices.aligned)

    def lacks(self, *structures: str, test_patients: int = 1) -> str:
        """Why this data cannot answer a question about these structures that takes so many test
        patients, two for a standard error: "this data has no RV". Empty if it can."""
        if absent := [name for name in structures if name not in self.structures]:
            return f"this data has no {' and no '.join(absent)}"
        there = self.table_of("test")["patient"].nunique()
        return "" if there >= test_patients else f"this data has {there} test patient"

    @property
    def seeds(self) -> "list[Study]":
        """This study and the same with the next seeds, of splits and trainings: for spreads."""
        return [self.at(seed=self.seed + n) for n in range(self.profile.seeds)]

    def published(self, every: dataset.Slices) -> "Study":
        """The same on the protocol of published numbers; every: protocol.every_slice."""
        split, official = protocol.official_split(every.table, self.seed)
        other = self.at(profile=self.profile.published,
                        split_by="official" if official else "patient")
        other.slices, other.split = every, split
        return other

    def at(self, **changes) -> "Study":
        """The same study with another seed, split_by, profile or source, for comparison."""
        other = replace(self, **changes)
        if other.profile.size == self.profile.size and other.source is self.source:
            other.slices = self.slices
        return other

    def with_known_factors(self) -> "Study":
        """The same on a phantom in which the factors of a slice are drawn independently of each
        other, of the group and of the level: see disentanglement.phantom_factors."""
        patients = self.profile.phantom_patients
        root = phantom.write_phantom(
            self.data_folder / "raw" / f"phantom-{patients}-independent-seed{self.seed}",
            patients=patients, seed=self.seed, independent=True, images=False)
        return self.at(source=dataset.open_source("phantom", root))

    def run(self, beta: float, schedule: str = "constant", split_by: str = "",
            rate: float = 0.0) -> runs.Run:
        """The trained run at this beta: loaded if there is one, else trained and kept.

        split_by: another split than the study's, for comparison; the run's results are then
        those of its own test part. schedule, rate: see train.RunConfig. Interrupted, it goes on
        where it was when it is called again.
        """
        if split_by and split_by != self.split_by:
            return self.at(split_by=split_by).run(beta, schedule, rate=rate)
        return train.load_or_train(replace(self._config(beta), schedule=schedule, rate=rate),
                                   self.slices, self.split, self.data_folder / "runs",
                                   train.Machinery(self.device, self.processes))

    def betas(self) -> list[float]:
        """The betas to compare: those of profiles.BETAS, and every other one of which there is a
        complete run like those, for instance trained from a shell; but not 0, which is a plain
        auto-encoder."""
        found = train.find_betas(self._config(profiles.BETAS[0]), self.data_folder / "runs")
        return sorted({*profiles.BETAS, *(beta for beta in found if beta > 0)})

    def _config(self, beta: float) -> train.RunConfig:
        return train.RunConfig(self.profile, beta, seed=self.seed, split_by=self.split_by,
                               data=self.slices.fingerprint)

    def prior(self, run: runs.Run, kind: str) -> priors.Prior:
        """A latent prior of a run, of prior.KINDS: fitted to its training slices the first time,
        and kept with it. Raises ValueError for a run of another seed or split than the study's."""
        found = {name: run.config[name] for name in ("seed", "split_by")}
        expected = {"seed": self.seed, "split_by": self.split_by}
        if found != expected:
            raise ValueError(f"expected a run of this study, {expected}, found one of {found}: its "
                             f"training slices are others. Use study.at(**{found})")
        return priors.load_or_fit(run, kind, self.slices, self.split)

    @functools.cached_property
    def reference(self) -> judge.Reference:
        """The training slices, by which drawn and held-out ones are judged."""
        return judge.Reference(self.part("train"))

    def judge(self, drawn: np.ndarray) -> dict:
        """The numbers of drawn slices (N, S, S): see judge.judge_drawn. They have no pixel size of
        their own, so it is the training slices' median."""
        counts = {part: len(self.split[part]) for part in ("validation", "test")}
        mm = self.table_of("train")["crop_mm"].median() / self.profile.size
        return judge.judge_drawn(drawn, self.reference, mm, counts)

    def judge_run(self, run: runs.Run, kind: str) -> dict:
        """`judge` of the slices that a run draws from one of its priors: profile.samples, and at
        least as many as a part has. Measured once, and kept with the run."""
        def make() -> dict:
            z = self.prior(run, kind).sample(self._drawn, self.seed)
            return self.judge(latents.decode(run.model, z))

        return kept_json(run.folder / f"judged-{kind}.json", code_stamp(priors, augment, judge),
                         make)

    def training_dice(self, run: runs.Run) -> float:
        """Mean Dice of the training slices of a run; measured once, and kept with it."""
        part = self.part("train")
        return kept_json(run.folder / "training-dice.json", code_stamp(latents, metrics), lambda: (
            float(metrics.dice_per_slice(latents.reconstruct(run.model, part), part).mean())))

    def comparable(self, run: runs.Run, kind: str) -> dict:
        """Dice and share of valid samples as published work counts them, of a run of a `published`
        study and one of its priors: see protocol. Measured once, and kept with the run."""
        def make() -> dict:
            part = self.part("test")
            z = self.prior(run, kind).sample(self.profile.samples, self.seed)
            return {"test_dice": protocol.dice_counting_empty(
                        latents.reconstruct(run.model, part), part),
                    "valid": protocol.valid_with_lv(latents.decode(run.model, z))}

        return kept_json(run.folder / f"comparable-{kind}.json",
                         code_stamp(priors, augment, protocol, metrics), make)

    def rows(self, model: str, run: runs.Run, kinds: Sequence[str] = priors.KINDS) -> list[dict]:
        """A row for each of these priors of a run: model, beta, seed, prior, the run's results and
        what it draws from that prior, `judge_run`."""
        results = run.results
        if not run.config["beta"]:  # the KL of a plain auto-encoder means nothing
            results = results | {name: np.nan for name in results if name.endswith("_kl")}
        return [{"model": model, "beta": run.config["beta"], "seed": self.seed, "prior": kind,
                 **results, **self.judge_run(run, kind)} for kind in kinds]

    def linear_rows(self, model: str, basis: pca.Pca) -> list[dict]:
        """The same of principal components, with a Gaussian and a mixture of their scores; measured
        once, and kept with the slices."""
        key = short_hash([code_stamp(pca, priors, judge, metrics), self.slices.fingerprint,
                          self.split_by, self.seed, self._drawn, basis.sd.tolist()])
        rows = kept_json(self.data_folder / "processed" / f"pca-{key}.json", key,
                         lambda: self._linear_rows(basis))
        return [{"model": model, "beta": np.nan, "seed": self.seed, **row} for row in rows]

    def _linear_rows(self, basis: pca.Pca) -> list[dict]:
        dice = {}
        for name, maps in (("validation", self.part("validation")), ("test", self.part("test")),
                           ("unrotated", self.slices.unrotated[self.split["test"]])):
            by_class = metrics.dice_per_class(basis.decode(basis.encode(maps)), maps)
            dice[f"{name}_dice"] = float(np.nanmean(by_class, axis=1).mean())
            dice |= {f"{name}_dice_{structure}": value for structure, value in
                     metrics.mean_by_class(by_class).items()}
        scores = [basis.encode(self.part(part)) for part in ("train", "validation")]
        bare = [latents.Posterior(z, np.full_like(z, -np.inf)) for z in scores]  # without noise
        found = []
        for kind in priors.FITTED:
            prior = priors.fit(kind, *bare, self.seed)
            drawn = basis.decode(prior.sample(self._drawn, self.seed))
            found.append({"prior": kind, **dice, **self.judge(drawn)})
        return found

    @property
    def _drawn(self) -> int:
        """How many slices are drawn to be judged."""
        return max(self.profile.samples, *map(len, self.split.values()))

    def judge_real(self, part: str) -> dict:
        """The same numbers of the real slices of one part."""
        mm = self.table_of(part)["crop_mm"].to_numpy() / self.profile.size
        return judge.judge(self.part(part), self.reference, mm)

    def atlas(self, run: runs.Run) -> "atlas.Atlas":
        """What the explorer shows of a run of this study: measured once, and kept with the run.

        Raises ValueError for a run of another seed or split than the study's.
        """
        for kind in priors.FITTED:
            self.prior(run, kind)  # refuses such a run: what is fitted stays with it
        return atlas.load_or_build(run, self.slices, self.split, self.stamp, self.seed)

    @property
    def stamp(self) -> str:
        """What every figure and table is made from, in one line."""
        return stamp_of([self])

    def show(self, figure: Figure, name: str = "", stamp: str = "") -> Figure:
        """Put the data stamp on a figure, write it as figures/<name>.png if it has a name, and
        return it for display."""
        stamp_figure(figure, stamp or self.stamp)
        return save_figure(figure, self.figure_folder / f"{name}.png") if name else figure

    def table(self, table: pd.DataFrame, form: str = "", stamp: str = "") -> pd.DataFrame:
        """Print the data stamp and return the table for display, its numbers in `form`."""
        print(stamp or self.stamp)
        return table.map(form.format) if form else table

    def claim(self, claim: str, holds: bool | None, numbers: str, unless: str = "") -> None:
        """Answer a claim of the report, print the answer, and keep it for the results file.

        unless: why this data cannot tell, if it cannot; that is then the answer. The last answer to
        a claim counts.
        """
        holds, numbers = _answer(holds, numbers, unless)
        # A cell that is run again answers again, and does not claim anew.
        place = next((n for n, known in enumerate(self.claims) if known["claim"] == claim),
                     len(self.claims))
        self.claims[place:place + 1] = [{"claim": claim, "holds": holds, "numbers": numbers}]
        print(f"The report: {claim}.\nHere: {results.VERDICTS[holds]}. {numbers}.")

    def record(self, **numbers) -> None:
        """Write these numbers, and the claims answered so far, to figures/results.json."""
        self.numbers |= numbers
        results.record(self.figure_folder, self.section,
                       {"data": self.stamp, **self.numbers, "claims": self.claims})


def stamp_of(studies: Sequence[Study]) -> str:
    """What was made from these studies, which are one with several seeds, in one line."""
    source, profile = studies[0].source, studies[0].profile
    kind = "phantom hearts" if source.name == "phantom" else f"{source.name} labels"
    meaning = source.frames[0].label_map
    if meaning != LABEL_MAPS["ACDC"]:
        kind += f" ({', '.join(f'{value} {meaning[value].name}' for value in meaning if value)})"
    seeds = ", ".join(str(study.seed) for study in studies)
    return (f"Data: {kind}, {source.patients} patients; split by {studies[0].split_by} 50/20/30 %; "
            f"profile {profile.name} ({profile.size} x {profile.size}); "
            f"seed{'s' if len(studies) > 1 else ''} {seeds}")


def begin(section: str, seed: int = 0, split_by: str = "patient", labels: str | Mapping = "ACDC",
          pattern: str = "", accept_licence: bool = False) -> Study:
    """Set up a notebook: choose profile, data set, device and folders, and say what was chosen.

    labels: what the values of your label maps mean, "ACDC", "MNMS" or {value: name}; pattern: a
    glob, or a regular expression with named groups, if your data set is a plain folder of label
    volumes. See dataset.open_source; for all notebooks at once, set CVAE_LABELS (a mapping as JSON)
    and CVAE_PATTERN. accept_licence: fetch ACDC's label volumes into data/raw/acdc, unless another
    data set is chosen or they are there. A data set of your own is aligned here, so that what
    cannot be read shows at once.

    Results of ACDC in the profile `quick` go to figures/. Those in another profile, of a part of
    ACDC, of the phantom or of any other data set go to a folder of its name in there, so that
    trying things out does not overwrite what is published. CVAE_OUT redirects everything.
    CVAE_PROCESSES trains on so many GPUs at once. Raises acdc.DataError or ValueError if a setting
    or the data set cannot be used.
    """
    profiles.whole("seed", seed, least=0)
    profiles.choice("split_by", split_by, dataset.LEAST)
    pd.set_option("display.width", 400, "display.max_columns", 40, "display.max_rows", 60)
    use_style()
    profile = profiles.active_profile()
    out = output_root()
    target = out / "data" / "raw" / "acdc"
    if (accept_licence and not {"ACDC_ROOT", "CVAE_DATA"} & set(os.environ)
            and (download.is_unfinished(target) or not target.is_dir())):
        download.download(target, accept_licence=True)
    source = dataset.find_source(out / "data", profile, REPOSITORY, seed, labels, pattern)
    study = Study(section, profile, source, hardware.best_device(), _processes(), seed, split_by,
                  out / "data", _figure_folder(out, source, profile))
    print(study.stamp)
    if source.name not in ("ACDC", "phantom") and dataset.labels_seem_swapped(study.slices.aligned):
        print("MYO encloses what is read as RV, and not LV: the labels seem to mean something "
              "else. Say what: CVAE_LABELS=MNMS, or begin(..., labels={value: name}).")
    return study


def _figure_folder(out: Path, source: dataset.Source, profile: profiles.Profile) -> Path:
    """Where figures and results go: see begin."""
    folder = out / "figures"
    if out != REPOSITORY:
        return folder
    if source.name != "ACDC":
        return folder / source.name
    if source.patients < len(acdc.OFFICIAL):
        return folder / f"ACDC-{source.patients}"
    return folder if profile.name == profiles.PUBLISHED else folder / profile.name


def _processes() -> int:
    """CVAE_PROCESSES: how many processes train together, one a GPU; 1 if it is not set."""
    value = os.environ.get("CVAE_PROCESSES", "").strip() or "1"
    if not value.isdecimal() or int(value) < 1:
        raise ValueError("CVAE_PROCESSES: expected a whole number of processes, 1 or more, found "
                         f"{value!r}. Set it to one, or leave it unset.")
    return int(value)


def check(statement: str, holds) -> None:
    """Assert a statement that is true in every profile and on every data set, and say so."""
    assert bool(holds), f"expected: {statement}"
    print(f"checked: {statement}")


def finding(statement: str, holds: bool | None, numbers: str = "", unless: str = "") -> None:
    """Say whether something holds on this data that need not hold on any: nothing is asserted.

    holds: None if it cannot be told. numbers: what it was measured by. unless: why this data cannot
    tell, if it cannot; that is then the answer.
    """
    holds, numbers = _answer(holds, numbers, unless)
    print(f"{FINDINGS[holds]}: {statement}" + (f" ({numbers})" if numbers else ""))


def _answer(holds: bool | None, numbers: str, unless: str) -> tuple[bool | None, str]:
    if unless:
        return None, unless[0].upper() + unless[1:]
    return (None if holds is None else bool(holds)), numbers
