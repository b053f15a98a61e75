"""Spans of the gateway and the replica, taken in memory."""

import json

import httpx
import pytest
from aiohttp import web
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from runtime import tracing
from runtime.api.routes import create_app
from runtime.application import GatewayModel, GatewaySettings
from runtime.availability import Condition
from runtime.errors import EngineError
from runtime.gateway import Gateway

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SECRET = "tell nobody"
MODEL = GatewayModel(id="acme/model", application="acme--model", route_prefix="")


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("test")


@pytest.fixture
async def chain(tracer, make_replica):
    """A client of a gateway whose upstream is a replica's application, which keeps the headers that reach it."""
    replica = httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(await make_replica(), tracer)), base_url="http://r"
    )
    arrived: dict[str, str] = {}

    async def handle(request: web.Request) -> web.Response:
        arrived.update({name.lower(): value for name, value in request.headers.items()})
        answer = await replica.post(request.path, content=await request.read(), headers=dict(request.headers))
        return web.Response(body=answer.content, status=answer.status_code, content_type=answer.headers["content-type"])

    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gateway = Gateway(lambda: {MODEL.application: Condition("ready")}, tracer=tracer)
    gateway.configure(GatewaySettings(upstream=f"http://127.0.0.1:{runner.addresses[0][1]}", models=[MODEL]))
    served = gateway.create_app()
    transport = httpx.ASGITransport(served, raise_app_exceptions=False)
    async with (
        served.router.lifespan_context(served),
        httpx.AsyncClient(transport=transport, base_url="http://g") as made,
    ):
        made.arrived = arrived  # type: ignore[attr-defined]
        yield made
    await replica.aclose()
    await runner.cleanup()


def ask(client: httpx.AsyncClient, **more):
    body = {"model": "acme/model", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 5}
    return client.post("/v1/chat/completions", json=body, **more)


async def test_a_request_is_one_trace_through_gateway_and_replica(chain, exporter) -> None:
    assert (await ask(chain, headers={"traceparent": PARENT})).status_code == 200
    replica, gateway = exporter.get_finished_spans()
    assert f"{gateway.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{gateway.parent.span_id:016x}" == PARENT.split("-")[2]
    assert replica.context.trace_id == gateway.context.trace_id
    assert replica.parent.span_id == gateway.context.span_id
    assert {span.name for span in (replica, gateway)} == {"chat acme/model"}


async def test_a_replicas_span_says_what_the_conventions_ask_for_and_no_text(chain, exporter) -> None:
    await ask(chain)
    replica, gateway = exporter.get_finished_spans()
    attributes = dict(replica.attributes)
    assert attributes.pop("gen_ai.server.time_to_first_token") >= 0
    assert attributes.pop("gen_ai.usage.input_tokens") > len(SECRET)
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llm-serve",
        "gen_ai.request.model": "acme/model",
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.output_tokens": 5,
        "http.response.status_code": 200,
    }
    assert not any(text in json.dumps([replica.to_json(), gateway.to_json()]) for text in (SECRET, "Hello"))


async def test_a_fault_marks_both_spans(chain, exporter, engine) -> None:
    engine.script = [EngineError(SECRET)]
    assert (await ask(chain)).status_code == 500
    for span in exporter.get_finished_spans():
        assert not span.status.is_ok and span.attributes["error.type"] == "500"
        assert SECRET not in span.to_json()


async def test_without_traces_the_callers_own_header_passes(make_replica, chain, exporter) -> None:
    assert tracing.tracer("llm-serve-test") is tracing.NOBODY
    headers = {"traceparent": PARENT}
    tracing.pass_on(headers)
    assert headers == {"traceparent": PARENT}


def test_an_endpoint_turns_traces_on(monkeypatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "here")
    tracer = tracing.tracer("llm-serve-test")
    assert tracer.resource.attributes["service.name"] == "here"
