"""Where things lie, and files and folders that appear only when they are complete."""

import contextlib
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil

#: The repository, wherever the kernel runs.
REPOSITORY = Path(__file__).resolve().parent.parent


class DataError(ValueError):
    """Input that cannot be used: says what was expected, what came, and what to do."""


def output_root() -> Path:
    """Where data/ and figures/ are written: CVAE_OUT, else the repository.

    A relative CVAE_OUT is relative to the repository, and so one place for every process. Raises
    DataError for a ~ that stands for no folder.
    """
    named = os.environ.get("CVAE_OUT", "").strip()
    if named.startswith("~"):
        home = os.path.expanduser(Path(named).parts[0])
        if not (os.path.isabs(home) and os.path.isdir(home)):
            raise DataError(f"CVAE_OUT: expected a folder, found {named!r}, whose ~ stands for no "
                            "home folder of this machine. Write the path out.")
    return (REPOSITORY / os.path.expanduser(named)).resolve()


@contextlib.contextmanager
def complete_folder(target: Path, replace: bool = True):
    """Yield a temporary folder that becomes `target` if, and only if, the block succeeds.

    A block that raises, or a process that is killed in it, leaves `target` as it was. A `target`
    that was there before is replaced, unless replace is False. One that another process has put
    there in the meantime stays, with what others have added to it since, and this one is dropped.
    What a dead process left behind is removed by the next call. Raises OSError, with the remedy, if
    the place cannot be written to.
    """
    target = Path(target)
    with _temporary(target, Path.mkdir) as partial:
        replaces = replace and target.exists()
        yield partial
        if not replaces:
            _move(partial, target)
            return
        with _temporary(target, Path.mkdir) as before:
            old = before / target.name
            with contextlib.suppress(FileNotFoundError):  # another process is replacing it just now
                target.rename(old)
            try:
                _move(partial, target)
            finally:
                if old.exists() and not target.exists():
                    old.rename(target)


@contextlib.contextmanager
def complete_file(path: Path):
    """Yield a temporary path, whose content becomes that of the file `path` if, and only if, the
    block succeeds and all of it is on the disk. Raises OSError as complete_folder does."""
    path = Path(path)
    with _temporary(path, Path.touch) as partial:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())  # else a power cut could leave the name without the content
        partial.replace(path)


#: Names of the files and folders that this process is writing now, in any of its threads.
_IN_USE: set[str] = set()
#: Age in seconds, from which on what a process of another machine left behind counts as such.
ABANDONED = 7 * 24 * 3600
#: What a temporary name ends in: machine, process and a random part.
_ENDING = re.compile(r"partial-([0-9a-f]{12})-(\d+)-[0-9a-f]{8}")


@contextlib.contextmanager
def _temporary(target: Path, make: Callable[[Path], None]):
    """Yield what `make` has made beside `target`, and remove it at the end if it is still there."""
    partial = target.with_name(
        f".{target.name}.partial-{_machine_id()}-{os.getpid()}-{secrets.token_hex(4)}")
    _IN_USE.add(partial.name)
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(target)
            make(partial)
        except OSError as error:
            raise OSError(error.errno, f"{target}: expected a place that can be written to, found "
                          f"none ({error.strerror or error}). Let {target.parent} be written to, or"
                          " set CVAE_OUT to another folder") from error
        yield partial
    finally:
        remove(partial)
        _IN_USE.discard(partial.name)


def _machine_id() -> str:
    """12 hex digits of what process numbers belong to: this machine, or this container of it."""
    namespace = 0
    with contextlib.suppress(OSError):  # Linux has it; containers there may share a host name
        namespace = os.stat("/proc/self/ns/pid").st_ino
    return short_hash([socket.gethostname(), namespace])


def _move(partial: Path, target: Path) -> None:
    """Rename a folder; if `target` is there, another process has made the same, and it stays."""
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _remove_leftovers(target: Path) -> None:
    """Remove what processes that were killed while they wrote this file or folder left behind."""
    start = f".{target.name}."
    for left in list(target.parent.iterdir()):
        ending = left.name.startswith(start) and _ENDING.fullmatch(left.name, len(start))
        if ending and _is_left_over(left, ending[1], int(ending[2])):
            remove(left)


def _is_left_over(path: Path, machine_id: str, process: int) -> bool:
    if machine_id == _machine_id():
        # In a container, every process may be number 1.
        return (path.name not in _IN_USE if process == os.getpid() else
                not psutil.pid_exists(process))
    try:
        return time.time() - path.stat().st_mtime > ABANDONED
    except OSError:
        return False  # another process has removed it just now


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it; what is not there, or cannot go, is let be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def write_json(path: Path, value) -> None:
    """Write JSON that reads well in a diff; the file appears only when complete."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8; the file appears only when complete."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data) -> None:
    """Write bytes to a file that appears only when they are on the disk."""
    with complete_file(path) as partial:
        partial.write_bytes(data)


def read_json(path: Path):
    """What a JSON file holds. Raises DataError, with the remedy, if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, found a damaged file ({error}). Put a whole copy "
                        "there, or delete it and make it again.") from error


def machine() -> str:
    """The processor, its cores and its GPU in a few words, for beside a run time."""
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")  # Linux knows the model's name; elsewhere the family must do
    if cpuinfo.is_file():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines()
                  if line.startswith("model name")]
        name = models[0] if models else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores{gpu}"


def short_hash(value) -> str:
    """12 hex digits of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
