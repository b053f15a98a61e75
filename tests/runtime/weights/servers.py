"""Real protocols on loopback: S3 by moto behind a proxy that makes faults, and a stand-in for the hub's HTTP API."""

import hashlib
import http.client
import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

FAULTS = (
    "reset at 0%",
    "reset at 50%",
    "reset at 99%",
    "500",
    "SlowDown",
    "truncated",
    "bit flip",
    "wrong etag",
    "no date",
    "slow",
)
_SENT = {"reset at 0%": 0.0, "reset at 50%": 0.5, "reset at 99%": 0.99, "truncated": 0.7}
"""The part of a body that is sent before it breaks off."""


class Seen(NamedTuple):
    """A request, and how many bytes of a body were sent for it."""

    method: str
    path: str
    range: str | None
    sent: int


class FaultProxy:
    """Stands before a server. `choose`: which fault a request gets, None for none."""

    def __init__(self, port: int, choose: Callable[[str, str], str | None] = lambda _method, _path: None) -> None:
        self.target, self.choose = port, choose
        self.seen: list[Seen] = []
        self.faults: list[str] = []
        self.page_size: int | None = None
        self.server = _serve(_handler(_Faulty, self))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def bodies(self) -> int:
        """Bytes of content that were sent."""
        return sum(each.sent for each in self.seen if each.method == "GET" and "list-type" not in each.path)


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _handler(base: type[_Quiet], owner: object) -> type[_Quiet]:
    return type("Handler", (base,), {"owner": owner})


def _serve(handler: type[_Quiet]) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Faulty(_Quiet):
    owner: FaultProxy

    def _pass_on(self) -> None:
        owner, path = self.owner, self.path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = owner.choose(self.command, path)
        if fault:
            owner.faults.append(fault)
        if fault in ("500", "SlowDown"):
            code = "InternalError" if fault == "500" else "SlowDown"
            text = f"<Error><Code>{code}</Code><Message>later</Message></Error>".encode()
            self.answer(500 if fault == "500" else 503, text)
            return
        if owner.page_size and "list-type=2" in path:
            path += f"&max-keys={owner.page_size}"
        upstream = http.client.HTTPConnection("127.0.0.1", owner.target)
        upstream.request(self.command, path, body, dict(self.headers))
        reply = upstream.getresponse()
        data, headers = reply.read(), {name.title(): value for name, value in reply.getheaders()}
        upstream.close()
        for name in ("Transfer-Encoding", "Connection", "Server", "Date"):
            headers.pop(name, None)
        if fault:
            data = self._garbled(fault, data, headers)
        if self.command != "HEAD":
            headers["Content-Length"] = str(len(data))
        part = self._part(data, fault)
        # Before it is sent: whoever has it may count at once.
        owner.seen.append(Seen(self.command, self.path, self.headers.get("Range"), len(part)))
        self.send_response(reply.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self._send(part, fault)

    def _garbled(self, fault: str, data: bytes, headers: dict[str, str]) -> bytes:
        """What becomes of a body, and of its headers."""
        if fault == "wrong etag":
            headers["Etag"] = '"0123456789abcdef0123456789abcdef"'
        if fault == "no etag":
            headers.pop("Etag", None)
        if fault == "no date":
            headers["Last-Modified"] = "no date"
            data = data.replace(b"<LastModified>2", b"<LastModified>x")
        if fault == "no size":
            data = data.replace(b"<Size>", b"<Sise>").replace(b"</Size>", b"</Sise>")
        if fault == "no next page":
            data = re.sub(rb"<NextContinuationToken>.*?</NextContinuationToken>", b"", data)
        if fault == "bit flip" and data:
            place = random.Random(len(self.owner.faults)).randrange(len(data))
            data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        return data

    def _part(self, data: bytes, fault: str | None) -> bytes:
        """What of a body is sent."""
        return b"" if self.command == "HEAD" else data[: int(len(data) * _SENT.get(fault or "", 1.0))]

    def _send(self, data: bytes, fault: str | None) -> None:
        if self.command == "HEAD":
            return
        with suppress(OSError):  # the client may have gone
            step = max(1, len(data) // 5) if fault == "slow" else max(1, len(data))
            for start in range(0, len(data), step):
                self.wfile.write(data[start : start + step])
                if fault == "slow":
                    time.sleep(0.01)
            self.wfile.flush()
            if fault and fault.startswith("reset"):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if fault in _SENT:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR) if fault == "truncated" else self.connection.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on


class HubStub:
    """Serves one repository as the hub does. `files`: what it holds; those over 100 bytes are kept aside (LFS)."""

    def __init__(self, repository: str, files: dict[str, bytes], gated: bool = False, token: str | None = None) -> None:
        self.repository, self.files, self.gated, self.token = repository, files, gated, token
        listed = "".join(f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in sorted(files.items()))
        self.commit = hashlib.sha1(listed.encode()).hexdigest()
        self.seen: list[Seen] = []
        self.server = _serve(_handler(_HubHandler, self))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def siblings(self) -> list[dict[str, object]]:
        return [self._sibling(name, data) for name, data in self.files.items()]

    def _sibling(self, name: str, data: bytes) -> dict[str, object]:
        blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return {"rfilename": name, "size": len(data), "blobId": blob, **({"lfs": lfs} if len(data) > 100 else {})}


class _HubHandler(_Quiet):
    owner: HubStub

    def _get(self) -> None:
        owner, path = self.owner, self.path.partition("?")[0]
        self.sent = 0
        if path.startswith("/storage/"):
            self._file(owner.files[path.removeprefix("/storage/")], {})
        elif owner.token and self.headers.get("Authorization") != f"Bearer {owner.token}":
            error = "GatedRepo" if owner.gated else "RepoNotFound"
            self.answer(403 if owner.gated else 401, b"{}", {"X-Error-Code": error, "X-Error-Message": "no"})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._info(found[1], found[2])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[3])
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.owner.seen.append(Seen(self.command, self.path, self.headers.get("Range"), self.sent))
        super().answer(status, body, headers)

    def _info(self, repository: str, revision: str) -> None:
        owner = self.owner
        if repository != owner.repository:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", owner.commit):
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            card = {"license": "apache-2.0"}
            gated = "manual" if owner.gated else False
            said = {"id": repository, "sha": owner.commit, "siblings": owner.siblings(), "gated": gated}
            self.answer(200, json.dumps({**said, "cardData": card, "private": False}).encode())

    def _resolve(self, name: str) -> None:
        owner = self.owner
        if name not in owner.files:
            self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": owner.commit})
            return
        (sibling,) = (each for each in owner.siblings() if each["rfilename"] == name)
        lfs, size = sibling.get("lfs"), str(len(owner.files[name]))
        etag = lfs["sha256"] if isinstance(lfs, dict) else sibling["blobId"]
        headers = {
            "X-Repo-Commit": owner.commit,
            "ETag": f'"{etag}"',
            "X-Linked-Size": size,
            "X-Linked-ETag": f'"{etag}"',
        }
        if lfs:
            self.answer(302, b"", {**headers, "Location": f"{owner.url}/storage/{name}"})
        else:
            self._file(owner.files[name], headers)

    def _file(self, data: bytes, headers: dict[str, str]) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if found:
            start, end = int(found[1]), int(found[2] or len(data) - 1)
            headers = {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"}
            part = data[start : end + 1]
        else:
            part = data
        self.sent = len(part)
        self.answer(206 if found else 200, part, {**headers, "Accept-Ranges": "bytes"})

    do_GET = do_HEAD = _get


@contextmanager
def closing(*servers: FaultProxy | HubStub) -> Iterator[None]:
    """Shut them down at the end."""
    try:
        yield
    finally:
        for each in servers:
            each.server.shutdown()
            each.server.server_close()
