"""Servers for the clients: a model's real application over the scripted engine, and one that sends chosen bytes."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.types import ASGIApp

from runtime.api.routes import create_app
from runtime.engines.contract import Limits
from tests.runtime.conftest import engine, make_replica  # noqa: F401 (fixtures)


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Serve on a free port, in a thread; the address."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [own]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{own.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
async def url(make_replica, engine) -> Iterator[str]:  # noqa: F811 (the fixture)
    """A replica over the `engine` of these tests."""
    engine.limits = Limits(context_length=2000, vocabulary_size=256)
    with listening(create_app(await make_replica(max_waiting_requests=64))) as address:
        yield address


@pytest.fixture
def sends():
    """Serve these bytes as the answer to every POST."""

    def app_for(body: bytes, status: int = 200) -> ASGIApp:
        async def app(scope, receive, send) -> None:
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": status, "headers": []})
                await send({"type": "http.response.body", "body": body})

        return app

    return lambda *arguments: listening(app_for(*arguments))
