"""Download ACDC from its public server into the folder layout that the package reads.

    root/training/patient001/Info.cfg, patient001_frame01_gt.nii.gz, ...
    root/testing/patient101/...
    root/manifest.json    where from, under which licence, and every file with size and SHA-256

A file has its final name only when it is complete, so an interrupted download is continued by the
same call. What is unfinished has a hidden name, as has the note in `root` of what is downloaded
there. How the server is asked, see girder.
"""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import queue
import re
import shutil
import stat
import struct
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from cvae_utils.girder import LARGEST_FILE, Entry, Girder, Patience, folded, is_plain
from cvae_utils.storage import DataError, output_root, read_json, write_json

SERVER = "https://humanheart-project.creatis.insa-lyon.fr/database/api/v1"
FOLDER = "637218e573e9f0047faa00fc"  # the whole database
SUBSETS = ("training", "testing")

LICENCE = "CC BY-NC-SA 4.0"
CITATION = (
    "O. Bernard et al., \"Deep learning techniques for automatic MRI cardiac multi-structures "
    "segmentation and diagnosis: is the problem solved?\", IEEE TMI 37(11), 2018, "
    "doi 10.1109/TMI.2018.2837502"
)
NOTICE = (
    f"The ACDC database is licensed {LICENCE} (https://creativecommons.org/licenses/by-nc-sa/4.0/)"
    f": no commercial use, attribution, derivatives under the same licence. To be cited: {CITATION}"
)
BY_HAND = (
    "Or by hand: download the database from https://humanheart-project.creatis.insa-lyon.fr/"
    "database/#collection/637218c173e9f0047faa00fb, unzip it so that "
    "data/raw/acdc/training/patient001 exists, or set ACDC_ROOT to the folder that holds training."
)

MARKER = ".download.json"  # in the root, written before anything else
MANIFEST = "manifest.json"
LARGEST_TOTAL = 2**33  # bytes; the whole database is 2.3 GB
MOST_CONNECTIONS = 16
MOST_MEMBERS = 20_000  # of a zip
DEEPEST = 8  # folders in a path of a zip
#: Packed more than so many times smaller, a member is no image but a bomb.
HIGHEST_RATIO = 200


class _BadZip(DataError):
    """The zip itself is at fault: to be thrown away."""


def download(root: Path, *, accept_licence: bool, images: str | Iterable[str | int] = (),
             server: str = SERVER, folder: str = FOLDER, workers: int = 4,
             whole_zip: bool = False, progress: bool = True,
             patience: Patience | None = None) -> Path:
    """Download ACDC to `root` and return it; continues what an earlier call has begun.

    accept_licence: the caller has read the licence (NOTICE) and accepts it.
    images: patients whose ED and ES MR images come too: "all", or numbers and names such as 1,
        "001" or "patient001". By default label volumes and Info.cfg alone: a few MB.
    server, folder: root of the server's REST API, and the id of the folder with training/.
    workers: connections, 1 to 16.
    whole_zip: everything there is, also the 4-D series, as one zip of 2.3 GB, which needs twice
        its size on disk for a while. The server makes it anew for every request, so an interrupted
        transfer begins again: images="all" is surer.
    patience: time-outs and attempts, see girder.Patience.

    Files that are there are not fetched again, unless their size is not the server's. Raises
    DataError, with what to do, if the licence is not accepted, `root` holds anything else, or the
    files cannot be had or written.
    """
    root = Path(root)
    if not accept_licence:
        raise DataError(f"{NOTICE}. Expected the licence to be accepted: pass accept_licence=True, "
                        f"or --accept-licence on the command line. {BY_HAND}")
    if type(workers) is not int or not 1 <= workers <= MOST_CONNECTIONS:
        raise DataError(f"workers: expected 1 to {MOST_CONNECTIONS}, got {workers!r}. {BY_HAND}")
    patients = _patient_names(images)
    origin = {"server": server.rstrip("/"), "folder": folder, "licence": LICENCE,
              "citation": CITATION}
    try:
        with (Girder(server, remedy=BY_HAND, patience=patience, connections=workers) as girder,
              _claimed(root, origin), _Bar(progress) as bar):
            if whole_zip:
                _fetch_whole(girder, folder, root, bar)
            else:
                _fetch_files(girder, folder, root, patients, workers, bar)
            _write_manifest(root, origin, whole_zip or _has_whole(root))
    except OSError as error:
        raise DataError(_disk_message(root, error)) from None
    return root


def is_unfinished(root: Path) -> bool:
    """Whether a download to `root` was begun and has never been completed."""
    return (Path(root) / MARKER).is_file() and not (Path(root) / MANIFEST).is_file()


def _patient_names(images) -> set[str] | None:
    """The patients whose images are wanted; None for all."""
    if images == "all":
        return None
    names = set()
    for value in [images] if isinstance(images, str | int) else images:
        match = re.fullmatch(r"(?:patient)?([0-9]{1,3})", str(value).strip())
        if not match:
            raise DataError(f"images: expected 'all', or patients such as 1, '001' or "
                            f"'patient001', got {value!r}. {BY_HAND}")
        names.add(f"patient{int(match[1]):03d}")
    return names


def _disk_message(root: Path, error: OSError) -> str:
    advice = {errno.ENOSPC: "Free some space", errno.EDQUOT: "Free some space",
              errno.EFBIG: "Choose a disk that takes larger files"}.get(
                  error.errno, "Choose a folder that can be written to")
    return (f"{error.filename or root}: expected to write there, got "
            f"{error.strerror or error}. {advice} and try again; what has come is kept. {BY_HAND}")


# --------------------------------------------------------------------------- the folder's owner
@contextlib.contextmanager
def _claimed(root: Path, origin: dict) -> Iterator[None]:
    """Let `root` be written to by one download of one origin at a time.

    A call that leaves nothing behind but its own note removes that as well.
    """
    is_new, marker, is_ours = not root.exists(), root / MARKER, False
    if not is_new and not root.is_dir():
        raise DataError(f"{root}: expected a folder, got a file. Choose another place. {BY_HAND}")
    if not is_new and not marker.is_file() and any(root.iterdir()):
        raise _mixed(root, "other files")
    root.mkdir(parents=True, exist_ok=True)
    try:
        with open(marker, "a+", encoding="utf-8") as file:
            _lock(file, root)
            _write_note(file, root, origin)
            is_ours = True
            yield
    finally:
        if is_ours and [path.name for path in root.iterdir()] == [MARKER]:
            marker.unlink()
            if is_new:
                root.rmdir()


def _write_note(file, root: Path, origin: dict) -> None:
    file.seek(0)
    try:
        note = json.load(file)
        is_same = all(note[key] == origin[key] for key in ("server", "folder"))
    except (ValueError, LookupError, TypeError):
        is_same = False
    if is_same:
        return
    # A note that is alone belongs to a call that got no further.
    if [path.name for path in root.iterdir()] != [MARKER]:
        raise _mixed(root, "a download from another place")
    file.truncate(0)
    file.write(json.dumps(origin, indent=1) + "\n")
    file.flush()


def _mixed(root: Path, what: str) -> DataError:
    return DataError(f"{root}: expected a new or empty folder, or an earlier download of the same "
                     f"server and folder, got {what}, with which the files would be mixed. Choose "
                     f"another folder, or move away what is there. {BY_HAND}")


def _lock(file, root: Path) -> None:
    """Keep other processes out until `file` is closed, where the system can."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"{root}: expected no other download at work there, got one. Wait for it, "
                        f"or stop it. {BY_HAND}") from None
    except OSError:
        return  # network file systems may know no locks


class _Bar:
    """One bar over bytes for all threads, with the number of finished files."""

    def __init__(self, progress: bool):
        self._bar = tqdm(desc="ACDC", unit="B", unit_scale=True, disable=not progress)
        self._lock = threading.Lock()
        self._files = self._expected = 0

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()

    def expect(self, files: int, size: int, finished: int, present: int) -> None:
        """Of `files` with `size` bytes together, so many files with `present` bytes are here."""
        self._files, self._expected = finished, files
        self._bar.reset(size)
        self.advance(present)
        self._show()

    def advance(self, count: int) -> None:
        with self._lock:
            self._bar.update(count)

    def finish_file(self) -> None:
        self._files += 1
        self._show()

    def _show(self) -> None:
        self._bar.set_postfix_str(f"{self._files}/{self._expected} files", refresh=False)

    @staticmethod
    def say(line: str) -> None:
        tqdm.write(line, file=sys.stderr)


# ------------------------------------------------------------------------------- file by file
def _fetch_files(girder: Girder, folder: str, root: Path, images: set[str] | None, workers: int,
                 bar: _Bar) -> None:
    wanted = _wanted(girder, folder, images, workers)
    total = sum(item.size for item in wanted.values())
    if total > LARGEST_TOTAL:
        raise DataError(f"{girder.server}: expected at most {LARGEST_TOTAL} bytes, got a list of "
                        f"{total}. {BY_HAND}")
    missing = {path: item for path, item in wanted.items() if not _is_here(root / path, item, bar)}
    size = sum(item.size for item in missing.values())
    _check_space(root, size)
    bar.expect(len(wanted), total, len(wanted) - len(missing), total - size)

    def fetch(job: tuple[PurePosixPath, Entry]) -> None:
        girder.fetch_item(job[1], root / job[0], bar.advance)

    for _ in _parallel(girder, fetch, missing.items(), workers):
        bar.finish_file()


def _wanted(girder: Girder, folder: str, images: set[str] | None,
            workers: int) -> dict[PurePosixPath, Entry]:
    """The items to have, by their path below the root."""
    subsets = {entry.name: entry for entry in girder.folders(folder) if entry.name in SUBSETS}
    patients = {PurePosixPath(subset.name) / entry.name: entry for subset in subsets.values()
                for entry in girder.folders(subset.id)
                if re.fullmatch(r"patient[0-9]{3}", entry.name)}
    if not patients:
        raise DataError(f"{girder.server}, folder {folder}: expected training/patient001 ..., "
                        f"got no patient. Check the id of the folder. {BY_HAND}")
    unknown = sorted((images or set()) - {path.name for path in patients})
    if unknown:
        raise DataError(f"images: expected patients of the server, got {', '.join(unknown)}, which "
                        f"it does not have. {BY_HAND}")

    def listed(job: tuple[PurePosixPath, Entry]) -> dict[PurePosixPath, Entry]:
        path, patient = job
        with_images = images is None or path.name in images
        return _wanted_of_patient(girder, path, girder.items(patient.id), with_images)

    found = {}
    for items in _parallel(girder, listed, patients.items(), workers):
        found |= items
    return dict(sorted(found.items()))


def _wanted_of_patient(girder: Girder, path: PurePosixPath, items: list[Entry],
                       with_images: bool) -> dict[PurePosixPath, Entry]:
    by_name = {item.name: item for item in items}
    labels = [name for name in by_name
              if re.fullmatch(rf"{path.name}_frame[0-9]{{2}}_gt\.nii\.gz", name)]
    if "Info.cfg" not in by_name or len(labels) != 2:
        raise DataError(f"{girder.server}, {path}: expected Info.cfg and the label volumes of ED "
                        f"and ES, got {sorted(by_name)[:9]}. {BY_HAND}")
    frames = [name.replace("_gt.", ".") for name in labels] if with_images else []
    lacking = [name for name in frames if name not in by_name]
    if lacking:
        raise DataError(f"{girder.server}, {path}: expected the MR images of ED and ES, got no "
                        f"{lacking[0]}. Leave this patient out of images. {BY_HAND}")
    return {path / name: by_name[name] for name in ["Info.cfg", *labels, *frames]}


def _is_here(path: Path, item: Entry, bar: _Bar) -> bool:
    if not path.exists():
        return False
    size = path.stat().st_size
    if size != item.size:
        bar.say(f"{path}: {size} bytes, {item.size} on the server: fetched again")
    return size == item.size


def _check_space(root: Path, size: int) -> None:
    free = shutil.disk_usage(root).free
    if free < size:
        raise DataError(f"{root}: expected {size / 1e6:.1f} MB of free space, got "
                        f"{free / 1e6:.1f} MB. Free some space, or choose another disk. {BY_HAND}")


def _parallel(girder: Girder, work: Callable, jobs: Iterable, workers: int) -> Iterator:
    """work(job) of all jobs, in the order in which they finish; the first failure ends all.

    Daemon threads rather than a pool: an interrupted process ends at once, and does not wait for
    a server that does not answer.
    """
    waiting, finished = queue.SimpleQueue(), queue.SimpleQueue()
    jobs = list(jobs)
    for job in jobs:
        waiting.put(job)

    def run() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                job = waiting.get_nowait()
                try:
                    finished.put((work(job), None))
                except Exception as error:
                    finished.put((None, error))
                    return

    threads = [threading.Thread(target=run, daemon=True, name=f"ACDC {number}")
               for number in range(min(workers, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            result, error = _interruptible(finished)
            if error is not None:
                raise error
            yield result
    except BaseException:
        girder.stop()
        until = time.monotonic() + 0.5  # most notice within milliseconds
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        raise


def _interruptible(finished: queue.SimpleQueue):
    """The next of a queue. Waits in short pieces: on Windows Ctrl-C cannot end a long one."""
    while True:
        with contextlib.suppress(queue.Empty):
            return finished.get(timeout=0.2)


# -------------------------------------------------------------------------------- all as one zip
def _fetch_whole(girder: Girder, folder: str, root: Path, bar: _Bar) -> None:
    archive, unpacked = root / f".{folder}.zip", root / ".unpacked"
    if not _has_whole(root):
        if not archive.exists():
            girder.fetch_zip(folder, archive, limit=LARGEST_TOTAL, advance=bar.advance)
        try:
            for path in _unpack(archive, unpacked):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (unpacked / path).replace(root / path)
        except _BadZip:
            archive.unlink()
            raise
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
    archive.unlink(missing_ok=True)


def _has_whole(root: Path) -> bool:
    """Whether a zip was unpacked here before and every file still has its size."""
    try:
        manifest = read_json(root / MANIFEST)
        return manifest["whole_zip"] is True and all(
            (root / file["path"]).stat().st_size == file["size"] for file in manifest["files"])
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _unpack(archive: Path, target: Path) -> list[PurePosixPath]:
    """Unpack to a new folder `target`, every byte counted and verified; the paths below it.

    The top folder is left out if there is but one: it has the name of the downloaded folder.
    Nothing is believed of a zip: see _checked_members for what is refused, and _copy_member.
    """
    shutil.rmtree(target, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as file:
            members = _checked_members(archive, file.infolist())
            _check_space(archive.parent, sum(info.file_size for info in members.values()))
            total = 0
            for path, info in members.items():
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                total += _copy_member(archive, file, info, target / path, LARGEST_TOTAL - total)
    except DataError:
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError,
            ArithmeticError, LookupError) as error:
        raise _bad_zip(archive, "a zip without damage", str(error)) from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # what a jump to before the beginning raises
            raise
        raise _bad_zip(archive, "a zip without damage", str(error)) from None
    return list(members)


def _bad_zip(archive: Path, expected: str, came: str) -> _BadZip:
    return _BadZip(f"{archive.name}: expected {expected}, got {came[:300]!r}. It was removed: "
                   f"download again, or file by file. {BY_HAND}")


def _checked_members(archive: Path, infos: list[zipfile.ZipInfo]) \
        -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The regular files of a zip by their path, hidden ones left out.

    Raises DataError for a path that leaves the folder, has a drive, or a name that not every
    system can have; for two that are one where case does not count, or of which one would be
    inside the other; for links and devices, rare compressions, and too many or too large.
    """
    if len(infos) > MOST_MEMBERS:
        raise _bad_zip(archive, f"at most {MOST_MEMBERS} members", str(len(infos)))
    members = {}
    spellings: dict[str, str] = {}  # every path and its parents, by what it is without case
    for info in infos:
        problem = _problem(info)
        if problem:
            raise _bad_zip(archive, "regular files in plain folders",
                           f"{info.orig_filename} ({problem})")
        path = info.filename.rstrip("/")
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            is_file = depth == len(parts) and not info.is_dir()
            part = "/".join(parts[:depth])
            known = spellings.setdefault(folded(part), part + "/" * (not is_file))
            if known != part + "/" * (not is_file) or is_file and path in members:
                raise _bad_zip(archive, "paths that differ by more than case", path)
        if not info.is_dir():
            members[path] = info
    visible = {PurePosixPath(path): info for path, info in members.items()
               if not re.search(r"(^|/)\.", path)}
    return _without_top(archive, visible)


def _problem(info: zipfile.ZipInfo) -> str:
    """Why a member of a zip is not to be unpacked, or ""."""
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    parts = name.removesuffix("/").split("/")
    # They differ where zipfile has cut or replaced a name.
    if name != info.filename or not all(map(is_plain, parts)) or len(parts) > DEEPEST:
        return "path"
    if (kind not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG)
            or info.external_attr & stat.FILE_ATTRIBUTE_REPARSE_POINT):
        return "no regular file"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "unknown compression"
    if info.file_size > LARGEST_FILE or info.is_dir() and info.file_size:
        return "size"
    return ""


def _without_top(archive: Path, members: dict[PurePosixPath, zipfile.ZipInfo]) \
        -> dict[PurePosixPath, zipfile.ZipInfo]:
    tops = {path.parts[0] for path in members}
    if len(tops) == 1 and not tops & set(SUBSETS):
        members = {path.relative_to(path.parts[0]): info for path, info in members.items()
                   if len(path.parts) > 1}
    if not any(path.parts[0] in SUBSETS and path.name == "Info.cfg" for path in members):
        raise _bad_zip(archive, "training/patient001/Info.cfg ...",
                       ", ".join(str(path) for path in list(members)[:5]))
    return members


def _copy_member(archive: Path, file: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path,
                 left: int) -> int:
    """Unpack one member, at most `left` bytes, and return their number; CRC verified at the end."""
    limit = min(left, LARGEST_FILE, max(info.compress_size * HIGHEST_RATIO, 2**20))
    count = 0
    with file.open(info) as source, open(target, "xb") as sink:
        while chunk := source.read(2**20):
            count += len(chunk)
            if count > limit:
                raise _bad_zip(archive, f"at most {limit} bytes", f"more in {info.filename}")
            sink.write(chunk)
    if count != info.file_size:
        raise _bad_zip(archive, f"{info.file_size} bytes", f"{count} in {info.filename}")
    return count


# ------------------------------------------------------------------------------------ afterwards
def _write_manifest(root: Path, origin: dict, whole_zip: bool) -> None:
    for left in root.glob(f".{MANIFEST}.partial-*"):
        left.unlink()
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*")
                   if path.is_file() and path.name != MANIFEST
                   and not any(part.startswith(".") for part in path.relative_to(root).parts))
    write_json(root / MANIFEST, origin | {"whole_zip": whole_zip,
                                          "files": [_record(root, path) for path in paths]})


def _record(root: Path, path: str) -> dict:
    with open(root / path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"path": path, "size": os.fstat(file.fileno()).st_size, "sha256": digest}


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit code: 0, 2 if it cannot be had, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m cvae_utils.acdc", epilog=NOTICE,
                                     description="Download the ACDC database.")
    parser.add_argument("--to", type=Path, default=output_root() / "data" / "raw" / "acdc",
                        metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--accept-licence", action="store_true", help=f"{LICENCE}, see below")
    parser.add_argument("--images", default="none", metavar="all|none|001,002",
                        help="MR images of these patients beside the labels; default: none")
    parser.add_argument("--zip", action="store_true", help="everything, as one zip of 2.3 GB")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="connections")
    parser.add_argument("--server", default=SERVER, metavar="URL")
    parser.add_argument("--folder", default=FOLDER, metavar="ID")
    chosen = parser.parse_args(argv)
    images = {"all": "all", "none": ()}.get(chosen.images, chosen.images.split(","))
    print(NOTICE)
    try:
        root = download(chosen.to, accept_licence=chosen.accept_licence, images=images,
                        server=chosen.server, folder=chosen.folder, workers=chosen.workers,
                        whole_zip=chosen.zip)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    print(_summary(root))
    return 0


def _summary(root: Path) -> str:
    files = read_json(root / MANIFEST)["files"]
    patients = sum(file["path"].endswith("/Info.cfg") for file in files)
    size = sum(file["size"] for file in files)
    return f"{patients} patients, {len(files)} files, {size / 1e6:.1f} MB in {root}"
