"""The state of a training that is not finished, in one file that is always whole.

    data/runs/quick-beta1000-seed0-<hash>.checkpoint
"""

import io
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from cvae_utils.files import DataError, write_bytes

SUFFIX = ".checkpoint"


class Writer:
    """Writes the state after each epoch while the next one is trained.

    A write that failed is raised by the next `save` or by `close`; the file then is that of the
    epoch before. path: None writes nothing.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self.pending: Future | None = None

    def save(self, state: dict) -> None:
        """state: tensors, numbers, texts, lists and dictionaries of them; may change afterwards."""
        if self.path is not None:
            self.flush()
            self.pending = self.thread.submit(_write, self.path, _copied(state))

    def flush(self) -> None:
        """Wait until what was saved is on the disk."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.result()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self.thread.shutdown()


def load(path: Path) -> dict:
    """The state, its tensors on the CPU. Raises DataError with the remedy if it is damaged."""
    packed = io.BytesIO(path.read_bytes())
    try:
        return torch.load(packed, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any way
        # Not the advice that torch goes on with, to load it all the same.
        first = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise DataError(f"{path}: expected the state of a training, found a damaged file ({first})."
                        " Delete it: training then starts from the beginning.") from error


def _write(path: Path, state: dict) -> None:
    packed = io.BytesIO()
    torch.save(state, packed)
    try:
        write_bytes(path, packed.getbuffer())
    except OSError as error:
        reason = error.__cause__ if isinstance(error.__cause__, OSError) else error
        kept = ("The state of the epoch before is kept there" if path.is_file() else
                "Nothing is kept yet")
        raise OSError(
            error.errno, f"{path}: the state after epoch {state['epoch']} could not be written "
            f"({reason.strerror or reason}). {kept}. Free {packed.getbuffer().nbytes / 1e6:.0f} MB "
            "there, or let the folder be written to, and start again: training goes on from what "
            "is kept") from error


def _copied(value):
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, np.generic):
        return value.item()  # load refuses the types of NumPy
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(item) for item in value]
    return value
