"""Folders that are complete or not there, and keys that notice edits."""

import os
import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from cvae_utils import storage
from cvae_utils.storage import code_stamp, complete_folder, read_json, short_hash, write_json


def contents(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def target(tmp_path):
    return tmp_path / "runs" / "quick-beta0.5"


@pytest.fixture
def older(target):
    target.mkdir(parents=True)
    (target / "old.txt").write_text("old")
    return target


def finished():
    """The number of a process that has just ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_folder_appears_when_the_block_ends(target):
    with complete_folder(target) as partial:
        (partial / "a.txt").write_text("new")
        assert not target.exists() and partial.parent == target.parent
    assert contents(target.parent) == {"quick-beta0.5/a.txt": "new"}


def test_existing_folder_is_replaced_as_a_whole(older):
    with complete_folder(older) as partial:
        (partial / "a.txt").write_text("new")
        assert contents(older) == {"old.txt": "old"}
    assert contents(older.parent) == {"quick-beta0.5/a.txt": "new"}
    assert [p.name for p in older.parent.iterdir()] == [older.name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failed_block_leaves_no_folder(target, error):
    with pytest.raises(error), complete_folder(target) as partial:
        (partial / "a.txt").write_text("half")
        raise error
    assert list(target.parent.iterdir()) == []


def test_failed_block_keeps_what_was_there(older):
    with pytest.raises(ValueError), complete_folder(older) as partial:
        (partial / "a.txt").write_text("half")
        raise ValueError
    assert contents(older.parent) == {"quick-beta0.5/old.txt": "old"}


@pytest.mark.parametrize("kind", ["partial", "replaced"])
def test_left_over_of_a_dead_process_is_removed_and_of_a_living_one_kept(target, kind):
    dead = target.with_name(f".{target.name}.{kind}-{finished()}")
    alive = target.with_name(f".{target.name}.{kind}-{os.getppid()}")
    other = target.with_name(f".another.{kind}-{finished()}")
    for folder in (dead, alive, other):
        folder.mkdir(parents=True)
    with complete_folder(target):
        assert not dead.exists()
    assert {p.name for p in target.parent.iterdir()} == {target.name, alive.name, other.name}


@pytest.mark.parametrize("kind", ["partial", "replaced"])
def test_left_over_of_an_earlier_process_with_the_same_number_is_removed(older, kind):
    """In a container, every process may be number 1."""
    left = older.with_name(f".{older.name}.{kind}-{os.getpid()}")
    left.mkdir()
    (left / "half.txt").write_text("half")
    with complete_folder(older) as partial:
        (partial / "a.txt").write_text("new")
    assert contents(older.parent) == {f"{older.name}/a.txt": "new"}
    assert [p.name for p in older.parent.iterdir()] == [older.name]


def test_killed_process_leaves_no_folder_and_does_not_block_the_next(target):
    program = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from cvae_utils.storage import complete_folder
        with complete_folder(Path(sys.argv[1])) as partial:
            (partial / "a.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    ended = subprocess.run([sys.executable, "-c", program, target], cwd=storage.REPOSITORY)
    assert ended.returncode == -signal.SIGKILL
    assert not target.exists() and len(list(target.parent.iterdir())) == 1
    with complete_folder(target) as partial:
        (partial / "a.txt").write_text("whole")
    assert contents(target.parent) == {"quick-beta0.5/a.txt": "whole"}


def test_json_reads_well_in_a_diff_and_comes_back(tmp_path):
    value = {"b": [1.5, None], "a": "é"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    lines = (tmp_path / "a.json").read_text().splitlines()
    assert len(lines) > 4 and lines[1].startswith(' "a"')  # one entry a line, sorted


def test_json_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_value_is_made_once_for_a_key(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"a": len(made)}

    path = tmp_path / "new" / "value.json"
    assert [storage.kept_json(path, key, make)["a"] for key in ("x", "x", "y", "x")] == [1, 1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        storage.kept_json(path, "z", lambda: 1 / 0)
    assert storage.kept_json(path, "x", make) == {"a": 3}


def test_hash_depends_on_values_and_not_on_their_order():
    assert short_hash({"a": 1, "b": 2}) == short_hash({"b": 2, "a": 1})
    assert short_hash({"a": 1}) != short_hash({"a": 2})
    assert len(short_hash([])) == 12


ORIGINAL = '''
"""A module."""
def area(r):
    """Of a circle."""
    return 3 * r**2
'''


@pytest.mark.parametrize(("edited", "changes"), [
    (ORIGINAL.replace("Of a circle", "Of any circle"), False),
    (ORIGINAL.replace('"""A module."""\n', ""), False),
    (ORIGINAL.replace("r**2", "r ** 2  # roughly"), False),
    (ORIGINAL.replace("3 *", "3.14 *"), True),
    (ORIGINAL.replace("(r)", "(r, s=1)"), True),
    (ORIGINAL + "PI = 3\n", True),
])
def test_code_stamp_notices_code_and_not_comments(tmp_path, edited, changes):
    stamps = []
    for name, text in (("a.py", ORIGINAL), ("b.py", edited)):
        (tmp_path / name).write_text(text)
        stamps.append(code_stamp(SimpleNamespace(__file__=tmp_path / name)))
    assert (stamps[0] != stamps[1]) == changes


def test_outputs_go_where_cvae_out_says(tmp_path, monkeypatch):
    assert storage.output_root() == storage.REPOSITORY
    monkeypatch.setenv("CVAE_OUT", str(tmp_path))
    assert storage.output_root() == tmp_path.resolve()
    monkeypatch.setenv("CVAE_OUT", "")
    assert storage.output_root() == storage.REPOSITORY


def test_machine_is_described_in_words():
    assert f"{os.cpu_count()} cores" in storage.machine()
