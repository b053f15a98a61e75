"""The warm-up: the largest batch once, before the replica is ready, so that what does not fit shows then.

Memory follows the slots and the longest sequence among them: engines that do not reserve it when they start have one
cache for all slots, as long as the longest. So one sequence as long as the context, beside short ones in all the other
slots, needs what full slots need, and a slow machine reads it in reasonable time, or gives it up.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, suppress

from runtime.engines.contract import Engine, Sampling

BEGIN_S = 10.0
"""For how long the others may take to begin. An engine that has reserved its memory may have no room for all of them at
once: then some would begin only when others have ended."""
LIMIT_S = 2.0
"""For how long the longest prompt is read where there is no GPU."""
LIMIT_GPU_S = 60.0
_PROMPT = 16
"""Tokens of the others' prompts."""
_ANSWER = 4
"""Tokens of the answer that comes last of all: the others are still at theirs."""


async def warm_up(engine: Engine, slots: int, limit_s: float) -> None:
    """Answer, or embed, in all slots at once. Raises EngineError.

    `limit_s`: the sequence as long as the context is given up after so many seconds, and others that have not begun
    after BEGIN_S.
    """
    context = engine.limits.context_length
    if engine.limits.embeds:
        text = engine.tokenizer.encode("Hello")
        await asyncio.gather(*(engine.embed(text) for _ in range(slots)))
        return
    async with AsyncExitStack() as running:
        others = [_answer(engine, _PROMPT, context - _PROMPT) for _ in range(slots - 1)]
        for other in others:
            await running.enter_async_context(aclosing(other))
        with suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_S):
                await asyncio.gather(*map(_begun, others))
        longest = await running.enter_async_context(aclosing(_answer(engine, context - _ANSWER, _ANSWER)))
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                async for _ in longest:
                    pass


async def _begun(answer: AsyncGenerator[list[int], None]) -> None:
    """Wait for its first token: a slot alone does not show that there is memory for it."""
    async for tokens in answer:
        if tokens:
            return


def _answer(engine: Engine, prompt: int, answer: int) -> AsyncGenerator[list[int], None]:
    """An answer of so many tokens to a prompt of so many, as far as the context goes."""
    text = engine.tokenizer.encode("Hello")
    return engine.generate((text * prompt)[:prompt], Sampling(answer, answer, temperature=0))
