"""Folders that are complete or not there, and keys that notice edits."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
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


def names(folder):
    return [path.name for path in folder.iterdir()]


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


def killed(target, prepare="", at_the_end="die()"):
    """What a process that dies while it writes `target` leaves beside it."""
    program = textwrap.dedent(f"""
        import os, signal, socket, sys
        from pathlib import Path
        from cvae_utils.storage import complete_folder
        die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        {prepare}
        with complete_folder(Path(sys.argv[1])) as partial:
            (partial / "a.txt").write_text("half")
            {at_the_end}
    """)
    ended = subprocess.run([sys.executable, "-c", program, target], cwd=storage.REPOSITORY)
    assert ended.returncode == -signal.SIGKILL
    return [path for path in target.parent.iterdir() if path != target]


def test_killed_process_leaves_no_folder_and_does_not_block_the_next(target):
    assert len(killed(target)) == 1 and not target.exists()
    with complete_folder(target) as partial:
        (partial / "a.txt").write_text("whole")
    assert contents(target.parent) == {"quick-beta0.5/a.txt": "whole"}


@pytest.mark.parametrize("age_days", [0, 6, 8])
def test_left_over_of_another_machine_is_kept_for_a_week(target, age_days):
    left, = killed(target, "socket.gethostname = lambda: 'elsewhere'")
    then = time.time() - age_days * 24 * 3600
    os.utime(left, (then, then))
    with complete_folder(target):
        assert left.exists() == (age_days < 7)


def test_process_that_dies_between_two_versions_loses_neither_for_good(older):
    left = killed(older, "rename, calls = Path.rename, []",
                  "Path.rename = lambda *given: die() if calls else (calls.append(1), "
                  "rename(*given))")
    assert len(left) == 2 and not older.exists()
    with pytest.raises(ValueError), complete_folder(older):
        raise ValueError
    assert contents(older.parent) == {"quick-beta0.5/old.txt": "old"}


def write(folder, text):
    (folder / "a.txt").write_text(text)


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


def test_folder_that_is_not_to_be_replaced_stays(older):
    with complete_folder(older, replace=False) as partial:
        write(partial, "new")
    assert contents(older.parent) == {"quick-beta0.5/old.txt": "old"}


def test_file_in_the_way_of_a_folder_is_no_folder_of_another_process(target):
    with pytest.raises(OSError), complete_folder(target) as partial:
        write(partial, "new")
        target.write_text("in the way")
    assert contents(target.parent) == {"quick-beta0.5": "in the way"}


@pytest.mark.parametrize("make", [complete_folder, storage.complete_file])
def test_place_that_cannot_be_written_to_is_named_with_the_remedy(tmp_path, make):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"file/data/a: expected a place that can be written to, found"
                                      r" none \(.+\)\. Let .*file/data be written to, or set CVAE"):
        with make(tmp_path / "file" / "data" / "a"):
            pass


def test_two_that_write_one_file_at_once_leave_a_whole_one(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with storage.complete_file(path) as slow:
        slow.write_text("slow")
        storage.write_text(path, "fast")
        assert path.read_text() == "fast"
    assert path.read_text() == "slow" and names(path.parent) == ["a.txt"]


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


@pytest.mark.parametrize("content", ["", "{", "7", "[]", "{}", '{"key": "x"}'])
def test_value_whose_file_is_damaged_is_made_again(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    assert storage.kept_json(tmp_path / "a.json", "x", lambda: {"b": (1, 2)}) == {"b": [1, 2]}
    assert read_json(tmp_path / "a.json") == {"key": "x", "value": {"b": [1, 2]}}


def test_value_is_the_own_one_though_another_process_writes_another(tmp_path, monkeypatch):
    def overtaken(path, value, write=storage.write_json):
        write(path, value)
        write(path, {"key": "y", "value": "theirs"})

    monkeypatch.setattr(storage, "write_json", overtaken)
    assert storage.kept_json(tmp_path / "a.json", "x", lambda: "mine") == "mine"


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_damaged_json_is_named_with_the_remedy(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(storage.DataError, match=r"a\.json: expected JSON, found a damaged file "
                                                r"\(.+\)\. Put a whole copy there, or delete"):
        read_json(tmp_path / "a.json")


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


@pytest.mark.parametrize("start", [".", "notebooks", "/"])
@pytest.mark.parametrize(("value", "expected"), [
    (None, storage.REPOSITORY), ("", storage.REPOSITORY), (" \t", storage.REPOSITORY),
    ("out", storage.REPOSITORY / "out"), ("../out", storage.REPOSITORY.parent / "out"),
    ("/tmp/out", Path("/tmp/out").resolve()), ("~", Path.home().resolve()),
    ("~/out", Path.home().resolve() / "out")])
def test_outputs_go_where_cvae_out_says_from_wherever(monkeypatch, start, value, expected):
    monkeypatch.chdir(storage.REPOSITORY / start)
    if value is not None:
        monkeypatch.setenv("CVAE_OUT", value)
    assert storage.output_root() == expected


@pytest.mark.parametrize(("value", "home"), [("~no-such-user/out", "/"), ("~", "/no/such/folder")])
def test_home_that_is_nobodys_is_refused(monkeypatch, value, home):
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("CVAE_OUT", value)
    with pytest.raises(storage.DataError, match=f"CVAE_OUT: expected a folder, found '{value}', "
                                                "whose ~ stands for no home .*Write the path out"):
        storage.output_root()


def test_machine_is_described_in_words():
    assert f"{os.cpu_count()} cores" in storage.machine()
