"""One request, from its first byte to its last: who asks, and what it takes."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from runtime.access.keys import Key


@dataclass(slots=True)
class Visit:
    """What is known of a request so far."""

    id: str = ""
    """The request's id: the client's, or one of ours."""
    key: Key | None = None
    """None where the server is open."""
    model: str | None = None
    """Id of a model that there is; never what a client only named."""
    body: str | None = None
    """What was asked, where the node wants that in its logs."""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    charge: Callable[[int], None] | None = None
    """Puts tokens on the key's account."""
    count: Callable[[int], None] | None = None
    """Puts requests on the key's account. Raises RateLimitError."""

    @property
    def owner(self) -> str:
        """Who asks: the same for all requests with one key."""
        return self.key.digest.hex() if self.key else ""

    def may_use(self, model_id: str) -> bool:
        """Whether the request's key opens the model."""
        return self.key is None or self.key.may_use(model_id)

    def count_more(self, requests: int) -> None:
        """Count requests besides this one, which it is worth. Raises RateLimitError, and counts none."""
        if self.count is not None and requests:
            self.count(requests)

    def take(self, *, prompt: int = 0, answer: int = 0) -> None:
        """Count tokens."""
        self.prompt_tokens += prompt
        self.answer_tokens += answer
        if self.charge is not None:
            self.charge(prompt + answer)


VISIT: ContextVar[Visit] = ContextVar("visit")


def current_visit() -> Visit:
    """That of the request at work; an anonymous one outside of requests."""
    return VISIT.get(None) or Visit()
