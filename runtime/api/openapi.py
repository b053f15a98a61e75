"""What /openapi.json says besides the routes themselves: the errors of all, in OpenAI's shape, and streams."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

JSON, STREAM = "application/json", "text/event-stream"

ERRORS = {
    400: "the request is wrong; `param` names the field at fault where there is one",
    401: "no valid API key",
    404: "there is no such model",
    408: "the body did not come in time",
    413: "the body is too long",
    415: "the body is not JSON",
    429: "too many requests at once, or the key has used up its minute: see `Retry-After`",
    431: "the headers are too long",
    500: "the engine failed",
    503: "the model cannot answer now: see `Retry-After`",
    504: "the answer was not complete in the time that the model has for it",
}
"""Status -> why."""
_OF_BODIES = frozenset({400, 408, 413, 415, 504})
"""Those that only requests with a body get."""
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with our errors instead of its own."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for gone in ("HTTPValidationError", "ValidationError"):
        schemas.pop(gone, None)
    schemas["Error"] = _ERROR
    for operations in document["paths"].values():
        for operation in operations.values():
            responses = operation["responses"]
            responses.pop("422", None)
            body = operation.get("requestBody")
            for status, why in ERRORS.items():
                if body or status not in _OF_BODIES:
                    responses.setdefault(str(status), _error(status, why))
            for media in (body or {"content": {}})["content"].values():
                schemas |= media["schema"].pop("$defs", {})
    return document


def _error(status: int, why: str) -> dict[str, Any]:
    content = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": f"{HTTPStatus(status).phrase}: {why}", "content": content}


def request_of(kind: type[BaseModel]) -> dict[str, Any]:
    """For `openapi_extra` of a route that reads its body itself."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"description": "the answer, or with `stream: true` its events", "content": {JSON: {}, STREAM: {}}}
}
"""For `responses` of a route that may stream."""
