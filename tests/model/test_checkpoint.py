"""The state of a training on the disk: always whole, and errors that say what to do."""

import errno
import os
import threading

import numpy as np
import pytest
import torch
from same import names

from cvae_utils.files import DataError
from cvae_utils.model import checkpoint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "a.checkpoint"


def saved(path, *states):
    writer = checkpoint.Writer(path)
    for state in states:
        writer.save(state)
    writer.close()
    return path


def test_last_state_comes_back_with_its_types_and_layout(path):
    weight = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    state = {"epoch": 3, "model": {"weight": weight, "half": torch.ones(2, dtype=torch.float16)},
             "rows": [{"loss": 0.1, "name": "é", "none": None, "yes": True}], 7: [1, 2.5],
             "beta": np.float64(0.1), "n": np.int64(3)}
    found = checkpoint.load(saved(path, {"epoch": 1}, {"epoch": 2}, state))
    assert torch.equal(found["model"].pop("weight"), weight)
    assert found["model"].pop("half").dtype == torch.float16
    assert found == {"epoch": 3, "model": {}, "rows": state["rows"], 7: [1, 2.5], "beta": 0.1,
                     "n": 3}
    assert names(path.parent) == ["a.checkpoint"]


def test_state_may_change_while_it_is_written(path, monkeypatch):
    """It is what it was at `save`, even if the thread comes late."""
    allowed, save = threading.Event(), torch.save
    monkeypatch.setattr(torch, "save", lambda *given: (allowed.wait(30), save(*given)))
    state = {"epoch": 1, "model": {"weight": torch.zeros(3)}, "rows": [1]}
    writer = checkpoint.Writer(path)
    writer.save(state)
    state["model"]["weight"].fill_(9)
    state["rows"].append(2)
    allowed.set()
    writer.close()
    found = checkpoint.load(path)
    assert found["model"]["weight"].tolist() == [0, 0, 0] and found["rows"] == [1]


def test_writer_without_a_path_writes_nothing(tmp_path):
    saved(None, {"epoch": 1})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dies", ["save", "flush", "close"])
def test_write_that_fails_is_raised_by_the_next_call_and_keeps_the_state_before(
        path, monkeypatch, dies):
    saved(path, {"epoch": 6})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # all is written, but not on the disk
    writer = checkpoint.Writer(path)
    writer.save({"epoch": 7, "weight": torch.zeros(500_000)})
    with pytest.raises(OSError, match=r"a\.checkpoint: the state after epoch 7 could not be "
                       r"written \(No space left on device\)\. The state of the epoch before is "
                       r"kept there\. Free 2 MB there, .*start again") as error:
        getattr(writer, dies)(*[{"epoch": 8}] * (dies == "save"))
    assert error.value.errno == errno.ENOSPC
    writer.close()  # said once
    assert checkpoint.load(path)["epoch"] == 6 and names(path.parent) == ["a.checkpoint"]


# ---------------------------------------------------------------------------------------- damaged
NO_STATES = [b"", b"\0", b"\0" * 5000, b"garbage", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x05N.",
             b"[1, 2]", b"(lp0\n.", b"cos\nsystem\n(S'true'\ntR.", "é".encode("latin-1") * 300]


def random(_):
    generator = np.random.default_rng(0)
    return [start + generator.bytes(60) for start in (b"", b"\x80\x02", b"\x80\x04\x95", b"(")
            for _ in range(50)]


def cut(path):
    whole = saved(path, {"epoch": 2, "weight": torch.arange(1000.0), "rows": [0.5]}).read_bytes()
    return [whole[:length] for length in (*range(0, 200, 7), *range(200, len(whole), 97),
                                          len(whole) - 1)]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("make", [lambda _: NO_STATES, random, cut])
def test_file_that_is_no_whole_state_is_refused_with_the_remedy_and_not_deleted(path, make):
    path.parent.mkdir()
    for content in make(path):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.checkpoint: expected the state of a training, "
                           r"found a damaged file \(.+\)\. Delete it: training then starts from "
                           "the beginning"):
            checkpoint.load(path)
        assert path.read_bytes() == content
