"""The gate: with keys configured, nobody comes in without one."""

from collections.abc import Mapping, Sequence

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.access.keys import Key, Keys
from runtime.access.limits import Limits
from runtime.access.visit import current_visit
from runtime.api.refusal import error_response
from runtime.errors import AuthenticationError, LLMServeError, ModelNotFoundError

OPEN_PATHS = frozenset({"/health"})
"""What is open to all. Whatever is not named here needs a key."""
_SCHEME = b"Bearer "


class Gate:
    """ASGI. Lets requests in by their key, within its limits."""

    def __init__(self, app: ASGIApp, keys: Keys, limits: Limits, models: Sequence[str]) -> None:
        """`models`: the names of the one model behind it, where there is only one."""
        self._app = app
        self._keys = keys
        self._limits = limits
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = scope["type"] == "http" and path_of(scope) in OPEN_PATHS
        if scope["type"] == "lifespan" or is_open or not self._keys.required:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._let_in(scope, receive, send)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = self._keys.find(_presented(scope))
        if key is None:
            problem = "give a valid API key in the header `Authorization: Bearer KEY`"
            await _refuse(AuthenticationError(problem), {"www-authenticate": "Bearer"}, scope, receive, send)
            return
        visit = current_visit()
        visit.key = key
        try:
            self._admit(key)
        except LLMServeError as error:
            await _refuse(error, self._limits.headers(key), scope, receive, send)
            return
        visit.count = lambda requests: self._limits.admit(key, requests)
        visit.charge = lambda tokens: self._limits.take_tokens(key, tokens)

        async def with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._limits.headers(key))
            await send(message)

        await self._app(scope, receive, with_limits)

    def _admit(self, key: Key) -> None:
        """Raises ModelNotFoundError, RateLimitError."""
        if self._models and not any(map(key.may_use, self._models)):
            raise ModelNotFoundError(f"the model `{self._models[0]}` does not exist", "model")
        self._limits.admit(key)


def path_of(scope: Scope) -> str:
    """The path within the application, as the router sees it: without what the application is mounted under."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _presented(scope: Scope) -> bytes:
    """The key that the request shows: of one header, in one form. Anything else is none."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    return given[0].removeprefix(_SCHEME) if len(given) == 1 and given[0].startswith(_SCHEME) else b""


async def _refuse(error: LLMServeError, headers: Mapping[str, str], scope: Scope, receive: Receive, send: Send) -> None:
    response = error_response(error)
    response.headers.update(headers)
    await response(scope, receive, send)
