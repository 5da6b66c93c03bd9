"""The numbers of a study in one JSON file."""

import math
from pathlib import Path

from filelock import SoftFileLock, Timeout

from cvae_utils.files import DataError, read_json, write_json

FILE_NAME = "results.json"


def record(folder: Path, section: str, values: dict) -> None:
    """Replace one section of the results file in `folder`; the other sections stay, those that
    other notebooks record at this moment included.

    Raises DataError, with the remedy, if the file is damaged, and TimeoutError if another process
    keeps it for a minute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, lock = folder / FILE_NAME, folder / f".{FILE_NAME}.lock"
    try:
        with SoftFileLock(lock, timeout=60):  # one that every file system has, and that leaves none
            known = read_json(path) if path.is_file() else {}
            if not isinstance(known, dict):
                raise DataError(f"{path}: expected an object, a section for each notebook, found "
                                f"{known!r:.40}. Put a whole copy there, or delete it and run the "
                                "notebooks again.")
            write_json(path, known | {section: _plain(values)})
    except Timeout as error:
        raise TimeoutError(f"{path}: expected to write to it within a minute, but {lock} says that "
                           "another process does. If there is none, delete that file; then record "
                           "again.") from error


def _plain(value):
    """Numbers as JSON has them, rounded to six significant digits so that diffs stay readable."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (bool, str, int)) or value is None:
        return value
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
