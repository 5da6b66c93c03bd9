"""Which data set is used: ACDC, a data set of one's own, or the phantom."""

import functools
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cvae_utils.cache import kept, key_of
from cvae_utils.data import acdc
from cvae_utils.data.phantom import write_phantom
from cvae_utils.files import DataError
from cvae_utils.labels import LABEL_MAPS, Label
from cvae_utils.profiles import PROFILES, Profile


@dataclass(frozen=True)
class Source:
    """A data set that was found: what it is called, where it lies, and its label volumes."""

    name: str  # "ACDC", "phantom", or for any other data set the name of its folder
    root: Path
    frames: list[acdc.Frame]
    fingerprint: str

    @property
    def patients(self) -> int:
        return len(acdc.by_patient(self.frames))

    @property
    def label_map(self) -> dict[int, Label]:
        """What the values in the files mean."""
        return self.frames[0].label_map


@dataclass(frozen=True)
class Phantom:
    """The phantom, in place of a Source: it is made when what lies in it is first asked for."""

    data: Path
    patients: int
    seed: int
    name = "phantom"
    label_map = LABEL_MAPS["ACDC"]

    @functools.cached_property
    def made(self) -> Source:
        return make_phantom(self.data, self.patients, self.seed)

    root = property(lambda self: self.made.root)
    frames = property(lambda self: self.made.frames)
    fingerprint = property(lambda self: self.made.fingerprint)


def find_source(data: Path, profile: Profile, base: Path, seed: int = 0,
                labels: str | Mapping = "ACDC", pattern: str = "") -> Source | Phantom:
    """The data set in ACDC_ROOT, else in data/raw/acdc, else the phantom, made in data/raw.

    data: the folder data/; base: what a relative ACDC_ROOT is relative to, see acdc.find_root.
    labels and pattern: see open_source; the phantom needs neither. CVAE_LABELS (a name, or a
    mapping as JSON) and CVAE_PATTERN, where they are set, come first. The name is "ACDC" for ACDC's
    own labels alone; any other data set in its layout has the name of its folder.
    """
    labels = _labels_setting(labels)
    pattern = os.environ.get("CVAE_PATTERN", "").strip() or pattern
    root = acdc.find_root(data / "raw" / "acdc", base)
    if root is None:
        if ignored := [name for name in ("CVAE_LABELS", "CVAE_PATTERN")
                       if os.environ.get(name, "").strip()]:
            print(f"{' and '.join(ignored)}: not used, for the data set is the phantom. Set "
                  "ACDC_ROOT to the folder of your own.")
        return Phantom(data, profile.phantom_patients, seed)
    found = open_source("ACDC", root, labels, pattern)
    if not pattern and not acdc.is_official(found.frames):
        found = replace(found, name=own_name(root))
    return found


def own_name(root: Path) -> str:
    """What a data set that is neither ACDC nor the phantom is called, after its folder."""
    name = root.name or "data"
    taken = re.fullmatch(r"acdc(-\d+)?", name.lower()) or name.lower() in ("phantom", *PROFILES)
    return f"own-{name}" if taken else name


def _labels_setting(default: str | Mapping) -> str | Mapping:
    """CVAE_LABELS, a name or a mapping as JSON, if it is set."""
    value = os.environ.get("CVAE_LABELS", "").strip()
    if not value.startswith("{"):
        return value or default
    try:
        return json.loads(value)
    except ValueError as error:
        raise DataError(f"CVAE_LABELS: expected a name or a mapping as JSON, such as "
                        f'{{"1": "LV", "2": "MYO", "3": "RV"}}, found {value!r} ({error}).'
                        ) from None


def make_phantom(data: Path, patients: int, seed: int = 0, independent: bool = False,
                 images: bool = True) -> Source:
    """A phantom in data/raw, made unless it is there; see phantom.write_phantom."""
    def make(partial: Path) -> None:
        write_phantom(partial, patients=patients, seed=seed, independent=independent, images=images)

    name = f"phantom-{patients}-seed{seed}{'-independent' * independent}"
    key = key_of(patients, seed, independent, images, code=[write_phantom])
    return open_source("phantom", kept(data / "raw", name, key, make))


def open_source(name: str, root: Path, labels: str | Mapping = "ACDC",
                pattern: str = "") -> Source:
    """List the label volumes of a data set; raises DataError if it cannot be used.

    labels: what the values in the files mean, see labels.find_label_map. pattern: a glob, or a
    regular expression with named groups, if the data set is a plain folder of label volumes
    (acdc.list_volumes); it then has the folder's name, and what was read from the names of its
    files is printed.
    """
    if pattern:
        frames, name = acdc.list_volumes(root, pattern, labels), own_name(root)
        print(acdc.understood(frames))
    else:
        frames = acdc.list_frames(root, labels)
    hashes = acdc.hash_files(frames)
    if found := acdc.copies(frames, hashes):
        print(found, file=sys.stderr)
    return Source(name, root, frames, acdc.fingerprint(frames, hashes))
