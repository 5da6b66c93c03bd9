"""pytest --nbval runs the notebooks on the phantom, in the smoke profile, away from the work tree.

Outputs, runs and figures go to a temporary folder without cached runs, which is removed at the end,
once the numbers in it have been compared with the golden file.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import cvae_utils  # noqa: F401  sets how numbers are rounded, before NumPy is imported

sys.path.insert(0, str(Path(__file__).resolve().parent / "notebooks"))
import golden

#: Notebooks are run beside each other and beside tests: a kernel that started processes would gain
#: nothing.
FORCED = {"CVAE_DATA": "phantom", "CVAE_PROFILE": "smoke", "OMP_NUM_THREADS": "1",
          "LOKY_MAX_CPU_COUNT": "1"}
#: Files of tests that start browsers, kernels and processes that train.
SLOWEST = ("test_lab", "test_processes", "test_stopping", "test_sweep", "test_page")


def runs_notebooks(config):
    return config.getoption("nbval", False) or config.getoption("nbval_lax", False)


def pytest_configure(config):
    # Workers of xdist share one folder.
    if runs_notebooks(config) and not hasattr(config, "workerinput"):
        config.notebook_output = tempfile.mkdtemp(prefix="cvae-notebooks-")
        # The notebooks' kernels inherit the environment.
        os.environ.update(FORCED, CVAE_OUT=config.notebook_output)


def pytest_collection_modifyitems(config, items):
    """The longest files first: no worker of pytest-xdist is then left alone with one at the end.
    The notebooks are run from the last to the first: the last ones take longest."""
    if runs_notebooks(config):
        # nbval reads what a cell shows only once the cell is done, and until then a kernel keeps no
        # more than a thousand messages: progress bars of many trainings in one cell must be slow.
        # tqdm reads this when it is imported. The tests have imported it by now: it is for kernels.
        os.environ["TQDM_MININTERVAL"] = "10"
    notebooks = [item for item in items if item.path.suffix == ".ipynb"]
    tests = [item for item in items if item.path.suffix != ".ipynb"]
    items[:] = (sorted(notebooks, key=lambda item: item.path.name, reverse=True)
                + sorted(tests, key=lambda item: item.path.stem not in SLOWEST))


def pytest_sessionfinish(session):
    folder = getattr(session.config, "notebook_output", None)
    results = Path(folder or "", "figures", "results.json")
    if folder and results.is_file() and session.exitstatus == 0:
        if off := golden.differences(json.loads(results.read_text())):
            print("\n\nOther numbers than those of the golden file:", *off, sep="\n")
            session.exitstatus = 1


def pytest_unconfigure(config):
    if folder := getattr(config, "notebook_output", None):
        shutil.rmtree(folder, ignore_errors=True)
