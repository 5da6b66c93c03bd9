"""The classes, and a palette that everybody can read."""

from itertools import combinations

import numpy as np
import pytest
from skimage.color import colorconv

from cvae_utils.figures.colours import COLOURS, GROUP_COLOURS, LONG_NAMES, colourise, palette_rgb
from cvae_utils.files import DataError
from cvae_utils.labels import GROUPS, STRUCTURE_NAMES, UNKNOWN, Label, find_label_map, groups_of

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
    xyz_from_rgb = colorconv.xyz_from_rgb
    linear = colorconv.rgb2xyz(np.asarray(rgb) / 255) @ np.linalg.inv(xyz_from_rgb).T
    linear = np.clip(linear @ np.asarray(matrix).T, 0, 1)
    return colorconv.xyz2lab(linear @ xyz_from_rgb.T)


def test_values_and_order_are_those_of_acdc():
    assert [int(label) for label in Label] == [0, 1, 2, 3]
    assert STRUCTURE_NAMES == ("RV", "MYO", "LV")
    assert set(COLOURS) == set(LONG_NAMES) == set(Label)
    assert list(GROUP_COLOURS) == [*GROUPS, UNKNOWN] and len(GROUPS) == 5
    assert len(set(GROUP_COLOURS.values())) == 6  # every group, and none, has a colour of its own
    assert not set(GROUPS) & set(STRUCTURE_NAMES)  # the group RV is called ARV


def test_groups_that_occur_are_listed_in_the_order_of_every_legend():
    assert groups_of(["ARV", UNKNOWN, "NOR", "ARV", "MINF"]) == ["NOR", "MINF", "ARV", UNKNOWN]
    assert groups_of(np.array(["DCM"])) == ["DCM"] and groups_of([]) == []


def test_colourise_looks_up_the_palette():
    assert palette_rgb()[:2].tolist() == [[255, 255, 255], [0x00, 0x44, 0x88]]  # background, RV
    picture = colourise(np.array([[[0, 1], [2, 3]]], dtype=np.uint8))
    assert picture.shape == (1, 2, 2, 3) and picture.dtype == np.uint8
    assert picture.reshape(4, 3).tolist() == palette_rgb().tolist()


@pytest.mark.parametrize("sight", SIGHT)
def test_no_two_colours_look_alike(sight):
    """Differences of 20 in L*a*b* are seen at a glance; 2.3 is just noticeable."""
    lab = seen(palette_rgb(), SIGHT[sight])
    nearest = min(np.linalg.norm(a - b) for a, b in combinations(lab, 2))
    assert nearest > 20


# ------------------------------------------------------------------------------------- label maps
ACDC = {0: Label.BACKGROUND, 1: Label.RV, 2: Label.MYO, 3: Label.LV}
MNMS = {0: Label.BACKGROUND, 1: Label.LV, 2: Label.MYO, 3: Label.RV}


@pytest.mark.parametrize(("choice", "expected"), [
    ("acdc", ACDC), ("MnMs", MNMS),
    ({1: Label.RV, 2: Label.MYO, 3: 3}, ACDC),
    ({1: "LV", 2: "myo", 3: "Rv"}, MNMS),
    ({"0": "BACKGROUND", "1": "RV", "2": "MYO", "3": 3}, ACDC),  # as JSON has it
    ({np.uint8(3): "LV", 2.0: np.int64(2), True: Label.RV}, ACDC),  # as NumPy has it
    ({500: "LV", 205: "MYO"}, {0: Label.BACKGROUND, 500: Label.LV, 205: Label.MYO}),  # no RV
    ({-1: "BACKGROUND", 1: "LV", 2: "MYO", 3: "MYO"},  # several values to one class
     {0: Label.BACKGROUND, -1: Label.BACKGROUND, 1: Label.LV, 2: Label.MYO, 3: Label.MYO}),
])
def test_label_map_is_a_name_or_says_what_each_value_means(choice, expected):
    found = find_label_map(choice)
    assert found == expected
    assert {type(value) for value in found} == {int}
    assert {type(label) for label in found.values()} == {Label}
    found.clear()  # a copy
    assert find_label_map(choice) == expected


WHOLE = {1: "RV", 2: "MYO", 3: "LV"}


@pytest.mark.parametrize("choice", [
    "", "ACDC2", " MNMS", '{"1": "LV"}', b"ACDC", None, 3, [0, 1, 2, 3], {},
    {1: "RV", 3: "LV"}, {1: "RV", 2: "MYO"},  # no MYO, no LV
    *[WHOLE | {3: label} for label in ("LA", "LV ", 4, 2.5, None, ["LV"])],
    *[WHOLE | {value: "LV"} for value in (1.5, "1.5", None, float("nan"), float("inf"), 10**400,
                                          "1")],  # the last means the same as 1
    {"RV": 1, "MYO": 2, "LV": 3},
], ids=lambda choice: f"{choice!r:.40}")
def test_unusable_label_map_is_refused_with_what_was_expected(choice):
    with pytest.raises(DataError) as error:
        find_label_map(choice)
    assert "ACDC, MNMS, or a mapping from whole numbers" in str(error.value)
    assert "names MYO and LV" in str(error.value) and repr(choice) in str(error.value)
