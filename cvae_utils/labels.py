"""The four classes of an ACDC label map, their names and the one palette of every figure."""

from collections.abc import Mapping
from enum import IntEnum

from cvae_utils.files import DataError


class Label(IntEnum):
    """Values of a label map, as in the ACDC ground truth."""

    BACKGROUND = 0
    RV = 1
    MYO = 2
    LV = 3


#: What the values in the files of a data set mean: {value: Label}.
LABEL_MAPS = {
    "ACDC": {0: Label.BACKGROUND, 1: Label.RV, 2: Label.MYO, 3: Label.LV},
    "MNMS": {0: Label.BACKGROUND, 1: Label.LV, 2: Label.MYO, 3: Label.RV},
}


def find_label_map(choice: str | Mapping) -> dict[int, Label]:
    """The meaning of a data set's values, from a name of LABEL_MAPS or a mapping of one's own.

    A mapping goes from the value in the file to a Label, its name or its number, for instance
    {0: "BACKGROUND", 500: "LV", 205: "MYO", 600: "RV"}; 0 is background if it is not named.
    Several values may mean one class. Raises DataError if it cannot be used.
    """
    expected = (f"expected one of {', '.join(LABEL_MAPS)}, or a mapping from whole numbers to "
                "BACKGROUND, RV, MYO and LV that names MYO and LV")
    if isinstance(choice, str):
        if choice.upper() not in LABEL_MAPS:
            raise DataError(f"labels: {expected}; found {choice!r}.")
        return dict(LABEL_MAPS[choice.upper()])
    try:
        found = {int(value): Label[label.upper()] if isinstance(label, str) else Label(label)
                 for value, label in choice.items()}
        if any(int(value) != float(value) for value in choice) or len(found) < len(choice):
            raise ValueError
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise DataError(f"labels: {expected}; found {choice!r}.") from None
    if not {Label.MYO, Label.LV} <= set(found.values()):
        raise DataError(f"labels: {expected}; found {choice!r}.")
    return {0: Label.BACKGROUND} | found


#: The classes that are scored, in the order of every table and every (..., 3) array.
STRUCTURES = (Label.RV, Label.MYO, Label.LV)
STRUCTURE_NAMES = tuple(label.name for label in STRUCTURES)
CLASS_COUNT = len(Label)

#: ACDC's diagnostic groups. Its group "RV" (abnormal right ventricle) is shown as ARV, because
#: RV is also the name of a class.
GROUPS = ("NOR", "MINF", "DCM", "HCM", "ARV")
#: Group, or phase, of a volume of which nothing but its labels is known.
UNKNOWN = "unknown"
#: What the names of the groups stand for.
GROUP_TITLES = {"NOR": "normal", "MINF": "infarct", "DCM": "dilated cardiomyopathy",
                "HCM": "hypertrophic cardiomyopathy", "ARV": "abnormal right ventricle",
                UNKNOWN: ""}


def groups_of(groups) -> list[str]:
    """The groups that occur in a column of them, in the order of every table and legend."""
    present = set(groups)
    return [group for group in (*GROUPS, UNKNOWN) if group in present]
