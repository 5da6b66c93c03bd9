"""Who is who: patient, phase, scan and slice of a label file, from its name and its folders.

Files of one person must never lie on both sides of a split. So what tells two files of one person
apart (phase, frame, session, repetition, slice) is taken out of the name, and what is left is the
patient. Where a name can be read in two ways, its files go to one patient rather than to two:

    patient001_frame01.nii.gz            patient001, scan frame01
    A0S9V9/A0S9V9_sa_ES_gt.nii.gz        A0S9V9, ES
    P001-1-ED-label.nii.gz               P001, ED, scan 1
    p01_baseline_ED_frame01.nii.gz       p01, ED, scan baseline
    sub-02/ses-1/sub-02_ED_slice03.nii   sub-02, ED, scan ses-1, slice 3

For other names, a regular expression with named groups says it: (?P<patient>...), and if there are
any, (?P<phase>ED|ES), (?P<scan>...) and (?P<slice>...). Other words for the phases are groups of
their own: (?P<ED>dia)|(?P<ES>sys).
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain

from cvae_utils.files import DataError
from cvae_utils.labels import UNKNOWN

PHASES = ("ED", "ES")
GROUPS = ("patient", "phase", "ED", "ES", "scan", "slice")
SEPARATORS = r"[/_.\- ]"
ENDING = re.compile(r"(\.nii|\.mgh|\.mgz)?(\.gz)?$", re.IGNORECASE)


def _part(text: str) -> re.Pattern:
    """A part of a name of its own, between separators."""
    return re.compile(rf"(?<![a-z0-9])(?:{text})(?![a-z0-9])", re.IGNORECASE)


PHASE = _part("ED|ES")
#: When in the heartbeat: only of a name without ED or ES does it tell two volumes apart.
MOMENT = _part(r"(?:frame|time|timepoint|phase)[-_ ]?\d+")
#: Which visit, which repetition; after BIDS's ses-, acq-, run- and rec- stands any word.
SCAN = _part(r"(?:ses|session|visit|run|acq|rep)[-_ ]?\d+|(?:ses|acq|run|rec)-[a-z0-9]+")
SLICE = _part(r"(?:slice|slc)[-_ ]?(\d+)")
#: The same where what is left has a number of its own: t03 may be a patient, p01_t03 is not.
WEAK_MOMENT = _part(r"(?:t|tp)[-_ ]?\d+")
WEAK_SCAN = _part(r"(?:scan|v|fu|observer|reader|rater|annotator)[-_ ]?\d+|\d{8}|\d{4}-\d\d-\d\d|"
                  r"baseline|follow-?up|bl|fu|pre|post|rest|stress")
WEAK_SLICE = _part(r"(?:sl|z|im|img|image)[-_ ]?(\d+)")
#: What files are called, and not who is in them.
WORDS = _part("gt|labels?|seg|segmentation|masks?|groundtruth|manual|sax?")
#: What is no short-axis volume: planes along the heart, and series of volumes.
OTHER_VOLUMES = _part("la|lax|[234]ch|4d")
SUBJECT = _part("sub-[a-z0-9]+")  # of BIDS: that, and nothing else, is the patient


@dataclass(frozen=True)
class Name:
    """What a name says. phase: "ED", "ES" or UNKNOWN; scan: what else tells volumes of one patient
    and phase apart; slice: None for a file that holds a volume."""

    patient: str
    phase: str = UNKNOWN
    scan: str = ""
    slice: int | None = None


def is_regular(pattern: str) -> bool:
    """Whether a pattern is a regular expression with named groups, and not a glob."""
    return "(?P<" in pattern


def by_pattern(pattern: str, names: Iterable[str]) -> dict[str, Name]:
    """What a regular expression says of the names that it matches somewhere, {name: Name}.

    Raises DataError for an expression that is none, that has no group `patient` or another group
    than GROUPS, or whose phase is neither ED nor ES, or whose slice is no number, in any case.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(f"{pattern!r}: expected a regular expression ({error}).") from None
    groups = set(expression.groupindex)
    if "patient" not in groups or groups - set(GROUPS):
        raise DataError(f"{pattern!r}: expected a group (?P<patient>...), and if there are any "
                        f"(?P<phase>...), (?P<scan>...), (?P<slice>...); found {sorted(groups)}.")
    found = {}
    for name in names:
        if match := expression.search(name):
            said = {group: text for group, text in match.groupdict().items() if text}
            named = next((phase for phase in PHASES if phase in said), UNKNOWN)
            phase, number = said.get("phase", named).upper(), said.get("slice")
            if not said.get("patient") or phase not in (*PHASES, UNKNOWN.upper()) or (
                    number is not None and not number.isdecimal()):
                raise DataError(
                    f"{name}: expected a patient, and if they are named a phase ED or ES and a "
                    f"slice that is a number, found {said}. Mend the pattern {pattern!r}: other "
                    "words for the phases are groups (?P<ED>...)|(?P<ES>...); what else tells two "
                    "volumes apart is the group scan.")
            found[name] = Name(said["patient"], phase if phase in PHASES else UNKNOWN,
                               said.get("scan", ""), None if number is None else int(number))
    return found


def understand(names: Iterable[str], is_slice: Callable[[str], bool]) -> dict[str, Name]:
    """What names, paths with / between folders, say by themselves, {name: Name}.

    is_slice: whether the file of that name holds a single slice. Raises DataError for a name of a
    long-axis plane or of a series.
    """
    if planes := [name for name in names if OTHER_VOLUMES.search(ENDING.sub("", name))]:
        raise DataError(f"{planes[0]}: expected short-axis volumes, found a name of another plane "
                        f"or of a series ({len(planes)} such). Narrow the pattern, for instance "
                        "to '**/*_SA_*_gt.nii.gz'.")
    found = _numbered({name: _read(name) for name in names}, is_slice)
    return dict(zip(found, _without_common_folders(list(found.values()))))


def _read(name: str) -> Name:
    """One name by itself."""
    name = unicodedata.normalize("NFC", ENDING.sub("", name))
    phases = {match.upper() for match in PHASE.findall(name)}
    phase = phases.pop() if len(phases) == 1 else UNKNOWN
    rest = _without(name, *(() if phase == UNKNOWN else (PHASE,)))
    kinds = ((MOMENT, WEAK_MOMENT), (SCAN, WEAK_SCAN), (SLICE, WEAK_SLICE))
    if not re.search(r"\d", _without(rest, *chain(*kinds), WORDS)):
        kinds = ((MOMENT,), (SCAN,), (SLICE,))
    moment, scan, one_slice = kinds
    who = _without(rest, *chain(*kinds), WORDS)
    if not who:  # frame12_ED.nii.gz: then that is the patient
        return Name(_without(rest, WORDS) or rest, phase)
    if subject := SUBJECT.search(who):
        who = subject[0]
    apart = [*scan, *(moment if phase == UNKNOWN else ())]
    scans = dict.fromkeys(match.lower() for part in apart for match in part.findall(name))
    slices = [match for part in one_slice for match in part.findall(name)]
    return Name(who, phase, " ".join(scans), int(slices[-1]) if slices else None)


def _without(name: str, *parts: re.Pattern) -> str:
    """A name without these parts; a folder that the next one repeats is named once."""
    for part in parts:
        name = part.sub("", name)
    folders = [re.sub(rf"({SEPARATORS}){SEPARATORS}+", r"\1", folder).strip("/_.- ")
               for folder in name.split("/")]
    folders = [folder for folder in folders if folder]
    return "/".join(folder for folder, after in zip(folders, [*folders[1:], None])
                    if folder != after)


def _without_common_folders(found: list[Name]) -> list[Name]:
    """The same without the folders in which all of them lie."""
    folders = [name.patient.split("/") for name in found]
    while len({tuple(f[:1]) for f in folders}) == 1 and all(len(f) > 1 for f in folders):
        folders = [f[1:] for f in folders]
    return [replace(name, patient="/".join(f)) for name, f in zip(found, folders)]


def _numbered(found: dict[str, Name], is_slice: Callable[[str], bool]) -> dict[str, Name]:
    """The same where numbers at the end of a name tell files of one patient apart.

    They do if what stands before them has a digit, too, and occurs more than once: P001-1, P001-2.
    They are slices if the files hold one slice each, and scans if no number has two digits. Else
    they are numbers of patients, site1_001 to site1_040.
    """
    for count in (1, 2, 3, 1):  # once more, for a name that ends in a number when two are joined
        split = re.compile(rf"((?:.*/)?[^/]*\d[^/]*?)((?:{SEPARATORS}+\d+){{{count}}})")
        parts = {name: match for name, said in found.items()
                 if (match := split.fullmatch(said.patient)) and said.slice is None}
        numbers: dict[str, set[str]] = {}
        for match in parts.values():
            numbers.setdefault(match[1], set()).add(match[2])
        shared = next((name for name, m in parts.items() if len(numbers[m[1]]) > 1), None)
        if shared is None:
            continue
        single = is_slice(shared)
        if not single and any(re.search(r"\d\d", m[2]) for m in parts.values()):
            return found
        for name, match in parts.items():
            said, number = found[name], match[2].strip("/_.- ")
            found[name] = (
                replace(said, patient=match[1], slice=int(re.findall(r"\d+", number)[-1])) if single
                else replace(said, patient=match[1], scan=f"{said.scan} {number}".strip()))
    return found
