"""List the folders of a public Girder server and fetch their files: resumed, checked, bounded.

What this relies on, by the page that every Girder server shows under /api/v1, and by Girder's
source (versions 3 to 5) where the page is silent:

    GET /folder?parentType=folder&parentId=ID, GET /item?folderId=ID
        A JSON list of sub-folders, of items. `limit`, `offset` and `sort` page it. The header
        Girder-Total-Count is the length of the whole list; not every version sends it for
        folders, so without it a list ends with an empty page.
    A folder or an item
        `_id` (24 hex digits) and `name`; an item's `size` in bytes is that of its files together,
        and `updated` changes with the item.
    GET /item/ID/files
        The files of an item. `sha512` is among their fields only where the server's
        administrator has switched that on; asked for until a file comes without it.
    GET /item/ID/download
        The file itself if the item has one, with Content-Length. The query `offset` says where to
        start; a later start is answered with 206 and Content-Range. The header Range is read by
        the route /file/ID/download alone, but also by proxies and by storage that an item's
        download is redirected to: a continued download sends both.
    GET /folder/ID/download
        A zip made while it is sent: stored members below the folder's own name, no
        Content-Length, no Range (a server before which a proxy keeps it may offer both). An
        interrupted one begins anew.
    Refusals
        4xx with {"message": ..., "type": ...}; 401 for what anonymous visitors may not read.
"""

import contextlib
import hashlib
import http.cookiejar
import json
import os
import random
import re
import threading
import time
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

import requests
import urllib3

from cvae_utils.storage import DataError, short_hash

PAGE = 500  # entries asked for at once
LONGEST_LISTING = 5000
LARGEST_JSON = 2**24  # bytes
LARGEST_FILE = 2**30
MOST_REDIRECTS = 5
CHUNK = 2**16
#: An attempt that brings a file so many bytes further is not held against it.
PROGRESS = 2**20
#: Leaves room for what the name of a partial file adds, within 255 bytes.
LONGEST_NAME = 200

#: Names that mean a device to Windows, whatever follows their first dot.
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$",
            *(f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³")}


@dataclass(frozen=True)
class Patience:
    """How often, how long and how slowly; times in s."""

    attempts: int = 6  # in a row without progress, before giving up
    first_wait: float = 1.0  # between two attempts; doubles
    longest_wait: float = 60.0  # also of a wait that the server asks for
    connect: float = 15.0
    silence: float = 60.0  # longest pause inside an answer
    slowest: float = 500.0  # bytes/s, on average over a `silence`


@dataclass(frozen=True)
class Entry:
    """A folder or an item on the server."""

    id: str
    name: str  # safe as a file name
    size: int = 0  # bytes; of an item
    updated: str = ""


class Stopped(Exception):
    """Raised in the calls under way when Girder.stop was called."""


class _Passing(Exception):
    """A failure that may be gone at the next attempt; wait: s that the server asks for."""

    def __init__(self, what: str, wait: float = 0.0):
        super().__init__(what)
        self.wait = wait


def is_plain(name) -> bool:
    """Whether a name from outside can be that of a file on any system, inside its folder.

    Refused: "", ".", "..", separators, drive letters, characters that are not shown, names that
    Windows reserves or trims, and names too long.
    """
    return (
        isinstance(name, str)
        and name == name.strip()
        and not name.endswith(".")
        and not re.search(r'[<>:"/\\|?*]', name)
        and not any(unicodedata.category(c).startswith("C") for c in name)
        and 0 < len(name.encode()) <= LONGEST_NAME
        and name.partition(".")[0].rstrip().casefold() not in _DEVICES
    )


def folded(name: str) -> str:
    """The same for names that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class Girder:
    """An anonymous visitor of a Girder server; may be used by several threads at once.

    server: root of its REST API, https://.../api/v1.
    remedy: ends every message: what else the user can do.
    connections: how many are kept.

    Every method raises DataError for what cannot be had, with what was expected and what came,
    and Stopped after `stop`.
    """

    def __init__(self, server: str, *, remedy: str, patience: Patience | None = None,
                 connections: int = 4):
        self.server = server.rstrip("/")
        self._remedy = remedy
        self._patience = patience or Patience()
        self._stopped = threading.Event()
        self._gives_hashes = True
        if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", self.server):
            raise self._error(server, "the address of a server, https://.../api/v1", "this")
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": "cvae-utils", "Accept-Encoding": "identity"})
        self._session.auth = lambda request: request  # else requests looks into ~/.netrc
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        # Else requests reads the body of a redirect, however long, before it is looked at here.
        self._session.get_redirect_target = lambda response: None
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=connections)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def __enter__(self) -> "Girder":
        return self

    def __exit__(self, *exception) -> None:
        self.stop()
        self._session.close()

    def stop(self) -> None:
        """End the calls of all threads: waits at once, transfers with the next bytes."""
        self._stopped.set()

    def folders(self, folder: str) -> list[Entry]:
        """The sub-folders of a folder, given by its id."""
        query = {"parentType": "folder", "parentId": self._checked_id(folder)}
        return self._listing("/folder", query, sized=False)

    def items(self, folder: str) -> list[Entry]:
        """The items of a folder, given by its id."""
        return self._listing("/item", {"folderId": self._checked_id(folder)}, sized=True)

    def fetch_item(self, item: Entry, target: Path,
                   advance: Callable[[int], None] = lambda count: None) -> None:
        """Fetch the one file of an item; `target` appears when size and hash have been verified.

        What an interrupted call has left beside `target` is continued. advance: told of bytes as
        they come; negative where some have to come again. Raises OSError if it cannot be written.
        """
        address = f"{self.server}/item/{item.id}"
        partial = _Partial(target, [address, item.size, item.updated], advance)
        self._fetch(address + "/download", partial, size=item.size, limit=item.size,
                    sha512=self._sha512(item))

    def fetch_zip(self, folder: str, target: Path, *, limit: int,
                  advance: Callable[[int], None] = lambda count: None) -> None:
        """Fetch a folder, given by its id, as one zip of at most `limit` bytes; see fetch_item.

        Of the zip nothing is known beforehand: that it is whole is told by its end. Its members
        have yet to be verified.
        """
        address = f"{self.server}/folder/{self._checked_id(folder)}/download"
        self._fetch(address, _Partial(target, [address], advance), size=None, limit=limit,
                    sha512=None)

    # --------------------------------------------------------------------------- listings: JSON
    def _listing(self, route: str, query: dict, sized: bool) -> list[Entry]:
        entries: dict[str, Entry] = {}
        count = 0
        while True:
            page, total = self._page(route, {**query, "limit": PAGE, "offset": count,
                                             "sort": "lowerName"})
            where = f"{self.server}{route}?{urlencode(query)}"
            for document in page:
                entry = self._entry(where, document, sized)
                if entries.setdefault(folded(entry.name), entry) is not entry:
                    raise self._error(where, "names that differ by more than upper and lower case",
                                      f"{_clip(entry.name)!r} twice")
            count += len(page)
            if count > LONGEST_LISTING:
                raise self._error(where, f"at most {LONGEST_LISTING} entries", "more")
            if not page or count == total:
                break
        if total is not None and count != total:
            raise self._error(where, f"{total} entries", f"{count}")
        # File managers leave hidden files about; they are nobody's data.
        return [entry for entry in entries.values() if not entry.name.startswith(".")]

    def _page(self, route: str, query: dict) -> tuple[list, int | None]:
        """One page of a list and, where the server says it, the length of the whole."""
        url = f"{self.server}{route}?{urlencode(query)}"
        body, total = self._retried(url, lambda: self._read(url))
        try:
            page = json.loads(body)
        except (ValueError, RecursionError):
            raise self._error(url, "JSON", f"{_clip(body.decode(errors='replace'))!r}") from None
        if not isinstance(page, list):
            raise self._error(url, "a JSON list", _clip(repr(page)))
        if total is not None and not (total.isascii() and total.isdecimal() and len(total) < 10):
            raise self._error(url, "a number of entries in Girder-Total-Count", _clip(repr(total)))
        return page, None if total is None else int(total)

    def _read(self, url: str) -> tuple[bytes, str | None]:
        with self._open(url, url) as response:
            body = bytearray()
            for chunk in self._chunks(response):
                body += chunk
                if len(body) > LARGEST_JSON:
                    raise self._error(url, f"at most {LARGEST_JSON} bytes", "more")
            return bytes(body), response.headers.get("Girder-Total-Count")

    def _entry(self, where: str, document, sized: bool) -> Entry:
        if not isinstance(document, dict):
            raise self._error(where, "a list of objects", _clip(repr(document)))
        name, size = document.get("name"), document.get("size") if sized else 0
        if not is_plain(name):
            raise self._error(where, "plain file names", _clip(repr(name)))
        if type(size) is not int or not 0 <= size <= LARGEST_FILE:
            raise self._error(f"{where}, {name}", f"a size of 0 to {LARGEST_FILE} bytes",
                              _clip(repr(size)))
        return Entry(self._checked_id(document.get("_id"), where), name, size,
                     _clip(str(document.get("updated") or document.get("created"))))

    def _checked_id(self, value, where: str = "") -> str:
        if not (isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{24}", value)):
            raise self._error(where or self.server, "an id of 24 hex digits", _clip(repr(value)))
        return value

    def _sha512(self, item: Entry) -> str | None:
        """The hash of an item's one file, or None where the server does not give any."""
        if not self._gives_hashes:
            return None
        where = f"/item/{item.id}/files"
        files, _ = self._page(where, {"limit": 2})
        if len(files) != 1 or not isinstance(files[0], dict):
            raise self._error(self.server + where, f"the one file of {item.name}",
                              _clip(repr(files)))
        value = files[0].get("sha512")
        if value is None:
            self._gives_hashes = False
        elif not (isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{128}", value)):
            raise self._error(self.server + where, "a SHA-512", _clip(repr(value)))
        return value.lower() if value else None

    # -------------------------------------------------------------------------------- transfers
    def _fetch(self, url: str, partial: "_Partial", *, size: int | None, limit: int,
               sha512: str | None) -> None:
        def attempt() -> None:
            if not partial.is_whole(size):
                self._transfer(url, partial, size, limit)
            if not partial.is_whole(size):
                came = f"{partial.length} of {size} bytes"
                if size is None:
                    partial.drop()
                    came = "something else than a whole zip"
                raise _Passing(came)
            if sha512 not in (None, partial.sha512()):
                partial.drop()
                raise _Passing("bytes with another SHA-512")

        self._retried(_named(url, partial), attempt, lambda: partial.length)
        self._check_stopped()
        partial.finish()

    def _transfer(self, url: str, partial: "_Partial", size: int | None, limit: int) -> None:
        """Append what is missing; begin anew where the server does not continue."""
        start = partial.length
        query = f"?offset={start}" if start else ""
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._open(url + query, _named(url, partial), headers, bool(start)) as response:
            if response.status_code == 416:
                partial.drop()
                raise _Passing("that the file ends before what is here of it")
            if response.status_code == 206:
                self._check_range(response, partial, size)
            elif start:
                partial.drop()
            announced = _content_length(response)
            if None not in (announced, size) and announced != size - partial.length:
                partial.drop()
                raise _Passing(f"{announced} bytes instead of {size}")
            if not partial.append(self._chunks(response), limit):
                partial.drop()
                if size is None:
                    raise self._error(_named(url, partial), f"at most {limit} bytes", "more")
                raise _Passing(f"more than {size} bytes")

    @staticmethod
    def _check_range(response: requests.Response, partial: "_Partial", size: int | None) -> None:
        """Whether a 206 brings all of the file from where the partial file ends."""
        value = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})", value.strip())
        first, last, total = map(int, match.groups()) if match else (-1, -1, -1)
        if first != partial.length or last != total - 1 or size not in (None, total):
            partial.drop()
            raise _Passing(f"a part of the file that was not asked for ({_clip(value)!r})")

    @contextlib.contextmanager
    def _open(self, url: str, name: str, headers: dict | None = None,
              resuming: bool = False) -> Iterator[requests.Response]:
        """The answer to a GET: 200, or when resuming 206 or 416; its body is yet to be read.

        name: of what is asked for, for messages.
        """
        where = name
        for _ in range(MOST_REDIRECTS + 1):
            self._check_stopped()
            try:
                response = self._session.get(
                    url, headers=headers, stream=True, allow_redirects=False,
                    timeout=(self._patience.connect, self._patience.silence))
            except (requests.ConnectionError, requests.Timeout) as error:
                raise _Passing(_clip(f"{type(error).__name__}: {error}")) from None
            except (requests.RequestException, ValueError) as error:
                raise self._error(where, "an answer", _clip(str(error))) from None
            with contextlib.closing(response):
                if response.status_code in (301, 302, 303, 307, 308):
                    url = self._redirected(url, response.headers.get("Location", ""), where)
                    where = f"{name}, redirected to {_clip(url)}"
                    continue
                if response.status_code in ((200, 206, 416) if resuming else (200,)):
                    yield response
                    return
                self._refuse(where, response)
        raise self._error(name, "an answer", f"more than {MOST_REDIRECTS} redirects")

    def _redirected(self, url: str, location: str, where: str) -> str:
        try:
            target = urljoin(url, location)
            scheme = urlsplit(target).scheme
        except ValueError:
            target = scheme = ""
        allowed = ("https",) if url.startswith("https:") else ("http", "https")
        if not location or scheme not in allowed:
            raise self._error(where, f"a redirect to {' or '.join(allowed)}",
                              _clip(repr(location)))
        return target

    def _refuse(self, where: str, response: requests.Response) -> None:
        status = response.status_code
        if status == 429 or status >= 500:
            raise _Passing(f"HTTP status {status}", _retry_after(response))
        reason = response.reason or ""
        with contextlib.suppress(ValueError, RecursionError, AttributeError, _Passing):
            body = b"".join(chunk for chunk, _ in zip(self._chunks(response), range(16)))
            reason = json.loads(body).get("message", reason)
        raise self._error(where, "an answer", f"HTTP status {status}: {_clip(str(reason))}")

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        """The body as it comes, never decoded; _Passing if it ends early, stalls or trickles."""
        window, since = 0, time.monotonic()
        while True:
            try:
                chunk = response.raw.read1(CHUNK, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise _Passing(_clip(f"{type(error).__name__}: {error}")) from None
            self._check_stopped()
            if not chunk:
                return
            window += len(chunk)
            yield chunk
            elapsed = time.monotonic() - since
            if elapsed > self._patience.silence:
                if window < elapsed * self._patience.slowest:
                    raise _Passing(f"{window / elapsed:.0f} bytes/s")
                window, since = 0, time.monotonic()

    # ------------------------------------------------------------------------ failures and waits
    def _retried(self, url: str, attempt: Callable, length: Callable[[], int] = lambda: 0):
        """Call `attempt` until it succeeds, or has failed too often without getting further."""
        failures, furthest = 0, length()
        while True:
            try:
                return attempt()
            except _Passing as failure:
                failures += 1
                if length() >= furthest + PROGRESS:
                    failures, furthest = 1, length()
                if failures >= self._patience.attempts:
                    raise self._error(
                        url, "a complete answer", f"{failure} at attempt {failures}",
                        "Check the connection and try again; what has come is kept."
                    ) from None
                self._wait(failures, failure.wait)

    def _wait(self, failures: int, asked: float) -> None:
        doubled = self._patience.first_wait * 2.0 ** min(failures - 1, 30)
        # Clients that failed together should not come back together.
        wait = max(doubled * random.uniform(0.5, 1.0), asked)
        self._stopped.wait(min(wait, self._patience.longest_wait))
        self._check_stopped()

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    def _error(self, where: str, expected: str, came: str, advice: str = "") -> DataError:
        return DataError(" ".join(filter(None, (
            f"{where}: expected {expected}, got {came}.", advice, self._remedy))))


class _Partial:
    """What has come of one version of a file, kept beside its target under a hidden name."""

    def __init__(self, target: Path, version: list, advance: Callable[[int], None]):
        self.target = target
        self.path = target.with_name(f".{target.name}.{short_hash(version)}.partial")
        self._advance, self._told = advance, 0
        target.parent.mkdir(parents=True, exist_ok=True)
        self._tell(self.length)

    @property
    def length(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _tell(self, length: int) -> None:
        self._advance(length - self._told)
        self._told = length

    def is_whole(self, size: int | None) -> bool:
        """Whether all bytes have come; without a size, whether a zip has its end."""
        if size is None:
            return zipfile.is_zipfile(self.path)
        return self.path.exists() and self.length == size

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._tell(0)

    def append(self, chunks: Iterator[bytes], limit: int) -> bool:
        """Write what comes; False, and no more written, if the file would exceed `limit` bytes."""
        with open(self.path, "ab") as file:
            length = file.tell()
            for chunk in chunks:
                length += len(chunk)
                if length > limit:
                    return False
                file.write(chunk)
                self._tell(length)
            file.flush()
            os.fsync(file.fileno())
        return True

    def sha512(self) -> str:
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha512").hexdigest()

    def finish(self) -> None:
        """Rename to the target; partial files of other versions are of no more use."""
        self.path.replace(self.target)
        others = re.compile(re.escape(f".{self.target.name}.") + r"[0-9a-f]{12}\.partial")
        for path in self.target.parent.iterdir():
            if others.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _named(url: str, partial: _Partial) -> str:
    return f"{url} ({partial.target.name})"


def _content_length(response: requests.Response) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if re.fullmatch(r"[0-9]{1,15}", value) else None


def _retry_after(response: requests.Response) -> float:
    """The header Retry-After, a number of seconds or a date, in s; 0 where there is none."""
    value = response.headers.get("Retry-After", "")
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError):
        return 0.0


def _clip(text: str) -> str:
    """A text from outside, fit for one line of a message."""
    shown = "".join(c if c.isprintable() else " " for c in text[:1000])
    return shown if len(shown) <= 200 else shown[:200] + " ..."
