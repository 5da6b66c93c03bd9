"""Execute notebooks from top to bottom and leave their outputs and figures.

    python scripts/run_notebooks.py                 those of the report, 01 to 05
    python scripts/run_notebooks.py --beyond        those that go further, 06 and later
    python scripts/run_notebooks.py 04 05           those whose names start so

On ACDC in the profile `quick` the notebooks are executed in place and figures go to figures/; in
another profile or on the phantom, executed copies and figures go to a folder of its name in there.
CVAE_OUT redirects both. Stop it with Ctrl-C; the same line goes on, and what is trained stays.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from cvae_utils import files, results_file
from cvae_utils import study as study_module
from cvae_utils.model import progress
from scripts import write_tables

NOTEBOOKS = files.REPOSITORY / "notebooks"
#: The notebooks that reproduce the report are 01 to this one.
LAST_OF_REPORT = 5
WIDGET = "application/vnd.jupyter.widget-view+json"
#: Seconds between two looks at the trainings, and between two lines where there is no terminal.
LOOK, LINE = 1.0, 30.0
#: Characters of a training's title, so that its line fits into 100 columns.
TITLE = 34


class Watch:
    """Shows what runs: the cell of a notebook, and the trainings under way with the time they have
    left.

    In a terminal these are bars, one for the notebook and one below it for each training; elsewhere
    they are lines, written every `line` seconds.
    """

    def __init__(self, title: str, cells: int, runs: Path, line: float = LINE):
        self.title, self.cells, self.runs, self.line = title, cells, runs, line
        self.cell = 0  # that runs, counted from 1
        self.started, self.started_at = time.monotonic(), time.time()
        self.first: dict[Path, tuple[float, float]] = {}  # second and epoch of the first look
        self.bar, self.bars = None, {}

    def __enter__(self) -> "Watch":
        if sys.stdout.isatty():
            self.bar = tqdm(total=self.cells, file=sys.stdout, dynamic_ncols=True,
                            bar_format="{bar:16} {desc}")
        self.show("starts")
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look_again_and_again, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self.over.set()
        self.thread.join()
        for bar in self.bars.values():
            bar.close()
        self.cell += kind is None
        self.show("done" if kind is None else f"stopped in {self.place}", trainings={})
        if self.bar is not None:
            self.bar.close()

    @property
    def place(self) -> str:
        return f"cell {max(self.cell, 1)} of {self.cells}"

    def show(self, state: str = "", trainings: dict | None = None) -> None:
        """Look once, and show what is there. state: in place of the cell's number; trainings: in
        place of those under way."""
        trainings = self._trainings() if trainings is None else trainings
        elapsed = tqdm.format_interval(time.monotonic() - self.started)
        text = f"{self.title}: {state or self.place}, {elapsed}"
        if self.bar is None:
            print(text, *(f"    {told['title']}: {how_far}" for told, how_far in
                          trainings.values()), sep="\n", flush=True)
            return
        for path in set(self.bars) - set(trainings):
            self.bars.pop(path).close()
        self.bar.n = max(self.cell - 1, 0)
        self.bar.set_description_str(text)
        for path, (told, how_far) in trainings.items():
            if path not in self.bars:
                self.bars[path] = tqdm(total=told["of"], leave=False, file=sys.stdout,
                                       dynamic_ncols=True, bar_format="    {bar:8} {desc}")
            self.bars[path].n = told["epochs"]
            self.bars[path].set_description_str(f"{_shortened(told['title'])}: {how_far}")

    def _look_again_and_again(self) -> None:
        while not self.over.wait(LOOK if self.bar is not None else self.line):
            self.show()

    def _trainings(self) -> dict[Path, tuple[dict, str]]:
        """What each training has told since the notebook began, and how far it is in words."""
        found = {}
        for path in sorted(self.runs.glob(f"*{progress.SUFFIX}")):
            with contextlib.suppress(FileNotFoundError):  # of a training that ends just now
                told = progress.read(path)
                if told and path.stat().st_mtime >= self.started_at:
                    found[path] = told, self._how_far(path, told)
        return found

    def _how_far(self, path: Path, told: dict) -> str:
        now, epochs, of = time.monotonic(), told["epochs"], told["of"]
        then, before = self.first.setdefault(path, (now, epochs))
        parts = [f"epoch {min(int(epochs) + 1, of)} of {of}", progress.text(told)]
        if epochs > before:
            left = (of - epochs) * (now - then) / (epochs - before)
            parts.append(f"{tqdm.format_interval(left)} left")
        return ", ".join(filter(None, parts))


def _shortened(title: str) -> str:
    """A training's title, without its middle if it is long."""
    return title if len(title) <= TITLE else f"{title[:TITLE - 15]}...{title[-12:]}"


def client_of(book: nbformat.NotebookNode, path: Path) -> NotebookClient:
    """What executes a notebook in a kernel of its own, in the folder of `path`.

    The state of widgets is not stored: without a kernel they could not answer.
    """
    return NotebookClient(book, timeout=None, kernel_name="python3", store_widget_state=False,
                          resources={"metadata": {"path": str(path.parent)}},
                          extra_arguments=["--log-level=CRITICAL"])


def execute(path: Path, target: Path, runs: Path, title: str = "", line: float = LINE) -> None:
    """Run one notebook from the top and write it, with its outputs, to `target`.

    runs: the folder in which trainings tell how far they are. Raises SystemExit, which names the
    notebook and the cell, if a cell fails or the kernel dies, and KeyboardInterrupt if the user
    stops it; nothing is written then.
    """
    book = nbformat.read(path, as_version=4)
    cells = [n for n, cell in enumerate(book.cells)
             if cell.cell_type == "code" and cell.source.strip()]
    client = client_of(book, path)
    with Watch(title or path.stem, len(cells), runs, line) as watch:
        def begin(cell_index: int, **_) -> None:
            watch.cell = cells.index(cell_index) + 1

        client.on_cell_execute = begin
        try:
            asyncio.run(_until_stopped(client))
        except CellExecutionError as error:
            raise SystemExit(f"{path.name}, {watch.place}, failed:\n{error}") from None
        except RuntimeError as error:
            raise SystemExit(f"{path.name}, {watch.place}: expected a kernel that lives, found "
                             f"{error}. If memory was short, free some, and run the same again: "
                             "what is trained stays.") from None
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # when each cell ran: noise in every diff
        if cell.cell_type == "code":  # widgets and progress bars are dead without their kernel
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
    target.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(target, nbformat.writes(book) + "\n")


async def _until_stopped(client: NotebookClient) -> None:
    """Execute; raises KeyboardInterrupt after Ctrl-C, or a request to end, once the kernel has
    ended. By itself, nbclient says then that the kernel died."""
    task = asyncio.current_task()

    def take_over(**_) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # on Windows, asyncio.run cancels
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)

    client.on_notebook_start = take_over
    try:
        await client.async_execute()
    except (asyncio.CancelledError, DeadKernelError):
        if task.cancelling():
            raise KeyboardInterrupt from None
        raise


def run(paths: Sequence[Path], folder: Path, runs: Path, line: float = LINE) -> dict[str, float]:
    """Execute these notebooks in turn, each to the file of its name in `folder`: see `execute`.
    Returns the minutes that each took, by name."""
    minutes = {}
    for number, path in enumerate(paths, start=1):
        began = time.monotonic()
        execute(path, folder / path.name, runs, f"{path.stem} ({number} of {len(paths)})", line)
        minutes[path.stem] = (time.monotonic() - began) / 60
    return minutes


def choose(names: Sequence[str], beyond: bool = False, folder: Path = NOTEBOOKS) -> list[Path]:
    """The notebooks whose names start so; without names those of the report, or those beyond it.

    Raises SystemExit for a name that none starts with.
    """
    paths = sorted(folder.glob("[0-9]*.ipynb"))
    if not names:
        return [path for path in paths if (int(path.name[:2]) > LAST_OF_REPORT) == beyond]
    if unknown := [name for name in names if not any(p.name.startswith(name) for p in paths)]:
        raise SystemExit(f"expected the start of a notebook's name, found {' '.join(unknown)}")
    return [path for path in paths if path.name.startswith(tuple(names))]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Execute notebooks and leave their figures.")
    parser.add_argument("names", nargs="*", help="starts of names; none: 01 to 05")
    parser.add_argument("--beyond", action="store_true", help="06 and later")
    asked = parser.parse_args(arguments)
    if asked.names and asked.beyond:
        parser.error("expected names or --beyond, found both")
    paths = choose(asked.names, asked.beyond)
    try:
        study = study_module.begin("run")
    except (files.DataError, ValueError) as error:  # says what to do
        sys.exit(str(error))
    published = files.REPOSITORY / "figures"
    folder = NOTEBOOKS if study.figure_folder == published else study.figure_folder
    runs = study.data_folder / "runs"
    # Only the time from nothing says what a newcomer has to wait for; notebooks beyond the report
    # find its runs there, of seed 0, and none of the further seeds that they train.
    report, further = (any(runs.glob(f"*-seed{seeds}*")) for seeds in ("0", "[1-9]"))
    timed = not asked.names and not further and report == asked.beyond
    minutes = run(paths, folder, runs)
    total = sum(minutes.values())
    print(f"{len(paths)} notebooks in {total:.1f} minutes: {folder}, figures in "
          f"{study.figure_folder}")
    if timed:
        recorded = study.figure_folder / results_file.FILE_NAME
        before = files.read_json(recorded).get("run", {}) if recorded.is_file() else {}
        same = before.get("machine") == files.machine()
        study.record(notebooks=(before.get("notebooks", {}) if same else {}) | minutes,
                     machine=files.machine())
    if study.figure_folder in (published, published / "report") and not asked.names:
        write_tables.fill_in(write_tables.DOCUMENTS, write_tables.published_tables(published))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("Stopped. What is trained stays, and the same line goes on from there.",
              file=sys.stderr)
        sys.exit(130)
