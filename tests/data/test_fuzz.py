"""Files with damage at random: used as they are, skipped and counted, or refused by name.

A case is a patient of one ED and one ES volume of which one file is damaged; it goes from the
folder to aligned slices on disk. Nothing else than these ends is allowed:

equal     the slices, and the table of them, are those of the clean patient, to the byte
skipped   as many slices are accounted for, and more of them are left out, with a reason
refused   a DataError whose message names the damaged file
other     other slices: the file says something else now, and nothing in it tells that this is wrong

What may end as 'other' is stated by each test, since it is where a silent error could hide.
"""

import csv
import gzip
import io
import struct
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hearts import nifti, paint, write_patient

from cvae_utils.data import slices, sources
from cvae_utils.files import DataError

SIZE = 12
SECONDS = 5
#: The damaged volumes have 1 kB, and a case takes 0.2 MB, most of it for the table.
BYTES = 1e6

INFO = "ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"


def stack():
    """Labels (15, 14, 4): a heart, a smaller one, a wall without a cavity, and nothing."""
    x, y = np.arange(15)[:, None] - 8.0, np.arange(14)[None, :] - 6.0
    hearts = [paint(x, y, cavity=cavity, outer=outer, rv=3, turn_deg=20)
              for cavity, outer in ((3, 4.5), (2, 3.5), (0, 3))]
    return np.stack([*hearts, np.zeros_like(hearts[0])], axis=2)


VOLUME = nifti(stack())


class Patient:
    """A patient on disk, one of whose files is damaged at a time."""

    def __init__(self, root):
        self.root, self.out = root / "acdc", root / "out"
        self.out.mkdir()
        folder = write_patient(self.root / "training" / "patient001", VOLUME, nifti(stack()[::-1]))
        self.info, self.labels = folder / "Info.cfg", folder / "patient001_frame01_gt.nii.gz"
        self.info.write_text(INFO)
        with gzip.GzipFile(self.labels, "wb", mtime=1.7e9) as file:  # with a name and a time
            file.write(VOLUME)
        self.clean = self.align()

    def align(self):
        slices.align_all(sources.open_source("ACDC", self.root), SIZE, self.out, progress=False)
        return {name: (self.out / name).read_bytes()
                for name in ("aligned.npy", "unrotated.npy", "slices.csv")}

    def end_of(self, path, raw):
        """How it ends if these bytes are in the file: the end, and the files, if there are any."""
        path.write_bytes(raw)
        try:
            found = self.align()
        except DataError as error:
            message = str(error)  # if Info.cfg names a frame that is not there, both are named
            assert str(path) in message or (
                str(path.parent) in message and f"{path.name} names frame" in message), message
            return "refused", None
        if found == self.clean:
            return "equal", found
        skipped, before = (sum(bool(row["skipped_because"]) for row in rows(files))
                           for files in (found, self.clean))
        one_each = len(rows(found)) == len(rows(self.clean))
        return "skipped" if skipped > before and one_each else "other", found

    def ends(self, path, damaged):
        """Each damaged file with its end; none may take long, or much memory."""
        whole = path.read_bytes()
        tracemalloc.start()
        try:
            for raw in damaged:
                tracemalloc.reset_peak()
                before, start = tracemalloc.get_traced_memory()[0], time.perf_counter()
                end, found = self.end_of(path, raw)
                assert time.perf_counter() - start < SECONDS
                assert tracemalloc.get_traced_memory()[1] - before < BYTES
                yield raw, end, found
        finally:
            tracemalloc.stop()
            path.write_bytes(whole)


def rows(files):
    return list(csv.DictReader(files["slices.csv"].decode().splitlines()))


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    found = Patient(tmp_path_factory.mktemp("fuzz"))
    assert [row["skipped_because"] for row in rows(found.clean)] == [
        "", "", "no LV cavity", "no label"] * 2
    return found


# ------------------------------------------------------------------------------------------ damage
def flipped(raw, generator):
    raw = bytearray(raw)
    for at in generator.integers(0, len(raw), generator.integers(1, 5)):
        raw[at] ^= generator.integers(1, 256)
    return bytes(raw)


def truncated(raw, generator):
    return raw[:generator.integers(0, len(raw))]


def inserted(raw, generator):
    at, count = generator.integers(0, len(raw) + 1), generator.integers(1, 20)
    return raw[:at] + generator.bytes(count) + raw[at:]


def zeroed(raw, generator):
    at, count = generator.integers(0, len(raw)), generator.integers(1, 200)
    return raw[:at] + bytes(len(raw[at:at + count])) + raw[at + count:]


def swapped(raw, generator):
    a, b, c, d = np.sort(generator.integers(0, len(raw) + 1, 4))
    return raw[:a] + raw[c:d] + raw[b:c] + raw[a:b] + raw[d:]


def of_bytes(raw, generator):
    """A copy that is damaged in one to three ways."""
    for _ in range(generator.integers(1, 4)):
        ways = (flipped, flipped, truncated, inserted, zeroed, swapped)
        raw = ways[generator.integers(len(ways))](raw or b"\0", generator)
    return raw


# The header of NIfTI-1 (https://nifti.nimh.nih.gov/nifti-1): offset, struct format, what it means.
FIELDS = {
    "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"),
    "pixdim": (76, "8f"), "vox_offset": (108, "f"), "scl_slope": (112, "f"),
    "scl_inter": (116, "f"), "qform_code": (252, "h"), "sform_code": (254, "h"),
    "quatern": (256, "6f"), "srow": (280, "12f"),
}
#: Of these, and of the voxels behind them, any valid value is as good as another to a reader.
SAY_WHAT_IS_WHERE = ("dim", "datatype", "pixdim", "scl_slope", "scl_inter", "qform_code",
                     "sform_code", "quatern", "srow")
EXEMPT = np.zeros(len(VOLUME), dtype=bool)
EXEMPT[352:] = True
for name in SAY_WHAT_IS_WHERE:
    offset, form = FIELDS[name]
    EXEMPT[offset:offset + struct.calcsize(form)] = True

WHOLE_NUMBERS = (-32768, -1, 0, 1, 2, 3, 4, 7, 8, 14, 15, 16, 64, 512, 1024, 32767)
REAL_NUMBERS = (0, -0.0, 1, -1, 2, 1e-45, 1e-30, 1e-6, 0.5, 1.25, 1.5, 8, 352, 353, 1e6, 1e30,
                3.4e38, np.inf, -np.inf, np.nan)


def of_fields(raw, generator):
    """A copy with one to three numbers of the header replaced."""
    damaged, fields = bytearray(raw), list(FIELDS.values())
    for _ in range(generator.integers(1, 4)):
        offset, form = fields[generator.integers(len(fields))]
        kind, width = form[-1], struct.calcsize(form[-1])
        offset += width * generator.integers(struct.calcsize(form) // width)
        values = REAL_NUMBERS if kind == "f" else WHOLE_NUMBERS
        struct.pack_into(f"<{kind}", damaged, offset, values[generator.integers(len(values))])
    return bytes(damaged)


VALUES = ("", "0", "1", "12", "-1", "1.0", "1e1", "0x1", "013", "2", "NaN", "9" * 50, "9" * 5000,
          "\N{FULLWIDTH DIGIT ONE}", "\N{SUPERSCRIPT TWO}", "NOR", "HCM", "MINF", "RV", "ARV",
          "dcm", "DCM DCM", "DCM # NOR", "../..", "%s", "\0")


def of_lines(raw, generator):
    """A copy of an Info.cfg with lines or bytes of it damaged."""
    if generator.random() < 0.4:
        return of_bytes(raw, generator)
    lines = raw.decode().splitlines()
    for _ in range(generator.integers(1, 4)):
        k, other = generator.integers(0, len(lines), 2)
        key = lines[k].partition(":")[0]
        colon = ("", ";", "::", "=", " : ")[generator.integers(5)]
        value = VALUES[generator.integers(len(VALUES))]
        changes = ([], [lines[k], lines[other]], [lines[other]], [lines[k].replace(":", colon)],
                   [f"{key}: {value}"])
        lines[k:k + 1] = changes[generator.integers(len(changes))]
    return ("\n", "\r\n", "\r", "\n\n")[generator.integers(4)].join(lines).encode()


def copies(raw, damage, seed, count):
    generator = np.random.default_rng(seed)
    return [damage(raw, generator) for _ in range(count)]


# -------------------------------------------------------------------------------------------- ends
def test_compressed_bytes_are_used_as_they_were_or_refused(patient):
    """The checksum of gzip covers every voxel and the header, so nothing may end otherwise."""
    damaged = copies(patient.labels.read_bytes(), of_bytes, 1, 500)
    counts = Counter(end for _, end, _ in patient.ends(patient.labels, damaged))
    assert counts.total() == 500 and set(counts) == {"equal", "refused"}, counts


@pytest.mark.filterwarnings("ignore:Extension size is not a multiple:UserWarning",
                            "error::RuntimeWarning")
@pytest.mark.parametrize(("damage", "seed", "count"), [(of_bytes, 2, 600), (of_fields, 3, 500)])
def test_volume_with_a_right_checksum_is_used_skipped_or_refused(patient, damage, seed, count):
    """A changed voxel, scale, grid or affine that is valid can be told by nobody, so it is exempt.

    Everything else in the header must not change what is read; nor may a file of another length
    be read otherwise, as then voxels are missing or not where the header says.
    """
    damaged = [gzip.compress(raw, 1) for raw in copies(VOLUME, damage, seed, count)]
    counts = Counter()
    for packed, end, found in patient.ends(patient.labels, damaged):
        counts[end] += 1
        if end in ("other", "skipped"):
            raw = gzip.decompress(packed)
            assert len(raw) == len(VOLUME)
            changed = np.frombuffer(raw, np.uint8) != np.frombuffer(VOLUME, np.uint8)
            assert (changed & EXEMPT).any(), "a field without meaning has changed the slices"
            check_slices(found)
    assert counts.total() == count
    assert {"equal", "refused", "other"} <= set(counts), counts
    assert damage is of_fields or counts["skipped"] > 0, counts


def check_slices(files):
    """Every kept slice has a row, a picture of four labels, and a place in its volume."""
    kept = [row for row in rows(files) if not row["skipped_because"]]
    for name in ("aligned.npy", "unrotated.npy"):
        maps = np.load(io.BytesIO(files[name]))
        assert maps.shape == (len(kept), SIZE, SIZE) and len(kept) and maps.max() <= 3
    assert all(np.isfinite([float(row[key]) for key in ("level", "angle_deg", "crop_mm")]).all()
               for row in kept)


def test_info_is_used_or_refused(patient):
    """Another group, or ED for ES, is as good as the right one to a reader, so it is exempt.

    Then the slices must be those of the clean patient, and a line must say what is told of them.
    """
    frame_of = {contents(patient.clean, "ED"): 1, contents(patient.clean, "ES"): 12}
    counts = Counter()
    for raw, end, found in patient.ends(patient.info, copies(INFO.encode(), of_lines, 4, 500)):
        counts[end] += 1
        if end == "other":
            lines = [line.partition(":") for line in raw.decode().splitlines()]
            lines = {(key.strip(), value.strip()) for key, _, value in lines}
            (group,) = {row["group"] for row in rows(found)}
            assert {("Group", group), ("Group", group.removeprefix("A"))} & lines
            for phase in ("ED", "ES"):
                frame = frame_of[contents(found, phase)]
                assert frame in [int(value) for key, value in lines
                                 if key == phase and value.isdecimal()]
    assert counts.total() == 500 and set(counts) == {"equal", "refused", "other"}, counts


def contents(files, phase):
    """All that is told of the slices of one phase, without the group."""
    told = [str(row | {"group": "", "phase": ""}) for row in rows(files) if row["phase"] == phase]
    kept = [row["phase"] == phase for row in rows(files) if not row["skipped_because"]]
    maps = [np.load(io.BytesIO(files[name]))[kept].tobytes()
            for name in ("aligned.npy", "unrotated.npy")]
    return (*told, *maps)
