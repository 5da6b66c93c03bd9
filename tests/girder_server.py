"""A stand-in for a Girder server: a folder tree behind the same routes, and answers that fail.

A fault is a function from the answer that would be sent to the one that is sent:

    server.fail("download", "*/Info.cfg", status(503), first=1, last=2)

makes the first two requests of every such file fail.
"""

import hashlib
import io
import json
import socket
import struct
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, urlsplit

API = "/api/v1"


@dataclass(frozen=True)
class Answer:
    """What is sent, and how."""

    body: bytes = b""
    code: int = 200
    headers: dict = field(default_factory=dict)
    chunked: bool = False  # without Content-Length
    piece: int = 0  # bytes sent at once; 0: all
    pause: float = 0.0  # s before every piece
    cut: int | None = None  # bytes after which the connection ends ...
    reset: bool = False  # ... by a reset
    silence: float = 0.0  # s before anything is sent


def as_json(value, code: int = 200, **headers) -> Answer:
    """headers: with _ for -."""
    named = {name.replace("_", "-"): content for name, content in headers.items()}
    return Answer(json.dumps(value).encode(), code, {"Content-Type": "application/json"} | named)


class GirderServer:
    """Serves `root` on 127.0.0.1 while the `with` block runs.

    hashes: file documents have a SHA-512. totals: lists come with Girder-Total-Count.
    longest_page: entries of a page, however many are asked for.
    ranges: what a continued download of an item goes by: "offset" (the query, as Girder itself),
        "Range" (the header, as a storage behind it) or None.
    archive: the zip that is served; by default one of the whole tree below a folder "database".
    """

    def __init__(self, root: Path, *, hashes: bool = True, totals: bool = True,
                 longest_page: int = 10**6, ranges: str | None = "offset",
                 archive: bytes | None = None, archive_ranges: bool = False):
        self.root, self.hashes, self.totals, self.ranges = root, hashes, totals, ranges
        self.longest_page, self.archive_ranges = longest_page, archive_ranges
        paths = ["."] + [path.relative_to(root).as_posix() for path in sorted(root.rglob("*"))]
        self.paths = {identity(path): path for path in paths}
        self.archive = archive
        self.requests: Counter[tuple[str, str]] = Counter()  # (kind, path) -> how many came
        self.partial_answers = 0  # of status 206
        self.most_at_once = self._at_once = 0
        self._faults: list[tuple] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self._http.request_queue_size = 64
        self._http.server_bind()
        self._http.server_activate()
        self._http.handle_error = lambda *arguments: None  # clients are killed here
        self._http.daemon_threads, self._http.block_on_close = True, False
        self._http.girder = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}{API}"
        self.folder = identity(".")

    def __enter__(self) -> "GirderServer":
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def fail(self, kind: str, path: str, fault: Callable[[Answer], Answer], *, first: int = 1,
             last: int | None = None) -> None:
        """Let requests of a kind for paths like `path` fail, from the first-th to the last-th.

        kind: "folders", "items", "files", "download", "zip", or "*".
        """
        self._faults.append((kind, path, fault, first, last))

    def count(self, kind: str, path: str = "*") -> int:
        """How many requests of a kind came for paths like `path`."""
        with self.lock:
            return sum(number for (its_kind, its_path), number in self.requests.items()
                       if fnmatch(its_kind, kind) and fnmatch(its_path, path))

    def answer(self, target: str, headers) -> Answer:
        """The answer to GET `target`, with the faults that apply to it."""
        kind, path, answer = self._proper(target, headers)
        with self.lock:
            self.requests[kind, path] += 1
            number = self.requests[kind, path]
        for its_kind, pattern, fault, first, last in self._faults:
            if (fnmatch(kind, its_kind) and fnmatch(path, pattern) and number >= first
                    and (last is None or number <= last)):
                answer = fault(answer)
        with self.lock:
            self.partial_answers += answer.code == 206
        return answer

    def enter(self, change: int) -> None:
        with self.lock:
            self._at_once += change
            self.most_at_once = max(self.most_at_once, self._at_once)

    def _proper(self, target: str, headers) -> tuple[str, str, Answer]:
        url = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        route = url.path.removeprefix(API).strip("/").split("/")
        match route:
            case ["folder"]:
                return self._listing("folders", query.get("parentId"), query, Path.is_dir)
            case ["item"]:
                return self._listing("items", query.get("folderId"), query, Path.is_file)
            case ["item", item, "files"] if item in self.paths:
                return "files", self.paths[item], as_json([self._file_document(self.paths[item])])
            case ["item", item, "download"] if item in self.paths:
                path = self.paths[item]
                start = self._start(query, headers, self.ranges)
                return "download", path, _part((self.root / path).read_bytes(), start)
            case ["folder", folder, "download"] if folder in self.paths:
                start = self._start(query, headers, "Range" if self.archive_ranges else None)
                answer = _part(zipped(self.root) if self.archive is None else self.archive, start)
                # Without ranges, as Girder itself: made while it is sent, of unknown length.
                return "zip", self.paths[folder], replace(answer, chunked=not self.archive_ranges)
        return "unknown", url.path, as_json({"message": "Invalid id", "type": "rest"}, 400)

    def _start(self, query: dict, headers, by: str | None) -> int:
        if by == "offset":
            return int(query.get("offset", 0))
        value = headers.get("Range") if by else None
        return int(value.removeprefix("bytes=").rstrip("-")) if value else 0

    def _listing(self, kind: str, folder: str, query: dict, wanted) -> tuple[str, str, Answer]:
        if folder not in self.paths:
            return kind, "unknown", as_json({"message": "Invalid folder id", "type": "rest"}, 400)
        path = self.paths[folder]
        children = sorted(filter(wanted, (self.root / path).iterdir()),
                          key=lambda child: child.name.lower())
        start, limit = int(query.get("offset", 0)), int(query.get("limit", 50))
        limit = min(limit or self.longest_page, self.longest_page)
        page = children[start:start + limit]
        documents = [self._document(child) for child in page]
        totals = {"Girder_Total_Count": str(len(children))} if self.totals else {}
        return kind, path, as_json(documents, **totals)

    def _document(self, path: Path) -> dict:
        relative = path.relative_to(self.root).as_posix()
        document = {"_id": identity(relative), "name": path.name, "updated": "2022-11-16T08:00:00"}
        return document | ({"size": path.stat().st_size} if path.is_file() else {})

    def _file_document(self, path: str) -> dict:
        content = (self.root / path).read_bytes()
        hashes = {"sha512": hashlib.sha512(content).hexdigest()} if self.hashes else {}
        return {"_id": identity(path + " file"), "name": PurePosixPath(path).name,
                "size": len(content)} | hashes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        girder = self.server.girder
        girder.enter(+1)
        try:
            self._send(girder.answer(self.path, self.headers))
        finally:
            girder.enter(-1)

    def _send(self, answer: Answer) -> None:
        self._sleep(answer.silence)
        headers = {"Content-Length": str(len(answer.body))} | answer.headers
        body = answer.body
        if answer.chunked:
            del headers["Content-Length"]
            headers["Transfer-Encoding"] = "chunked"
            body = b"%x\r\n%s\r\n" % (len(body), body) * bool(body) + b"0\r\n\r\n"
        head = f"HTTP/1.1 {answer.code} {self.responses.get(answer.code, ('Odd',))[0]}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
        data = head.encode("latin-1") + b"\r\n" + body[:answer.cut]
        step = answer.piece or len(data)
        for start in range(0, len(data), step):
            self._sleep(answer.pause)
            self.wfile.write(data[start:start + step])
        if answer.reset:  # to close with a linger of 0 s is to reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                       struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = answer.cut is not None or answer.reset

    def _sleep(self, seconds: float) -> None:
        if seconds and self.server.girder.closing.wait(seconds):
            raise ConnectionAbortedError


def identity(path: str) -> str:
    """An id as Girder's: 24 hex digits."""
    return hashlib.sha1(path.encode()).hexdigest()[:24]


def zipped(root: Path, top: str = "database/") -> bytes:
    """All files below `root` as Girder packs them: stored, below a folder of that name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                info = zipfile.ZipInfo(top + path.relative_to(root).as_posix())
                info.external_attr = 0o100644 << 16
                file.writestr(info, path.read_bytes())
    return buffer.getvalue()


def _part(content: bytes, start: int) -> Answer:
    if not start:
        return Answer(content)
    if start >= len(content):
        return as_json({"message": "out of range", "type": "rest"}, 416)
    return Answer(content[start:], 206, {
        "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})


# ----------------------------------------------------------------------------------------- faults
def status(code: int, **headers) -> Callable[[Answer], Answer]:
    """An error as Girder sends it; headers: with _ for -."""
    document = {"message": f"out of order {code}", "type": "rest"}
    return lambda answer: as_json(document, code, **headers)


def sent(**how) -> Callable[[Answer], Answer]:
    """The proper answer, sent with other attributes of Answer."""
    return lambda answer: replace(answer, **how)


def with_headers(**headers) -> Callable[[Answer], Answer]:
    """The proper answer with other headers, with _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda answer: replace(answer, headers=answer.headers | named)


def with_length(change: int) -> Callable[[Answer], Answer]:
    """Content-Length is so many bytes off; then the connection ends, as it must."""
    return lambda answer: replace(answer, cut=len(answer.body), headers=answer.headers | {
        "Content-Length": str(len(answer.body) + change)})


def halved(**how) -> Callable[[Answer], Answer]:
    """The connection ends in the middle of the body."""
    return lambda answer: replace(answer, cut=len(answer.body) // 2, **how)


def spoilt(answer: Answer) -> Answer:
    """One byte in the middle is another one."""
    middle = len(answer.body) // 2
    body = bytearray(answer.body)
    body[middle] ^= 255
    return replace(answer, body=bytes(body))


def documents(change: Callable[[list], object]) -> Callable[[Answer], Answer]:
    """The JSON list is changed, or replaced by what `change` returns; its total is adapted."""
    def fault(answer: Answer) -> Answer:
        value = json.loads(answer.body)
        if not value:  # the page that ends a list
            return answer
        changed = change(value)
        changed = value if changed is None else changed
        return as_json(changed, Girder_Total_Count=str(len(changed)))
    return fault


def first_with(**fields) -> Callable[[Answer], Answer]:
    """The first document of the list has other fields, `id` for `_id`; without those of None."""
    def change(value: list) -> None:
        value[0] |= {{"id": "_id"}.get(name, name): content for name, content in fields.items()}
        for name in [name for name, content in value[0].items() if content is None]:
            del value[0][name]
    return documents(change)
