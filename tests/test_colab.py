"""What is installed in Colab, and that nothing is anywhere else."""

import subprocess
import sys

import pytest

from cvae_utils import colab


@pytest.fixture
def requirements(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("""# why
torch==99.0            # Colab's own
numpy>=1
no-such-package==1.2   # missing
another_one[extra]>=3
scikit-learn==1.9.1    # is called sklearn

pytest
""")
    return path


def test_only_what_cannot_be_imported_is_missing(requirements):
    assert colab.missing(requirements) == ["no-such-package==1.2", "another_one[extra]>=3"]


def test_colabs_own_packages_are_never_replaced(requirements, monkeypatch):
    monkeypatch.setattr(colab.importlib.util, "find_spec", lambda name: None)
    names = [line.split("=")[0] for line in colab.missing(requirements)]
    assert "torch" not in names and "numpy>" not in names and "scikit-learn" in names


def test_nothing_of_the_real_list_is_missing_here():
    assert colab.missing() == []


@pytest.mark.parametrize(("in_colab", "lacking", "installed"), [
    (False, ["a==1"], []),
    (True, [], []),
    (True, ["a==1", "b"], [["a==1", "b"]]),
])
def test_missing_packages_are_installed_in_colab_alone(monkeypatch, in_colab, lacking, installed):
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))
    monkeypatch.setattr(colab, "missing", lambda: lacking)
    if in_colab:
        monkeypatch.setitem(sys.modules, "google.colab", object())
    colab.install_missing()
    assert [command[5:] for command in calls] == installed
    assert all(command[:4] == [sys.executable, "-m", "pip", "install"] for command in calls)
