"""The real SmolLM2 behind the API, without Ray, for clients in processes of their own."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from demo.model import REPOSITORY, fetch, fetch_safetensors
from runtime.api.routes import create_app
from runtime.application import GatewayModel, GatewaySettings, ModelArguments
from runtime.engines.contract import Batching, Engine
from runtime.gateway import Gateway
from runtime.replica import Replica, load_here
from tests.listening import listening
from tests.runtime.support import arguments_for, settings_for

TEMPLATE = Path(__file__).parents[1] / "runtime" / "text" / "templates" / "hermes.jinja"
ROUTE = f"/{REPOSITORY.replace('/', '--')}"


@pytest.fixture(scope="session")
def model_url() -> Iterator[str]:
    """The address of SmolLM2 in float32 on the engine SingleDevice, with four slots, under the name `acme/model`."""
    mirror = {"s3_mirror_config": {"bucket_uri": str(fetch_safetensors())}}
    replica = Replica(arguments_for({"type": "SingleDevice", "dtype": "float32"}, initialization=mirror))
    asyncio.run(replica.configure(settings_for(max_batch_size=4, max_waiting_requests=8)))
    with listening(create_app(replica)) as address:
        yield address
    asyncio.run(replica.close())


async def _load(arguments: ModelArguments, batching: Batching) -> Engine:
    """SmolLM2 with a chat template that knows tools: its own does not."""
    engine = await load_here(arguments, batching)
    engine.tokenizer.chat_template = TEMPLATE.read_text()
    return engine


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The address of the gateway, with SmolLM2 on llamaCpp behind it, under its own name."""
    mirror = {"s3_mirror_config": {"bucket_uri": str(fetch().parent)}}
    options = {"model_filename": fetch().name, "model_init_kwargs": {"n_ctx": 2048}}
    arguments = arguments_for({"type": "llamaCpp", **options}, model_id=REPOSITORY, initialization=mirror)
    replica, gateway = Replica(arguments, _load), Gateway(lambda: {})
    asyncio.run(replica.configure(settings_for(max_batch_size=4, max_waiting_requests=64)))
    with listening(Starlette(routes=[Mount(ROUTE, create_app(replica))])) as upstream:
        model = GatewayModel(id=REPOSITORY, application=ROUTE.strip("/"), route_prefix=ROUTE)
        gateway.configure(GatewaySettings(upstream=upstream, models=[model]))
        with listening(gateway.create_app()) as address:
            yield address
    asyncio.run(replica.close())
