"""Which tokens of which sequences a model steps next: one thread decides, and they join and leave between steps.

The thread gets its orders through an inbox and posts what came of a step, once a step however many sequences run.
What a step is, is the runner's business: one for each library that computes here.
"""

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from runtime.engines.contract import Batching, EndToken, Limits, Sampling, ScoredToken
from runtime.engines.grammar.matcher import Matcher
from runtime.errors import EngineDeadError, EngineError, GrammarError

_STALL_S = 0.2
"""New prompts hold up answers under way by so much in each step, or by what so many tokens take."""
_LEAST_TOKENS = 16
"""A prompt does not begin with fewer beside another one's, as each part goes through all of the weights. A step with
fewer does not tell how long one takes.
"""


class Admitted:
    """An answer has a slot now."""


Item = int | Admitted | EngineError | None
"""What an answer's queue receives: that it has a slot, a token, the error that ended it, or None at its end."""


@dataclass(eq=False, slots=True)
class Request:
    """One answer in the making. `answer` belongs to the event loop, everything else to the thread."""

    prompt: Sequence[int]
    sampling: Sampling
    answer: asyncio.Queue[Item]
    matcher: Matcher | None = None
    """Says which tokens may come next; None: all."""
    pending: Sequence[int] = ()
    """Tokens that the model has not seen: what is left of the prompt, then the newest token."""
    position: int = 0
    """Tokens that it has seen."""
    generated: int = 0
    scored: list[ScoredToken] = field(default_factory=list)
    """Tokens of a prompt that is echoed, as a step has told of them; they go to the answer after it."""

    def to_score(self, share: int) -> Sequence[int]:
        """What follows each of the next `share` tokens of a prompt that is echoed; nothing follows the last."""
        return self.prompt[self.position + 1 : self.position + share + 1] if self.sampling.echo else ()


class Runner(ABC):
    """A loaded model. The thread that steps it is the only one that calls it."""

    slots: int
    """Most sequences that it steps together."""
    step_tokens: int
    """Most tokens of one step, over all sequences."""
    limits: Limits
    end_tokens: frozenset[int]

    @abstractmethod
    def admit(self, request: Request) -> int:
        """A sequence begins; there is a slot for it. Returns how many tokens of its prompt need no step, never all."""

    @abstractmethod
    def step(self, shares: Mapping[Request, int]) -> Mapping[Request, int | EngineError]:
        """Run the model over the next `pending` tokens of each request, so many as its share says.

        Returns the next token of each request that has nothing left pending then, or the error that ends it alone. The
        token is one that the request's matcher allows.
        What follows each token of a prompt that is echoed goes to `scored`.
        Raises EngineError that ends all, and EngineDeadError where nothing can come after it; so do the other methods.
        """

    @abstractmethod
    def forget(self, request: Request) -> None:
        """A sequence that was admitted has ended."""

    @abstractmethod
    def resize(self, slots: int) -> None:
        """Have so many slots; nothing runs. Raises EngineError, and has as many as before."""

    @abstractmethod
    def close(self) -> None:
        """Free the model's memory."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for this answer any more."""

    request: Request


@dataclass(frozen=True, slots=True)
class Configure:
    """Batch like this; `done` when it is so."""

    batching: Batching
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer, to show that the thread goes round."""

    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Close:
    """Stop."""


Message = Request | Cancel | Configure | Ping | Close
News = tuple[asyncio.Queue[Item] | asyncio.Future[None], Item]


class Scheduler:
    """The thread's side: who waits, who runs, and how many tokens of each go into a step."""

    def __init__(self, runner: Runner, batching: Batching, post: Callable[[list[News]], None]) -> None:
        self.runner = runner
        self.batching = batching
        self.post = post
        self.inbox: SimpleQueue[Message] = SimpleQueue()
        self.gate = threading.Lock()
        self.dead: EngineDeadError | None = None
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.changes: deque[Configure] = deque()
        self.news: list[News] = []
        self.step_s = 0.0
        """Seconds that the last step took that read no prompt, unless a later one shows that it was a slow one."""
        self.token_s = _STALL_S / _LEAST_TOKENS
        """Seconds that each token of a prompt adds to a step, as in the last one that read enough of them to tell."""

    def send(self, message: Message) -> None:
        """Called on the event loop. Raises EngineError when the thread will not read the message any more."""
        with self.gate:
            if self.dead:
                raise self.dead
            self.inbox.put(message)

    def cache_use(self) -> float:
        """Called on the event loop: the share of all slots' cells that hold a token of an answer that runs."""
        cells = self.runner.slots * self.runner.limits.context_length
        return sum(request.position for request in tuple(self.running)) / cells

    def run(self) -> None:
        """Until a Close message. Whatever ends it, every answer hears of it."""
        reason = EngineDeadError("the engine has stopped")
        try:
            while self._receive():
                self._admit()
                self._flush()  # a step may take a while, and who has a slot hears of it before
                if self.running:
                    self._step()
                self._flush()
        except EngineDeadError as error:
            reason = error
        finally:
            self._turn_everybody_away(reason)
            self._flush()
            self.runner.close()

    def _turn_everybody_away(self, reason: EngineDeadError) -> None:
        with self.gate:
            self.dead = reason
        while not self.inbox.empty():
            match self.inbox.get():
                case Request() as request:
                    self.waiting.append(request)
                case Configure(done=done) | Ping(done=done):
                    self.news.append((done, reason))
                case Cancel() | Close():
                    pass
        for change in self.changes:
            self.news.append((change.done, reason))
        for request in (*self.running, *self.waiting):
            self.news.append((request.answer, reason))

    def _flush(self) -> None:
        if self.news:
            self.post(self.news)
            self.news = []

    def _receive(self) -> bool:
        """Take what lies in the inbox; with nothing to do wait for it, and for a batch to fill. False: stop."""
        idle = not self.running and not self.waiting
        if idle and not self._take(None):
            return False
        until = time.monotonic() + self.batching.wait_s if idle and self.waiting else 0.0
        while True:
            filling = 0 < len(self.waiting) < self.runner.slots and not self.changes
            left = until - time.monotonic() if filling else 0.0
            try:
                if not self._take(max(0.0, left)):
                    return False
            except Empty:
                return True
            if left > 0:
                self._flush()

    def _take(self, seconds: float | None) -> bool:
        """Heed one message, waiting so long for it (None: for ever). Raises Empty. False: stop."""
        match self.inbox.get(block=seconds != 0, timeout=seconds):
            case Request() as request:
                self.waiting.append(request)
            case Cancel(request):
                self._forget(request)
            case Configure(batching, done) if batching.max_size == self.runner.slots and not self.changes:
                self.batching = batching
                self.news.append((done, None))
            case Configure() as change:
                self.changes.append(change)
            case Ping(done):
                self.news.append((done, None))
            case Close():
                return False
        return True

    def _admit(self) -> None:
        """Give free slots to those who wait; while their number is to change, to nobody."""
        while self.changes and not self.running:
            self._configure(self.changes[0])
            self.changes.popleft()
        while self.waiting and len(self.running) < self.runner.slots and not self.changes:
            self._admit_one(self.waiting[0])

    def _admit_one(self, request: Request) -> None:
        try:
            request.position = self.runner.admit(request)
        except EngineDeadError:
            raise
        except EngineError as error:
            self._end(request, error)
            return
        self.waiting.popleft()
        request.pending = request.prompt[request.position :]
        self.running.append(request)
        self.news.append((request.answer, Admitted()))

    def _configure(self, change: Configure) -> None:
        problem: Item = None
        try:
            if change.batching.max_size != self.runner.slots:
                self.runner.resize(change.batching.max_size)
            self.batching = change.batching
        except EngineDeadError:
            raise
        except EngineError as error:
            problem = error
        self.news.append((change.done, problem))

    def _step(self) -> None:
        """A token of every answer under way, and as much of new prompts as fits beside them."""
        self._look_ahead()
        shares = self._share_out()
        if not shares:
            return
        begin = time.monotonic()
        try:
            tokens = self.runner.step(shares)
        except EngineDeadError:
            raise
        except EngineError as error:
            for request in list(self.running):
                self._end(request, error)
            return
        self._note(time.monotonic() - begin, shares)
        for request, share in shares.items():
            request.position += share
            request.pending = request.pending[share:]
            self.news += ((request.answer, token) for token in request.scored)
            request.scored.clear()
        for request, token in tokens.items():
            if isinstance(token, EngineError):
                self._end(request, token)
            else:
                self._take_token(request, token)

    def _note(self, seconds: float, shares: Mapping[Request, int]) -> None:
        """How long a step took, where that tells what another one will take."""
        read = [share for request, share in shares.items() if not request.generated]
        others_s = self.step_s if len(read) < len(shares) else 0.0
        if not read:
            self.step_s = seconds
        elif seconds < others_s:
            self.step_s = max(0.0, seconds - sum(read) * self.token_s)
        elif sum(read) >= _LEAST_TOKENS:
            self.token_s = max((seconds - others_s) / sum(read), _STALL_S / self.runner.step_tokens)

    def _look_ahead(self) -> None:
        """End the answers that cannot go on, as far as their matchers can tell: that is known before the step."""
        for request in [each for each in self.running if each.matcher]:
            assert request.matcher is not None
            try:
                request.matcher.look()
            except GrammarError as error:
                self._end(request, error)

    def _share_out(self) -> dict[Request, int]:
        """How many tokens of each go into this step: answers under way first, then prompts as they arrived."""
        room, under_way = self.runner.step_tokens, sum(request.generated > 0 for request in self.running)
        if under_way:
            room = min(room, under_way + max(_LEAST_TOKENS, int(_STALL_S / self.token_s)))
        shares: dict[Request, int] = {}
        for request in sorted(self.running, key=lambda request: request.generated == 0):
            share = min(len(request.pending), room)
            if share < min(len(request.pending), _LEAST_TOKENS) and len(shares) > under_way:
                break
            if share:
                shares[request] = share
            room -= share
        return shares

    def _take_token(self, request: Request, token: int) -> None:
        sampling, is_end = request.sampling, token in self.runner.end_tokens
        if is_end and sampling.echo and sampling.max_new_tokens and isinstance(token, ScoredToken):
            self.news.append((request.answer, EndToken(token, token.logprob, token.top)))
        if is_end or not sampling.max_new_tokens:
            self._end(request, None)
            return
        request.generated += 1
        request.pending = [token]
        self.news.append((request.answer, token))
        at_its_end = request.position >= self.runner.limits.context_length
        if request.matcher:
            request.matcher.accept([token])
            at_its_end |= request.matcher.must_end
        if request.generated >= sampling.max_new_tokens or at_its_end:
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
            self.runner.forget(request)
