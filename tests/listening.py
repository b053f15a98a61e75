"""Real sockets for the applications under test."""

import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Serve on a free port of the loopback, in a thread; the address."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        started = threading.Event()
        server.startup = _telling(server.startup, started)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [own]})
        thread.start()
        assert started.wait(60)
        try:
            yield f"http://127.0.0.1:{own.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _telling(startup: Callable[..., Awaitable[None]], started: threading.Event) -> Callable[..., Awaitable[None]]:
    async def start(*arguments, **more) -> None:
        await startup(*arguments, **more)
        started.set()

    return start
