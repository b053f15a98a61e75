"""A file server on loopback that costs next to nothing: the same files as an S3 bucket and as a hub's repository.

The kernel sends the bytes (`sendfile`), so what is measured is the one who fetches. Run it as a process of its own:
`python -m benchmarks.files FOLDER PORT`.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET, PREFIX, REPOSITORY = "models", "big/", "acme/big"
COMMIT = "c0ffee" * 6 + "c0ff"
_DATE = "Tue, 24 Nov 2026 00:00:00 GMT"


class Files(BaseHTTPRequestHandler):
    """`folder`: what is served; `digests`: path -> SHA-256."""

    protocol_version = "HTTP/1.1"
    folder: Path
    digests: dict[str, str]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """As GET."""
        self.do_GET()

    def do_GET(self) -> None:
        """A page of the bucket, what the hub knows of the repository, or a file."""
        address = urlsplit(self.path)
        path, query = unquote(address.path), parse_qs(address.query)
        if path.rstrip("/") == f"/{BUCKET}":
            self._answer(_page(self.folder, query.get("prefix", [""])[0], self.digests), "application/xml")
        elif path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            self._answer(_tree(self.folder, self.digests), "application/json")
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            self._answer(_repository(self.folder, self.digests), "application/json")
        elif path.startswith(f"/{BUCKET}/{PREFIX}"):
            self._file(path.removeprefix(f"/{BUCKET}/{PREFIX}"), {})
        elif found := re.fullmatch(rf"/{REPOSITORY}/resolve/[^/]+/(.+)", path):
            self._file(found[1], {"X-Repo-Commit": COMMIT})
        else:
            self.send_error(404)

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, name: str, headers: dict[str, str]) -> None:
        if name not in self.digests:
            self.send_error(404)
            return
        size = (self.folder / name).stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start, end = (int(asked[1]), min(int(asked[2] or size - 1) + 1, size)) if asked else (0, size)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("ETag", f'"{self.digests[name]}"')
        self.send_header("Last-Modified", _DATE)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.flush()
            with suppress(OSError), (self.folder / name).open("rb") as stream:
                self.connection.sendfile(stream, start, end - start)


def _listed(folder: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.iterdir()):
        yield path.name, path.stat().st_size


def _page(folder: Path, prefix: str, digests: dict[str, str]) -> bytes:
    entries = "".join(
        f"<Contents><Key>{escape(PREFIX + name)}</Key><LastModified>2026-11-24T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{digests[name]}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for name, size in _listed(folder)
        if (PREFIX + name).startswith(prefix)
    )
    start = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    about = f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><MaxKeys>1000</MaxKeys><KeyCount>9</KeyCount>"
    return f"{start}{about}<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()


def _repository(folder: Path, digests: dict[str, str]) -> bytes:
    siblings = [
        {
            "rfilename": name,
            "size": size,
            "blobId": "0" * 40,
            "lfs": {"sha256": digests[name], "size": size, "pointerSize": 9},
        }
        for name, size in _listed(folder)
        if name != "hash"
    ]
    return json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "private": False}).encode()


def _tree(folder: Path, digests: dict[str, str]) -> bytes:
    files = [
        {
            "type": "file",
            "path": name,
            "size": size,
            "oid": "0" * 40,
            "lfs": {"oid": digests[name], "size": size, "pointerSize": 9},
        }
        for name, size in _listed(folder)
        if name != "hash"
    ]
    return json.dumps(files).encode()


def main() -> None:
    """Serve until killed. Prints a line when it listens."""
    Files.folder = Path(sys.argv[1])
    Files.digests = {
        name: hashlib.sha256((Files.folder / name).read_bytes()).hexdigest() for name, _ in _listed(Files.folder)
    }
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Files)
    server.daemon_threads = True
    print("listening", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
