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
    Label,
    colourise,
    palette_rgb,
)

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
    assert set(GROUPS) == set(GROUP_COLOURS) and len(GROUPS) == 5
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
