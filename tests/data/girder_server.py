"""A stand-in for a Girder server: a folder tree behind three of its routes, and faults.

    GET folder?parentType=folder&parentId=ID    the sub-folders of a folder, as JSON, page by page
    GET item?folderId=ID                        likewise its items
    GET item/ID/download                        the bytes of an item
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

API = "/api/v1/"


@dataclass(frozen=True)
class Answer:
    """What is sent, and how."""

    body: bytes
    code: int = 200
    cut: int | None = None  # bytes after which the connection ends
    silence: float = 0.0  # s before anything is sent
    pause: float = 0.0  # s before each further piece of 1000 bytes


class GirderServer:
    """Serves the tree below `root` on 127.0.0.1 while the `with` block runs.

    requests: what was asked for, such as "folder .", "item training/patient001" or
        "download training/patient001/Info.cfg".
    """

    def __init__(self, root: Path):
        self.root, self.requests, self.closing = root, [], threading.Event()
        self.faults: list[list] = []
        self._paths = {identity(path): path for path in
                       [".", *(path.relative_to(root).as_posix() for path in root.rglob("*"))]}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads, self._http.block_on_close = True, False
        self._http.girder = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}{API}".rstrip("/")
        self.folder = identity(".")

    def __enter__(self) -> "GirderServer":
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def fail(self, pattern: str, fault: Callable[[Answer], Answer] | None = None,
             times: int = 10**6, **how) -> None:
        """Let so many requests like `pattern` fail: the answer changed by `fault`, or in fields."""
        self.faults.append([pattern, fault or (lambda answer: replace(answer, **how)), times])

    def count(self, pattern: str) -> int:
        """How many requests like `pattern` came."""
        return sum(fnmatch(request, pattern) for request in list(self.requests))

    def answer(self, target: str) -> Answer:
        request, answer = self._proper(target)
        self.requests.append(request)
        for fault in self.faults:
            if fnmatch(request, fault[0]) and fault[2] > 0:
                fault[2] -= 1
                answer = fault[1](answer)
        return answer

    def _proper(self, target: str) -> tuple[str, Answer]:
        url = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        match url.path.removeprefix(API).split("/"):
            case ["folder"] if query["parentType"] == "folder" and query["parentId"] in self._paths:
                return self._list("folder", query["parentId"], query, Path.is_dir)
            case ["item"] if query["folderId"] in self._paths:
                return self._list("item", query["folderId"], query, Path.is_file)
            case ["item", item, "download"] if item in self._paths:
                path = self._paths[item]
                return f"download {path}", Answer((self.root / path).read_bytes())
        return f"unknown {target}", Answer(b'{"message": "Invalid id", "type": "rest"}', 400)

    def _list(self, kind: str, folder: str, query: dict, wanted) -> tuple[str, Answer]:
        start, path = int(query["offset"]), self._paths[folder]
        children = sorted(filter(wanted, (self.root / path).iterdir()))
        documents = [{"_id": identity(child.relative_to(self.root).as_posix()), "name": child.name,
                      "size": child.stat().st_size if child.is_file() else 0}
                     for child in children[start:start + int(query["limit"])]]
        return f"{kind} {path}", Answer(json.dumps(documents).encode())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        with contextlib.suppress(OSError):  # clients are killed here
            self._send(self.server.girder.answer(self.path))

    def _send(self, answer: Answer) -> None:
        head = f"HTTP/1.1 {answer.code} so\r\nContent-Length: {len(answer.body)}\r\n\r\n".encode()
        body = answer.body[:answer.cut]
        self.close_connection = answer.cut is not None
        self.server.girder.closing.wait(answer.silence)
        step = 1000 if answer.pause else max(len(body), 1)
        self.wfile.write(head + body[:step])
        for start in range(step, len(body), step):
            self.server.girder.closing.wait(answer.pause)
            self.wfile.write(body[start:start + step])


def identity(path: str) -> str:
    """An id as Girder's: 24 hex digits."""
    return hashlib.sha1(path.encode()).hexdigest()[:24]


def changed(change: Callable[[list], object]) -> Callable[[Answer], Answer]:
    """A fault: the JSON list is changed in place, or replaced by what `change` returns."""
    def fault(answer: Answer) -> Answer:
        documents = json.loads(answer.body)
        other = change(documents)
        return replace(answer, body=json.dumps(documents if other is None else other).encode())
    return fault
