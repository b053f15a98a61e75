"""Raw ASGI requests: what no HTTP client would send."""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message

Headers = Sequence[tuple[bytes, bytes]]
JSON: Headers = ((b"content-type", b"application/json"),)


@dataclass
class Answer:
    """What came back."""

    status: int = 0
    headers: Headers = ()
    body: bytes = b""
    reads: int = 0
    """How often the application asked for more of the request."""

    def header(self, name: str) -> list[str]:
        return [value.decode("latin-1") for each, value in self.headers if each == name.encode()]

    @property
    def error(self) -> dict[str, Any]:
        """The error of a body in OpenAI's shape."""
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["type"]
        return error


@dataclass
class Request:
    """What is sent: the body in pieces, then nothing until the answer is there."""

    path: str
    method: str = "POST"
    headers: Headers = JSON
    pieces: Iterable[bytes] = (b"",)
    ends: bool = True
    """Whether the last piece is the last one."""
    root_path: str = ""
    between: Callable[[], None] = field(default=lambda: None)
    """Called when all pieces are sent and more is asked for."""

    async def to(self, app: ASGIApp) -> Answer:
        answer, pieces = Answer(), list(self.pieces)

        async def receive() -> Message:
            answer.reads += 1
            if pieces:
                piece = pieces.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(pieces) or not self.ends}
            self.between()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.headers = message["status"], message["headers"]
            answer.body += message.get("body", b"")

        scope = {
            "type": "http", "method": self.method, "path": self.root_path + self.path, "root_path": self.root_path,
            "query_string": b"", "headers": list(self.headers), "http_version": "1.1", "scheme": "http",
            "server": ("test", 80), "client": ("test", 1), "raw_path": (self.root_path + self.path).encode(),
        }  # fmt: skip
        await asyncio.wait_for(app(scope, receive, send), 10)
        return answer
