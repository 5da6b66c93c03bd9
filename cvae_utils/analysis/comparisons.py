"""Tables that set models beside each other, the report and real slices."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cvae_utils.analysis import latent_priors, sample_quality
from cvae_utils.analysis.principal_components import Pca
from cvae_utils.analysis.run_results import judged, key_for, rebuilt_results
from cvae_utils.cache import kept_json, key_of
from cvae_utils.data.slices import Slices
from cvae_utils.labels import STRUCTURE_NAMES
from cvae_utils.model.encoding import Posterior, decode
from cvae_utils.model.runs import Run

#: What the course report of 2022-23 states, at beta = 1000 on all 150 patients.
REPORT = {"slices": 2785, "dice": 0.75, "unrotated_dice": 0.69, "dominant_dimensions": 3}


def beside_report(by_patient: dict, by_slice: dict, slices: int) -> pd.DataFrame:
    """The report's numbers beside those of two runs (run_results.evaluate), one a split, as text.

    Columns: quantity, report, by patient, by slice.
    """
    runs = (by_patient, by_slice)
    rows = [("slices with LV", f"{REPORT['slices']}", *[f"{slices}"] * len(runs))]

    def add(quantity: str, report: str, value) -> None:
        rows.append((quantity, report, *map(value, runs)))

    for title, name, report in (("Dice", "test_dice", REPORT["dice"]),
                                ("Dice, not rotated", "unrotated_dice", REPORT["unrotated_dice"])):
        add(f"{title}, mean over slices", f"{report:.2f}", lambda r, n=name: f"{r[n]:.3f}")
        for c in STRUCTURE_NAMES:
            add(f"{title}, {c}", "not given", lambda r, n=f"{name}_{c}": f"{r[n]:.3f}")
    add("active dimensions", f"{REPORT['dominant_dimensions']} dominate",
        lambda r: f"{r['active_dimensions']} of {len(r['mu_sd'])}")
    add("SD of mu, largest", "not given", lambda r: f"{max(r['mu_sd']):.2f}")
    add("SD of mu, three strongest", "not given",
        lambda r: ", ".join(f"{sd:.2f}" for sd in r["mu_sd"][:3]))
    add("SD of mu, smallest", "not given", lambda r: f"{min(r['mu_sd']):.2f}")
    add("valid samples from N(0, I)", "not given", lambda r: f"{100 * r['valid_prior']:.1f} %")
    add("valid real test slices", "not given", lambda r: f"{100 * r['valid_real']:.1f} %")
    return pd.DataFrame(rows, columns=["quantity", "report", "by patient", "by slice"])


class Judge:
    """Judges slices by the training slices of one split: real ones, drawn ones, and models by what
    they draw.

    samples: slices to draw from a model; at least as many as a part has are drawn. What a model is
    worth is measured once and kept, and again if slices, split, samples or seed are others.
    """

    def __init__(self, slices: Slices, split: dict[str, np.ndarray], samples: int, seed: int):
        self.slices, self.split, self.seed = slices, split, seed
        self.samples = max(samples, *map(len, split.values()))
        self._key = key_for(slices, split, self.samples, seed, code=[Judge])
        self._linear_priors = {}  # of principal components, by their standard deviations

    def part(self, name: str) -> np.ndarray:
        """Aligned label maps of "train", "validation" or "test", (N, S, S)."""
        return self.slices.aligned[self.split[name]]

    @functools.cached_property
    def reference(self) -> sample_quality.Reference:
        """The training slices, by which drawn and held-out ones are judged."""
        return sample_quality.Reference(self.part("train"))

    def real(self, part: str) -> dict[str, float]:
        """The numbers of the real slices of one part: see sample_quality.valid_shares and
        beside_training."""
        mm = self._crop_mm(part).to_numpy() / self.slices.size
        return (sample_quality.valid_shares(self.part(part), mm)
                | sample_quality.beside_training(self.part(part), self.reference))

    def drawn(self, maps: np.ndarray) -> dict[str, float]:
        """The numbers of drawn slices (N, S, S), to stand beside those of real ones.

        Of all of them sample_quality.valid_shares, and of as many as each part has
        beside_training, as "validation_number" and "test_number". Drawn slices have no pixel size
        of their own, so it is the training slices' median. Raises ValueError for fewer than a part
        has.
        """
        counts = {part: len(self.split[part]) for part in ("validation", "test")}
        if len(maps) < max(counts.values()):
            raise ValueError(f"expected at least {max(counts.values())} drawn slices, as many as "
                             f"the larger of {' and '.join(counts)} has, found {len(maps)}; draw "
                             "more")
        mm = self._crop_mm("train").median() / self.slices.size
        return sample_quality.valid_shares(maps, mm) | {
            f"{part}_{name}": value for part, count in counts.items() for name, value in
            sample_quality.beside_training(maps[:count], self.reference).items()}

    def run(self, run: Run, kind: str, temperature: float = 1.0) -> dict[str, float]:
        """`drawn` of the slices that a run draws from one of its priors, at a temperature (see
        latent_priors.Prior.sample); kept with the run.

        Raises ValueError for a run of another seed or other slices: these training slices are not
        its own.
        """
        found, own = (run.config["seed"], run.config["data"]), (self.seed, self.slices.fingerprint)
        if found != own:
            raise ValueError(f"expected a run of seed {own[0]} on the slices {own[1]}, by which is "
                             f"judged here, found one of seed {found[0]} on {found[1]}: make a "
                             "Judge of its slices, split and seed")
        prior = latent_priors.of(run, kind, self.slices, self.split)
        return kept_json(run.folder, f"drawn-{kind}-at-{temperature:g}", self._key,
                         lambda: self.drawn(decode(run.model, prior.sample(
                             self.samples, self.seed, temperature))))

    def rows(self, model: str, run: Run, kinds: Sequence[str] = latent_priors.KINDS,
             temperature: float = 1.0) -> list[dict]:
        """A row for each of these priors of a run: model, beta, seed, prior, temperature, the run's
        results and the numbers of what it draws from that prior."""
        results = run.results
        if not run.config["beta"]:  # the KL of a plain auto-encoder means nothing
            results = results | {name: np.nan for name in results if name.endswith("_kl")}
        return [{"model": model, "beta": run.config["beta"], "seed": self.seed, "prior": kind,
                 "temperature": temperature, **results, **self.run(run, kind, temperature)}
                for kind in kinds]

    def linear_rows(self, model: str, basis: Pca, folder: Path,
                    temperature: float = 1.0) -> list[dict]:
        """`rows` of principal components, with a Gaussian and a mixture of their scores; kept in
        `folder`."""
        # Other seeds and data sets are kept in the same folder, beside these.
        name = f"pca{len(basis.sd)}-clip{basis.clip:g}-{self.slices.fingerprint}-seed{self.seed}"
        rows = kept_json(folder, f"{name}-at-{temperature:g}",
                         key_of(self._key, basis.sd.tolist(), code=[]),
                         lambda: self._linear_rows(basis, temperature))
        return [{"model": model, "beta": np.nan, "seed": self.seed, **row} for row in rows]

    def _linear_rows(self, basis: Pca, temperature: float) -> list[dict]:
        dice = {}
        for name, maps in (("validation", self.part("validation")), ("test", self.part("test")),
                           ("unrotated", self.slices.unrotated[self.split["test"]])):
            dice |= rebuilt_results(name, judged(basis.decode(basis.encode(maps)), maps))
        priors = self._linear_priors.get(basis.sd.tobytes())
        if priors is None:  # once for all temperatures
            scores = [basis.encode(self.part(part)) for part in ("train", "validation")]
            bare = [Posterior(z, np.full_like(z, -np.inf)) for z in scores]  # without noise
            priors = [latent_priors.fit(kind, *bare, self.seed) for kind in latent_priors.FITTED]
            self._linear_priors[basis.sd.tobytes()] = priors
        return [{"prior": prior.kind, "temperature": temperature, **dice, **self.drawn(
            basis.decode(prior.sample(self.samples, self.seed, temperature)))}
                for prior in priors]

    def _crop_mm(self, part: str) -> pd.Series:
        return self.slices.table["crop_mm"].iloc[self.split[part]]


def mean_sd(rows: pd.DataFrame, by: str | list[str], columns: dict[str, str],
            form: str = "{:.3f}") -> pd.DataFrame:
    """Mean and standard deviation over seeds as text, "0.931 +- 0.004".

    rows: one a seed and whatever `by` names; columns: {column: its title}. A single row has no
    standard deviation, and what is nowhere known is left empty.
    """
    groups = rows.groupby(by, sort=False)[list(columns)]
    mean, sd = groups.mean(), groups.std(ddof=1)
    text = mean.map(form.format).where(sd.isna(), mean.map(form.format) + " +- "
                                       + sd.map(form.format))
    return text.where(mean.notna(), "").rename(columns=columns)


def beside_real(rows: pd.DataFrame, real: pd.DataFrame, part: str) -> pd.DataFrame:
    """Rows of drawn slices (Judge.rows) with columns that compare them to real ones of that part.

    real: one row a seed (Judge.real and seed). more_valid, more_coverage: share of valid
    samples, and coverage, above those of the real slices of the same seed; distance: to the nearest
    training slice, over theirs.
    """
    def of(name: str) -> pd.Series:
        return rows["seed"].map(real.set_index("seed")[name])

    return rows.assign(more_valid=rows["valid"] - of("valid"),
                       more_coverage=rows[f"{part}_coverage"] - of("coverage"),
                       distance=rows[f"{part}_nearest"] / of("nearest"))


def passes(found: pd.DataFrame) -> pd.Series:
    """Whether drawn slices pass as real ones: what the text of notebook 06 says, row by row."""
    return ((found["more_valid"] >= 0) & (found["valid_open_wall"] >= 0.99)
            & (found["more_coverage"] >= -0.05) & (found["distance"] >= 0.9))
