"""What the report claims, the rule that decides each claim, and the verdict over seeds.

A rule has parts. Each part is a comparison of numbers that one seed (of split and training)
measured, so two people who have the numbers decide alike. The verdict says how the parts came out
over all seeds: see `verdict`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

HOLDS, PARTLY, FAILS = "holds", "partly", "does not hold"
DEPENDS, UNKNOWN = "depends on the seed", "cannot be told"
VERDICTS = (HOLDS, PARTLY, DEPENDS, FAILS, UNKNOWN)
#: The fewest seeds that a verdict may stand on.
FEWEST_SEEDS = 3

Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Claim:
    """A claim of the report.

    rule: what decides it, in words; parts: the same as comparisons, by what each says. A part is
    True, False, or None where the numbers of a seed cannot tell. shown: the numbers that stand
    beside the verdict, and in which words.
    """

    claim: str
    rule: str
    parts: Mapping[str, Callable[[Numbers], bool | None]]
    shown: Mapping[str, str]


def less(small: str, large: str, factor: float = 1.0) -> Callable[[Numbers], bool | None]:
    """Whether one number lies below another one, or below so many times it."""
    return lambda found: _compared(found[small], factor * found[large])


def below(name: str, mark: float) -> Callable[[Numbers], bool | None]:
    return lambda found: _compared(found[name], mark)


def above(name: str, mark: float) -> Callable[[Numbers], bool | None]:
    return lambda found: _compared(mark, found[name])


def _compared(small: float, large: float) -> bool | None:
    """small < large; None if either is not a number."""
    return None if pd.isna(small) or pd.isna(large) else bool(small < large)


LEARNING = (
    Claim("Dice rises in phases: LV, then MYO, then RV",
          "LV reaches half of its final soft Dice at an earlier step than MYO, and MYO than RV",
          {"LV before MYO": less("half_LV", "half_MYO"),
           "MYO before RV": less("half_MYO", "half_RV")},
          {"half_LV": "LV {:.0f}", "half_MYO": "MYO {:.0f}", "half_RV": "RV {:.0f}"}),
    Claim("the other classes dip while one is learnt",
          "their deepest fall in soft Dice meanwhile is deeper than any fall in the second half of "
          "the training",
          {"they dip": less("noise", "dip")}, {"dip": "fall {:.2f}", "noise": "later {:.2f}"}),
    Claim("early stopping keeps the loss from rising",
          "without it, the validation loss ends more than 1 % above its lowest",
          {"at beta 1000": above("rise", 1.0), "at beta 1": above("rise_low", 1.0)},
          {"rise": "beta 1000 {:.2f} %", "rise_low": "beta 1 {:.2f} %"}),
)
REBUILDING = (
    Claim("the RV is reconstructed worst, in mm",
          "HD95 of the RV is larger than that of MYO and of LV",
          {"worse than MYO": less("hd95_MYO", "hd95_RV"),
           "worse than LV": less("hd95_LV", "hd95_RV")},
          {"hd95_RV": "RV {:.1f} mm", "hd95_MYO": "MYO {:.1f}", "hd95_LV": "LV {:.1f}"}),
    Claim("the thickness of MYO is reconstructed worst after the RV",
          "of the variance in mm, a larger share is lost than of the diameter of LV + MYO, and a "
          "smaller one than of the area of the RV",
          {"worse than the diameter": less("lost_diameter", "lost_wall"),
           "better than the RV": less("lost_wall", "lost_rv")},
          {"lost_rv": "RV {:.2f}", "lost_wall": "wall {:.2f}",
           "lost_diameter": "diameter {:.2f}"}),
    Claim("scale and position are always close",
          "in 95 % of the slices the diameter of LV + MYO is within 10 %, and its centre within "
          "3 mm", {"scale": below("scale_95", 10.0), "position": below("position_95", 3.0)},
          {"scale_95": "diameter {:.2f} %", "position_95": "centre {:.2f} mm"}),
    Claim("a missing rotation hurts the RV only",
          "with either split, MYO and LV each lose less than a quarter of the Dice that the RV "
          "loses",
          {"by patient, MYO": less("turned_MYO", "turned_RV", 0.25),
           "by patient, LV": less("turned_LV", "turned_RV", 0.25),
           "by slice, MYO": less("slice_turned_MYO", "slice_turned_RV", 0.25),
           "by slice, LV": less("slice_turned_LV", "slice_turned_RV", 0.25)},
          {"turned_RV": "by patient, RV {:.2f}", "turned_MYO": "MYO {:.2f}",
           "turned_LV": "LV {:.2f}", "slice_turned_RV": "by slice, RV {:.2f}",
           "slice_turned_MYO": "MYO {:.2f}", "slice_turned_LV": "LV {:.2f}"}),
    Claim("a split by slice, as the report's, tests on easier slices",
          "test Dice is higher by more than 0.005 than with a split by patient",
          {"easier": lambda found: _compared(found["dice_patient"] + 0.005, found["dice_slice"])},
          {"dice_slice": "by slice {:.3f}", "dice_patient": "by patient {:.3f}"}),
)
DRAWING = (
    Claim("samples at beta = 1000 are realistic and rather varied",
          "as many are valid as of real slices, within 2 points; they cover at least three "
          "quarters of what as many real slices cover",
          {"realistic": above("more_valid", -2.0), "varied": above("coverage_of_real", 0.75)},
          {"more_valid": "valid {:+.1f} points", "coverage_of_real": "share {:.3f}"}),
)
LATENT_VALUES = (
    Claim("beta = 1 gives latent histograms that are mixtures or wrongly scaled Gaussians",
          "in more than half of the dimensions two modes are apart (Ashman's D above 2, each with "
          "a tenth of the slices), or the standard deviation is beyond 0.8 to 1.2",
          {"they are odd": above("odd_low", 0.5)},
          {"odd_low": "{:.2f} of them", "apart_low": "two modes {:.2f}"}),
    Claim("beta = 1000 gives centred histograms within -3..3",
          "no mean is further than 0.3 from 0, and 99 % of the values are within -3..3",
          {"centred": below("largest_mean", 0.3), "within": above("within", 99.0)},
          {"largest_mean": "mean {:.2f}", "within": "within {:.1f} %"}),
)
PLANES = (
    Claim("the UMAP plane is less clustered at high beta than at low",
          "both: fewer clumps, in the mean over five seeds of UMAP, and a less accurate vote of "
          "neighbours for the group",
          {"fewer clumps": less("clumps_high", "clumps_low"),
           "groups less apart": less("umap_high", "umap_low")},
          {"clumps_high": "clumps {:.1f}", "clumps_low": "at beta 1 {:.1f}",
           "umap_high": "vote {:.3f}", "umap_low": "at beta 1 {:.3f}"}),
    Claim("images from traversing two different dimensions overlap in the UMAP plane",
          "beyond |z| = 0.5, 1 and 1.5 alike, two of the strongest dimensions reach common slices: "
          "more than 5 % of those that the one with fewer reaches, in the mean over pairs",
          {f"beyond {cut:g}": above(f"overlap_{cut:g}", 0.05) for cut in (0.5, 1.0, 1.5)},
          {f"overlap_{cut:g}": f"beyond {cut:g} {{:.3f}}" for cut in (0.5, 1.0, 1.5)}),
    Claim("t-SNE with three components shows no classes either",
          "neighbours in it vote for the group no better than after a shuffle (p above 0.01)",
          {"beta 1": above("tsne_low_p", 0.01), "beta 1000": above("tsne_high_p", 0.01)},
          {"tsne_high_p": "p {:.3f}", "tsne_high": "vote {:.2f}",
           "tsne_high_chance": "shuffled {:.2f}", "tsne_low_p": "at beta 1 p {:.3f}"}),
)
DIMENSIONS = (
    Claim("three dimensions dominate",
          "three or more are active, and the top three cause two thirds of all departure from the "
          "mean shape", {"active": above("active", 2.5), "dominate": above("top_three", 2 / 3)},
          {"active": "active {:.0f}", "top_three": "top three {:.3f}"}),
    Claim("these three are size of LV + MYO, shape of RV, thickness of MYO",
          "each of these effects is strongest in another one of the top three",
          {"they are": above("main_effects", 2.5)}, {"main_effects": "{:.0f} of 3"}),
    Claim("further dimensions shift LV inside MYO and stretch LV + MYO along the axes",
          "each of these four effects is strongest in a dimension beyond the top three",
          {"they do": above("further_effects", 3.5)}, {"further_effects": "{:.0f} of 4"}),
    Claim("the dimension for RV shape does not reach all RV shapes",
          "along it, where hearts are valid, fewer RVs are met (Dice 0.7) than 95 % of those that "
          "all dimensions together rebuild", {"does not reach": less("reach", "reach_all", 0.95)},
          {"reach": "met {:.2f}", "reach_all": "rebuilt {:.2f}"}),
    Claim("the dimension for RV shape is too harsh",
          "from -3 to 3 the RV vanishes on a quarter of the way, or its area jumps by more than "
          "three times the mean step",
          {"harsh": lambda found: None if pd.isna([found["without_rv"], found["jump"]]).any() else
              bool(found["without_rv"] > 0.25 or found["jump"] > 3)},
          {"without_rv": "vanished {:.2f}", "jump": "jump {:.1f}"}),
)
TRAINING = (
    Claim("a linear schedule of beta does not help",
          "the gain, by how much the test loss is lower than without a schedule, is at most 1 %",
          {"does not help": below("gain_linear", 1.0)}, {"gain_linear": "gain {:+.1f} %"}),
    Claim("an exponential schedule after about 20 epochs might help",
          "the same gain is more than 1 %; beta begins to rise after a ninth of the training, as "
          "after 20 of the report's 180 epochs", {"helps": above("gain_late-exponential", 1.0)},
          {"gain_late-exponential": "gain {:+.1f} %"}),
    Claim("L2 of 1e-2 inside Adam, as the report's text has it, collapses the posterior",
          "KL of test slices is below 0.1 nats with it, and above 1 nat with AdamW",
          {"inside": below("kl_inside", 0.1), "not beside": above("kl_beside", 1.0)},
          {"kl_inside": "inside {:.2f} nats", "kl_beside": "AdamW {:.1f}"}),
    Claim("the report's beta = 1000 is that of a KL divided by 256^2",
          "with this divisor three or more dimensions are active, and without one none is",
          {"divided": above("active", 2.5), "not divided": below("active_undivided", 0.5)},
          {"active": "active {:.0f}", "active_undivided": "without divisor {:.0f}"}),
)
#: By what they are about, in the order of the report.
SECTIONS = {
    "learning": LEARNING,
    "rebuilding": REBUILDING,
    "drawing": DRAWING,
    "latent values": LATENT_VALUES,
    "planes": PLANES,
    "dimensions": DIMENSIONS,
    "training": TRAINING,
}
CLAIMS = tuple(claim for section in SECTIONS.values() for claim in section)


def verdict(claim: Claim, seeds: Sequence[Numbers]) -> str:
    """How the parts of a claim came out in these seeds, of which each has its numbers.

    A seed bears the claim out if every part is true in it. holds: all seeds do. depends on the
    seed: some do. partly: none does, but a part is true in all of them. does not hold: none does,
    and no part is true in all of them. cannot be told: a number is missing in a seed, or there are
    fewer than FEWEST_SEEDS.
    """
    answers = [[_asked(part, found) for found in seeds] for part in claim.parts.values()]
    if len(seeds) < FEWEST_SEEDS or any(None in part for part in answers):
        return UNKNOWN
    borne_out = [all(parts) for parts in zip(*answers)]  # seed by seed
    if any(borne_out):
        return HOLDS if all(borne_out) else DEPENDS
    return PARTLY if any(map(all, answers)) else FAILS


def _asked(part: Callable[[Numbers], bool | None], found: Numbers) -> bool | None:
    try:
        return part(found)
    except KeyError:  # this data cannot measure it
        return None


def table(seeds: Sequence[Numbers], claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Claim, rule, the values seed by seed, and verdict, a row for each claim."""
    def values(claim: Claim) -> str:
        return "; ".join(_in_words(name, words, seeds) for name, words in claim.shown.items())

    return pd.DataFrame([{"claim": claim.claim, "rule": claim.rule, "seed by seed": values(claim),
                          "verdict": verdict(claim, seeds)} for claim in claims])


def _in_words(name: str, words: str, seeds: Sequence[Numbers]) -> str:
    """One number of all seeds, as in "RV 12, 14, 13 mm"."""
    before, form, after = re.fullmatch(r"(.*?)(\{.*?\})(.*)", words).groups()
    return before + ", ".join("-" if pd.isna(found.get(name)) else form.format(found[name])
                              for found in seeds) + after
