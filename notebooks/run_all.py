"""Execute the notebooks in order and leave their figures.

    python notebooks/run_all.py                 all of them
    python notebooks/run_all.py 04 05           those whose names start so

On ACDC in the profile `quick` the notebooks are executed in place and figures go to figures/; in
another profile or on the phantom, executed copies and figures go to a folder of its name in there.
CVAE_OUT redirects both.
"""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from cvae_utils import notebook, results, storage  # noqa: E402  (needs the line above)

NOTEBOOKS = Path(__file__).resolve().parent
WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(path: Path, target: Path) -> None:
    """Run one notebook from the top and write it, with its outputs, to `target`.

    Nothing is written if a cell fails; the error names the notebook and shows the cell.
    """
    book = nbformat.read(path, as_version=4)
    bar = tqdm(total=len(book.cells), desc=path.stem, unit="cell")
    # The state of the widgets is left out: without a kernel they could not answer.
    client = NotebookClient(book, timeout=None, kernel_name="python3", store_widget_state=False,
                            resources={"metadata": {"path": str(path.parent)}},
                            extra_arguments=["--log-level=ERROR"],
                            on_cell_complete=lambda **_: bar.update())
    try:
        client.execute()
    except CellExecutionError as error:
        raise SystemExit(f"\n{path.name} stopped at a cell that failed:\n{error}") from None
    finally:
        bar.close()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # when each cell ran: noise in every diff
        if cell.cell_type == "code":  # widgets and progress bars are dead without their kernel
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
    target.parent.mkdir(parents=True, exist_ok=True)
    storage.write_text(target, nbformat.writes(book) + "\n")


def main(chosen: list[str]) -> None:
    study = notebook.begin("run")
    published = storage.REPOSITORY / "figures"
    in_place = study.figure_folder == published
    folder = NOTEBOOKS if in_place else study.figure_folder
    paths = [p for p in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
             if not chosen or p.name.startswith(tuple(chosen))]
    if not paths:
        raise SystemExit(f"expected the start of a notebook's name, found {' '.join(chosen)}")
    # Only the time from nothing says what a newcomer has to wait for.
    timed = not chosen and not any((study.data_folder / "runs").glob("*"))
    started = time.monotonic()
    for path in paths:
        execute(path, folder / path.name)
    minutes = (time.monotonic() - started) / 60
    print(f"{len(paths)} notebooks in {minutes:.1f} minutes: {folder}, figures in "
          f"{study.figure_folder}")
    if timed:
        study.record(minutes=minutes, machine=storage.machine())
    if study.figure_folder in (published, published / "report") and not chosen:
        results.update_readme(storage.REPOSITORY / "README.md", results.published_tables(published))


if __name__ == "__main__":
    main(sys.argv[1:])
