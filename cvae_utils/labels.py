"""The four classes of an ACDC label map, their names and the one palette of every figure."""

from enum import IntEnum

import numpy as np


class Label(IntEnum):
    """Values of a label map, as in the ACDC ground truth."""

    BACKGROUND = 0
    RV = 1
    MYO = 2
    LV = 3


#: The classes that are scored, in the order of every table and every (..., 3) array.
STRUCTURES = (Label.RV, Label.MYO, Label.LV)
STRUCTURE_NAMES = tuple(label.name for label in STRUCTURES)
CLASS_COUNT = len(Label)

LONG_NAMES = {
    Label.BACKGROUND: "background",
    Label.RV: "right ventricle",
    Label.MYO: "myocardium",
    Label.LV: "left-ventricle cavity",
}

#: Paul Tol's "high contrast" scheme: distinct for every common colour blindness and in grey.
COLOURS = {
    Label.BACKGROUND: "#FFFFFF",
    Label.RV: "#004488",
    Label.MYO: "#DDAA33",
    Label.LV: "#BB5566",
}

#: ACDC's diagnostic groups. Its group "RV" (abnormal right ventricle) is shown as ARV, because
#: RV is also the name of a class.
GROUPS = ("NOR", "MINF", "DCM", "HCM", "ARV")

#: Paul Tol's "bright" scheme, one colour a group.
GROUP_COLOURS = dict(zip(GROUPS, ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#AA3377")))


def palette_rgb() -> np.ndarray:
    """The palette as bytes: (4, 3) uint8, row = label value."""
    return np.array(
        [[int(COLOURS[label][i : i + 2], 16) for i in (1, 3, 5)] for label in Label], dtype=np.uint8
    )


def colourise(label_map: np.ndarray) -> np.ndarray:
    """Label map(s) (..., H, W), values 0-3 -> RGB bytes (..., H, W, 3)."""
    return palette_rgb()[np.asarray(label_map)]
