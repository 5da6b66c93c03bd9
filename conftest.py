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

#: nbval reads what a cell shows only once the cell is done, and until then a kernel keeps no more
#: than a thousand messages: progress bars of many trainings in one cell must be slow.
FORCED = {"CVAE_DATA": "phantom", "CVAE_PROFILE": "smoke", "TQDM_MININTERVAL": "10",
          "OMP_NUM_THREADS": "1"}


def pytest_configure(config):
    asked = config.getoption("nbval", False) or config.getoption("nbval_lax", False)
    if asked and not hasattr(config, "workerinput"):  # workers of xdist share one folder
        config.notebook_output = tempfile.mkdtemp(prefix="cvae-notebooks-")
        # The notebooks' kernels inherit the environment.
        os.environ.update(FORCED, CVAE_OUT=config.notebook_output)


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
