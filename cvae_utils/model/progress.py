"""How far trainings are: each tells a small file, and bars in a notebook or a terminal show it.

The file lies beside the checkpoint and goes when the training ends, so whoever looks into the
folder of runs, another process too, sees what is under way.
"""

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from cvae_utils.files import remove

SUFFIX = ".progress"
#: Seconds between two looks at the files, and at least so many between two writes of one.
PAUSE = 0.5
#: What a bar shows; the time that is left, as long as there is any.
RUNNING = "{l_bar}{bar}| {n:.1f}/{total} epochs [{elapsed}<{remaining}{postfix}]"
COMPLETE = "{{l_bar}}{{bar}}| {{n}}/{{total}} epochs [{elapsed}{{postfix}}]"


class Reporter:
    """Writes how far one training is; a `report` of training.fit. path: None writes nothing."""

    def __init__(self, path: Path | None, title: str, epochs: int):
        self.path, self.told, self.next = path, {"title": title, "of": epochs}, 0.0

    def __call__(self, epochs: float, loss: float | None = None, dice: float | None = None) -> None:
        self.told.setdefault("began_at", epochs)
        self.told["epochs"] = epochs
        if loss is not None:
            self.told |= {"loss": loss, "dice": dice}
        if self.path is not None and time.monotonic() >= self.next:
            with contextlib.suppress(OSError):  # it tells of the training, and must not end it
                self.path.write_text(json.dumps(self.told), encoding="utf-8")
            self.next = time.monotonic() + PAUSE

    def close(self) -> None:
        if self.path is not None:
            remove(self.path)


def read(path: Path) -> dict | None:
    """What a Reporter has written: title, epochs (done), of, began_at (epochs that were done when
    this process began), and after the first epoch loss and dice, of the validation slices. None if
    there is nothing, or it is being written just now."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def text(told: dict) -> str:
    """Loss and Dice, as a bar shows them."""
    return f"loss {told['loss']:.3f}, Dice {told['dice']:.3f}" if "loss" in told else ""


@contextlib.contextmanager
def bars(paths: Sequence[Path], titles: Sequence[str], epochs: Sequence[int],
         shown: bool = True) -> Iterator[None]:
    """Show a bar for each of these trainings for the length of the block.

    paths: the files of their Reporters, beside the folders of the runs that they become. Files that
    killed trainings have left there are removed before and after.
    """
    for path in paths:
        remove(path)
    # How often they are drawn is left to TQDM_MININTERVAL: a kernel keeps few messages.
    rows = [tqdm(desc=title, total=total, smoothing=0, miniters=0, bar_format=RUNNING,
                 disable=not shown) for title, total in zip(titles, epochs)]
    unfinished, begun, over = dict(zip(paths, rows)), set(), threading.Event()

    def look() -> None:
        for path, bar in list(unfinished.items()):
            if (told := read(path)) is not None:
                bar.set_postfix_str(text(told), refresh=False)
                if path not in begun:
                    begun.add(path)
                    # The time that is left is reckoned from now and from these epochs.
                    bar.initial = told["began_at"]
                    bar.unpause()
                    bar.n = told["epochs"]
                    bar.refresh()
                elif told["epochs"] != bar.n:
                    bar.update(told["epochs"] - bar.n)
            elif (history := path.with_suffix("") / "history.csv").is_file():
                _complete(unfinished.pop(path), pd.read_csv(history))

    def watch() -> None:
        while not over.wait(PAUSE):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    if shown:
        watcher.start()
    try:
        yield
    finally:
        if shown:
            over.set()
            watcher.join()
            look()
        for bar in rows:
            bar.close()
        for path in paths:
            remove(path)


def _complete(bar: tqdm, history: pd.DataFrame) -> None:
    """Show the last epoch, which may come before the profile's, and let the time stand still."""
    loss, dice = history[["validation_loss", "validation_dice"]].iloc[-1]
    bar.bar_format = COMPLETE.format(elapsed=tqdm.format_interval(bar.format_dict["elapsed"]))
    bar.set_postfix_str(text({"loss": loss, "dice": dice}), refresh=False)
    bar.n = bar.total = len(history)
    bar.refresh()
