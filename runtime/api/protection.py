"""What stands around an application, from the outside in: the journal, what is measured, the gate, the bounds of what
comes in.

All are plain ASGI, so that streams pass as they are.
"""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from runtime.access.keys import Keys, keys_from
from runtime.access.limits import BEHIND_GATEWAY_S, MINUTE_S, Limits
from runtime.api.body import BodyBounds
from runtime.api.gate import Gate
from runtime.api.journal import Journal
from runtime.api.observed import NOTHING, Observer, Watch
from runtime.api.openapi import completed
from runtime.logs import prompts_wanted


class ProtectedApp(FastAPI):
    """An application that nothing reaches but what has passed them. No route can be left out by mistake."""

    def __init__(
        self,
        models: Sequence[str] = (),
        keys: Keys | None = None,
        limits: Limits | None = None,
        watch: Watch = NOTHING,
        **options: Any,
    ) -> None:
        """`models`: the one model that it is about, and its other names. Raises ConfigError for `keys`."""
        super().__init__(**options)
        self._models = models
        self._watch = watch
        self._keys = keys or keys_from()
        is_gateway = not models
        self._limits = limits or Limits(MINUTE_S if is_gateway else BEHIND_GATEWAY_S, tokens=not is_gateway)

    def openapi(self) -> dict[str, Any]:
        """The document at /openapi.json."""
        if not self.openapi_schema:
            self.openapi_schema = completed(super().openapi())
        return self.openapi_schema

    def build_middleware_stack(self) -> ASGIApp:
        """Starlette's, inside of ours: it makes its stack when the first request comes."""
        inner = BodyBounds(super().build_middleware_stack(), logged=prompts_wanted())
        gate = Gate(inner, self._keys, self._limits, self._models)
        return Journal(Observer(gate, self._watch), self._models[0] if self._models else None)
