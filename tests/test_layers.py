"""`make lint` refuses an import against the one direction of the package."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cvae_utils.files import REPOSITORY

LINT = Path(sys.executable).with_name("lint-imports")


@pytest.fixture
def lint(tmp_path):
    """lint(module, line): what lint-imports says of the package, with this line put into one of its
    modules, and its exit status."""
    def run(module="study.py", line=""):
        shutil.copytree(REPOSITORY / "cvae_utils", tmp_path / "cvae_utils",
                        ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
        with (tmp_path / "cvae_utils" / module).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
        found = subprocess.run([LINT, "--no-cache"], cwd=tmp_path, capture_output=True, text=True)
        return found.stdout, found.returncode
    return run


def test_package_as_it_is_passes(lint):
    assert lint()[1] == 0


def test_linter_sees_every_folder():
    folders = {path.parent for path in (REPOSITORY / "cvae_utils").rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


@pytest.mark.parametrize(("module", "imported", "broken"), [
    ("files.py", "labels", "One direction"),
    ("data/slices.py", "model.network", "One direction"),
    ("sweep.py", "study", "One direction"),
    ("analysis/claims.py", "figures.style", "One direction"),
    ("figures/style.py", "shape_metrics", "Figures know nothing"),
    ("sweep.py", "figures.style", "Only the study and the explorer draw"),
])
def test_import_against_the_direction_is_refused_by_its_contract(lint, module, imported, broken):
    said, status = lint(module, f"import cvae_utils.{imported}")
    contracts = [line for line in said.splitlines() if line.endswith(" BROKEN")]
    assert status == 1 and any(line.startswith(broken) for line in contracts), said
