"""The classes, and a palette that everybody can read."""

from itertools import combinations

import numpy as np
import pytest

from cvae_utils.labels import (
    COLOURS,
    GROUP_COLOURS,
    GROUPS,
    LONG_NAMES,
    STRUCTURE_NAMES,
    UNKNOWN,
    Label,
    colourise,
    find_label_map,
    groups_of,
    palette_rgb,
)
from cvae_utils.storage import DataError

# Machado et al. 2009, severity 1, on linear RGB; and plain sight.
SIGHT = {
    "typical": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}


def seen(rgb, matrix):
    """Bytes (N, 3) as CIE L*a*b* (N, 3) after a colour-vision matrix."""
    c = np.asarray(rgb) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.asarray(matrix).T, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    t = linear @ np.array(to_xyz).T / [0.9505, 1.0, 1.089]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    x, y, z = f.T
    return np.column_stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_values_and_order_are_those_of_acdc():
    assert [int(label) for label in Label] == [0, 1, 2, 3]
    assert STRUCTURE_NAMES == ("RV", "MYO", "LV")
    assert set(COLOURS) == set(LONG_NAMES) == set(Label)
    assert list(GROUP_COLOURS) == [*GROUPS, UNKNOWN] and len(GROUPS) == 5
    assert len(set(GROUP_COLOURS.values())) == 6  # every group, and none, has a colour of its own
    assert not set(GROUPS) & set(STRUCTURE_NAMES)  # the group RV is called ARV


def test_colourise_looks_up_the_palette():
    assert palette_rgb()[Label.BACKGROUND].tolist() == [255, 255, 255]
    assert palette_rgb()[Label.RV].tolist() == [0x00, 0x44, 0x88]
    picture = colourise(np.array([[[0, 1], [2, 3]]], dtype=np.uint8))
    assert picture.shape == (1, 2, 2, 3) and picture.dtype == np.uint8
    assert picture.reshape(4, 3).tolist() == palette_rgb().tolist()


@pytest.mark.parametrize("sight", SIGHT)
def test_no_two_colours_look_alike(sight):
    """Differences of 20 in L*a*b* are seen at a glance; 2.3 is just noticeable."""
    lab = seen(palette_rgb(), SIGHT[sight])
    nearest = min(np.linalg.norm(a - b) for a, b in combinations(lab, 2))
    assert nearest > 20


def test_groups_that_occur_are_listed_in_the_order_of_every_legend():
    assert groups_of(["ARV", UNKNOWN, "NOR", "ARV", "MINF"]) == ["NOR", "MINF", "ARV", UNKNOWN]
    assert groups_of(np.array(["DCM"])) == ["DCM"] and groups_of([]) == []


# ------------------------------------------------------------------------------------- label maps
ACDC = {0: Label.BACKGROUND, 1: Label.RV, 2: Label.MYO, 3: Label.LV}
MNMS = {0: Label.BACKGROUND, 1: Label.LV, 2: Label.MYO, 3: Label.RV}


@pytest.mark.parametrize(("choice", "expected"), [
    ("ACDC", ACDC), ("acdc", ACDC), ("MNMS", MNMS), ("MnMs", MNMS),
    pytest.param({1: Label.RV, 2: Label.MYO, 3: Label.LV}, ACDC, id="labels"),
    pytest.param({1: "LV", 2: "myo", 3: "Rv"}, MNMS, id="names in any case"),
    pytest.param({1: 1, 2: 2, 3: 3}, ACDC, id="numbers"),
    pytest.param({"0": "BACKGROUND", "1": "RV", "2": "MYO", "3": 3}, ACDC, id="JSON"),
    pytest.param({np.uint8(3): "LV", 2.0: np.int64(2), True: Label.RV}, ACDC, id="NumPy"),
    pytest.param({3: "LV", 2: "MYO", 1: "RV", 0: "BACKGROUND"}, ACDC, id="any order"),
    pytest.param({500: "LV", 205: "MYO"},
                 {0: Label.BACKGROUND, 500: Label.LV, 205: Label.MYO}, id="no RV"),
    pytest.param({1: "LV", 2: "MYO", 3: "MYO", 4: "LV", 5: "BACKGROUND", -1: "BACKGROUND"},
                 {0: Label.BACKGROUND, 1: Label.LV, 2: Label.MYO, 3: Label.MYO, 4: Label.LV,
                  5: Label.BACKGROUND, -1: Label.BACKGROUND}, id="several values to one class"),
])
def test_label_map_is_a_name_or_says_what_each_value_means(choice, expected):
    found = find_label_map(choice)
    assert found == expected
    assert {type(value) for value in found} == {int}
    assert {type(label) for label in found.values()} == {Label}


def test_label_map_of_a_name_is_a_copy():
    find_label_map("ACDC").clear()
    assert find_label_map("ACDC") == ACDC


@pytest.mark.parametrize("choice", [
    "", "ACDC2", " MNMS", '{"1": "LV"}',
    pytest.param({}, id="empty"),
    pytest.param({1: "RV", 3: "LV"}, id="no MYO"),
    pytest.param({1: "RV", 2: "MYO"}, id="no LV"),
    pytest.param({1: "RV", 2: "MYO", 3: "LA"}, id="unknown name"),
    pytest.param({1: "RV", 2: "MYO", 3: "LV "}, id="name with a space"),
    pytest.param({1: 1, 2: 2, 3: 4}, id="unknown number"),
    pytest.param({1: 1, 2: 2, 3: 2.5}, id="half a class"),
    pytest.param({1: "RV", 2: "MYO", 3: None}, id="no class"),
    pytest.param({1: "RV", 2: "MYO", 3: ["LV"]}, id="list of classes"),
    pytest.param({1.5: "RV", 2: "MYO", 3: "LV"}, id="half a value"),
    pytest.param({"1.5": "RV", "2": "MYO", "3": "LV"}, id="half a value as text"),
    pytest.param({"RV": 1, "MYO": 2, "LV": 3}, id="the wrong way round"),
    pytest.param({None: "RV", 2: "MYO", 3: "LV"}, id="no value"),
    pytest.param({float("nan"): "RV", 2: "MYO", 3: "LV"}, id="not a number"),
    pytest.param({float("inf"): "RV", 2: "MYO", 3: "LV"}, id="infinite value"),
    pytest.param({10**400: "RV", 2: "MYO", 3: "LV"}, id="endless value"),
    pytest.param({1: "RV", 2: "MYO", 3: "LV", "1": "LV"}, id="one value twice"),
    pytest.param([0, 1, 2, 3], id="list"),
    pytest.param(None, id="None"),
    pytest.param(3, id="number"),
    pytest.param(b"ACDC", id="bytes"),
])
def test_unusable_label_map_is_refused_with_what_was_expected(choice):
    with pytest.raises(DataError) as error:
        find_label_map(choice)
    assert "ACDC, MNMS, or a mapping from whole numbers" in str(error.value)
    assert "names MYO and LV" in str(error.value) and repr(choice) in str(error.value)
