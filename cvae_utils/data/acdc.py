"""Find and read a data set in the official ACDC layout, or a plain folder of label volumes.

    python -m cvae_utils.data.download       download ACDC

    root/training/patient001/Info.cfg                       ED: 1, ES: 12, Group: DCM, ...
                             patient001_frame01_gt.nii.gz   labels at end diastole (ED)
                             patient001_frame12_gt.nii.gz   labels at end systole (ES)
                             patient001_frame01.nii.gz      MR image; not needed by the model
    root/testing/patient101/...

Bernard et al., IEEE TMI 37(11), 2018, doi 10.1109/TMI.2018.2837502.
"""

import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import numpy as np

from cvae_utils.data import file_names
from cvae_utils.data.download import is_unfinished
from cvae_utils.data.file_names import PHASES
from cvae_utils.data.volumes import Volume, read_labels, read_volume
from cvae_utils.files import DataError
from cvae_utils.labels import GROUPS, LABEL_MAPS, UNKNOWN, Label, find_label_map

SUBSETS = ("training", "testing")
#: `_signature` of each patient of the official ACDC.
OFFICIAL = dict(zip((f"patient{number:03d}" for number in range(1, 151)), """
    562e 7099 5824 0cbc d48c b75a 5df1 a760 c3d6 93f3 b1fc b9a6 3288 e81b 693c 1df4 a842 0b46
    ceaf c65c 5a85 e854 2f9a 3f15 7aa8 16bc 63dc 0721 dca7 5c8a 5973 3142 312a d25c ed43 1ac9
    5d01 e34b 51e1 b3ab bd66 655c c423 eb8b 0f40 1cbb ad34 f498 fef0 cf56 5492 4fa2 a865 6761
    093f 558d f47f d1c5 21e0 e1b8 3c9f adc9 7d99 117c 1828 aeaa 6918 0903 9b76 6855 d133 36f5
    6641 f99a b692 dedf 0381 36a5 3781 b862 ef22 16d7 688a b284 9f4c 3ca6 ffa9 6cf4 8839 7dc4
    c92f dcbf 0ae3 ed97 98d8 027b 8a4c 7fbf 2f78 3b51 43df 9b32 6084 be6c 9d0c a3c5 b5f2 e654
    4dc5 7d38 b8c1 5a47 c346 e881 e656 b1a8 64e8 11fc 1de1 6dd3 f5aa e0d8 b00c d315 6632 d3ab
    a103 c7e9 8f46 01d0 69c7 d988 7f02 d523 80b4 c5cf 8bcb 85d5 3a4a 45aa 2257 d304 cd87 f038
    85d2 d5f7 25dc 22e8 12e9 0f37
""".split()))


@dataclass(frozen=True)
class Frame:
    """The labels of one patient at one phase, and where they lie."""

    patient: str  # told apart from every other person of the data set by this alone
    subset: str  # "training", "testing", or "" where the patients lie directly in the root
    group: str  # one of GROUPS, or UNKNOWN
    phase: str  # "ED", "ES" or UNKNOWN
    label_path: Path
    image_path: Path | None  # None in a label-only copy
    #: What the values in the file mean: {value: Label}.
    label_map: Mapping[int, Label] = field(default_factory=LABEL_MAPS["ACDC"].copy, hash=False)
    scan: str = ""  # what else tells volumes of one patient and phase apart, "frame01"
    #: Where each slice is a file of its own: all of them, in order; label_path is the first.
    slice_paths: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files of its labels."""
        return self.slice_paths or (self.label_path,)

    @property
    def name(self) -> str:
        """Patient, phase and scan in words."""
        known = "" if self.phase == UNKNOWN else self.phase
        return " ".join(filter(None, (self.patient, self.scan, known)))


def list_frames(root: Path, labels: str | Mapping = "ACDC") -> list[Frame]:
    """All ED and ES label volumes below `root`, ordered by patient and phase.

    labels: what the values in the files mean, see labels.find_label_map. The same name in training
    and in testing is two patients. Raises DataError if the folder is missing or holds no patients,
    if an Info.cfg is missing or cannot be parsed, or if a label volume that it announces is not
    there.
    """
    root, label_map = _folder(root), find_label_map(labels)
    bases = [root / subset for subset in SUBSETS if (root / subset).is_dir()] or [root]
    others = [path for folder in (root, *sorted(root.iterdir()))
              if bases != [root] and folder not in bases for path in _patients_in(folder)]
    if others:
        raise DataError(f"{others[0]}: expected patients in training/ and testing/ alone, found "
                        f"{len(others)} elsewhere. Move them there, or out of the data set.")
    found = [path for base in bases for path in _patients_in(base)]
    _refuse_lost_links(found, "a patient's folder")
    folders = [path for path in found if path.is_dir()]
    if not folders:
        raise DataError(
            f"{root}: expected training/patient001 ..., found no patient folder. Unzip ACDC here, "
            "point ACDC_ROOT at the folder that holds training/, or unset it to use the phantom. A "
            "folder of other label files needs a pattern: CVAE_PATTERN='**/*_gt.nii.gz', or "
            "begin(..., pattern=...)."
        )
    names = Counter(folder.name for folder in folders)
    return [frame for folder in folders for frame in _patient_frames(
        folder, f"{folder.parent.name}/" * (names[folder.name] > 1) + folder.name, label_map)]


def by_patient(frames: list[Frame]) -> dict[str, list[Frame]]:
    """The frames of each patient, in the order of the data set."""
    patients: dict[str, list[Frame]] = {}
    for frame in frames:
        patients.setdefault(frame.patient, []).append(frame)
    return patients


def _patients_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("[pP]atient*"))


def _folder(root: Path) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder with label volumes, but there is no such "
                        "folder. Point ACDC_ROOT at the folder that holds training/ (and "
                        "testing/), or unset it to use the phantom.")
    return root


def _refuse_lost_links(paths: Iterable[Path], expected: str) -> None:
    if lost := [path for path in paths if path.is_symlink() and not path.exists()]:
        raise DataError(f"{lost[0]}: expected {expected}, found a link to one that is not there "
                        f"({len(lost)} such). Fetch its content (datalad get), restore it, or "
                        "remove the link.")


def list_volumes(root: Path, pattern: str, labels: str | Mapping = "ACDC") -> list[Frame]:
    """Label volumes of a plain folder, without Info.cfg, in the order of their patients.

    pattern: a glob below `root`, for instance "**/*_gt.nii.gz", and file_names.understand says who
    is who; or a regular expression with a group (?P<patient>...), see file_names.by_pattern.
    labels: see list_frames. Folders that are links are followed, hidden files are left out. Groups
    are UNKNOWN, and so is a phase that no name gives. Raises DataError if there is no such folder
    or no such file, if a link leads nowhere, or if two files have one patient, phase, scan and
    slice.
    """
    root, label_map = _folder(root), find_label_map(labels)
    pattern = pattern.strip()
    if not pattern or Path(pattern).is_absolute():
        raise DataError(f"{pattern!r}: expected a pattern relative to {root}, such as "
                        "'**/*_gt.nii.gz'.")
    regular = file_names.is_regular(pattern)
    paths = {path.relative_to(root).as_posix(): path
             for path in _files(root, "**/*" if regular else pattern)}
    said = (file_names.by_pattern(pattern, paths) if regular else
            file_names.understand(paths, lambda name: _is_slice(paths[name])))
    if not said:
        there = _files(root, "**/*")
        example = f", such as {there[0].relative_to(root).as_posix()}" if there else ""
        raise DataError(f"{root}: expected label volumes named {pattern}, found none among "
                        f"{len(there)} files{example}. Mind the ending: .nii and .nii.gz are "
                        "different patterns.")
    if odd := [paths[name] for name in said if not paths[name].as_posix().isprintable()]:
        raise DataError(f"{odd[0].as_posix()!r}: expected a name of letters that can be printed. "
                        "Rename the file.")
    _refuse_lost_links([paths[name] for name in said], "a label file")
    volumes: dict[tuple, list] = {}
    for name, who in said.items():
        volumes.setdefault((who.patient, who.phase, who.scan), []).append((who.slice, paths[name]))
    frames = []
    for (patient, phase, scan), parts in volumes.items():
        parts.sort(key=lambda part: (part[0] is not None, part[0]))
        for (number, path), (next_number, next_path) in itertools.pairwise(parts):
            if number in (None, next_number):
                raise DataError(
                    f"{next_path}: expected one volume of {patient} at {phase}, found another: "
                    f"{path}. Narrow the pattern {pattern!r}, or tell them apart by one with "
                    "groups: (?P<patient>...) and (?P<scan>...).")
        slices = tuple(path for _, path in parts)
        frames.append(Frame(patient, "", UNKNOWN, phase, slices[0], None, label_map, scan,
                            slices if len(slices) > 1 else ()))
    return sorted(frames, key=lambda frame: frame.patient)


def _files(root: Path, pattern: str) -> list[Path]:
    """The files that a glob finds, each once, sorted. Unlike Path.glob it follows links, and leaves
    out what is hidden, such as the ._ files of macOS."""
    wanted, found = PurePosixPath(pattern).parts, {}
    for folder, inner, files in os.walk(root, followlinks=True):
        here = Path(folder).relative_to(root)
        real = os.path.realpath(folder)
        if real in {os.path.realpath(root / above) for above in here.parents if above != here}:
            inner.clear()  # a link in a circle
            continue
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and _matches((*here.parts, name), wanted):
                found.setdefault((real, name), Path(folder) / name)  # once, however it is reached
    return sorted(found.values())


def _matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the folders and the name of a file match a glob; ** is any number of folders."""
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_matches(parts[k:], wanted[1:]) for k in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])


def _is_slice(path: Path) -> bool:
    try:
        return read_volume(path).data.shape[2] == 1
    except DataError:  # said when its turn comes
        return False


def understood(frames: list[Frame]) -> str:
    """What was made of the names of a plain folder's files, in a few lines to be read."""
    files = sum(len(frame.paths) for frame in frames)
    patients, counts = by_patient(frames), Counter(frame.phase for frame in frames)
    phases = ", ".join(f"{counts[phase]} {phase}" for phase in (*PHASES, UNKNOWN) if counts[phase])
    most = max(patients.values(), key=len)
    example = ", ".join(f"{frame.label_path.name} ({frame.name}"
                        + (f", {len(frame.slice_paths)} slices)" if frame.slice_paths else ")")
                        for frame in most[:3])
    lines = [f"Read from the names: {files} files, {len(frames)} volumes (phase: {phases}), "
             f"{len(patients)} patients, at most {len(most)} of one patient. For instance: "
             f"{example}."]
    begins: dict[str, list[str]] = {}
    for patient in patients:
        begins.setdefault(re.match(r"\D*\d*", patient)[0].casefold(), []).append(patient)
    alike = max(begins.values(), key=len)
    if len(patients) == len(frames) > 1:
        lines.append("No two volumes share a patient. If some are of one person, the names do not "
                     "say so, and a split by patient would put them on both sides.")
    elif len(alike) > 1:
        lines.append(f"{alike[0]} and {alike[1]} begin alike. If they are one person, a split by "
                     "patient may put this person on both sides.")
    lines.append("If this is wrong, say who is who: pattern=r'(?P<patient>...)_(?P<phase>ED|ES)'.")
    return "\n".join(lines)


def _patient_frames(folder: Path, patient: str, label_map: Mapping[int, Label]) -> list[Frame]:
    info = read_info(folder / "Info.cfg")
    subset = folder.parent.name if folder.parent.name in SUBSETS else ""
    frames = []
    for phase in PHASES:
        stem = f"{folder.name}_frame{info[phase]:02d}"
        label_path = _one_file(folder, f"{stem}_gt")
        if label_path is None:
            raise DataError(f"{folder / stem}_gt.nii.gz: Info.cfg names frame {info[phase]} as "
                            f"{phase}, but its label volume is missing. Restore the file, or move "
                            "the patient's folder out of the data set.")
        frames.append(Frame(patient, subset, info["Group"], phase, label_path,
                            _one_file(folder, stem), label_map))
    return frames


def _one_file(folder: Path, stem: str) -> Path | None:
    there = [path for path in (folder / f"{stem}.nii.gz", folder / f"{stem}.nii") if path.is_file()]
    if len(there) > 1:
        raise DataError(f"{there[0]}: expected one file of this frame, found {there[1].name}, "
                        "too. Move one of them out of the data set.")
    return there[0] if there else None


def read_info(path: Path) -> dict:
    """Parse an Info.cfg: {"ED": int, "ES": int, "Group": one of GROUPS or UNKNOWN, ...}.

    Line ends and byte-order marks of any system are read. Raises DataError if the file is missing
    or one of the three entries is missing or not usable.
    """
    remedy = "Restore the file from the ACDC archive, or move the patient's folder out."
    try:
        raw = path.read_bytes()
        encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        lines = raw.decode(encoding).splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: expected the patient's ED, ES and Group, but the file is "
                        f"missing. {remedy} Label files without it need a pattern: begin(..., "
                        "pattern='**/*_gt.nii.gz'), or CVAE_PATTERN.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}). {remedy}") from None
    info = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            info[key.strip()] = value.strip()
    for phase in PHASES:
        if not re.fullmatch(r"\d{1,6}", info.get(phase, "")):
            raise DataError(f"{path}: expected a line '{phase}: <frame number>', found "
                            f"{info.get(phase)!r}. {remedy}")
        info[phase] = int(info[phase])
    if info["ED"] == info["ES"]:
        raise DataError(f"{path}: expected ED and ES to be two frames, found frame {info['ED']} "
                        f"for both. {remedy}")
    group = {"RV": "ARV"}.get(info.get("Group"), info.get("Group"))
    if group not in (*GROUPS, UNKNOWN):
        raise DataError(f"{path}: expected Group to be one of NOR, MINF, DCM, HCM, RV, or "
                        f"'{UNKNOWN}', found {group!r}. {remedy}")
    return info | {"Group": group}


def read_frame(frame: Frame) -> Volume:
    """The labels of one frame, as volumes.read_labels gives them.

    Slices in files of their own are stacked in their order. Raises DataError if they are not one
    slice each, or not of one grid.
    """
    if not frame.slice_paths:
        return read_labels(frame.label_path, frame.label_map)
    parts = [read_labels(path, frame.label_map) for path in frame.slice_paths]
    shape, spacing_mm = (*parts[0].data.shape[:2], 1), parts[0].spacing_mm
    for path, part in zip(frame.slice_paths, parts):
        if part.data.shape != shape or not np.allclose(part.spacing_mm, spacing_mm, rtol=1e-3):
            raise DataError(
                f"{path}: expected one slice of {shape[:2]} pixels, {spacing_mm.tolist()} mm, as "
                f"{frame.label_path}, found {part.data.shape} and {part.spacing_mm.tolist()} mm. "
                "If these are not slices of one volume, give a pattern with groups.")
    return Volume(np.concatenate([part.data for part in parts], axis=2), spacing_mm,
                  parts[0].notice)


def read_patient(frames: list[Frame]) -> list[Volume]:
    """Labels of one patient's frames; raises DataError if ED and ES differ in in-plane pixel size.

    ED and ES are two frames of one acquisition. Their in-plane sizes may differ, because
    label-only copies are cropped around the heart, volume by volume; each is then aligned on its
    own grid. Their pixel sizes may not: then one file is not the one its name says.
    """
    volumes = [read_frame(frame) for frame in frames]
    first: dict[str, int] = {}
    for k, frame in enumerate(frames):
        one = first.setdefault(frame.scan, k)
        if not np.allclose(volumes[k].spacing_mm[:2], volumes[one].spacing_mm[:2], rtol=1e-3):
            found = ", ".join(f"{frames[i].label_path}: "
                              f"{volumes[i].spacing_mm[:2].round(4).tolist()} mm" for i in (one, k))
            raise DataError(f"{frame.patient}: expected ED and ES with one in-plane pixel size, "
                            f"found {found}. One of them belongs to another patient: restore both "
                            "from the same source.")
    return volumes


def read_image(frame: Frame) -> Volume:
    """The MR image of a frame, on the grid of its labels: data (X, Y, Z).

    Raises DataError if the copy has no images, or if image and labels differ in size.
    """
    if frame.image_path is None:
        raise DataError(f"{frame.label_path}: expected the MR image beside it, but this is a "
                        "label-only copy. Unzip the full ACDC archive to have images.")
    image, labels = read_volume(frame.image_path), read_volume(frame.label_path)
    if image.data.shape != labels.data.shape:
        raise DataError(f"{frame.image_path}: expected the size of its labels "
                        f"{labels.data.shape}, found {image.data.shape}. Restore both files from "
                        "the same source.")
    return image


def hash_files(frames: list[Frame]) -> dict[Path, bytes]:
    """SHA-256 of every label file. Raises DataError if one cannot be read."""
    found = {}
    for path in (path for frame in frames for path in frame.paths):
        try:
            found[path] = hashlib.sha256(path.read_bytes()).digest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}). Mend its permissions, or "
                            "copy it again.") from None
    return found


def fingerprint(frames: list[Frame], hashes: Mapping[Path, bytes] | None = None) -> str:
    """16 hex digits that change when any label file, group or phase changes. hashes: hash_files."""
    hashes, digest = hashes or hash_files(frames), hashlib.sha256()
    for frame in frames:
        digest.update(f"{frame.subset}/{frame.patient}/{frame.group}/{frame.phase}/{frame.scan}/"
                      f"{sorted(frame.label_map.items())}\n".encode())
        for path in frame.paths:
            digest.update(hashes[path])
    return digest.hexdigest()[:16]


def copies(frames: list[Frame], hashes: Mapping[Path, bytes]) -> str:
    """Which volumes of different patients are one and the same file, in words; "" if none are.

    A copy, or a link, would be on both sides of a split. hashes: hash_files.
    """
    owners: dict[bytes, Frame] = {}
    twins = [(first, frame) for frame in frames if not frame.slice_paths
             if (first := owners.setdefault(hashes[frame.label_path], frame)).patient
             != frame.patient]
    if not twins or not read_frame(twins[0][0]).data.any():  # many may be empty
        return ""
    first, second = twins[0]
    return (f"{second.label_path} holds the same labels as {first.label_path} of another patient "
            f"({len(twins)} such). If that is one person, remove one of them: a split would have "
            "it on both sides.")


def is_official(frames: list[Frame]) -> bool:
    """Whether these are ACDC's own labels, of all of its patients or some of them.

    Told by name, group, ED, ES and the voxels of each structure, so that headers, compression and a
    cropped field of view do not matter, and another data set in the same layout is not taken for
    it. One patient in ten may differ: copies that were cropped have lost voxels here and there.
    """
    patients, others = by_patient(frames), 0
    for name, own in patients.items():
        if name not in OFFICIAL:
            return False
        others += _signature(own) != OFFICIAL[name]
        if others > len(patients) / 10:
            return False
    return True


def _signature(frames: list[Frame]) -> str:
    """Four hex digits of what a patient of ACDC is known by; "" if a file cannot be used."""
    said = [frames[0].patient, frames[0].group]
    for frame in frames:
        try:
            labels = read_frame(frame).data
        except DataError:  # said when the labels are read
            return ""
        counts = np.bincount(labels.ravel(order="K"), minlength=len(Label))
        said += [frame.phase, frame.label_path.name.split("_")[1], *counts[1:].tolist()]
    return hashlib.sha256(" ".join(map(str, said)).encode()).hexdigest()[:4]


def find_root(default: Path, base: Path) -> Path | None:
    """The ACDC folder that the environment or the repository names, or None for the phantom.

    CVAE_DATA=phantom forces the phantom; else ACDC_ROOT (relative to `base`, so that it means the
    same wherever a kernel runs); else `default` where it exists and is not empty.
    """
    choice = os.environ.get("CVAE_DATA", "").strip().lower()
    if choice not in ("", "phantom", "acdc"):
        raise DataError(f"CVAE_DATA: expected 'phantom', 'acdc' or nothing, found {choice!r}.")
    if choice == "phantom":
        return None
    if "ACDC_ROOT" in os.environ:
        value = os.environ["ACDC_ROOT"].strip()
        if not value:
            raise DataError("ACDC_ROOT is set but empty: expected the folder that holds "
                            "training/. Unset it to use data/raw/acdc or the phantom.")
        try:
            return (base / Path(value).expanduser()).resolve()
        except RuntimeError as error:  # ~nobody
            raise DataError(f"ACDC_ROOT: expected a folder, found {value!r} ({error}).") from None
    if is_unfinished(default):
        raise DataError(f"{default}: expected all of ACDC, but its download was interrupted. Begin "
                        "it again, it goes on where it stopped: python -m "
                        "cvae_utils.data.download --accept-licence. CVAE_DATA=phantom does without "
                        "it.")
    if default.is_dir() and any(not path.name.startswith(".") for path in default.iterdir()):
        return default
    if choice == "acdc":
        raise DataError(f"CVAE_DATA=acdc, but ACDC_ROOT is not set and {default} does not exist or "
                        "is empty. Download ACDC (python -m cvae_utils.data.download), unzip it "
                        "there, or point ACDC_ROOT at it.")
    return None
