"""OpenTelemetry spans, where somebody takes them: `OTEL_EXPORTER_OTLP_ENDPOINT` says who.

A span for each request in the gateway, and one in the replica below it. Attributes follow OpenTelemetry's semantic
conventions for HTTP and generative AI. No text of a request or an answer is among them.
"""

import logging
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

_log = logging.getLogger(__name__)
_W3C = TraceContextTextMapPropagator()

OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion", "/v1/embeddings": "embeddings"}
"""What the conventions call a route."""
NOBODY = NoOpTracer()


def tracer(service: str) -> Tracer:
    """Where the spans of this process go. `service`: its name, unless `OTEL_SERVICE_NAME` says another."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return NOBODY
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        _log.warning("no traces: %s; pip install 'llm-serve[otel]'", error)
        return NOBODY
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", service)})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("llm-serve")


@contextmanager
def server_span(tracer: Tracer, path: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """The span of a request that has come in; below the caller's, where `headers` tell of it."""
    operation = OPERATIONS.get(path)
    attributes: dict[str, AttributeValue] = {"gen_ai.operation.name": operation} if operation else {}
    with tracer.start_as_current_span(
        operation or path,
        _W3C.extract(headers),
        SpanKind.SERVER,
        attributes,
        record_exception=False,  # it would write down their text, which may quote the request
        set_status_on_exception=False,
    ) as span:
        yield span


def end(span: Span, path: str, model: str | None, status: int) -> None:
    """The response had this status. `model`: whom it was from; None where there was none."""
    if model is not None:
        span.update_name(f"{OPERATIONS.get(path, path)} {model}")
        span.set_attributes({"gen_ai.request.model": model, "gen_ai.provider.name": "llm-serve"})
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(trace.StatusCode.ERROR)


def annotate(attributes: Mapping[str, AttributeValue]) -> None:
    """Say this of the request that is being answered here."""
    trace.get_current_span().set_attributes(attributes)


def pass_on(headers: MutableMapping[str, str]) -> None:
    """Tell the next one of the span that this is in. Where there is none, the caller's own header stays."""
    _W3C.inject(headers)
