"""Streamed tokens/s through Ray Serve next to the engine alone: `make bench`.

Run it while the demo runs (`make demo`): it talks to the demo's server, and loads the same model with the same
settings into its own process. Rounds alternate between the two, so that a machine whose speed drifts slows both,
and the ratio of each pair is what counts. The client reads raw events over HTTP through the gateway, and shares
the machine's cores with the server.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import aiohttp

from compiler.check.layers import Layers
from compiler.models import compile_model
from compiler.source.project import Project
from demo.cluster import HOST
from demo.model import REPOSITORY, fetch
from runtime.application import ModelArguments
from runtime.engines.contract import Batching, Engine, Sampling, load
from runtime.text.prompt import ChatTemplate, Message

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "Tell me a long story about number {}."

Stream = Callable[[int, int], Awaitable[int]]
"""(number of the stream, tokens to ask for) -> tokens received."""


def main() -> None:
    """Print a table: streams, tokens/s of each, and the ratio pair by pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--url", default=f"http://{HOST}:8000")
    asyncio.run(compare(parser.parse_args()))


async def compare(options: argparse.Namespace) -> None:
    """Both sides, round by round."""
    compiled = compile_model(Layers(Project(ROOT)), REPOSITORY.replace("/", "--"))
    assert compiled is not None
    spec = compiled.model.spec
    arguments = ModelArguments(
        name="bench",
        declared_in="registry/",
        model_id=REPOSITORY,
        initialization=spec.model.initialization,
        scaling_config=spec.scaling_config,
    )
    engine = load(arguments, fetch().parent, Batching(spec.model.generation.max_batch_size))
    alone = engine_stream(engine)
    async with aiohttp.ClientSession(options.url) as session:
        served = served_stream(session)
        for stream in (alone, served):
            await rate(stream, max(options.streams), 8)  # warm up
        print(f"{'streams':>8} {'engine alone':>20} {'through Ray Serve':>20} {'ratio':>20}   tokens/s: median (range)")
        for count in options.streams:
            pairs = [
                (await rate(alone, count, options.tokens), await rate(served, count, options.tokens))
                for _ in range(options.rounds)
            ]
            columns = ([a for a, _ in pairs], [b for _, b in pairs], [b / a for a, b in pairs])
            print(f"{count:>8} " + " ".join(f"{spread(column):>20}" for column in columns))
    await engine.close()


def spread(values: list[float]) -> str:
    """Median and range."""
    digits = 2 if max(values) < 10 else 1
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


async def rate(stream: Stream, count: int, tokens: int) -> float:
    """Tokens/s over `count` streams at once, from the first request to the last token."""
    start = time.perf_counter()
    received = await asyncio.gather(*(stream(number, tokens) for number in range(count)))
    seconds = time.perf_counter() - start
    if any(got != tokens for got in received):
        raise SystemExit(f"asked for {tokens} tokens a stream, got {received}")
    return sum(received) / seconds


def engine_stream(engine: Engine) -> Stream:
    """Streams of an engine in this process."""
    template = ChatTemplate(engine.tokenizer.chat_template or "", engine.tokenizer.special_tokens)

    async def stream(number: int, tokens: int) -> int:
        prompt = engine.tokenizer.encode(template.render([Message("user", QUESTION.format(number))]))
        sampling = Sampling(max_new_tokens=tokens, min_new_tokens=tokens, temperature=0)
        async with aclosing(engine.generate(prompt, sampling)) as batches:
            return sum([len(batch) async for batch in batches])

    return stream


def served_stream(session: aiohttp.ClientSession) -> Stream:
    """Streams of the demo's server."""

    async def stream(number: int, tokens: int) -> int:
        body = {
            "model": REPOSITORY,
            "messages": [{"role": "user", "content": QUESTION.format(number)}],
            "max_tokens": tokens,
            "min_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        last = b"{}"
        async with session.post("/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data: {"):
                    last = line
        return int(json.loads(last.removeprefix(b"data: "))["usage"]["completion_tokens"])

    return stream


if __name__ == "__main__":
    main()
