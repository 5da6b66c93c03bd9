"""When each structure is learnt, on steps that are made up."""

import numpy as np
import pandas as pd
import pytest

from cvae_utils.analysis.learning_phases import learning_phases


@pytest.fixture
def steps():
    """Twenty steps: all fall until step 3; LV is learnt at 4, MYO from 6 to 9, RV from 10 on."""
    steps = pd.DataFrame({
        "RV": [0.1, 0.1, *[0.0] * 8, 0.1, 0.2, *[0.4] * 8],
        "MYO": [0.2, 0.1, 0, 0, 0, 0, 0.2, 0.3, 0.4, *[0.6] * 11],
        "LV": [0.5, 0.3, 0.1, 0, 0.4, *[0.8] * 15],
    })
    steps.loc[15, "LV"] = 0.7  # when nothing new is learnt
    return steps


@pytest.mark.parametrize(("falls", "step", "to", "dip"), [
    ("LV", 0, 0.5, 0),  # LV's fall before all are lowest does not count, nor does that of step 15
    ("LV", 5, 0.3, 0),  # nothing else rises yet
    ("LV", 7, 0.3, 0.5),  # MYO rises
    ("MYO", 11, 0.2, 0.4),  # RV rises
    ("LV", 14, 0.3, 0),  # everything has risen
    ("MYO", 8, 0.1, 0),  # the one that rises itself does not count
])
def test_dip_is_a_fall_while_another_structure_rises(steps, falls, step, to, dip):
    steps.loc[step, falls] = to
    assert learning_phases(steps, window=1)["dip"] == pytest.approx(dip)


def test_order_steps_and_noise(steps):
    found = learning_phases(steps, window=1)
    assert found["order"] == ["LV", "MYO", "RV"]
    assert found["half_step"] == {"LV": 4, "MYO": 7, "RV": 11}  # and not 0, before the minimum
    assert found["noise"] == pytest.approx(0.1)
    assert found["final"] == pytest.approx({"RV": 0.4, "MYO": 0.6, "LV": 0.8})
    smooth = learning_phases(steps, window=2)
    assert smooth["half_step"] == {"LV": 5, "MYO": 8, "RV": 12}
    assert smooth["noise"] == pytest.approx(0.05)


def test_structure_that_no_slice_has_is_not_learnt(steps):
    found = learning_phases(steps.assign(RV=1.0), ("MYO", "LV"), window=1)  # rightly absent
    assert found["order"] == ["LV", "MYO"] and found["half_step"] == {"LV": 4, "MYO": 7}
    assert set(found["final"]) == {"MYO", "LV"} and found["noise"] == pytest.approx(0.1)
    alone = learning_phases(steps, ("LV",), window=1)
    assert alone["order"] == ["LV"] and np.isnan(alone["dip"])
