"""A client of yaml-language-server: LSP over stdio, as much of it as the tests need."""

import json
import queue
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import IO, Any, Self

from tests.compiler.node_yaml import SERVER, node, packages

TIMEOUT_S = 60.0

Json = dict[str, Any]


class LanguageServer:
    """A running server whose workspace is `root`, with an editor's `settings` as in .vscode/settings.json."""

    def __init__(self, root: Path, settings: Json) -> None:
        self.root = root
        self._settings = settings
        self._received: queue.Queue[Json | None] = queue.Queue()
        self._last_id = 0
        self._documents = 0

    def __enter__(self) -> Self:
        command = [node(), packages() / SERVER / "bin" / SERVER, "--stdio"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin and self._process.stdout
        self._input = self._process.stdin
        self._reader = Thread(target=_read, args=(self._process.stdout, self._received), daemon=True)
        self._reader.start()
        try:
            self._initialize()
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        try:
            self.request("shutdown", None)
            self._notify("exit", None)
            self._process.wait(TIMEOUT_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()

    def diagnostics(self, file: str, text: str) -> list[Json]:
        """What the server says of `text`, opened as a file in the folder of `file`."""
        with self._opened(file, text) as uri:
            published = self._wait(
                lambda each: each.get("method") == "textDocument/publishDiagnostics" and each["params"]["uri"] == uri
            )
        found: list[Json] = published["params"]["diagnostics"]
        return found

    def hover(self, file: str, text: str, line: int, column: int) -> str:
        """The Markdown that an editor shows at a place, both counted from 0."""
        with self._opened(file, text) as uri:
            place = {"textDocument": {"uri": uri}, "position": {"line": line, "character": column}}
            answer = self.request("textDocument/hover", place)
        return str(answer["contents"]["value"]) if answer else ""

    @contextmanager
    def _opened(self, file: str, text: str) -> Iterator[str]:
        """The address of a document. No two share one: what is published late for one must not count for another."""
        self._documents += 1
        path = self.root / file
        uri = path.with_stem(f"{path.stem}-{self._documents}").as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._notify("textDocument/didOpen", {"textDocument": document})
        yield uri
        self._notify("textDocument/didClose", {"textDocument": {"uri": uri}})

    def request(self, method: str, params: Any) -> Any:
        """The result of a request."""
        self._last_id += 1
        self._send({"id": self._last_id, "method": method, "params": params})
        answer = self._wait(lambda each: each.get("id") == self._last_id and "method" not in each)
        assert "error" not in answer, answer
        return answer["result"]

    def _initialize(self) -> None:
        workspace = {"configuration": True, "workspaceFolders": True}
        text = {"hover": {"contentFormat": ["markdown"]}, "publishDiagnostics": {}}
        folder = {"uri": self.root.as_uri(), "name": self.root.name}
        self.request(
            "initialize",
            {
                "processId": None,
                "rootUri": folder["uri"],
                "workspaceFolders": [folder],
                "capabilities": {"workspace": workspace, "textDocument": text},
            },
        )
        self._notify("initialized", {})
        self._wait(lambda each: each.get("method") == "workspace/configuration")

    def _notify(self, method: str, params: Any) -> None:
        self._send({"method": method, "params": params})

    def _send(self, message: Json) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._input.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._input.flush()

    def _wait(self, wanted: Callable[[Json], bool]) -> Json:
        """The next message that is wanted; what the server asks meanwhile is answered."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            message = self._received.get(timeout=max(0.0, deadline - time.monotonic()))
            assert message is not None, "the language server has ended"
            if "method" in message and "id" in message:
                self._send({"id": message["id"], "result": self._answer(message)})
            if wanted(message):
                return message

    def _answer(self, request: Json) -> Any:
        if request["method"] != "workspace/configuration":
            return None
        return [self._section(item["section"]) for item in request["params"]["items"]]

    def _section(self, name: str) -> Json:
        """The settings under a dotted name, as an editor gives them: `yaml.schemas` is `schemas` of `yaml`."""
        section: Json = {}
        for key, value in self._settings.items():
            if key.startswith(f"{name}."):
                *above, last = key.removeprefix(f"{name}.").split(".")
                inner = section
                for step in above:
                    inner = inner.setdefault(step, {})
                inner[last] = value
        return section


def _read(stream: IO[bytes], received: "queue.Queue[Json | None]") -> None:
    """Hands on each message of the stream, and None at its end."""
    while header := stream.readline():
        length = 0
        while header.strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            header = stream.readline()
        received.put(json.loads(stream.read(length)))
    received.put(None)
