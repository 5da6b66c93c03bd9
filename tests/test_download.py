"""Download of ACDC: what arrives, what is continued, and what no answer can do to the disk."""

import hashlib
import io
import itertools
import os
import random
import resource
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from girder_server import (
    Answer,
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
    zipped,
)

from cvae_utils import acdc
from cvae_utils import download as module
from cvae_utils.download import BY_HAND, CITATION, LICENCE, MANIFEST, MARKER, download, main
from cvae_utils.girder import Patience
from cvae_utils.phantom import write_phantom
from cvae_utils.storage import REPOSITORY, DataError, read_json

QUICK = Patience(attempts=3, first_wait=0.01, longest_wait=0.05, connect=5, silence=5, slowest=10)
HASTY = Patience(attempts=2, first_wait=0.01, longest_wait=0.05, connect=5, silence=0.3,
                 slowest=10_000)
CFG, ONE_GT = "training/patient001/Info.cfg", "training/patient001/patient001_frame01_gt.nii.gz"
TEN_GT = "training/patient001/patient001_frame10_gt.nii.gz"


def write_tree(root, training, testing=(), size=3000):
    """Patients with files of random bytes under the names of ACDC; frame 10 spans many chunks."""
    rng = np.random.default_rng(0)
    for subset, numbers in (("training", training), ("testing", testing)):
        for number in numbers:
            name = f"patient{number:03d}"
            folder = root / subset / name
            folder.mkdir(parents=True)
            (folder / "Info.cfg").write_text(f"ED: 1\nES: 10\nGroup: DCM\nWeight: {number}\n")
            for frame, factor in ((1, 1), (10, 70)):
                for suffix in ("", "_gt"):
                    content = rng.bytes(size * factor + number)
                    (folder / f"{name}_frame{frame:02d}{suffix}.nii.gz").write_bytes(content)
            (folder / f"{name}_4d.nii.gz").write_bytes(rng.bytes(size))
    (root / "MANDATORY_CITATION.md").write_text("cite\n")
    return root


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("few"), training=(1, 2), testing=(101,))


@pytest.fixture(scope="session")
def phantom_of_150(tmp_path_factory):
    root = tmp_path_factory.mktemp("many") / "phantom"
    return write_phantom(root, patients=150, images=False, progress=False)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(few):
    with GirderServer(few) as server:
        yield server


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data" / "acdc"


def obtain(server, root, patience=QUICK, **options):
    return download(root, accept_licence=True, server=server.url, folder=server.folder,
                    progress=False, patience=patience, **options)


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes()
            for path in root.rglob("*") if path.is_file()}


def data_of(root):
    """What lies under final names, without the manifest."""
    return {path: content for path, content in contents(root).items()
            if path != MANIFEST and "/." not in "/" + path}


def labels_of(tree):
    return {path: content for path, content in data_of(tree).items()
            if path.endswith(("/Info.cfg", "_gt.nii.gz"))}


def frames_of(tree, *patients):
    return {path: content for path, content in data_of(tree).items()
            if "_frame" in path and "_gt" not in path and path.split("/")[1] in patients}


def assert_complete(root, expected):
    """Exactly these files, no left-overs, and a manifest that lists them."""
    assert data_of(root) == expected
    assert set(contents(root)) == set(expected) | {MANIFEST, MARKER}
    assert read_json(root / MANIFEST)["files"] == [
        {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in sorted(expected.items())]


# ---------------------------------------------------------------------------------- what arrives
def test_150_patients_arrive_complete_and_identical(phantom_of_150, root):
    with GirderServer(phantom_of_150) as server:
        assert obtain(server, root, workers=3) == root
        assert_complete(root, labels_of(phantom_of_150))
        assert server.count("download") == 450 and server.most_at_once <= 3
    assert len(acdc.list_frames(root)) == 300


@pytest.mark.parametrize(("images", "patients"), [
    ((), ()),
    ("all", ("patient001", "patient002", "patient101")),
    ([1, "002"], ("patient001", "patient002")),
    ("patient101", ("patient101",)),
    (2, ("patient002",)),
])
def test_labels_come_and_the_images_that_are_asked_for(server, few, root, images, patients):
    obtain(server, root, images=images)
    assert_complete(root, labels_of(few) | frames_of(few, *patients))
    assert server.count("download", "*4d*") == 0


def test_images_come_later_without_the_labels_again(server, few, root):
    obtain(server, root)
    before = server.count("download")
    obtain(server, root, images=[2])
    assert_complete(root, labels_of(few) | frames_of(few, "patient002"))
    assert server.count("download") == before + 2


def test_nothing_is_fetched_twice_and_the_manifest_stays(server, root):
    obtain(server, root)
    first = contents(root)
    (root / f".{MANIFEST}.partial-1").write_text("of a killed process")
    server.fail("download", "*", status(500))
    obtain(server, root)
    assert contents(root) == first


def test_manifest_says_what_under_which_terms(server, root):
    obtain(server, root)
    manifest = read_json(root / MANIFEST)
    assert (manifest["server"], manifest["folder"]) == (server.url, server.folder)
    assert (manifest["licence"], manifest["citation"]) == (LICENCE, CITATION)


def test_a_file_of_another_size_is_fetched_again_and_said(server, few, root, capsys):
    obtain(server, root)
    (root / ONE_GT).write_bytes(b"cut")
    before = server.count("download")
    obtain(server, root)
    assert_complete(root, labels_of(few))
    assert server.count("download") == before + 1
    error = capsys.readouterr().err
    assert ONE_GT in error and "fetched again" in error and error.count("\n") == 1


def test_bar_counts_bytes_and_files(server, few, root, capsys):
    server.fail("download", ONE_GT, spoilt, last=1)
    server.fail("download", TEN_GT, halved(), last=1)
    download(root, accept_licence=True, server=server.url, folder=server.folder, patience=QUICK)
    last = capsys.readouterr().err.split("\r")[-1]
    size = sum(map(len, labels_of(few).values()))
    assert "100%" in last and "9/9 files" in last
    assert f"{size / 1000:.0f}k/{size / 1000:.0f}k" in last


@pytest.mark.parametrize("images", ["some", "patient", [1, "0001"], [-1], [1.5], ""])
def test_images_of_no_patient_are_refused(server, root, images):
    with pytest.raises(DataError, match="images: expected"):
        obtain(server, root, images=images)
    assert server.count("*") == 0


def test_images_of_patients_that_the_server_lacks_are_refused(server, root):
    with pytest.raises(DataError, match="patient003, patient150, which it does not have"):
        obtain(server, root, images=[1, 3, 150])
    assert server.count("download") == 0


@pytest.mark.parametrize("workers", [0, 17, 2.0, None])
def test_connections_are_bounded(server, root, workers):
    with pytest.raises(DataError, match="workers: expected 1 to 16"):
        obtain(server, root, workers=workers)


# ---------------------------------------------------------------------------------- interruptions
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from cvae_utils.download import main
sys.exit(main(sys.argv[1:]))
"""


def start(server, root):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--to", root, "--accept-licence", "--server", server.url,
         "--folder", server.folder], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def reached(server, count):
    return server.count("*") >= count


def wait_for(condition, process):
    while not condition() and process.poll() is None:
        time.sleep(0.002)


def test_killed_twenty_times_it_ends_with_the_same_bytes(tmp_path):
    source = write_tree(tmp_path / "source", training=range(1, 31), size=500)
    with GirderServer(source) as server:
        obtain(server, tmp_path / "undisturbed")
        undisturbed = contents(tmp_path / "undisturbed")
        server.requests.clear()
        server.fail("download", "*_frame10_gt.nii.gz", sent(piece=8000, pause=0.004))
        rng, finished, asked = random.Random(0), set(), {}
        for _ in range(20):
            process = start(server, tmp_path / "killed")
            wait_for(partial(reached, server, server.count("*") + rng.randint(1, 52)), process)
            time.sleep(rng.random() * 0.005)
            assert process.poll() is None, process.communicate()
            process.kill()
            process.communicate()
            assert all(server.requests["download", path] == asked[path] for path in finished)
            there = data_of(tmp_path / "killed") if (tmp_path / "killed").exists() else {}
            assert all(undisturbed[path] == content for path, content in there.items())
            finished = set(there)
            asked = {path: server.requests["download", path] for path in finished}
        assert 0 < len(finished) < 90 and server.partial_answers > 0
        process = start(server, tmp_path / "killed")
        output = process.communicate()
        assert process.returncode == 0, output
        assert all(server.requests["download", path] == asked[path] for path in finished)
    assert contents(tmp_path / "killed") == undisturbed


@pytest.mark.parametrize("behaviour", [{"silence": 60}, {"piece": 100, "pause": 0.01}])
def test_interrupted_it_stops_at_once_and_goes_on_later(server, few, root, behaviour):
    server.fail("download", "*_frame10_gt.nii.gz", sent(**behaviour), last=1)
    process = start(server, root)
    wait_for(lambda: server.count("download", "*_frame10_gt*") == 3, process)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, error = process.communicate(timeout=20)
    assert time.monotonic() - began < 3
    assert process.returncode == 130 and "goes on from here" in error and "Trace" not in error
    assert data_of(root) and module.is_unfinished(root)
    obtain(server, root)
    assert_complete(root, labels_of(few))
    assert not module.is_unfinished(root)


def test_two_downloads_do_not_write_to_one_folder(server, few, root):
    server.fail("download", "*", sent(pause=0.3), last=1)
    first = threading.Thread(target=obtain, args=(server, root))
    first.start()
    while not server.count("download"):
        time.sleep(0.01)
    with pytest.raises(DataError, match="no other download at work"):
        obtain(server, root)
    first.join()
    assert_complete(root, labels_of(few))


# -------------------------------------------------------------------------------- where it is put
def test_without_acceptance_nothing_is_asked_for(server, root):
    with pytest.raises(DataError) as error:
        download(root, accept_licence=False, server=server.url, folder=server.folder)
    assert all(part in str(error.value) for part in (LICENCE, CITATION, "--accept-licence"))
    assert server.count("*") == 0 and not root.parent.exists()


def test_other_files_are_never_mixed_with(server, root):
    root.mkdir(parents=True)
    (root / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="would be mixed"):
        obtain(server, root)
    assert contents(root) == {"mine.txt": b"mine"} and server.count("*") == 0


@pytest.mark.parametrize("change", [{"server": "https://127.0.0.1/api/v1"}, {"folder": "0" * 24}])
def test_another_place_is_not_mixed_with_an_earlier_one(server, root, change):
    obtain(server, root)
    before = contents(root)
    options = {"server": server.url, "folder": server.folder} | change
    with pytest.raises(DataError, match="would be mixed"):
        download(root, accept_licence=True, patience=QUICK, progress=False, **options)
    assert contents(root) == before


@pytest.mark.parametrize("note", ["", "{", "[]", '{"server": "https://other/api/v1"}'])
def test_a_folder_with_nothing_but_a_note_is_as_good_as_empty(server, few, root, note):
    root.mkdir(parents=True)
    (root / MARKER).write_text(note)
    obtain(server, root)
    assert_complete(root, labels_of(few))


@pytest.mark.parametrize("existed", [True, False])
def test_a_call_that_got_nowhere_leaves_nothing(server, root, existed):
    if existed:
        root.mkdir(parents=True)
    server.fail("folders", ".", status(403))
    with pytest.raises(DataError, match="403"):
        obtain(server, root)
    assert root.exists() == existed and not (existed and os.listdir(root))


def test_a_file_in_place_of_the_folder_is_kept(server, root):
    root.parent.mkdir(parents=True)
    root.write_text("mine")
    for place in (root, root / "acdc"):
        with pytest.raises(DataError, match="expected (a folder|to write there)"):
            obtain(server, place)
    assert root.read_text() == "mine" and server.count("*") == 0


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no folder that nobody can write to")
def test_a_folder_that_cannot_be_written_to_is_named(server):
    with pytest.raises(DataError, match="/sys/acdc: expected to write there.*can be written to"):
        obtain(server, Path("/sys/acdc"))


def test_without_space_nothing_is_fetched(server, root, monkeypatch):
    usage = module.shutil.disk_usage(root.parent.parent)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match="0.6 MB of free space, got 0.0 MB"):
        obtain(server, root)
    assert server.count("download") == 0


def test_when_writing_fails_what_came_is_kept(server, few, root):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
    try:
        with pytest.raises(DataError, match="File too large.*what has come is kept.*by hand"):
            obtain(server, root, workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert set(data_of(root)) == {"testing/patient101/Info.cfg",
                                  "testing/patient101/patient101_frame01_gt.nii.gz"}
    obtain(server, root)
    assert_complete(root, labels_of(few))
    assert server.count("download", "*") == 10 and server.partial_answers == 1


# ------------------------------------------------------------------------- answers that are wrong
def endless(names):
    """A full page of further entries, whatever is asked for."""
    return lambda answer: as_json([{"_id": identity(str(i)), "name": f"patient {next(names)}"}
                                   for i in range(500)])


def html(answer):
    return Answer(b"<!DOCTYPE html><html>Please sign in</html>", 200, {"Content-Type": "text/html"})


def moved(location):
    return lambda answer: as_json({}, 302, Location=location)


def named(name):
    return first_with(name=name)


COMPLETE = None  # in place of a message: all arrives
PATIENT = "training/patient001"
#: kind, path, fault, how many times (None: always), message
WRONG_ANSWERS = {
    "list fails once": ("items", PATIENT, status(500), 1, COMPLETE),
    "bad gateway twice": ("folders", "training", status(502), 2, COMPLETE),
    "list always fails": ("folders", ".", status(503), None, "status 503 at attempt 3"),
    "too many requests": ("*", "*", status(429, Retry_After="0"), 1, COMPLETE),
    "list is forbidden": ("items", PATIENT, status(403), None, "403: out of order"),
    "list needs a login": ("folders", ".", status(401), None, "401: out of order"),
    "no such folder": ("folders", "training", status(404), None, "404: out of order"),
    "list is HTML": ("items", PATIENT, html, None, "expected JSON, got '<!DOCTYPE"),
    "list is cut": ("items", PATIENT, halved(), 1, COMPLETE),
    "list is always cut": ("items", PATIENT, halved(), None, "at attempt 3"),
    "list is broken": ("items", PATIENT, sent(body=b'[{"_id": '), None, "expected JSON"),
    "list is nested": ("items", PATIENT, sent(body=b"[" * 10**5), None, "expected JSON"),
    "list is no text": ("items", PATIENT, sent(body=b"\xff\xfe\x00"), None, "expected JSON"),
    "list is nothing": ("items", PATIENT, sent(body=b""), None, "expected JSON"),
    "list is an object": ("folders", ".", documents(lambda value: {"a": value}), None,
                          "expected a JSON list"),
    "list is null": ("folders", ".", sent(body=b"null"), None, "expected a JSON list"),
    "list of numbers": ("folders", ".", documents(lambda value: [1]), None, "a list of objects"),
    "no id": ("items", PATIENT, first_with(id=None), None, "24 hex digits"),
    "id is a path": ("items", PATIENT, first_with(id="../../../etc"), None, "24 hex digits"),
    "no name": ("folders", "training", documents(lambda v: v[0].pop("name") and None), None,
                "plain file names"),
    "no size": ("items", PATIENT, first_with(size=None), None, "a size of 0 to"),
    "negative size": ("items", PATIENT, first_with(size=-1), None, "a size of 0 to"),
    "huge size": ("items", PATIENT, first_with(size=2**62), None, "a size of 0 to"),
    "size is a text": ("items", PATIENT, first_with(size="9"), None, "a size of 0 to"),
    "size is a fraction": ("items", PATIENT, first_with(size=9.5), None, "a size of 0 to"),
    "size is true": ("items", PATIENT, first_with(size=True), None, "a size of 0 to"),
    "size is not that of the file": ("items", PATIENT, first_with(size=7), None, "instead of 7"),
    "name climbs": ("items", PATIENT, named("../../../Info.cfg"), None, "plain file names"),
    "folder climbs": ("folders", "training", named(".."), None, "plain file names"),
    "name is absolute": ("items", PATIENT, named("/tmp/Info.cfg"), None, "plain file names"),
    "name with backslash": ("items", PATIENT, named("..\\Info.cfg"), None, "plain file names"),
    "name with a drive": ("items", PATIENT, named("C:Info.cfg"), None, "plain file names"),
    "name with NUL": ("items", PATIENT, named("Info.cfg\0.txt"), None, "plain file names"),
    "names collide": ("items", PATIENT, documents(
        lambda value: value.append(value[0] | {"name": value[0]["name"].upper()})), None,
        "upper and lower case"),
    "no subset": ("folders", ".", documents(lambda value: []), None, "got no patient"),
    "no patients": ("folders", "*", documents(lambda value: []), None, "got no patient"),
    "no items": ("items", PATIENT, documents(lambda value: []), None,
                 r"training/patient001: expected Info.cfg and the label volumes of ED and ES"),
    "one label volume": ("items", PATIENT, documents(
        lambda value: [entry for entry in value if "frame01_gt" not in entry["name"]]), None,
        "label volumes of ED and ES"),
    "page never gets empty": ("folders", "training", endless(itertools.count()), None,
                              "at most 5000 entries"),
    "same page for ever": ("folders", "training", endless(itertools.cycle(range(500))), None,
                           "'patient 0' twice"),
    "total is no number": ("items", PATIENT, with_headers(Girder_Total_Count="many"), None,
                           "a number of entries"),
    "total is another one": ("items", PATIENT, with_headers(Girder_Total_Count="9"), None,
                             "expected 9 entries, got 6"),
    "file fails once": ("download", "*", status(500), 1, COMPLETE),
    "file is unavailable": ("download", CFG, status(503, Retry_After="9"), 2, COMPLETE),
    "file always fails": ("download", CFG, status(500), None, "Info.cfg.*500 at attempt 3"),
    "file is forbidden": ("download", CFG, status(403), None, "Info.cfg.: expected .* 403"),
    "file is gone": ("download", CFG, status(404), None, "Info.cfg.: expected .* 404"),
    "file is HTML": ("download", CFG, html, None, "Info.cfg.*bytes instead of"),
    "file is cut": ("download", "*", halved(), 1, COMPLETE),
    "file is always cut": ("download", CFG, halved(), None, "Info.cfg.*at attempt 3"),
    "connection is reset": ("download", "*", halved(reset=True), 1, COMPLETE),
    "connection is always reset": ("download", CFG, sent(cut=9, reset=True), None, "Info.cfg"),
    "announced too short": ("download", "*", with_length(-3), 1, COMPLETE),
    "announced too long": ("download", "*", with_length(+3), 1, COMPLETE),
    "always announced too long": ("download", CFG, with_length(+3), None, "bytes instead of"),
    "no length, cut": ("download", CFG, lambda answer: sent(
        body=answer.body[:9], chunked=True)(answer), None, "27 of .* bytes"),
    "another byte": ("download", "*", spoilt, 1, COMPLETE),
    "always another byte": ("download", ONE_GT, spoilt, None, "another SHA-512"),
    "hash of another file": ("files", ONE_GT, first_with(sha512="0" * 128), None,
                             "frame01_gt.*another SHA-512"),
    "file is redirected": ("download", CFG, moved(f"/api/v1/item/{identity(CFG)}/download"), 1,
                           COMPLETE),
    "redirected in circles": ("download", CFG, moved(f"/api/v1/item/{identity(CFG)}/download"),
                              None, "Info.cfg.*more than 5 redirects"),
    "redirected to a file": ("download", CFG, moved("file:///etc/passwd"), None,
                             "Info.cfg.: expected a redirect"),
    "redirected nowhere": ("download", CFG, moved("http://a..b/"), None,
                           r"Info.cfg\), redirected to http://a..b/: expected an answer"),
    "part with another range": ("download", "*", lambda answer: with_headers(
        Content_Range="bytes 5-8/9")(answer) if answer.code == 206 else halved()(answer), 2,
        COMPLETE),
    "range is ignored": ("download", "*", lambda answer: sent(code=200)(answer)
                         if answer.code == 206 else halved()(answer), 2, COMPLETE),
}


def assert_harmless(root, source, error):
    """A failed call: a message that helps, nothing false, and nothing outside the folder."""
    if error is not None:
        assert str(error.value).endswith(BY_HAND) and "\n" not in str(error.value)
    assert {path.name for path in root.parent.parent.iterdir()} == {"data"}
    assert {path.name for path in root.parent.iterdir()} <= {root.name}
    assert data_of(root).items() <= data_of(source).items() if root.exists() else True
    assert not any(path.is_symlink() for path in root.rglob("*"))


@pytest.mark.parametrize("case", WRONG_ANSWERS)
def test_wrong_answers_end_complete_or_in_a_message(few, root, case):
    kind, path, fault, times, message = WRONG_ANSWERS[case]
    with GirderServer(few) as server:
        server.fail(kind, path, fault, last=times)
        if message is COMPLETE:
            obtain(server, root)
        else:
            with pytest.raises(DataError, match=message) as error:
                obtain(server, root)
            assert "/api/v1" in str(error.value) and server.count("*") < 100
            assert_harmless(root, few, error)
            server._faults.clear()
            obtain(server, root)
    assert_complete(root, labels_of(few))


@pytest.mark.parametrize(("kind", "path", "behaviour"), [
    ("folders", ".", {"silence": 30}), ("download", CFG, {"silence": 30}),
    ("items", PATIENT, {"piece": 5, "pause": 0.02}),
    ("download", TEN_GT, {"piece": 9, "pause": 0.02}),
])
@pytest.mark.parametrize("times", [1, None])
def test_silent_and_trickling_answers_end(few, root, kind, path, behaviour, times):
    began = time.monotonic()
    with GirderServer(few) as server:
        server.fail(kind, path, sent(**behaviour), last=times)
        if times is None:
            with pytest.raises(DataError, match="timed out|bytes/s") as error:
                obtain(server, root, HASTY)
            assert_harmless(root, few, error)
        else:
            obtain(server, root, HASTY)
            assert_complete(root, labels_of(few))
    assert time.monotonic() - began < 10


def test_all_files_together_are_bounded(server, root, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_TOTAL", 600_000)
    with pytest.raises(DataError, match="expected at most 600000 bytes, got a list of 6"):
        obtain(server, root)
    assert server.count("download") == 0


def test_first_failure_ends_all(few, root):
    with GirderServer(few) as server:
        server.fail("download", CFG, status(404))
        server.fail("download", "*_gt*", sent(piece=100, pause=0.05))
        began = time.monotonic()
        with pytest.raises(DataError, match="404"):
            obtain(server, root)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("ACDC")]
        assert time.monotonic() - began < 2


# ------------------------------------------------------------------------------------------- zips
def members(*extra, top="database/", **options):
    """A zip of a patient and of further members (name, or ZipInfo, and content)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as file:
        file.writestr(top + CFG, "ED: 1\n")
        for name, content in extra:
            file.writestr(name, content)
    return buffer.getvalue()


def info(name, mode=0, attributes=0):
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16 | attributes
    return made


def patched(archive, offset, packing, value):
    """A zip whose last entry in the directory has another value at an offset."""
    start = archive.rindex(b"PK\1\2")
    changed = bytearray(archive)
    struct.pack_into(packing, changed, start + offset, value)
    return bytes(changed)


def renamed(name):
    """A zip with a member of that name, which zipfile itself would not write."""
    placeholder = b"?" * len(name)
    archive = members((placeholder.decode(), "evil"))
    return archive.replace(placeholder, name)


EVIL = [("database/a", "x" * 100)]
WRONG_ZIPS = {
    "climbs": (members(("../evil", "evil")), "path"),
    "climbs from within": (members(("database/a/../../../evil", "evil")), "path"),
    "absolute": (members(("/tmp/evil", "evil")), "path"),
    "drive": (members(("C:/evil", "evil")), "path"),
    "backslash": (renamed(b"..\\evil"), "path"),
    "NUL": (renamed(b"database/Info\0.cfg"), "path"),
    "line break": (renamed(b"database/a\nb"), "path"),
    "empty part": (members(("database//evil", "evil")), "path"),
    "reserved": (members(("database/con.txt", "evil")), "path"),
    "deep": (members(("a/" * 9 + "evil", "evil")), "path"),
    "link": (members((info("database/a", stat.S_IFLNK | 0o777), "/etc")), "no regular file"),
    "pipe": (members((info("database/a", stat.S_IFIFO), "")), "no regular file"),
    "file as a folder": (members((info("database/a/", stat.S_IFREG), "")), "no regular file"),
    "reparse point": (members((info("database/a", attributes=0x400), "x")), "no regular file"),
    "twice": (renamed(b"database/" + CFG.encode()), "more than case"),
    "other case": (members(("database/" + CFG.upper(), "x")), "more than case"),
    "folder of other case": (members(("Database/a", "x")), "more than case"),
    "file and folder": (members((f"database/{CFG}/a", "x")), "more than case"),
    "folder and file": (members(("database/a/b", "x"), ("database/a", "x")), "more than case"),
    "encrypted": (patched(members(*EVIL), 8, "<H", 1), "encrypted"),
    "rare compression": (members(*EVIL, compression=zipfile.ZIP_BZIP2), "unknown compression"),
    "bomb": (members(("database/a", bytes(2**22)), compression=zipfile.ZIP_DEFLATED), "at most"),
    "huge by its header": (patched(members(*EVIL), 24, "<I", 2**31), "size"),
    "smaller by its header": (patched(members(*EVIL), 24, "<I", 9), "without damage"),
    "larger by its header": (patched(members(*EVIL), 24, "<I", 2**20), "bytes|damage"),
    "wrong CRC": (patched(members(*EVIL), 16, "<I", 7), "CRC"),
    "another name inside": (patched(members(*EVIL), 46, "<B", 68), "damage|case"),
    "points elsewhere": (patched(members(*EVIL), 42, "<I", 2**31), "without damage"),
    "points into another": (patched(members(*EVIL), 42, "<I", 0), "without damage"),
    "no patients": (members(top="other/").replace(b"training", b"practice"), "Info.cfg"),
    "nothing": (b"PK\5\6" + bytes(18), "Info.cfg"),
    "no zip": (b"<!DOCTYPE html><html>Please sign in</html>", "something else than a whole zip"),
    "cut": (members(*EVIL)[:-30], "something else than a whole zip"),
    "no bytes": (b"", "something else than a whole zip"),
}


@pytest.mark.parametrize("case", WRONG_ZIPS)
def test_wrong_zips_are_refused_and_leave_nothing(few, root, case):
    archive, message = WRONG_ZIPS[case]
    with GirderServer(few, archive=archive) as server:
        with pytest.raises(DataError, match=message) as error:
            obtain(server, root, whole_zip=True)
        assert_harmless(root, few, error)
        assert not root.exists()
        server.archive = None
        obtain(server, root, whole_zip=True)
    assert_complete(root, data_of(few))


@pytest.mark.parametrize(("bound", "value", "message"), [
    ("MOST_MEMBERS", 10, "at most 10 members"), ("LARGEST_TOTAL", 10**6, "at most 1000000 bytes"),
    ("LARGEST_FILE", 10**5, "size"),
])
def test_zips_are_bounded(server, root, monkeypatch, bound, value, message):
    monkeypatch.setattr(module, bound, value)
    with pytest.raises(DataError, match=message):
        obtain(server, root, whole_zip=True)
    assert not root.exists()


def test_unpacked_members_are_bounded_together(few, root, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_TOTAL", 2_500_000)
    archive = members(*[(f"database/{name}", bytes(10**6)) for name in "abc"],
                      compression=zipfile.ZIP_DEFLATED)
    with (GirderServer(few, archive=archive) as server,
          pytest.raises(DataError, match="at most 499994 bytes, got 'more in database/c'")):
        obtain(server, root, whole_zip=True)
    assert not root.exists()


def test_a_member_with_a_second_name_is_refused():
    member = info("database/a")
    member.filename = "../a"  # as from the field that newer versions of zipfile read it from
    assert module._problem(member) == "path"


def test_a_zip_without_space_to_unpack_is_kept_for_later(server, few, root, monkeypatch):
    usage = module.shutil.disk_usage(root.parent.parent)
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(DataError, match="free space"):
            obtain(server, root, whole_zip=True)
    obtain(server, root, whole_zip=True)
    assert_complete(root, data_of(few))
    assert server.count("zip") == 1


@pytest.mark.parametrize("damage", range(3))
def test_damaged_zips_are_refused_or_unpacked_right(tmp_path, damage):
    source = tmp_path / "source"
    write_tree(source, training=(1,), size=10)
    sound, expected = zipped(source), data_of(source)
    rng, refused = random.Random(damage), 0
    for _ in range(100):
        changed = bytearray(sound)
        for _ in range(rng.choice((1, 3))):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        (tmp_path / "a.zip").write_bytes(changed)
        try:
            paths = module._unpack(tmp_path / "a.zip", tmp_path / "unpacked")
        except DataError:
            refused += 1
        else:
            unpacked = contents(tmp_path / "unpacked")
            assert {path.as_posix() for path in paths} == set(unpacked)
            assert set(unpacked.values()) <= set(expected.values())
    assert refused > 50


@pytest.mark.parametrize("top", ["database/", "", "a b/"])
def test_zip_brings_everything_below_its_top_folder(few, root, top):
    with GirderServer(few, archive=zipped(few, top)) as server:
        obtain(server, root, whole_zip=True)
        assert_complete(root, data_of(few))
        obtain(server, root, whole_zip=True)
        obtain(server, root)
        obtain(server, root, whole_zip=True)
        assert server.count("zip") == 1 and server.count("download") == 0
        (root / CFG).write_text("cut")
        obtain(server, root, whole_zip=True)
        assert_complete(root, data_of(few))


def test_hidden_members_of_a_zip_are_left_out(few, root):
    archive = members(("database/.DS_Store", "x"), ("__MACOSX/._a", "x"), ("database/.a/b", "x"),
                      ("database/training/", ""))
    with GirderServer(few, archive=archive) as server:
        obtain(server, root, whole_zip=True)
    assert_complete(root, {CFG: b"ED: 1\n"})


@pytest.mark.parametrize("continued", [True, False])
def test_an_interrupted_zip_goes_on_where_the_server_can(few, root, continued):
    with GirderServer(few, archive_ranges=continued) as server:
        server.fail("zip", "*", halved(), last=2)
        obtain(server, root, whole_zip=True)
        assert_complete(root, data_of(few))
        assert server.count("zip") == 3 and server.partial_answers == 2 * continued


def test_a_zip_that_was_killed_while_it_was_unpacked_is_unpacked_again(server, few, root):
    obtain(server, root)
    (root / f".{server.folder}.zip").write_bytes(zipped(few))
    (root / ".unpacked" / "training").mkdir(parents=True)
    (root / ".unpacked" / "training" / "half").write_text("half")
    obtain(server, root, whole_zip=True)
    assert_complete(root, data_of(few))
    assert server.count("zip") == 0


# ----------------------------------------------------------------------------------- command line
def run_main(server, root, *options):
    return main(["--to", str(root), "--server", server.url, "--folder", server.folder, *options])


def test_command_line_without_acceptance_fetches_nothing(server, root, capsys):
    assert run_main(server, root) == 2
    out, error = capsys.readouterr()
    assert LICENCE in out and CITATION in out and "--accept-licence" in error
    assert server.count("*") == 0 and not root.exists()


@pytest.mark.parametrize(("options", "patients"), [
    ((), ()), (("--images", "1,002"), ("patient001", "patient002")), (("--images", "none"), ()),
    (("--images", "all", "--workers", "2"), ("patient001", "patient002", "patient101")),
])
def test_command_line_downloads_and_says_what(server, few, root, capsys, options, patients):
    assert run_main(server, root, "--accept-licence", *options) == 0
    expected = labels_of(few) | frames_of(few, *patients)
    assert_complete(root, expected)
    size = sum(map(len, expected.values()))
    out = capsys.readouterr().out
    assert CITATION in out
    assert f"3 patients, {len(expected)} files, {size / 1e6:.1f} MB in {root}" in out


def test_command_line_takes_the_zip(server, few, root):
    assert run_main(server, root, "--accept-licence", "--zip") == 0
    assert_complete(root, data_of(few))


def test_command_line_shows_what_is_wrong_without_a_traceback(server, root, capsys):
    server.fail("folders", ".", status(404))
    assert run_main(server, root, "--accept-licence") == 2
    error = capsys.readouterr().err
    assert "404" in error and BY_HAND in error and "Traceback" not in error


def test_command_line_writes_to_the_data_folder_by_default(server, few, tmp_path, monkeypatch):
    monkeypatch.setenv("CVAE_OUT", str(tmp_path))
    assert main(["--accept-licence", "--server", server.url, "--folder", server.folder]) == 0
    assert_complete(tmp_path / "data" / "raw" / "acdc", labels_of(few))


def test_defaults_are_the_public_database():
    assert module.SERVER.startswith("https://humanheart-project.creatis.insa-lyon.fr/")
    assert module.FOLDER == "637218e573e9f0047faa00fc"
