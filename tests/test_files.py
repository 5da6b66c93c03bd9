"""Files and folders that are complete or not there, and where they lie."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from cvae_utils import files
from cvae_utils.files import complete_file, complete_folder, read_json, short_hash, write_json


def contents(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def names(folder):
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def target(tmp_path):
    return tmp_path / "runs" / "quick-beta0.5"


@pytest.fixture
def older(target):
    target.mkdir(parents=True)
    (target / "old.txt").write_text("old")
    return target


def write(folder, text):
    (folder / "a.txt").write_text(text)


# ----------------------------------------------------------------------------- whole or not there
def test_folder_appears_when_the_block_ends(target):
    with complete_folder(target) as partial:
        write(partial, "new")
        assert not target.exists() and partial.parent == target.parent
    assert contents(target.parent) == {"quick-beta0.5/a.txt": "new"}


def test_existing_folder_is_replaced_as_a_whole_or_stays_if_it_is_to(older):
    with complete_folder(older, replace=False) as partial:
        write(partial, "new")
    assert contents(older.parent) == {"quick-beta0.5/old.txt": "old"}
    with complete_folder(older) as partial:
        write(partial, "new")
        assert contents(older) == {"old.txt": "old"}
    assert contents(older.parent) == {"quick-beta0.5/a.txt": "new"}
    assert names(older.parent) == [older.name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failed_block_leaves_what_was_there(older, error):
    for place in (older, older.with_name("another")):
        with pytest.raises(error), complete_folder(place) as partial:
            write(partial, "half")
            raise error
    assert contents(older.parent) == {"quick-beta0.5/old.txt": "old"}
    assert names(older.parent) == [older.name]


@pytest.mark.parametrize("make", [complete_folder, complete_file])
def test_place_that_cannot_be_written_to_is_named_with_the_remedy(tmp_path, make):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"file/data/a: expected a place that can be written to, found"
                                      r" none \(.+\)\. Let .*file/data be written to, or set CVAE"):
        with make(tmp_path / "file" / "data" / "a"):
            pass


def test_folder_that_cannot_be_replaced_stays_as_it_was(older):
    with pytest.raises(OSError), complete_folder(older) as partial:
        partial.rmdir()
    assert contents(older) == {"old.txt": "old"} and names(older.parent) == [older.name]


def test_file_in_the_way_of_a_folder_is_no_folder_of_another_process(target):
    with pytest.raises(OSError), complete_folder(target) as partial:
        write(partial, "new")
        target.write_text("in the way")
    assert contents(target.parent) == {"quick-beta0.5": "in the way"}


# --------------------------------------------------------------------------------- two at once
def test_of_two_that_make_the_same_at_once_the_first_to_end_stays(target):
    """With what was added to it, and without an error of the other."""
    with complete_folder(target) as slow:
        write(slow, "slow")
        with complete_folder(target) as fast:  # as another thread would
            assert slow.exists() and slow != fast
            write(fast, "fast")
        (target / "b.txt").write_text("added")
    assert contents(target) == {"a.txt": "fast", "b.txt": "added"}
    assert names(target.parent) == ["quick-beta0.5"]


def test_two_that_replace_the_same_at_once_leave_one_whole_version(older):
    with complete_folder(older) as slow:
        write(slow, "slow")
        with complete_folder(older) as fast:
            write(fast, "fast")
    assert contents(older.parent) == {"quick-beta0.5/a.txt": "slow"}
    with complete_folder(older) as partial:
        write(partial, "whole")
        shutil.rmtree(older)  # as if another process were replacing it just now
    assert contents(older.parent) == {"quick-beta0.5/a.txt": "whole"}


def test_two_that_write_one_file_at_once_leave_a_whole_one(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with complete_file(path) as slow:
        slow.write_text("slow")
        files.write_text(path, "fast")
        assert path.read_text() == "fast"
    assert path.read_text() == "slow" and names(path.parent) == ["a.txt"]


# ------------------------------------------------------------------------- processes that died
def killed(target, prepare=""):
    """What a process that dies while it writes `target` leaves beside it."""
    program = textwrap.dedent(f"""
        import os, signal, socket, sys
        from pathlib import Path
        from cvae_utils.files import complete_folder
        {prepare}
        with complete_folder(Path(sys.argv[1])) as partial:
            (partial / "a.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    before = set(target.parent.iterdir()) if target.parent.exists() else set()
    ended = subprocess.run([sys.executable, "-c", program, target], cwd=files.REPOSITORY)
    assert ended.returncode == -signal.SIGKILL
    left, = set(target.parent.iterdir()) - before
    return left


def test_killed_process_leaves_no_folder_and_the_next_removes_what_it_left(target):
    left = killed(target)
    assert not target.exists() and contents(left) == {"a.txt": "half"}
    another = killed(target.with_name("another"))
    # In a container every process may be number 1: left by an earlier one with this number.
    dead = left.name.split("-")[-2]
    same_number = shutil.copytree(left, left.with_name(left.name.replace(dead, str(os.getpid()))))
    alive = shutil.copytree(left, left.with_name(left.name.replace(dead, str(os.getppid()))))
    with complete_folder(target) as partial:
        write(partial, "whole")
        assert not left.exists() and not same_number.exists()
    assert contents(target) == {"a.txt": "whole"}
    assert {path.name for path in target.parent.iterdir()} == {target.name, another.name,
                                                               alive.name}


@pytest.mark.parametrize("age_days", [0, 6, 8])
def test_left_over_of_another_machine_is_kept_for_a_week(target, age_days):
    left = killed(target, "socket.gethostname = lambda: 'elsewhere'")
    then = time.time() - age_days * 24 * 3600
    os.utime(left, (then, then))
    with complete_folder(target):
        assert left.exists() == (age_days < 7)


# ------------------------------------------------------------------------------------------ JSON
def test_json_reads_well_in_a_diff_and_comes_back(tmp_path):
    value = {"b": [1.5, None], "a": "é"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    lines = (tmp_path / "a.json").read_text().splitlines()
    assert len(lines) > 4 and lines[1].startswith(' "a"')  # one entry a line, sorted
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert read_json(tmp_path / "a.json") == value and names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_damaged_json_is_named_with_the_remedy(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(files.DataError, match=r"a\.json: expected JSON, found a damaged file "
                                              r"\(.+\)\. Put a whole copy there, or delete"):
        read_json(tmp_path / "a.json")


def test_hash_depends_on_values_and_not_on_their_order():
    assert short_hash({"a": 1, "b": 2}) == short_hash({"b": 2, "a": 1})
    assert short_hash({"a": 1}) != short_hash({"a": 2})
    assert len(short_hash([])) == 12


# ----------------------------------------------------------------------------------------- where
@pytest.mark.parametrize("start", [".", "notebooks", "/"])
@pytest.mark.parametrize(("value", "expected"), [
    (None, files.REPOSITORY), ("", files.REPOSITORY), (" \t", files.REPOSITORY),
    ("out", files.REPOSITORY / "out"), ("../out", files.REPOSITORY.parent / "out"),
    ("/tmp/out", Path("/tmp/out").resolve()), ("~", Path.home().resolve()),
    ("~/out", Path.home().resolve() / "out")])
def test_outputs_go_where_cvae_out_says_from_wherever(monkeypatch, start, value, expected):
    monkeypatch.chdir(files.REPOSITORY / start)
    if value is not None:
        monkeypatch.setenv("CVAE_OUT", value)
    assert files.output_root() == expected


@pytest.mark.parametrize(("value", "home"), [("~no-such-user/out", "/"), ("~", "/no/such/folder")])
def test_home_that_is_nobodys_is_refused(monkeypatch, value, home):
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("CVAE_OUT", value)
    with pytest.raises(files.DataError, match=f"CVAE_OUT: expected a folder, found '{value}', "
                                              "whose ~ stands for no home .*Write the path out"):
        files.output_root()


def test_machine_is_described_in_words():
    assert f"{os.cpu_count()} cores" in files.machine()
