"""The colours of structures and groups: one palette for every figure and the explorer."""

import io

import numpy as np
from PIL import Image

from cvae_utils.labels import GROUPS, UNKNOWN, Label

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

#: Paul Tol's "bright" scheme, one colour a group.
GROUP_COLOURS = dict(zip((*GROUPS, UNKNOWN), ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#AA3377",
                                              "#777777")))


def palette_rgb() -> np.ndarray:
    """The palette as bytes: (4, 3) uint8, row = label value."""
    return np.array(
        [[int(COLOURS[label][i : i + 2], 16) for i in (1, 3, 5)] for label in Label], dtype=np.uint8
    )


def as_png(label_map: np.ndarray) -> bytes:
    """A label map (S, S) in its colours, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(colourise(label_map)).save(buffer, format="png")
    return buffer.getvalue()


def colourise(label_map: np.ndarray) -> np.ndarray:
    """Label map(s) (..., H, W), values 0-3 -> RGB bytes (..., H, W, 3)."""
    return palette_rgb()[np.asarray(label_map)]
