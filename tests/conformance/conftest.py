"""A real model behind the API, for clients in processes of their own."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
import uvicorn

from demo.model import fetch_safetensors
from runtime.api.routes import create_app
from runtime.replica import Replica
from tests.runtime.support import arguments_for, settings_for

HOST = "127.0.0.1"


@pytest.fixture(scope="session")
def model_url() -> Iterator[str]:
    """The address of SmolLM2 in float32 on the engine SingleDevice, with four slots, under the name `acme/model`."""
    mirror = {"s3_mirror_config": {"bucket_uri": str(fetch_safetensors())}}
    replica = Replica(arguments_for({"type": "SingleDevice", "dtype": "float32"}, initialization=mirror))
    server = uvicorn.Server(uvicorn.Config(create_app(replica), HOST, 0, log_level="warning"))
    started = threading.Event()

    async def serve() -> None:
        await replica.configure(settings_for(max_batch_size=4, max_waiting_requests=8))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        started.set()
        await serving
        await replica.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(120)
    yield f"http://{HOST}:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
