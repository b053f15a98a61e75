"""The documents at /openapi.json: what both applications say of their routes."""

import pytest
from fastapi import FastAPI

from runtime.api.openapi import ERRORS, STREAM
from runtime.api.routes import create_app
from runtime.errors import HTTP_ERRORS
from tests.runtime.api.test_gate import gateway_app

STREAMING = {"/v1/chat/completions", "/v1/completions"}
ANSWERING = {*STREAMING, "/v1/embeddings", "/tokenize", "/detokenize"}


@pytest.fixture(params=["gateway", "model"])
async def app(request, make_replica) -> FastAPI:
    return gateway_app() if request.param == "gateway" else create_app(await make_replica())


def test_every_status_of_an_error_is_declared(app) -> None:
    paths = app.openapi()["paths"]
    for path in ANSWERING:
        declared = {int(status) for status in paths[path]["post"]["responses"]}
        assert declared == {200, *ERRORS}
        assert {error.status for error in HTTP_ERRORS.values()} <= declared


def test_only_requests_with_a_body_get_what_is_wrong_with_one(app) -> None:
    responses = app.openapi()["paths"]["/v1/models"]["get"]["responses"]
    assert not {"400", "408", "413", "415", "504"} & set(responses)
    assert {"401", "429", "503"} <= set(responses)


def test_streams_are_declared_where_there_are_some(app) -> None:
    paths = app.openapi()["paths"]
    found = {path for path in ANSWERING if STREAM in paths[path]["post"]["responses"]["200"]["content"]}
    assert found == STREAMING
