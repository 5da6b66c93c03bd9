"""Download ACDC from its public server into the folder layout that the package reads.

    python -m cvae_utils.data.download --accept-licence

    root/training/patient001/Info.cfg, patient001_frame01_gt.nii.gz, ...
    root/testing/patient101/...
    root/.download.json    where from, under which licence, and the files that the model needs

A file has its name only when it is complete, so the same call goes on after an interruption.
"""

import argparse
import contextlib
import functools
import itertools
import operator
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import requests
import urllib3
from girder_client import GirderClient
from tqdm.auto import tqdm

from cvae_utils.files import DataError, complete_file, output_root, read_json, write_json

SERVER = "https://humanheart-project.creatis.insa-lyon.fr/database/api/v1"
FOLDER = "637218e573e9f0047faa00fc"  # the whole database
SUBSETS = {"training": range(1, 101), "testing": range(101, 151)}
PATIENTS = range(1, 151)

LICENCE = "CC BY-NC-SA 4.0"
CITATION = (
    "O. Bernard et al., \"Deep learning techniques for automatic MRI cardiac multi-structures "
    "segmentation and diagnosis: is the problem solved?\", IEEE TMI 37(11), 2018, "
    "doi 10.1109/TMI.2018.2837502"
)
NOTICE = (
    f"The ACDC database is licensed {LICENCE} (https://creativecommons.org/licenses/by-nc-sa/4.0/)"
    f": no commercial use, attribution, derivatives under the same licence. To be cited: {CITATION}"
)
BY_HAND = (
    "Or by hand: download the database from https://humanheart-project.creatis.insa-lyon.fr/"
    "database/#collection/637218c173e9f0047faa00fb, unzip it so that "
    "data/raw/acdc/training/patient001 exists, or set ACDC_ROOT to the folder that holds training."
)

NOTE = ".download.json"
ATTEMPTS = 5  # of a request that is not answered, or with one of PASSING
PASSING = (429, 500, 502, 503, 504)  # HTTP status that may be another one the next time
PAUSE_S = 0.5  # before the third attempt; doubles
TIMEOUT_S = (10, 30)  # to connect, and between two parts of an answer
LONGEST_LISTING = 1000  # entries; else a server could list for ever


class Entry(NamedTuple):
    """A folder or an item on the server; size in bytes, 0 for a folder."""

    id: str
    size: int


def download(root: Path, *, accept_licence: bool, images: Iterable[int] = (),
             patients: Collection[int] = PATIENTS, server: str = SERVER, folder: str = FOLDER,
             progress: bool = True) -> Path:
    """Download ACDC to `root` and return it; goes on with what an earlier call has begun.

    accept_licence: the caller has read the licence (NOTICE) and accepts it.
    images: numbers of the patients whose MR images of ED and ES come too. By default label
        volumes and Info.cfg alone: a few MB.
    patients: numbers of the patients to have, by default all.
    server, folder: root of the server's REST API, and the id of the folder with training/.

    Nothing that is in `root` is fetched again or replaced. Raises DataError, with what to do, if
    the licence is not accepted, the server cannot be reached or gives something unexpected, or a
    file in `root` has another size than there; OSError if the files cannot be written.
    """
    root, images = Path(root), set(images)
    if not accept_licence:
        raise DataError(f"{NOTICE}. Expected the licence to be accepted: pass accept_licence=True, "
                        f"or --accept-licence on the command line. {BY_HAND}")
    if unknown := images - set(patients) | set(patients) - set(PATIENTS):
        raise DataError("patients and images: expected numbers of 1 to 150, and images of patients "
                        f"that come, got {', '.join(sorted(map(str, unknown)))}. Leave these out.")
    with _visit(server) as client:
        files = _list_files(client, folder, patients, images, progress)
        if missing := _missing(root, files):
            needed = [path for path in files if path.endswith(("Info.cfg", "_gt.nii.gz"))]
            write_json(root / NOTE, {"server": server, "folder": folder, "licence": NOTICE,
                                     "files": needed})
        with tqdm(desc="ACDC", total=sum(files[path].size for path in missing), unit="B",
                  unit_scale=True, disable=not progress) as bar:
            for path in missing:
                _fetch(client, files[path], root / path, bar)
    return root


def is_unfinished(root: Path) -> bool:
    """Whether a download to `root` was begun and label volumes or Info.cfg are yet to come."""
    note = Path(root) / NOTE
    return note.is_file() and not all((Path(root) / path).is_file()
                                      for path in read_json(note).get("files", ()))


@contextlib.contextmanager
def _visit(server: str) -> Iterator[GirderClient]:
    """A client without an account, with time-outs and attempts, of which GirderClient has none."""
    # A wait that the server asks for may be hours: the pauses are our own.
    retries = urllib3.Retry(ATTEMPTS - 1, backoff_factor=PAUSE_S / 2, status_forcelist=PASSING,
                            respect_retry_after_header=False)
    client = GirderClient(apiUrl=server)
    with requests.Session() as session:
        for adapter in session.adapters.values():
            adapter.max_retries = retries
        session.request = functools.partial(session.request, timeout=TIMEOUT_S)
        with client.session(session):
            yield client


@contextlib.contextmanager
def _expecting(what: str, where: str) -> Iterator[None]:
    """Turn what goes wrong on the way to the server, or there, into a DataError."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, LookupError, TypeError,
            RecursionError) as error:
        raise _unexpected(where, what, f"{type(error).__name__}: {error}") from error


def _unexpected(where: str, expected: str, came: str) -> DataError:
    came = re.sub(r"[^ -~]+", " ", came)[:500]  # from outside: one line, no control characters
    return DataError(f"{where}: expected {expected}, got {came}. Check the connection and begin "
                     f"again: what has come is kept. {BY_HAND}")


def _listing(client: GirderClient, kind: str, parent: str) -> dict[str, Entry]:
    """The folders or items ("folder", "item") in the folder with the id `parent`, by name."""
    entries = {"folder": client.listFolder, "item": client.listItem}[kind](parent)
    with _expecting(f"a list of {kind}s", f"{client.urlBase}{kind}, folder {parent}"):
        return {str(entry["name"]): Entry(
                    str(entry["_id"]), operator.index(entry["size"]) if kind == "item" else 0)
                for entry in itertools.islice(entries, LONGEST_LISTING)}


def _list_files(client: GirderClient, folder: str, patients: Collection[int], images: set[int],
                progress: bool) -> dict[str, Entry]:
    """The items to have, by their path below the root."""
    subsets = _listing(client, "folder", folder)
    found = {f"{subset}/{name}": entry.id for subset in SUBSETS if subset in subsets
             for name, entry in _listing(client, "folder", subsets[subset].id).items()}
    folders = {f"{subset}/patient{number:03d}": number for subset, numbers in SUBSETS.items()
               for number in numbers if number in patients}
    if lost := [path for path in folders if path not in found]:
        raise _unexpected(f"{client.urlBase}folder, folder {folder}", f"{len(folders)} patients",
                          f"no {lost[0]} ({len(lost)} such)")
    files = {}
    for path, number in tqdm(folders.items(), desc="ACDC, lists", disable=not progress):
        items = _listing(client, "item", found[path])
        # Only names that are expected become paths, whatever else the server may list.
        labels = [name for name in items
                  if re.fullmatch(rf"patient{number:03d}_frame[0-9]{{2}}_gt\.nii\.gz", name)]
        frames = [name.replace("_gt.", ".") for name in labels] if number in images else []
        if len(labels) != 2 or not {"Info.cfg", *frames} <= set(items):
            raise _unexpected(f"{client.urlBase}item, {path}", "Info.cfg, label volumes of ED and "
                              f"ES{' and their MR images' * bool(frames)}", str(sorted(items)))
        files |= {f"{path}/{name}": items[name] for name in ("Info.cfg", *labels, *frames)}
    return files


def _missing(root: Path, files: dict[str, Entry]) -> list[str]:
    """The paths that are not in `root`; DataError if something else lies at one of them."""
    sizes = {path: (root / path).stat().st_size for path in files if (root / path).exists()}
    if others := [path for path, size in sizes.items() if size != files[path].size]:
        raise DataError(f"{root / others[0]}: expected {files[others[0]].size} bytes, as on the "
                        f"server, got {sizes[others[0]]} ({len(others)} such). Move these files "
                        "away to have them fetched, or download to another folder.")
    return [path for path in files if path not in sizes]


def _fetch(client: GirderClient, entry: Entry, path: Path, bar: tqdm) -> None:
    """Fetch the one file of an item; `path` appears when all of it is there."""
    # GirderClient.downloadFile would leave a copy in the temporary folder when interrupted.
    route = f"item/{entry.id}/download"
    where, count = f"{client.urlBase}{route} ({path.name})", 0
    with (_expecting("a file", where),
          client.sendRestRequest("get", route, jsonResp=False, stream=True) as response,
          complete_file(path) as partial, partial.open("wb") as file):
        for part in response.iter_content(2**16):
            count += file.write(part)
            bar.update(len(part))
            if count > entry.size:
                break
        if count != entry.size:
            raise _unexpected(where, f"{entry.size} bytes", f"{count}")


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit code: 0, 2 if it cannot be had, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m cvae_utils.data.download", epilog=NOTICE,
                                     description="Download the ACDC database.")
    parser.add_argument("--to", type=Path, default=output_root() / "data" / "raw" / "acdc",
                        metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--accept-licence", action="store_true", help=f"{LICENCE}, see below")
    parser.add_argument("--images", type=int, nargs="*", metavar="N",
                        help="MR images, too: of these patients, or of all if none is named")
    parser.add_argument("--server", default=SERVER, metavar="URL")
    parser.add_argument("--folder", default=FOLDER, metavar="ID")
    chosen = parser.parse_args(argv)
    images = () if chosen.images is None else chosen.images or PATIENTS
    print(NOTICE)
    try:
        root = download(chosen.to, accept_licence=chosen.accept_licence, images=images,
                        server=chosen.server, folder=chosen.folder)
    except (DataError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    print(f"ACDC is complete in {root}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
