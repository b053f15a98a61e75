"""Errors as responses."""

from starlette.responses import JSONResponse

from runtime.api.responses import error_body, error_headers
from runtime.errors import LLMServeError, http_error


def error_response(error: LLMServeError) -> JSONResponse:
    """`error` as a response, in OpenAI's shape."""
    return JSONResponse(error_body(error), http_error(error).status, headers=dict(error_headers(error)))
