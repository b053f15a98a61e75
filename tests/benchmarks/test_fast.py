"""The engine that costs nothing is one: a replica answers with it."""

from contextlib import aclosing

from benchmarks.fast import PIECE, FastEngine
from runtime.api.requests import ValidRequest
from runtime.engines.contract import Sampling
from runtime.replica import Replica
from tests.runtime.support import arguments_for, settings_for


async def test_it_answers() -> None:
    async def load(*_: object) -> FastEngine:
        return FastEngine()

    replica = Replica(arguments_for({"type": "llamaCpp"}), load)
    await replica.configure(settings_for())
    request = ValidRequest(tuple(FastEngine().tokenizer.encode("Go")), Sampling(max_new_tokens=3, temperature=0), ())
    async with aclosing(replica.answer(request)) as deltas:
        assert "".join([delta.text async for delta in deltas]).encode() == 3 * PIECE
