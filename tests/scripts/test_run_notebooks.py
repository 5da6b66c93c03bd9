"""Notebooks are executed in order, and one sees how far they are."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from cvae_utils.files import REPOSITORY, read_json
from scripts import run_notebooks
from scripts.run_notebooks import choose, run

#: A cell that trains: it tells of two trainings beside each other, as model.progress.Reporter does.
TRAIN = """
import json, time
from pathlib import Path
for n in range(1, 13):
    for k in (1, 2):
        told = {"title": f"quick-beta{k}-seed0 ({k} of 2)", "of": 40, "epochs": n / 4}
        told |= {"loss": 0.4321, "dice": 0.8765} if n > 4 else {}
        Path(f"../runs/{k}.progress").write_text(json.dumps(told))
    time.sleep(0.25)
for path in Path("../runs").glob("*.progress"):
    path.unlink()
"""


@pytest.fixture
def books(tmp_path):
    """books({name: sources of its code cells}): the notebooks, after a cell of text."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "runs").mkdir()

    def make(cells):
        v4 = nbformat.v4
        for name, sources in cells.items():
            nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("# Text"), *map(
                v4.new_code_cell, sources)]), tmp_path / "notebooks" / f"{name}.ipynb")
        return choose(list(cells), folder=tmp_path / "notebooks")
    return make


def test_notebooks_are_executed_and_written_with_what_they_show(books, tmp_path):
    paths = books({"01_first": ["2 + 3", ""], "02_second": ["print('hearts')"]})
    run(paths, tmp_path / "made", tmp_path / "runs")
    first, second = (nbformat.read(tmp_path / "made" / path.name, as_version=4) for path in paths)
    assert first.cells[1].outputs[0].data["text/plain"] == "5"
    assert second.cells[1].outputs[0].text == "hearts\n"
    assert nbformat.read(paths[0], as_version=4).cells[1].outputs == []  # as it was


def test_lines_tell_notebook_cell_and_trainings(books, tmp_path, capsys):
    (tmp_path / "runs" / "old.progress").write_text(
        '{"title": "killed", "of": 9, "epochs": 1}')
    os.utime(tmp_path / "runs" / "old.progress", (0, 0))  # of a training that was killed long ago
    run(books({"01_first": ["1"], "02_second": ["2", TRAIN, "3"]}), tmp_path / "made",
        tmp_path / "runs", line=0.2)
    said = capsys.readouterr().out
    assert said.startswith("01_first (1 of 2): starts, 00:00\n01_first (1 of 2): cell 1 of 1, 00:0")
    assert re.search(r"""02_second \(2 of 2\): cell 2 of 3, 00:\d\d
    quick-beta1-seed0 \(1 of 2\): epoch 1 of 40
    quick-beta2-seed0 \(2 of 2\): epoch 1 of 40
""", said)
    assert re.search(r"    quick-beta2-seed0 \(2 of 2\): epoch \d of 40, loss 0.432, Dice 0.876, "
                     r"\d\d:\d\d left\n", said)
    assert re.search(r"02_second \(2 of 2\): done, 00:\d\d\n$", said) and "killed" not in said


def test_time_from_nothing_is_recorded_beside_the_executed_copies(books, tmp_path, monkeypatch):
    for name, value in (("CVAE_OUT", str(tmp_path)), ("CVAE_PROFILE", "smoke"),
                        ("CVAE_DATA", "phantom")):
        monkeypatch.setenv(name, value)
    paths = books({"01_first": ["1"]})
    monkeypatch.setattr(run_notebooks, "choose", lambda *_: paths)
    for arguments, sections in ((["01"], None), ([], {"run"})):
        run_notebooks.main(arguments)
        assert (tmp_path / "figures" / "01_first.ipynb").is_file()
        results = tmp_path / "figures" / "results.json"
        assert (set(read_json(results)) if results.is_file() else None) == sections
    assert read_json(results)["run"]["notebooks"]["01_first"] > 0


def test_only_time_from_nothing_counts_and_of_one_machine(tmp_path, monkeypatch):
    for name, value in (("CVAE_OUT", str(tmp_path)), ("CVAE_PROFILE", "smoke"),
                        ("CVAE_DATA", "phantom")):
        monkeypatch.setenv(name, value)
    took = {}
    monkeypatch.setattr(run_notebooks, "run", lambda *_: dict(took))
    runs, results = tmp_path / "data" / "runs", tmp_path / "figures" / "results.json"

    def recorded(arguments, minutes):
        took.clear()
        took.update(minutes)
        run_notebooks.main(arguments)
        return read_json(results)["run"]["notebooks"] if results.is_file() else {}

    assert recorded(["--beyond"], {"06": 9.0}) == {}  # it would train the runs of the report, too
    assert recorded([], {"01": 1.0}) == {"01": 1.0}
    (runs / "smoke-beta1-seed0-abc").mkdir(parents=True)
    assert recorded([], {"01": 0.1}) == {"01": 1.0}
    assert recorded(["--beyond"], {"06": 2.0}) == {"01": 1.0, "06": 2.0}
    (runs / "smoke-beta1-seed1-abc").mkdir()
    assert recorded(["--beyond"], {"06": 0.1}) == {"01": 1.0, "06": 2.0}
    shutil.rmtree(runs)
    monkeypatch.setattr(run_notebooks.files, "machine", lambda: "another")
    assert recorded([], {"01": 3.0}) == {"01": 3.0}


def test_setting_that_cannot_be_used_ends_in_its_words(monkeypatch):
    monkeypatch.setenv("CVAE_PROFILE", "huge")
    with pytest.raises(SystemExit, match="CVAE_PROFILE: expected one of .*, found 'huge'"):
        run_notebooks.main(["01"])


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_terminal_shows_bars_that_fit_into_it(books, tmp_path, monkeypatch):
    monkeypatch.setattr(run_notebooks, "LOOK", 0.1)
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    run(books({"01_first": ["1", TRAIN.replace("quick", "quick-of-a-very-long-name")]}),
        tmp_path / "made", tmp_path / "runs")
    shown = [line.strip() for line in terminal.getvalue().replace("\n", "\r").split("\r")]
    assert any(line.endswith("01_first (1 of 1): cell 2 of 2, 00:02") for line in shown)
    assert any("quick-of-a-very-lon...ed0 (2 of 2): epoch 3 of 40, loss" in line for line in shown)
    assert "01_first (1 of 1): done" in shown[-2] and max(map(len, shown)) <= 100


@pytest.mark.parametrize(("source", "said"), [
    ("1 / 0", "01_first.ipynb, cell 2 of 3, failed:\n.*1 / 0.*ZeroDivisionError"),
    ("import os; os._exit(1)", "01_first.ipynb, cell 2 of 3: expected a kernel that lives"),
])
def test_error_names_the_cell_and_nothing_is_written(books, tmp_path, capsys, source, said):
    paths = books({"01_first": ["1", source, "2"], "02_second": ["3"]})
    with pytest.raises(SystemExit) as error:
        run(paths, tmp_path / "made", tmp_path / "runs")
    assert re.search(said, str(error.value), re.DOTALL)
    assert not (tmp_path / "made").exists()
    assert "01_first (1 of 2): stopped in cell 2 of 3, 00:" in capsys.readouterr().out


STOPPED = """
import sys
from pathlib import Path
from scripts.run_notebooks import choose, run
folder = Path(sys.argv[1])
try:
    run(choose([], folder=folder / "notebooks"), folder / "made", folder / "runs", line=0.2)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_ends_the_kernel_and_writes_nothing(books, tmp_path):
    started = tmp_path / "started"
    books({"01_first": [f"import os, time\nopen({str(started)!r}, 'w').write(str(os.getpid()))\n"
                        "time.sleep(600)"]})
    process = subprocess.Popen([sys.executable, "-c", STOPPED, tmp_path], cwd=REPOSITORY, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=lambda: signal.signal(signal.SIGINT,
                                                                signal.default_int_handler))
    deadline = time.monotonic() + 120
    while not (started.exists() and started.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == ""
    assert out.splitlines()[-1].startswith("01_first (1 of 1): stopped in cell 1 of 1")
    assert not (tmp_path / "made").exists() and not psutil.pid_exists(int(started.read_text()))


def test_names_choose_and_without_names_the_report_or_what_is_beyond(books):
    folder = books({"01_a": [], "05_b": [], "06_c": [], "10_d": []})[0].parent

    def chosen(*arguments):
        return [path.stem for path in choose(*arguments, folder=folder)]

    assert chosen([]) == ["01_a", "05_b"] and chosen([], True) == ["06_c", "10_d"]
    assert chosen(["10", "05"]) == ["05_b", "10_d"]
    with pytest.raises(SystemExit, match="expected the start of a notebook's name, found 07 x"):
        choose(["01", "07", "x"], folder=folder)
    with pytest.raises(SystemExit, match="2"):
        run_notebooks.main(["01", "--beyond"])
