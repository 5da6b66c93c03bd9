"""Lists and files of a Girder server: names and answers checked, transfers continued, waits."""

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
from girder_server import (
    GirderServer,
    as_json,
    documents,
    first_with,
    halved,
    identity,
    sent,
    spoilt,
    status,
    with_headers,
    with_length,
)

from cvae_utils import girder
from cvae_utils.girder import Girder, Patience, Stopped
from cvae_utils.storage import DataError

QUICK = Patience(attempts=3, first_wait=0.01, longest_wait=0.1, connect=5, silence=5, slowest=10)
REMEDY = "Or by hand."
BIG = "a/big.bin"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    (root / "a").mkdir()
    (root / "b").mkdir()
    (root / BIG).write_bytes(np.random.default_rng(0).bytes(300_000))
    (root / "a" / "small.txt").write_text("small")
    (root / "a" / "empty").write_bytes(b"")
    return root


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(tree):
    with GirderServer(tree) as server:
        yield server


def visit(server, patience=QUICK):
    return Girder(server.url, remedy=REMEDY, patience=patience)


def item_of(visitor, path=BIG):
    folder, _, name = path.rpartition("/")
    return next(item for item in visitor.items(identity(folder)) if item.name == name)


def fetch(server, target, path=BIG, patience=QUICK):
    """Fetch one file; the bytes that a bar would show in the end."""
    steps = []
    with visit(server, patience) as visitor:
        visitor.fetch_item(item_of(visitor, path), target, steps.append)
    assert sum(steps) == target.stat().st_size
    assert os.listdir(target.parent) == [target.name]
    return target.read_bytes()


def leave_partial(server, target, count=100_000):
    """What a call leaves that was interrupted after so many bytes."""
    with visit(server) as visitor:
        item = item_of(visitor)
        address = f"{server.url}/item/{item.id}"
        partial = girder._Partial(target, [address, item.size, item.updated], lambda count: None)
        partial.path.write_bytes((server.root / BIG).read_bytes()[:count])
    return partial.path


# ------------------------------------------------------------------------------------------ lists
@pytest.mark.parametrize("totals", [True, False])
@pytest.mark.parametrize(("page", "longest"), [(1, 9), (2, 9), (3, 9), (500, 1), (500, 500)])
def test_lists_are_read_page_by_page(tree, monkeypatch, totals, page, longest):
    monkeypatch.setattr(girder, "PAGE", page)
    with (GirderServer(tree, totals=totals, longest_page=longest) as server,
          visit(server) as visitor):
        assert [entry.name for entry in visitor.folders(server.folder)] == ["a", "b"]
        items = visitor.items(identity("a"))
        assert visitor.items(identity("b")) == []
    assert {item.name: item.size for item in items} == {
        "big.bin": 300_000, "small.txt": 5, "empty": 0}


def test_a_list_shorter_than_its_announced_length_is_refused(server):
    server.fail("items", "a", with_headers(Girder_Total_Count="4"))
    with visit(server) as visitor, pytest.raises(DataError, match="expected 4 entries, got 3"):
        visitor.items(identity("a"))


@pytest.mark.parametrize("name", [
    "", ".", "..", "...", "../a", "/etc/passwd", "a/b", "a\\b", "C:", "c:a", "a\0b", "a\nb",
    "a\x7f", "a\u202eb", "a\ud800", "CON", "nul.txt", "com1.nii.gz", "LPT¹", "a.", "a ", " a",
    "a?", "a*b", "x" * 201, "é" * 101, None, 7, ["a"],
])
def test_names_that_are_no_plain_file_names_are_refused(server, name):
    assert not girder.is_plain(name)
    server.fail("items", "a", first_with(name=name) if name is not None else documents(
        lambda value: value[0].pop("name") and None))
    with visit(server) as visitor, pytest.raises(DataError, match="plain file names"):
        visitor.items(identity("a"))


@pytest.mark.parametrize("name", ["patient001_frame01_gt.nii.gz", "Info.cfg", "a b", "é",
                                  "console"])
def test_ordinary_names_are_plain(name):
    assert girder.is_plain(name)


@pytest.mark.parametrize("twin", ["BIG.bin", "big.bin", "Big.Bin"])
def test_names_that_are_one_where_case_does_not_count_are_refused(server, twin):
    server.fail("items", "a", documents(
        lambda value: value.append(value[0] | {"name": twin, "_id": "0" * 24})))
    with visit(server) as visitor, pytest.raises(DataError, match="upper and lower case"):
        visitor.items(identity("a"))


def test_composed_and_decomposed_letters_make_one_name():
    assert girder.folded("e\u0301A") == girder.folded("\u00e9a")


def test_hidden_files_are_left_out(server):
    server.fail("items", "a", first_with(name=".DS_Store"))
    with visit(server) as visitor:
        assert {item.name for item in visitor.items(identity("a"))} == {"empty", "small.txt"}


@pytest.mark.parametrize("address", ["", "ftp://a/b", "file:///etc", "a/b", "http://",
                                     "https://a b"])
def test_addresses_that_are_none_are_refused(address):
    with pytest.raises(DataError, match="address of a server.*Or by hand"):
        Girder(address, remedy=REMEDY)


@pytest.mark.parametrize("folder", ["", "../item", "0" * 23, "x" * 24, None])
def test_ids_that_are_none_are_never_asked_for(server, folder):
    with visit(server) as visitor, pytest.raises(DataError, match="24 hex digits"):
        visitor.items(folder)
    assert server.count("*") == 0


def test_the_reason_of_a_refusal_is_shown_on_one_line(server):
    server.fail("items", "a", lambda answer: as_json({"message": "not\nfor\x1b[1m you"}, 401))
    with visit(server) as visitor, pytest.raises(DataError, match="status 401: not for .1m you"):
        visitor.items(identity("a"))


def test_nothing_of_the_user_is_sent(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    seen = []
    monkeypatch.setattr(server, "_proper", lambda target, headers, proper=server._proper: (
        seen.append(dict(headers)) or proper(target, headers)))
    server.fail("items", "a", with_headers(Set_Cookie="id=7"))
    with visit(server) as visitor:
        visitor.items(identity("a"))
        visitor.items(identity("b"))
    assert len(seen) == 2 and not {"Authorization", "Cookie"} & {name for h in seen for name in h}


# ------------------------------------------------------------------------------------------ files
@pytest.mark.parametrize("path", [BIG, "a/small.txt", "a/empty"])
@pytest.mark.parametrize("hashes", [True, False])
def test_file_arrives(tree, tmp_path, path, hashes):
    with GirderServer(tree, hashes=hashes) as server:
        assert fetch(server, tmp_path / "file", path) == (tree / path).read_bytes()


@pytest.mark.parametrize("ranges", ["offset", "Range"])
def test_transfer_is_continued_where_it_ended(tree, tmp_path, ranges):
    with GirderServer(tree, ranges=ranges) as server:
        server.fail("download", BIG, halved(), last=1)
        assert fetch(server, tmp_path / "file") == (tree / BIG).read_bytes()
        assert (server.count("download"), server.partial_answers) == (2, 1)


@pytest.mark.parametrize("ranges", ["offset", "Range"])
def test_what_an_interrupted_process_has_left_is_continued(tree, tmp_path, ranges):
    with GirderServer(tree, ranges=ranges) as server:
        leave_partial(server, tmp_path / "file")
        assert fetch(server, tmp_path / "file") == (tree / BIG).read_bytes()
        assert (server.count("download"), server.partial_answers) == (1, 1)


def test_transfer_begins_anew_where_the_server_does_not_continue(tree, tmp_path):
    with GirderServer(tree, ranges=None) as server:
        leave_partial(server, tmp_path / "file")
        assert fetch(server, tmp_path / "file") == (tree / BIG).read_bytes()
        assert (server.count("download"), server.partial_answers) == (1, 0)


@pytest.mark.parametrize("value", [
    "", "bytes 0-299999/300000", "bytes 100000-299998/300000", "bytes 100000-299999/400000",
    "bytes 100000-399999/400000", "bytes 100001-300000/300001", "bytes 100000-299999/*",
    "items 100000-299999/300000", "bytes",
])
def test_a_part_that_was_not_asked_for_is_thrown_away(server, tmp_path, value):
    leave_partial(server, tmp_path / "file")
    server.fail("download", BIG, with_headers(Content_Range=value), last=1)
    assert fetch(server, tmp_path / "file") == (server.root / BIG).read_bytes()
    assert server.count("download") == 2


def test_a_left_over_that_the_server_cannot_continue_is_thrown_away(server, tmp_path):
    leave_partial(server, tmp_path / "file")
    server.fail("download", BIG, status(416), last=1)
    assert fetch(server, tmp_path / "file") == (server.root / BIG).read_bytes()


def test_a_complete_left_over_is_not_fetched_again(server, tmp_path):
    leave_partial(server, tmp_path / "file", 300_000)
    assert fetch(server, tmp_path / "file") == (server.root / BIG).read_bytes()
    assert server.count("download") == 0


def test_a_left_over_of_another_version_is_neither_continued_nor_kept(server, tmp_path):
    leave_partial(server, tmp_path / "file")
    server.fail("items", "a", first_with(updated="2023-01-01"))
    assert fetch(server, tmp_path / "file") == (server.root / BIG).read_bytes()
    assert server.partial_answers == 0


def test_a_spoilt_left_over_is_found_by_its_hash(server, tmp_path):
    partial = leave_partial(server, tmp_path / "file")
    partial.write_bytes(b"x" * 100_000)
    assert fetch(server, tmp_path / "file") == (server.root / BIG).read_bytes()
    assert server.count("download") == 2


def test_without_hashes_they_are_asked_for_but_once(tree, tmp_path):
    with GirderServer(tree, hashes=False) as server, visit(server) as visitor:
        for item in visitor.items(identity("a")):
            visitor.fetch_item(item, tmp_path / item.name)
        assert server.count("files") == 1 and server.count("download") == 3


@pytest.mark.parametrize("change", [
    lambda value: [], lambda value: value * 2, lambda value: ["x"],
    lambda value: [value[0] | {"sha512": "0" * 127}], lambda value: [value[0] | {"sha512": 7}],
])
def test_items_without_exactly_one_sound_file_are_refused(server, tmp_path, change):
    server.fail("files", BIG, documents(change))
    with pytest.raises(DataError, match="SHA-512|the one file of big.bin"):
        fetch(server, tmp_path / "file")
    assert server.count("download") == 0


def test_longer_than_announced_in_the_list_is_never_written(server, tmp_path):
    server.fail("download", BIG, lambda answer: sent(body=answer.body * 2, chunked=True)(answer))
    with pytest.raises(DataError, match="more than 300000 bytes"):
        fetch(server, tmp_path / "file")
    assert os.listdir(tmp_path) == []


# ----------------------------------------------------------------------- failures, waits and ends
@pytest.mark.parametrize("fault", [
    status(500), status(502), status(503), status(599), status(429), halved(), halved(reset=True),
    with_length(-1), with_length(+1), spoilt, sent(cut=0),
])
@pytest.mark.parametrize("failures", [2, 3])
def test_passing_failures_are_tried_again_but_not_for_ever(server, tmp_path, fault, failures):
    server.ranges = None  # no progress
    server.fail("download", BIG, fault, last=failures)
    if failures < QUICK.attempts:
        assert fetch(server, tmp_path / "file") == (server.root / BIG).read_bytes()
    else:
        with pytest.raises(DataError, match=r"big.bin|file.*Or by hand\.$"):
            fetch(server, tmp_path / "file")
        assert not (tmp_path / "file").exists()
    assert server.count("download") == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 408, 410, 451, 204, 300])
def test_refusals_are_final(server, tmp_path, code):
    server.fail("download", BIG, status(code))
    with pytest.raises(DataError, match=f"item/.*download.*status {code}.*Or by hand"):
        fetch(server, tmp_path / "file")
    assert server.count("download") == 1


def test_attempts_that_get_further_do_not_count(server, tmp_path, monkeypatch):
    monkeypatch.setattr(girder, "PROGRESS", 20_000)
    server.fail("download", BIG, lambda answer: sent(cut=30_000)(answer), last=9)
    assert fetch(server, tmp_path / "file") == (server.root / BIG).read_bytes()
    assert server.count("download") == 10


@pytest.mark.parametrize("behaviour", [
    {"silence": 9.0}, {"piece": 1, "pause": 0.02}, {"piece": 290_000, "pause": 0.6},
])
def test_silence_and_trickles_end(server, tmp_path, behaviour):
    server.fail("download", BIG, sent(**behaviour), last=1)
    began = time.monotonic()
    patience = Patience(attempts=2, first_wait=0.01, silence=0.3, slowest=1000)
    assert fetch(server, tmp_path / "file", patience=patience) == (server.root / BIG).read_bytes()
    assert server.count("download") == 2 and time.monotonic() - began < 5


def test_a_server_that_is_not_there_is_named(tmp_path):
    with GirderServer(tmp_path) as server:
        pass
    with visit(server) as visitor, pytest.raises(DataError, match=f"{server.url}/folder.*Conn"):
        visitor.folders(server.folder)


def waits(monkeypatch, server, fault, patience):
    """The waits in s before each further attempt."""
    seen = []
    server.fail("items", "a", fault)
    with visit(server, patience) as visitor:
        monkeypatch.setattr(visitor._stopped, "wait", lambda seconds: seen.append(seconds))
        with pytest.raises(DataError):
            visitor.items(identity("a"))
    return seen


def test_waits_double_with_jitter_up_to_a_bound(server, monkeypatch):
    seen = waits(monkeypatch, server, status(503), Patience(attempts=8, first_wait=1,
                                                            longest_wait=20))
    full = np.array([1, 2, 4, 8, 16, 32, 64])
    assert (np.array(seen) <= np.minimum(full, 20)).all()
    assert (np.array(seen) >= np.minimum(full / 2, 20)).all()
    assert len({wait / least for wait, least in zip(seen[:5], full)}) == 5


@pytest.mark.parametrize(("asked", "least", "most"), [
    ("7", 7, 7), ("7000", 60, 60), ("0", 0, 1), ("-7", 0, 1), ("x", 0, 1), ("9" * 30, 0, 1),
    (format_datetime(datetime.now(UTC) + timedelta(days=1)), 60, 60),
    (format_datetime(datetime.now(UTC) - timedelta(days=1)), 0, 1),
])
def test_the_wait_that_a_server_asks_for_is_kept_within_bounds(server, monkeypatch, asked, least,
                                                               most):
    seen = waits(monkeypatch, server, status(429, Retry_After=asked),
                 Patience(attempts=2, first_wait=1, longest_wait=60))
    assert least <= seen[0] <= most


def moved(location):
    return lambda answer: as_json({}, 303, Location=location)


def test_redirects_are_followed(server, tmp_path):
    leave_partial(server, tmp_path / "file")
    server.fail("download", BIG, moved(f"/api/v1/item/{identity(BIG)}/download?offset=100000"),
                last=2)
    assert fetch(server, tmp_path / "file") == (server.root / BIG).read_bytes()
    assert (server.count("download"), server.partial_answers) == (3, 1)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/a", "", "http://[",
                                      "data:,x", "//[::"])
def test_redirects_lead_nowhere_but_to_the_web(server, tmp_path, location):
    server.fail("download", BIG, moved(location))
    with pytest.raises(DataError, match="expected a redirect to http or https.*by hand"):
        fetch(server, tmp_path / "file")
    assert server.count("download") == 1


def test_the_body_of_a_redirect_is_not_read(server, tmp_path):
    location = f"/api/v1/item/{identity(BIG)}/download"
    server.fail("download", BIG, lambda answer: sent(piece=400, pause=0.1)(as_json(
        "x" * 100_000, 302, Location=location)), last=1)
    began = time.monotonic()
    assert fetch(server, tmp_path / "file") == (server.root / BIG).read_bytes()
    assert time.monotonic() - began < 5  # the body takes 25 s


def test_redirects_from_https_stay_there():
    with (Girder("https://a/api/v1", remedy=REMEDY) as visitor,
          pytest.raises(DataError, match="expected a redirect to https,")):
        visitor._redirected("https://a/b", "http://a/b", "a")


@pytest.mark.parametrize("location", ["http://a..b/", "http://127.0.0.1:99999/"])
def test_redirects_to_addresses_that_are_none_end(server, tmp_path, location):
    server.fail("download", BIG, moved(location))
    with pytest.raises(DataError, match=r"download \(file\), redirected to .*an answer"):
        fetch(server, tmp_path / "file")


def test_circles_of_redirects_end(server, tmp_path):
    server.fail("download", BIG, moved(f"/api/v1/item/{identity(BIG)}/download"))
    with pytest.raises(DataError, match="redirects"):
        fetch(server, tmp_path / "file")
    assert server.count("download") == girder.MOST_REDIRECTS + 1


@pytest.mark.parametrize("fault", [
    sent(piece=1000, pause=0.01), status(503, Retry_After="60"),
])
def test_stop_ends_transfers_and_waits_and_keeps_what_came(server, tmp_path, fault):
    server.fail("download", BIG, fault)
    ended = []
    with visit(server, Patience(longest_wait=60)) as visitor:
        def work():
            with pytest.raises(Stopped):
                visitor.fetch_item(item_of(visitor), tmp_path / "file")
            ended.append(True)

        thread = threading.Thread(target=work)
        thread.start()
        while not server.count("download"):
            time.sleep(0.01)
        time.sleep(0.2)
        visitor.stop()
        thread.join(1.0)
    assert ended and not (tmp_path / "file").exists()
