"""Where things lie, folders that appear only when complete, and cache keys that notice edits."""

import ast
import contextlib
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

#: The repository, wherever the kernel runs.
REPOSITORY = Path(__file__).resolve().parent.parent


class DataError(ValueError):
    """Input that cannot be used: says what was expected, what came, and what to do."""


def output_root() -> Path:
    """Where data/ and figures/ are written: CVAE_OUT, else the repository."""
    return Path(os.environ.get("CVAE_OUT") or REPOSITORY).resolve()


@contextlib.contextmanager
def complete_folder(target: Path):
    """Yield a temporary folder that becomes `target` if, and only if, the block succeeds.

    A block that raises, or a process that is killed, leaves `target` as it was. An existing
    `target` is replaced. What a dead process left behind is removed by the next call.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
        if target.exists():
            replaced = partial.with_name(partial.name.replace(".partial-", ".replaced-"))
            target.rename(replaced)
            partial.rename(target)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_leftovers(target: Path) -> None:
    """Remove what processes that were killed while they wrote this file or folder left behind."""
    for leftover in target.parent.glob(f".{target.name}.*-*"):
        kind, _, pid = leftover.suffix.rpartition("-")
        own = leftover.stem == f".{target.name}" and kind in (".partial", ".replaced")
        # This process has not begun to write `target`, so a folder with its number is older.
        if own and pid.isdecimal() and (int(pid) == os.getpid() or not _is_running(int(pid))):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    if os.name == "nt":
        return True  # there, asking a process with signal 0 would end it
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def write_json(path: Path, value) -> None:
    """Write JSON that reads well in a diff; the file appears only when complete."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8; the file appears only when complete."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data) -> None:
    """Write bytes to a file that appears only when they are on the disk."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the name without the content
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path):
    return json.loads(path.read_text())


def kept_json(path: Path, key: str, make: Callable[[], object]):
    """What `make` returns, JSON-able: from this file if it was made with the same key, else made
    and written. It comes back as it does from the file, the first time, too."""
    if not path.is_file() or read_json(path).get("key") != key:
        value = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"key": key, "value": value})
    return read_json(path)["value"]


def short_hash(value) -> str:
    """12 hex digits of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def code_stamp(*modules) -> str:
    """12 hex digits that change when the code of these modules does; comments do not count.

    Part of every cache key, so that a result is never taken from before an edit of the code that
    makes it.
    """
    trees = [ast.parse(Path(module.__file__).read_text()) for module in modules]
    for tree in trees:
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if (isinstance(body, list) and body and isinstance(body[0], ast.Expr)
                    and isinstance(body[0].value, ast.Constant)
                    and isinstance(body[0].value.value, str)):
                node.body = body[1:]  # a docstring is a comment
    return short_hash([ast.dump(tree) for tree in trees])


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
