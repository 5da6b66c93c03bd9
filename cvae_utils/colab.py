"""Run in Google Colab: install what it lacks. Needs nothing but the standard library."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
#: Colab's own builds of these fit its GPU and each other: never replaced.
COLAB_OWN = {"torch", "numpy", "scipy", "pandas", "matplotlib", "jupyterlab", "ipykernel"}


def missing(requirements: Path = REQUIREMENTS) -> list[str]:
    """Requirement lines, such as 'nibabel==5.4.2', whose package is not installed here, in any
    version; those of COLAB_OWN are left out."""
    lines = (line.partition("#")[0].strip() for line in requirements.read_text().splitlines())
    found = []
    for line in filter(None, lines):
        name = re.split(r"[=<>!~\[ ]", line, maxsplit=1)[0]
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name not in COLAB_OWN:
                found.append(line)
    return found


def install_missing() -> None:
    """In Colab, install the missing packages; anywhere else, do nothing."""
    if "google.colab" in sys.modules and (lines := missing()):
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *lines], check=True)
