"""Download of ACDC: what arrives, what an interruption leaves, and what no answer can do."""

import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from girder_server import GirderServer, changed

from cvae_utils.data import acdc
from cvae_utils.data import download as module
from cvae_utils.data.download import BY_HAND, CITATION, LICENCE, NOTE, download, is_unfinished, main
from cvae_utils.files import REPOSITORY, DataError, read_json

PATIENT = "training/patient001"
CFG, ONE_GT = f"{PATIENT}/Info.cfg", f"{PATIENT}/patient001_frame01_gt.nii.gz"
FEW = (1, 2, 101)


def write_tree(root, patients, size=3000):
    """Patients with files of random bytes under the names of ACDC."""
    rng = np.random.default_rng(0)
    for number in patients:
        name = f"patient{number:03d}"
        folder = root / ("training" if number <= 100 else "testing") / name
        folder.mkdir(parents=True)
        (folder / "Info.cfg").write_text(f"ED: 1\nES: 10\nGroup: DCM\nWeight: {number}\n")
        for ending in ("frame01", "frame01_gt", "frame10", "frame10_gt", "4d"):
            (folder / f"{name}_{ending}.nii.gz").write_bytes(rng.bytes(size + number))
    (root / "MANDATORY_CITATION.md").write_text("cite\n")
    return root


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("few"), FEW)


@pytest.fixture(scope="module")
def all_150(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("all"), range(1, 151))


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(module, "PAUSE_S", 0)


@pytest.fixture
def server(few):
    with GirderServer(few) as server:
        yield server


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data" / "acdc"


def obtain(server, root, patients=FEW, **options):
    return download(root, accept_licence=True, patients=patients, server=server.url,
                    folder=server.folder, progress=False, **options)


def contents(root):
    """All files but the note, hidden and half-written ones included."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*")
            if path.is_file() and path.name != NOTE}


def labels_of(tree):
    return {path: content for path, content in contents(tree).items()
            if path.endswith(("/Info.cfg", "_gt.nii.gz"))}


def images_of(tree, *numbers):
    return {path: content for path, content in contents(tree).items()
            if any(f"patient{n:03d}_frame" in path for n in numbers) and "_gt" not in path}


# ---------------------------------------------------------------------------------- what arrives
@pytest.mark.parametrize("images", [(), [2], (1, 101), FEW])
def test_labels_come_and_the_images_that_are_asked_for(server, few, root, images):
    assert obtain(server, root, images=images) == root
    assert contents(root) == labels_of(few) | images_of(few, *images)
    assert not is_unfinished(root)
    note = read_json(root / NOTE)
    assert (note["server"], note["folder"]) == (server.url, server.folder)
    assert LICENCE in note["licence"] and CITATION in note["licence"]


def test_images_come_later_without_the_labels_again(server, few, root):
    obtain(server, root)
    assert server.count("download *") == 9
    obtain(server, root)
    assert server.count("download *") == 9
    obtain(server, root, images=[2])
    assert contents(root) == labels_of(few) | images_of(few, 2)
    assert server.count("download *") == 11


def test_bar_counts_patients_and_bytes(server, few, root, capsys):
    download(root, accept_licence=True, patients=FEW, server=server.url, folder=server.folder)
    lists, files = capsys.readouterr().err.strip().split("\n")
    assert "3/3" in lists.split("\r")[-1]
    size = f"{sum(map(len, labels_of(few).values())) / 1000:.1f}k"
    assert f"{size}/{size}" in files.split("\r")[-1]


@pytest.mark.parametrize(("options", "named"), [
    ({"images": [1, 3]}, "got 3"), ({"images": "all"}, "got a, l"),
    ({"patients": [0, 151]}, "got 0, 151"),
])
def test_patients_that_there_are_not_are_refused(server, root, options, named):
    with pytest.raises(DataError, match=named):
        obtain(server, root, **options)
    assert not server.requests


def test_without_acceptance_nothing_is_asked_for(server, root):
    with pytest.raises(DataError) as error:
        download(root, accept_licence=False, server=server.url, folder=server.folder)
    assert all(part in str(error.value) for part in (LICENCE, CITATION, "--accept-licence"))
    assert not server.requests and not root.parent.exists()


def test_a_file_of_another_size_is_named_and_kept(server, root):
    (root / PATIENT).mkdir(parents=True)
    (root / ONE_GT).write_bytes(b"mine")
    with pytest.raises(DataError, match=r"frame01_gt.nii.gz: expected 3001 bytes.*got 4 \(1 such"):
        obtain(server, root)
    assert contents(root) == {ONE_GT: b"mine"} and not is_unfinished(root)
    assert server.count("download *") == 0


def test_a_place_that_cannot_be_written_to_is_named(server, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file.*expected a place that can be written to"):
        obtain(server, tmp_path / "file")
    assert contents(tmp_path) == {"file": b"mine"}


# ---------------------------------------------------------------------------------- interruptions
#: python -m, in which Ctrl-C works even where the tests run in the background.
PROGRAM = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("cvae_utils.data.download", run_name="__main__")
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_interrupted_it_leaves_whole_files_and_goes_on(all_150, root, sent, code):
    with GirderServer(all_150) as server:
        server.fail("download */patient030/*_frame10_gt*", pause=20)
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "--accept-licence", "--to", root, "--server",
             server.url, "--folder", server.folder],
            cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while process.poll() is None and not list(
                root.glob("training/patient030/.*frame10_gt*partial*")):
            time.sleep(0.001)
        process.send_signal(sent)
        _, error = process.communicate(timeout=15)
        assert process.returncode == code and "Traceback" not in error
        assert ("goes on from here" in error) == (code == 130)

        there = {path: content for path, content in contents(root).items() if "/." not in path}
        assert len(there) == 89 and there.items() <= labels_of(all_150).items()
        assert (contents(root) == there) == (code == 130)  # what is killed cannot tidy up
        assert is_unfinished(root)
        with pytest.raises(DataError, match="interrupted.*python -m cvae_utils.data.download"):
            acdc.find_root(root, root)

        server.faults.clear()
        server.requests.clear()
        obtain(server, root, patients=range(1, 151))
        assert server.count("download *") == 450 - 89
    assert contents(root) == labels_of(all_150)
    assert not is_unfinished(root) and acdc.find_root(root, root) == root
    assert len(acdc.list_frames(root)) == 300


def test_what_is_lacking_may_be_unzipped_by_hand(server, few, root):
    server.fail("download */patient101/*", code=404)
    with pytest.raises(DataError, match="404"):
        obtain(server, root)
    assert is_unfinished(root)
    for path, content in labels_of(few).items():
        (root / path).parent.mkdir(exist_ok=True, parents=True)
        (root / path).write_bytes(content)
    assert not is_unfinished(root)


def test_without_the_images_that_were_asked_for_it_is_not_unfinished(server, few, root):
    server.fail("download *_frame??.nii.gz", code=404)
    obtain(server, root)
    with pytest.raises(DataError, match="404"):
        obtain(server, root, images=[1])
    assert contents(root) == labels_of(few) and not is_unfinished(root)


def test_two_downloads_at_once_do_not_harm_each_other(server, few, root):
    server.fail("download *", pause=0.01)
    threads = [threading.Thread(target=obtain, args=(server, root)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(root) == labels_of(few)


# ------------------------------------------------------------------------- answers that are wrong
def renamed(name):
    return changed(lambda value: value[0].update(name=name))


#: Which request fails, how, and the message.
WRONG = {
    "login": ("folder .", {"code": 401}, "folder .*HttpError: HTTP error 401"),
    "not found": ("item training/*", {"code": 404}, "item, folder .*404"),
    "always out of order": ("folder training", {"code": 503}, "folder .*503"),
    "HTML": ("item training/*", {"body": b"<!DOCTYPE html>\nPlease"}, "list of items.*JSON"),
    "nothing": ("folder .", {"body": b""}, "list of folders.*JSON"),
    "broken JSON": ("folder .", {"body": b'[{"_id": "\xff'}, "list of folders.*JSON"),
    "nested JSON": ("folder .", {"body": b"[" * 10**5}, "list of folders.*RecursionError"),
    "an object": ("folder .", {"body": b'{"message": "no"}'}, "list of folders.*TypeError"),
    "null": ("folder .", {"body": b"null"}, "list of folders.*TypeError"),
    "numbers": ("folder .", {"body": b"[1]"}, "list of folders.*TypeError"),
    "no name": ("folder .", {"body": b'[{"_id": "a"}]'}, "list of folders.*KeyError: 'name'"),
    "size is a text": ("item training/*", {"fault": changed(
        lambda value: value[0].update(size="9"))}, "list of items.*TypeError"),
    "no patients": ("folder training", {"body": b"[]"}, r"3 patients.*patient001 \(2 such\)"),
    "no subset": ("folder .", {"body": b"[]"}, r"3 patients.*patient001 \(3 such\)"),
    "a patient lacks": ("folder training", {"fault": changed(lambda value: value[1:])},
                        r"3 patients.*got no training/patient001 \(1 such"),
    "a patient of another name": ("folder training", {"fault": renamed("../patient001")},
                                  "3 patients.*got no training/patient001"),
    "an endless list": ("folder training", {"fault": changed(
        lambda value: [{"_id": "a", "name": "a"}] * 50)}, "3 patients.*got no training/patient001"),
    "no Info.cfg": ("item training/patient001", {"fault": changed(lambda value: value[1:])},
                    "patient001: expected Info.cfg"),
    "no labels": ("item testing/*", {"fault": changed(lambda value: value[:3])},
                  "patient101: expected Info.cfg, label volumes of ED and ES, got"),
    "file is gone": (f"download {CFG}", {"code": 404}, "Info.cfg.*404"),
    "file is always out of order": (f"download {CFG}", {"code": 500}, "Info.cfg.*500"),
    "file is cut": (f"download {ONE_GT}", {"cut": 1000}, "frame01_gt.*1000 bytes read"),
    "file is short": (f"download {ONE_GT}", {"body": b"short"}, "expected 3001 bytes, got 5"),
    "file is long": (f"download {ONE_GT}", {"body": bytes(10**6)}, "expected 3001 bytes, got"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_answers_end_in_a_message_and_leave_whole_files(server, few, root, case):
    request, how, message = WRONG[case]
    server.fail(request, **how)
    with pytest.raises(DataError, match=message) as error:
        obtain(server, root)
    assert server.url in str(error.value) and str(error.value).endswith(BY_HAND)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1200
    assert len(server.requests) < 30
    if root.exists():
        assert contents(root).items() < labels_of(few).items() and is_unfinished(root)
    server.faults.clear()
    obtain(server, root)
    assert contents(root) == labels_of(few)


@pytest.mark.parametrize("name", [
    "", ".", "..", "../../Info.cfg", "/tmp/Info.cfg", "..\\Info.cfg", "C:Info.cfg", "Info.cfg\0",
    "info.CFG", "CON", "nul.txt", "patient001_frame01_gt.nii.gz/../a",
    "patient002_frame01_gt.nii.gz", "patient001_frame٠١_gt.nii.gz", "a\x1b[2Jb", ["Info.cfg"], None,
])
def test_names_that_are_not_expected_are_never_written(server, few, root, name):
    server.fail(f"item {PATIENT}", renamed(name))
    with pytest.raises(DataError, match="patient001: expected Info.cfg") as error:
        obtain(server, root)
    assert str(error.value).isprintable() and not root.exists()
    server.faults.clear()
    server.fail(f"item {PATIENT}", changed(lambda value: value.append(value[0] | {"name": name})))
    obtain(server, root)
    assert contents(root.parent.parent) == {f"data/acdc/{path}": content
                                            for path, content in labels_of(few).items()}


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_passing_errors_are_tried_again(server, few, root, code):
    for request in ("folder .", "item testing/*", f"download {CFG}"):
        server.fail(request, code=code, times=3)
    obtain(server, root)
    assert contents(root) == labels_of(few)


@pytest.mark.parametrize(("pattern", "how", "attempts"), [
    ("folder .", {"silence": 30}, module.ATTEMPTS),
    (f"download {CFG}", {"silence": 30}, module.ATTEMPTS),
    (f"download {ONE_GT}", {"pause": 30}, 1),  # silent after the first part
])
def test_a_silent_server_ends_in_a_message(server, few, root, monkeypatch, pattern, how, attempts):
    monkeypatch.setattr(module, "TIMEOUT_S", (1, 0.1))
    server.fail(pattern, **how)
    with pytest.raises(DataError, match="timed out.*Or by hand"):
        obtain(server, root)
    assert server.count(pattern) == attempts
    assert not root.exists() or contents(root).items() < labels_of(few).items()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api/v1", "http://a..b/", "a", "file:///"])
def test_no_server_ends_in_a_message(root, url):
    with pytest.raises(DataError, match="expected a list of folders.*Or by hand"):
        download(root, accept_licence=True, server=url, progress=False)
    assert not root.parent.exists()


# ----------------------------------------------------------------------------------- command line
def test_command_line_brings_all_to_the_data_folder(all_150, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CVAE_OUT", str(tmp_path))
    with GirderServer(all_150) as server:
        where = ["--server", server.url, "--folder", server.folder]
        assert main(where) == 2
        out, error = capsys.readouterr()
        assert CITATION in out and "--accept-licence" in error and not server.requests
        assert main([*where, "--accept-licence", "--images", "7", "120"]) == 0
        root = tmp_path / "data" / "raw" / "acdc"
        assert contents(root) == labels_of(all_150) | images_of(all_150, 7, 120)
        assert f"complete in {root}" in capsys.readouterr().out
        assert main([*where, "--accept-licence", "--images"]) == 0
        assert contents(root) == labels_of(all_150) | images_of(all_150, *range(1, 151))


def test_command_line_shows_what_is_wrong_without_a_traceback(server, root, capsys):
    assert main(["--to", str(root), "--accept-licence", "--server", server.url]) == 2
    error = capsys.readouterr().err
    assert "400" in error and BY_HAND in error and "Traceback" not in error


def test_defaults_are_the_public_database():
    assert module.SERVER == "https://humanheart-project.creatis.insa-lyon.fr/database/api/v1"
    assert module.FOLDER == "637218e573e9f0047faa00fc"
