"""What is installed in Colab, and that nothing is anywhere else."""

import subprocess
import sys

import pytest

from cvae_utils import colab


def test_only_what_is_not_installed_is_missing_and_colabs_own_packages_never_are(
        tmp_path, monkeypatch):
    path = tmp_path / "requirements.txt"
    path.write_text("""# why
torch==99.0            # Colab's own
no-such-torch
numpy>=1
no-such-package==1.2   # missing
another_one[extra]>=3
scikit-learn==1.9.1    # is imported as sklearn

pytest
""")
    monkeypatch.setattr(colab, "COLAB_OWN", {"torch", "no-such-torch"})
    assert colab.missing(path) == ["no-such-package==1.2", "another_one[extra]>=3"]
    assert colab.missing() == []  # the repository's own list, here


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
