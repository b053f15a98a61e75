"""Servers for the clients: a model's real application over the scripted engine, and one that sends chosen bytes."""

from collections.abc import Iterator

import pytest
from starlette.types import ASGIApp

from runtime.api.routes import create_app
from runtime.engines.contract import Limits
from tests.listening import listening
from tests.runtime.conftest import engine, make_replica  # noqa: F401 (fixtures)


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
