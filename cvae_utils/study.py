"""What the first cell of a notebook makes: the study, with its data, runs and figures."""

import functools
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cvae_utils import profiles, results_file, shape_metrics, sweep
from cvae_utils.analysis import latent_priors
from cvae_utils.data import acdc, download, every_slice, sources, splits
from cvae_utils.data.alignment import crop_image
from cvae_utils.data.slices import Slices, labels_seem_swapped, load_or_align
from cvae_utils.explorer import atlas
from cvae_utils.files import REPOSITORY, output_root
from cvae_utils.labels import LABEL_MAPS
from cvae_utils.model import hardware
from cvae_utils.model.runs import Compute, Run, find_betas, place
from cvae_utils.model.training import RunConfig
from cvae_utils.model.training_time import say_what_the_report_takes

#: How a finding begins: see `finding`.
FINDINGS = {True: "found", False: "not found here", None: "cannot be told here"}


@dataclass
class Study:
    """One notebook's view of the study: its data, runs, figures and numbers.

    Made by `begin`. Everything heavy is loaded when it is first asked for, and once.
    """

    section: str  # the notebook's name, under which its numbers are recorded
    profile: profiles.Profile
    source: sources.Source | sources.Phantom
    device: torch.device
    processes: int  # that train together
    seed: int
    split_by: str
    data_folder: Path
    figure_folder: Path
    numbers: dict = field(default_factory=dict)

    # ------------------------------------------------------------------------------------- data
    @functools.cached_property
    def slices(self) -> Slices:
        return self.slices_of(self.profile.size)

    def slices_of(self, size: int) -> Slices:
        """The aligned slices at so many pixels a side: made the first time, then loaded."""
        return load_or_align(self.source, size, self.data_folder / "processed")

    def image_of(self, row, size: int) -> np.ndarray | None:
        """The MR image behind an aligned slice, a row of the slice table, (size, size) float64;
        None where the data set has no image of it."""
        frame = next((frame for frame in self.source.frames if frame.image_path and (
            frame.patient, frame.phase, frame.scan) == (row.patient, row.phase, row.scan)), None)
        if frame is None:
            return None
        image, labels = acdc.read_image(frame), acdc.read_frame(frame)
        return crop_image(image.data[..., row.slice_index].T, labels.data[..., row.slice_index].T,
                          labels.spacing_mm, row.angle_deg, row.crop_mm, size)

    @functools.cached_property
    def split(self) -> dict[str, np.ndarray]:
        return splits.split(self.slices.table, self.split_by, self.seed)

    def part(self, name: str) -> np.ndarray:
        """Aligned label maps of 'train', 'validation' or 'test', (N, S, S)."""
        return self.slices.aligned[self.split[name]]

    def table_of(self, name: str) -> pd.DataFrame:
        """Rows of the slice table of one part."""
        return self.slices.table.iloc[self.split[name]].reset_index(drop=True)

    @functools.cached_property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures that the slices have, in the order of every table."""
        return shape_metrics.structures_in(self.slices.aligned)

    def at(self, **changes) -> "Study":
        """The same study with another seed, split_by, profile or source, for comparison."""
        other = replace(self, **changes)
        if other.profile.size == self.profile.size and other.source is self.source:
            other.slices = self.slices
        return other

    @property
    def seeds(self) -> "list[Study]":
        """This study and the same with the next seeds, of splits and trainings: for spreads."""
        return [self.at(seed=self.seed + n) for n in range(self.profile.seeds)]

    @functools.cached_property
    def official(self) -> "Study":
        """The same with the test patients of published numbers, where the data has them."""
        there = splits.has_testing_part(self.slices.table)
        return self.at(split_by="official" if there else "patient")

    @functools.cached_property
    def as_published(self) -> "Study":
        """`official` on the slices, too, of published numbers: see data.every_slice."""
        other = self.official.at(profile=self.profile.published)
        other.slices = every_slice.load_or_make(self.source, other.profile.size,
                                                self.data_folder / "processed")
        return other

    # ------------------------------------------------------------------------------------- runs
    def job(self, beta: float, **settings) -> sweep.Job:
        """A run of this study that is to be trained; settings: see training.RunConfig."""
        config = RunConfig(self.profile, beta, seed=self.seed, split_by=self.split_by,
                           data=self.slices.fingerprint, **settings)
        return sweep.Job(config, self.slices, self.split, self.data_folder / "runs")

    def run(self, beta: float, **settings) -> Run:
        """The trained run at this beta: loaded if there is one, else trained and kept.

        Interrupted, it goes on where it was when it is called again.
        """
        return self.complete({beta: self.job(beta, **settings)})[beta]

    def runs(self, betas: Iterable[float]) -> dict[float, Run]:
        """The runs at these betas; those that are not there are trained, several at once."""
        return self.complete({beta: self.job(beta) for beta in betas})

    def results_over_seeds(self, betas: Sequence[float]) -> pd.DataFrame:
        """What the runs of all `seeds` at these betas are worth, those that are there: nothing is
        trained. A row for each, with its beta and seed."""
        jobs = {(beta, s.seed): s.job(beta) for s in self.seeds for beta in betas}
        there = {name: job for name, job in jobs.items()
                 if place(job.config, job.runs).is_dir()}
        return pd.DataFrame([{"beta": beta, "seed": seed, **run.results}
                             for (beta, seed), run in self.complete(there).items()])

    def complete(self, jobs: Mapping[Hashable, sweep.Job]) -> dict[Hashable, Run]:
        """The runs of these jobs, of this study or of others like it, under the same names."""
        return sweep.complete(jobs, Compute(self.device, self.processes))

    def betas(self) -> list[float]:
        """The betas to compare: those of profiles.BETAS, and every other one of which there is a
        complete run like those, for instance trained from a shell; but not 0, which is a plain
        auto-encoder."""
        job = self.job(profiles.BETAS[0])
        found = find_betas(job.config, job.runs)
        return sorted({*profiles.BETAS, *(beta for beta in found if beta > 0)})

    def prior(self, run: Run, kind: str) -> latent_priors.Prior:
        """A latent prior of a run, of latent_priors.KINDS: fitted to its training slices the first
        time, and kept with it. Raises ValueError for a run of another seed or split than the
        study's."""
        found = {name: run.config[name] for name in ("seed", "split_by")}
        expected = {"seed": self.seed, "split_by": self.split_by}
        if found != expected:
            raise ValueError(f"expected a run of this study, {expected}, found one of {found}: its "
                             f"training slices are others. Use study.at(**{found})")
        return latent_priors.of(run, kind, self.slices, self.split)

    def atlas(self, run: Run) -> atlas.Atlas:
        """What the explorer shows of a run of this study: measured once, and kept with the run.

        Raises ValueError for a run of another seed or split than the study's.
        """
        for kind in latent_priors.FITTED:
            self.prior(run, kind)  # refuses such a run: what is fitted stays with it
        return atlas.load_or_build(run, self.slices, self.split, self.stamp, self.seed)

    # ------------------------------------------------------------------- showing and recording
    @property
    def stamp(self) -> str:
        """What every figure and table is made from, in one line."""
        return stamp_of([self])

    def show(self, figure, name: str = "", stamp: str = ""):
        """Put the data stamp on a matplotlib Figure, write it as figures/<name>.png if it has a
        name, and return it for display."""
        from cvae_utils.figures import style  # late: the explorer opens without matplotlib

        style.stamp_figure(figure, stamp or self.stamp)
        return style.save_figure(figure, self.figure_folder / f"{name}.png") if name else figure

    def table(self, table: pd.DataFrame, form: str = "", stamp: str = "") -> pd.DataFrame:
        """Print the data stamp and return the table for display, its numbers in `form`."""
        print(stamp or self.stamp)
        return table.map(form.format) if form else table

    def record(self, **numbers) -> None:
        """Write these numbers, beside those that were recorded before, to figures/results.json."""
        self.numbers |= numbers
        results_file.record(self.figure_folder, self.section, {"data": self.stamp, **self.numbers})


def stamp_of(studies: Sequence[Study]) -> str:
    """What was made from these studies, which are one with several seeds, in one line."""
    source, profile = studies[0].source, studies[0].profile
    kind = "phantom hearts" if source.name == "phantom" else f"{source.name} labels"
    meaning = source.label_map
    if meaning != LABEL_MAPS["ACDC"]:
        kind += f" ({', '.join(f'{value} {meaning[value].name}' for value in meaning if value)})"
    seeds = ", ".join(str(study.seed) for study in studies)
    split = ("official split" if studies[0].split_by == "official" else
             f"split by {studies[0].split_by} 50/20/30 %")
    return (f"Data: {kind}, {source.patients} patients; {split}; "
            f"profile {profile.name} ({profile.size} x {profile.size}); "
            f"seed{'s' if len(studies) > 1 else ''} {seeds}")


def begin(section: str, seed: int = 0, split_by: str = "patient", labels: str | Mapping = "ACDC",
          pattern: str = "", accept_licence: bool = False) -> Study:
    """Set up a notebook: choose profile, data set, device and folders, and say what was chosen.

    labels: what the values of your label maps mean, "ACDC", "MNMS" or {value: name}; pattern: a
    glob, or a regular expression with named groups, if your data set is a plain folder of label
    volumes. See sources.open_source; for all notebooks at once, set CVAE_LABELS (a mapping as JSON)
    and CVAE_PATTERN. accept_licence: fetch ACDC's label volumes into data/raw/acdc, unless another
    data set is chosen or they are there. A data set of your own is aligned here, so that what
    cannot be read shows at once.

    Results of ACDC in the profile `quick` go to figures/. Those in another profile, of a part of
    ACDC, of the phantom or of any other data set go to a folder in there, named by what differs, so
    that trying things out overwrites nothing. CVAE_OUT redirects everything.
    CVAE_PROCESSES trains on so many GPUs at once. Raises DataError or ValueError if a setting or
    the data set cannot be used.
    """
    profiles.whole("seed", seed, least=0)
    profiles.choice("split_by", split_by, splits.WAYS)
    pd.set_option("display.width", 400, "display.max_columns", 40, "display.max_rows", 60)
    profile = profiles.active_profile()
    out = output_root()
    target = out / "data" / "raw" / "acdc"
    if (accept_licence and not {"ACDC_ROOT", "CVAE_DATA"} & set(os.environ)
            and (download.is_unfinished(target) or not target.is_dir())):
        download.download(target, accept_licence=True)
    source = sources.find_source(out / "data", profile, REPOSITORY, seed, labels, pattern)
    study = Study(section, profile, source, hardware.best_device(), _processes(), seed, split_by,
                  out / "data", _figure_folder(out, source, profile))
    print(study.stamp)
    if source.name not in ("ACDC", "phantom") and labels_seem_swapped(study.slices.aligned):
        print("MYO encloses what is read as RV, and not LV: the labels seem to mean something "
              "else. Say what: CVAE_LABELS=MNMS, or begin(..., labels={value: name}).")
    if study.device.type == "cuda" and profile.name == "quick" and study.processes == 1:
        say_what_the_report_takes(profiles.PROFILES["report"], study.device,
                                  len(study.split["train"]), len(study.split["validation"]))
    return study


def _figure_folder(out: Path, source: sources.Source, profile: profiles.Profile) -> Path:
    """Where figures and results go: see begin."""
    folder = out / "figures"
    if out != REPOSITORY:
        return folder
    differs = []
    if source.name != "ACDC":
        differs.append(source.name)
    elif source.patients < len(acdc.OFFICIAL):
        differs.append(f"ACDC-{source.patients}")
    if profile.name != profiles.PUBLISHED:
        differs.append(profile.name)
    return folder / "-".join(differs)


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


def finding(statement: str, holds: bool | None, numbers: str = "") -> None:
    """Say whether something holds on this data that need not hold on any: nothing is asserted.

    holds: None if it cannot be told. numbers: what it was measured by.
    """
    said = FINDINGS[None if holds is None else bool(holds)]
    print(f"{said}: {statement}" + (f" ({numbers})" if numbers else ""))
