"""The thread that decodes: all sequences together, one token each at a time; they join and leave between decodes."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from queue import SimpleQueue
from threading import Lock

from runtime.engines.contract import Sampling
from runtime.engines.llama_cpp.model import Context, Model, Sampler
from runtime.errors import EngineError

Item = int | EngineError | None
"""What an answer's queue receives: a token, the error that ended it, or None at its end."""


@dataclass(eq=False, slots=True)
class Request:
    """One answer in the making. `answer` belongs to the event loop, everything else to the thread."""

    prompt: Sequence[int]
    sampling: Sampling
    answer: asyncio.Queue[Item]
    slot: int = -1
    sampler: Sampler | None = None
    position: int = 0
    """Tokens that have gone into the cache."""
    pending: Sequence[int] = ()
    """Tokens that go into the cache next: what is left of the prompt, then the newest token."""
    generated: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for this answer any more."""

    request: Request


@dataclass(frozen=True, slots=True)
class Resize:
    """Have so many slots; `done` when it is so."""

    slots: int
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer, to show that the thread goes round."""

    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Close:
    """Stop."""


Message = Request | Cancel | Resize | Ping | Close
News = tuple[asyncio.Queue[Item] | asyncio.Future[None], Item]


class Worker:
    """Owns the context and everything that changes while it runs."""

    def __init__(
        self,
        model: Model,
        make_context: Callable[[int], Context],
        slots: int,
        post: Callable[[list[News]], None],
    ) -> None:
        self.model = model
        self.make_context = make_context
        self.post = post
        self.inbox: SimpleQueue[Message] = SimpleQueue()
        self.gate = Lock()
        self.stopped = False
        self.context = make_context(slots)
        self.free = set(range(slots))
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.resizes: deque[Resize] = deque()
        self.news: list[News] = []

    def send(self, message: Message) -> None:
        """Called on the event loop. Raises EngineError when the thread will not read the message any more."""
        with self.gate:
            if self.stopped:
                raise EngineError("the engine has stopped")
            self.inbox.put(message)

    def run(self) -> None:
        """Until a Close message. Whatever ends it, every answer hears of it."""
        try:
            while self._receive():
                self._admit()
                if self.running:
                    self._step()
                self._flush()
        finally:
            self._turn_everybody_away(EngineError("the engine has stopped"))
            self._flush()
            self.context.close()

    def _turn_everybody_away(self, reason: EngineError) -> None:
        with self.gate:
            self.stopped = True
        while not self.inbox.empty():
            match self.inbox.get():
                case Request() as request:
                    self.waiting.append(request)
                case Resize(done=done) | Ping(done=done):
                    self.news.append((done, reason))
                case Cancel() | Close():
                    pass
        for resize in self.resizes:
            self.news.append((resize.done, reason))
        for request in (*self.running, *self.waiting):
            self._end(request, reason)

    def _flush(self) -> None:
        if self.news:
            self.post(self.news)
            self.news = []

    def _receive(self) -> bool:
        """Take what lies in the inbox, or wait for something when there is nothing to do. False: stop."""
        idle = not self.running and not self.waiting
        while idle or not self.inbox.empty():
            idle = False
            match self.inbox.get():
                case Request() as request:
                    self.waiting.append(request)
                case Cancel(request):
                    self._forget(request)
                case Resize() as resize:
                    self.resizes.append(resize)
                case Ping(done):
                    self.news.append((done, None))
                case Close():
                    return False
        return True

    def _admit(self) -> None:
        """Give free slots to those who wait; while the number of slots is to change, to nobody."""
        while self.resizes and not self.running:
            self._resize(self.resizes.popleft())
        while self.waiting and self.free and not self.resizes:
            request = self.waiting.popleft()
            self._take_lowest_slot(request)
            self.running.append(request)
            request.pending = request.prompt
            request.sampler = Sampler(self.model, request.sampling, request.prompt, self.context.length)

    def _resize(self, resize: Resize) -> None:
        before = self.context.slots
        problem: Item = None
        if resize.slots != before:
            self.context.close()
            try:
                self.context = self.make_context(resize.slots)
            except EngineError as error:
                problem = error
                self.context = self.make_context(before)
            self.free = set(range(self.context.slots))
        self.news.append((resize.done, problem))

    def _take_lowest_slot(self, request: Request) -> None:
        request.slot = min(self.free)
        self.free.remove(request.slot)

    def _close_gaps(self) -> None:
        """Move answers from the highest slots into the gaps that others left, so that n answers have slots 0 to n-1.

        llama.cpp goes through the weights once for a run of consecutive slots in ascending order, and once more
        for each further run: eight answers in descending order take three times as long as in ascending order.
        """
        for request in self.running:
            if request.slot >= len(self.running):
                left = request.slot
                self._take_lowest_slot(request)
                self.context.move(left, request.slot)
                self.free.add(left)

    def _step(self) -> None:
        """One decode: a token of every answer under way, and as much of new prompts as fits beside them."""
        self._close_gaps()
        shares = self._share_out()
        self.context.clear()
        rows = []
        for request in sorted(shares, key=attrgetter("slot")):
            row = self._add(request, shares[request])
            if not request.pending:
                rows.append((request, row))
        try:
            self.context.decode()
        except EngineError as error:
            for request in list(self.running):
                self._end(request, error)
            return
        for request, row in rows:
            self._sample(request, row)

    def _share_out(self) -> dict[Request, int]:
        """How many tokens of each go into this decode: answers under way first, then prompts as they arrived."""
        room = self.context.batch_size
        shares = {}
        for request in sorted(self.running, key=lambda request: request.generated == 0):
            shares[request] = min(len(request.pending), room)
            room -= shares[request]
        return shares

    def _add(self, request: Request, share: int) -> int:
        """Put the next tokens of a request into the batch; the row of the last."""
        row = -1
        for count, token in enumerate(request.pending[:share], 1):
            row = self.context.add(token, request.position, request.slot, logits=count == len(request.pending))
            request.position += 1
        request.pending = request.pending[share:]
        return row

    def _sample(self, request: Request, row: int) -> None:
        assert request.sampler is not None  # every running request has one
        token = request.sampler.sample(self.context, row, request.generated)
        if token in self.model.end_tokens:
            self._end(request, None)
            return
        request.generated += 1
        request.pending = [token]
        self.news.append((request.answer, token))
        if request.generated >= request.sampling.max_new_tokens or request.position >= self.context.length:
            self._end(request, None)

    def _end(self, request: Request, last_item: EngineError | None) -> None:
        self.news.append((request.answer, last_item))
        self._forget(request)

    def _forget(self, request: Request) -> None:
        """Take the request out wherever it is; nothing happens to one that has ended."""
        if request in self.waiting:
            self.waiting.remove(request)
        if request in self.running:
            self.running.remove(request)
            self.context.forget(request.slot)
            self.free.add(request.slot)
        if request.sampler:
            request.sampler.close()
            request.sampler = None
