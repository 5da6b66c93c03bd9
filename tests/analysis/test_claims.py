"""Verdicts on the report's claims: the same numbers give the same verdict, and shuffled ones
another."""

import numpy as np
import pytest

from cvae_utils.analysis import claims
from cvae_utils.analysis.claims import CLAIMS, DEPENDS, FAILS, HOLDS, PARTLY, UNKNOWN, verdict
from cvae_utils.files import REPOSITORY, read_json

BY_WORDS = {claim.claim: claim for claim in CLAIMS}
PHASES = BY_WORDS["Dice rises in phases: LV, then MYO, then RV"]


def phases(*orders):
    """Numbers of seeds in which the structures are learnt in these orders."""
    return [{f"half_{name}": 10.0 * (1 + order.index(name)) for name in ("LV", "MYO", "RV")}
            for order in orders]


@pytest.mark.parametrize(("orders", "expected"), [
    ([["LV", "MYO", "RV"]] * 5, HOLDS),
    ([["LV", "RV", "MYO"]] * 5, PARTLY),
    ([["RV", "MYO", "LV"]] * 5, FAILS),
    ([["LV", "MYO", "RV"]] * 4 + [["LV", "RV", "MYO"]], DEPENDS),
    ([["LV", "RV", "MYO"]] * 4 + [["RV", "MYO", "LV"]], FAILS),  # a part in four, the whole in none
    ([["LV", "RV", "MYO"]] * 4 + [["MYO", "RV", "LV"]], FAILS),  # each part in some
    ([["LV", "MYO", "RV"]] * 2, UNKNOWN),
])
def test_verdict_over_seeds(orders, expected):
    assert verdict(PHASES, phases(*orders)) == expected


def test_number_that_is_missing_or_none_cannot_tell():
    found = phases(*[["LV", "MYO", "RV"]] * 5)
    assert verdict(PHASES, [*found[:4], {"half_LV": 1.0}]) == UNKNOWN
    assert verdict(PHASES, [*found[:4], found[4] | {"half_RV": np.nan}]) == UNKNOWN


def test_shuffled_structures_do_not_hold():
    """What holds of phases that are there does not once their names are drawn."""
    draw, names = np.random.default_rng(0), ["LV", "MYO", "RV"]
    drawn = {verdict(PHASES, phases(*(list(draw.permutation(names)) for _ in range(5))))
             for _ in range(50)}
    assert {DEPENDS, FAILS} <= drawn <= {DEPENDS, FAILS, PARTLY}


def test_every_rule_reads_numbers_that_it_shows():
    """Each part of each rule can come out both ways by the numbers that stand beside it."""
    for claim in CLAIMS:
        answers = set()
        for draw in range(200):
            names = claim.shown
            found = dict(zip(sorted(names), np.random.default_rng(draw).choice(
                [-100, -1, 0, 0.001, 0.1, 0.5, 1, 5, 1000], len(names))))
            answers |= {(name, part(found)) for name, part in claim.parts.items()}
        assert answers == {(name, so) for name in claim.parts for so in (True, False)}, claim


def test_table_has_a_row_for_each_claim_and_every_value():
    found = claims.table(phases(*[["LV", "MYO", "RV"]] * 3), [PHASES])
    assert found["seed by seed"][0] == "LV 10, 10, 10; MYO 20, 20, 20; RV 30, 30, 30"
    assert found["verdict"].tolist() == [HOLDS] and len(claims.table([{}] * 3)) == len(CLAIMS)
    unknown = [{"half_LV": np.nan}, {"half_LV": None}, {}]
    assert claims.table(unknown, [PHASES])["seed by seed"][0].startswith("LV -, -, -;")


def test_published_verdicts_follow_from_the_numbers_beside_them():
    published = read_json(REPOSITORY / "figures" / "results.json")["07_does_it_hold"]
    assert claims.table(published["numbers"]).to_dict("records") == published["claims"]
