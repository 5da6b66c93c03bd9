"""The numbers of a study in one JSON file."""

import json
import subprocess
import sys

import numpy as np
import pytest
from filelock import SoftFileLock

from cvae_utils import results_file
from cvae_utils.files import REPOSITORY, DataError, read_json
from cvae_utils.results_file import record


def test_sections_are_replaced_one_at_a_time(tmp_path):
    folder = tmp_path / "figures"
    record(folder, "a", {"x": 1, "old": 2})
    record(folder, "b", {"y": 2})
    record(folder, "a", {"x": 3})
    assert json.loads((folder / "results.json").read_text()) == {"a": {"x": 3}, "b": {"y": 2}}


RECORDING = """
import sys
from pathlib import Path
from cvae_utils.results_file import record
for n in range(15):
    record(Path(sys.argv[1]), f"{sys.argv[2]}{n}", {"n": n})
"""


def test_notebooks_that_record_at_once_lose_nothing(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", RECORDING, tmp_path, name], cwd=REPOSITORY)
               for name in "abc"]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    found = read_json(tmp_path / "results.json")
    assert found == {f"{name}{n}": {"n": n} for name in "abc" for n in range(15)}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("content", [b"", b'{"a": {"x": 1', b"\xff", b"[1]", b"null"])
def test_damaged_results_are_refused_with_the_remedy_and_stay(tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(DataError, match=r"results\.json: expected .* found .*Put a whole copy "
                                        "there, or delete it"):
        record(tmp_path, "a", {"x": 1})
    assert (tmp_path / "results.json").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_lock_that_nobody_gives_back_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(results_file, "SoftFileLock", lambda path, timeout: SoftFileLock(path, 0.1))
    with SoftFileLock(tmp_path / ".results.json.lock"):
        with pytest.raises(TimeoutError, match=r"results\.json: .*but .*results\.json\.lock says "
                                               "that another process does. If there is none, del"):
            record(tmp_path, "a", {"x": 1})


@pytest.mark.parametrize(("value", "written"), [
    (np.nan, None), (float("inf"), None), (np.float32(0.1), 0.1), (1234567.8, 1234570.0),
    (np.int64(3), 3), (True, True), (np.bool_(False), False), (None, None), ("text", "text"),
    ((1, np.nan), [1, None]), ({1.0: {2: np.float64(1 / 3)}}, {"1.0": {"2": 0.333333}}),
])
def test_numbers_are_written_as_json_has_them(tmp_path, value, written):
    record(tmp_path, "a", {"value": value})
    found = json.loads((tmp_path / "results.json").read_text())["a"]["value"]
    assert found == written and type(found) is type(written)
