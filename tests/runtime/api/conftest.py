"""A client of the scripted engine's API."""

import httpx
import pytest

from runtime.api.routes import create_app


@pytest.fixture
def make_client(make_replica):
    async def make(**settings) -> httpx.AsyncClient:
        app = create_app(await make_replica(**settings))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    return make
