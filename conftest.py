"""pytest --nbval runs the notebooks on the phantom, in the smoke profile, away from the work tree.

Outputs, runs and figures go to a temporary folder without cached runs, and are removed at the end.
"""

import os
import shutil
import tempfile

#: nbval reads what a cell shows only once the cell is done, and until then a kernel keeps no more
#: than a thousand messages: progress bars of many trainings in one cell must be slow.
FORCED = {"CVAE_DATA": "phantom", "CVAE_PROFILE": "smoke", "TQDM_MININTERVAL": "10"}


def pytest_configure(config):
    if config.getoption("nbval", False) or config.getoption("nbval_lax", False):
        config.notebook_output = tempfile.mkdtemp(prefix="cvae-notebooks-")
        # The notebooks' kernels inherit the environment.
        os.environ.update(FORCED, CVAE_OUT=config.notebook_output)


def pytest_unconfigure(config):
    if folder := getattr(config, "notebook_output", None):
        shutil.rmtree(folder, ignore_errors=True)
