"""Every error that the runtime raises on purpose, and the one table that turns them into HTTP.

LLMServeError
├── ConfigError             the registry file asks for something that cannot be had; stops the replica
├── WeightsError            a model's files cannot be had, or are not what they should be; stops the replica
├── RequestError            the client's fault
│   ├── ContextLengthError  the prompt does not fit
│   ├── ModelNotFoundError  no such model in this cluster
│   ├── BodyTooLargeError   more bytes than a request may have
│   ├── HeadersTooLargeError
│   ├── SlowBodyError       its body did not come in time
│   └── MediaTypeError      its body is no plain JSON
├── AuthenticationError     no key, or none that this server knows
├── RateLimitError          the key has used up its minute
├── ModelUnavailableError   the model exists but cannot answer (starting, failed)
├── OverloadedError         slots and queue are full
├── DeadlineError           the answer took longer than it may
└── EngineError             the engine failed while it worked on a request
    ├── EngineMemoryError   there was no memory for this request; others go on
    ├── GrammarError        what the answer must match cannot be followed, or no further
    └── EngineDeadError     it has stopped, and answers nothing any more
"""

from typing import NamedTuple


class LLMServeError(Exception):
    """Root of all errors raised on purpose."""


class ConfigError(LLMServeError):
    """A value of the registry file cannot be honoured on this machine.

    `field` is the path in the registry file (`model_config.initialization...`) and `declared_in` the file, so
    that whoever reads `serve status` knows what to edit.
    """

    def __init__(self, field: str, declared_in: str, problem: str) -> None:
        super().__init__(f"{declared_in}: {field}: {problem}")
        self.field = field
        self.declared_in = declared_in
        self.problem = problem

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[str, str, str]]:
        # Ray pickles a replica's start-up error, and an exception is rebuilt from its constructor's arguments.
        return ConfigError, (self.field, self.declared_in, self.problem)


class WeightsError(LLMServeError):
    """A model's files cannot be had, or are not what they should be. Becomes a ConfigError that names the field."""


class RequestError(LLMServeError):
    """The request is wrong; `param` names the request field at fault where there is one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthError(RequestError):
    """Prompt and answer do not fit the model's context."""


class ModelNotFoundError(RequestError):
    """The cluster has no model of that name."""


class BodyTooLargeError(RequestError):
    """The body has more bytes than a request may have."""


class HeadersTooLargeError(RequestError):
    """The headers have more bytes than a request may have."""


class SlowBodyError(RequestError):
    """The body did not come in time."""


class MediaTypeError(RequestError):
    """The body says that it is something else than plain JSON."""


class AuthenticationError(LLMServeError):
    """The request has no key, or none that this server knows. Which of the two is not said."""


class RateLimitError(LLMServeError):
    """The key has used up what it may take in a minute."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelUnavailableError(LLMServeError):
    """The model is declared, but no replica can answer now."""


class OverloadedError(LLMServeError):
    """Every slot and every waiting place is taken."""


class DeadlineError(LLMServeError):
    """The answer, waiting included, took longer than the model's `request_timeout_s`."""


class EngineError(LLMServeError):
    """The engine failed on a request that was valid."""


class EngineMemoryError(EngineError):
    """There was no memory left for the request. The engine goes on."""


class GrammarError(EngineError):
    """The request's constraint is wrong, or takes more time or memory than it may. Others go on."""


class EngineDeadError(EngineError):
    """The engine has stopped: the replica has to start anew."""


class HttpError(NamedTuple):
    """How an error looks on the wire, in OpenAI's terms."""

    status: int
    type: str
    code: str | None
    retry_after_s: int | None = None


HTTP_ERRORS: dict[type[LLMServeError], HttpError] = {
    ContextLengthError: HttpError(400, "invalid_request_error", "context_length_exceeded"),
    ModelNotFoundError: HttpError(404, "invalid_request_error", "model_not_found"),
    BodyTooLargeError: HttpError(413, "invalid_request_error", "request_too_large"),
    HeadersTooLargeError: HttpError(431, "invalid_request_error", "request_too_large"),
    SlowBodyError: HttpError(408, "invalid_request_error", "request_timeout"),
    MediaTypeError: HttpError(415, "invalid_request_error", "unsupported_media_type"),
    RequestError: HttpError(400, "invalid_request_error", None),
    AuthenticationError: HttpError(401, "invalid_request_error", "invalid_api_key"),
    RateLimitError: HttpError(429, "rate_limit_error", "rate_limit_exceeded"),
    ModelUnavailableError: HttpError(503, "server_error", "model_unavailable", retry_after_s=5),
    OverloadedError: HttpError(429, "rate_limit_error", "overloaded", retry_after_s=1),
    DeadlineError: HttpError(504, "server_error", "timeout"),
    EngineMemoryError: HttpError(503, "server_error", "out_of_memory", retry_after_s=1),
    GrammarError: HttpError(400, "invalid_request_error", "invalid_grammar"),
    EngineDeadError: HttpError(503, "server_error", "model_unavailable", retry_after_s=5),
    EngineError: HttpError(500, "server_error", "engine_error"),
    ConfigError: HttpError(500, "server_error", "config_error"),
    WeightsError: HttpError(500, "server_error", "weights_error"),
}


def http_error(error: LLMServeError) -> HttpError:
    """The row of the nearest class of `error` that has one."""
    for cls in type(error).__mro__:
        if cls in HTTP_ERRORS:
            return HTTP_ERRORS[cls]
    return HttpError(500, "server_error", None)
