"""Size, style and data stamp of every figure."""

from pathlib import Path

from matplotlib import rcParams
from matplotlib.figure import Figure

from cvae_utils.files import complete_file

WIDTH = 9.0  # inches
DPI = 130  # about 1170 pixels wide: sharp at the width of a README
GREY = "#666666"
#: Training and validation, or any pair: Okabe and Ito's blue and vermilion.
PAIR = ("#0072B2", "#D55E00")
#: Okabe and Ito, and a brown, in the order in which models appear.
MODEL_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
                 "#8C6D31")
STYLE = {"font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "xtick.labelsize": 8,
         "ytick.labelsize": 8, "legend.fontsize": 8, "figure.titlesize": 10.5}


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """A figure in this style, with room kept between its parts; sizes in inches."""
    rcParams.update(STYLE)
    return Figure(figsize=(width, height), layout="constrained", dpi=100)


def stamp_figure(figure: Figure, stamp: str) -> Figure:
    """Write at the foot of a figure which data it was made from; returns it."""
    figure.supxlabel(stamp, fontsize=6.5, color=GREY, x=0.995, ha="right")
    return figure


def save_figure(figure: Figure, path: Path) -> Figure:
    """Write a figure as PNG; the file appears only when complete. Returns the figure."""
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=DPI, format="png", facecolor="white")
    return figure

