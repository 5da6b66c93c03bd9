"""Numbers that decide claims: what is known gives its verdict, what is shuffled another."""

import numpy as np
import pandas as pd
import pytest

from cvae_utils.analysis import claim_numbers, claims
from cvae_utils.analysis.claims import FAILS, HOLDS
from cvae_utils.analysis.dimensions import REPORT_EFFECTS
from cvae_utils.model import encoding
from cvae_utils.shape_metrics import DESCRIPTORS
from tests.hearts import picture

SEEDS = range(5)


def verdict(words, numbers):
    return claims.verdict(next(c for c in claims.CLAIMS if c.claim.startswith(words)), numbers)


def test_groups_that_lie_apart_show_and_shuffled_ones_do_not():
    patients, draw = np.repeat(np.arange(40), 6), np.random.default_rng(0)
    groups = np.array(["NOR", "DCM", "HCM", "ARV"])[patients % 4]

    def found(seed, labels):
        points = 3.0 * (patients % 4)[:, None] + np.random.default_rng(seed).normal(size=(240, 3))
        return {name: value for end in ("low", "high") for name, value in
                claim_numbers.votes(f"tsne_{end}", points, labels, patients).items()}

    assert verdict("t-SNE", [found(seed, groups) for seed in SEEDS]) == FAILS
    shuffled = draw.permutation(40)  # a group is that of a patient, before and after
    by_chance = np.array(["NOR", "DCM", "HCM", "ARV"])[shuffled[patients] % 4]
    assert verdict("t-SNE", [found(seed, by_chance) for seed in SEEDS]) == HOLDS


def test_effects_of_permuted_dimensions_are_no_longer_those_of_the_report():
    columns = [names[0] for names in REPORT_EFFECTS.values()]
    effect = pd.DataFrame(0.1, index=range(32), columns=list(DESCRIPTORS))
    for dimension, column in enumerate(columns):
        effect.loc[dimension, column] = 5.0
    known = [claim_numbers.named(effect, list(range(32)))] * 5
    permuted = [claim_numbers.named(effect, np.random.default_rng(seed).permutation(32).tolist())
                for seed in SEEDS]
    assert verdict("these three are", known) == verdict("further dimensions", known) == HOLDS
    assert verdict("these three are", permuted) == FAILS
    assert known[0] == {"main_effects": 3, "further_effects": 4}


def test_one_dimension_for_two_effects_is_not_three():
    effect = pd.DataFrame(0.0, index=range(4), columns=list(DESCRIPTORS))
    effect.loc[0, ["area_lv_myo", "wall", "offset_x", "offset_y"]] = 5.0
    effect.loc[1, ["area_rv", "extent_x", "extent_y"]] = 5.0
    assert claim_numbers.named(effect, [0, 1, 2, 3]) == {"main_effects": 2, "further_effects": 0}


def test_what_is_lost_by_hand(monkeypatch):
    """Five hearts, rebuilt as the same ones, and as five times the second smallest."""
    walls = 0.3 + 0.02 * np.arange(5)
    maps = np.stack([picture(cavity=0.2, outer=outer, rv=outer) for outer in walls])
    crop_mm = np.full(5, 128.0)  # 2 mm a pixel
    monkeypatch.setattr(encoding, "reconstruct", lambda model, maps: maps)

    class NoRun:
        model = None

    same = claim_numbers.reconstruction(NoRun, maps, crop_mm)
    assert set(same.values()) == {0.0}
    monkeypatch.setattr(encoding, "reconstruct", lambda model, maps: np.stack([maps[1]] * 5))
    found = claim_numbers.reconstruction(NoRun, maps, crop_mm)
    # Of evenly spaced values d apart, squared errors from the second are (1 + 0 + 1 + 4 + 9) / 5
    # d^2 = 3 d^2 in the mean, and the variance is 2 d^2.
    assert found["lost_wall"] == pytest.approx(1.5, abs=0.1)
    assert found["lost_diameter"] == pytest.approx(1.5, abs=0.1)
    assert found["hd95_LV"] == 0 and 2 < found["hd95_MYO"] < 5  # mm
    assert found["scale_95"] == pytest.approx(100 * (1 - 0.32 / 0.376), abs=1.5)
    assert found["position_95"] == pytest.approx(0, abs=0.1)
