"""What streams cost around the engine: `python -m benchmarks.overhead`.

An engine that costs next to nothing runs behind Ray Serve (`benchmarks.fast`). Its streams are read through the gateway
and on the model's own route, as fast as they come: tokens/s of all clients, and milliseconds to the first token. Then
the engine makes a token every 20 ms, as a real one would: the milliseconds to the first token are what the road adds.
The client shares the machine's cores with the servers.
"""

import argparse
import asyncio
import statistics
import time

import aiohttp

from benchmarks.fast import PIECE
from benchmarks.servers import deployed

_MODEL = {
    "extends": ["engines/llama-cpp", "hardware/cpu"],
    "deployment_config": {"max_waiting_requests": 64},
    "scaling_config": {"num_cpus_per_worker": 1},
    "model_config": {
        "model_id": "acme/fast",
        "initialization": {"initializer": {"model_filename": "none.gguf"}},
        "generation": {"max_batch_size": 256},
    },
}
_STEADY_S, _STEADY_TOKENS = 0.02, 20
_ROUTES = {"gateway": "/v1/completions", "direct": "/acme--fast/v1/completions"}


def main() -> None:
    """Print a table of both roads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each measurement takes, about")
    options = parser.parse_args()
    with deployed("project-fast", _MODEL, "benchmarks.fast:model") as url:
        asyncio.run(_measure(url, options.clients, options.seconds))


async def _measure(url: str, clients: list[int], seconds: float) -> None:
    names = ("tokens/s", "first ms, p50", "p99", "steady, p50", "p99")
    print(f"{'road':>8} {'clients':>8} " + " ".join(f"{name:>13}" for name in names))
    unlimited = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=unlimited, timeout=aiohttp.ClientTimeout(total=None)) as session:
        for route in _ROUTES.values():  # warm up
            await _flat_out(session, route, 8, 200)
        for count in clients:
            for road, route in _ROUTES.items():
                rate, firsts = await _flat_out(session, route, count, int(seconds * 15_000 / count))
                steady = await _steady(session, route, count, seconds)
                columns = (rate, *_milliseconds(firsts), *_milliseconds(steady))
                print(f"{road:>8} {count:>8} " + " ".join(f"{each:>13.1f}" for each in columns), flush=True)


def _milliseconds(firsts: list[float]) -> tuple[float, float]:
    ordered = sorted(firsts)
    return statistics.median(ordered) * 1e3, ordered[int(0.99 * (len(ordered) - 1))] * 1e3


async def _flat_out(session: aiohttp.ClientSession, route: str, count: int, tokens: int) -> tuple[float, list[float]]:
    """Tokens/s of so many clients at once, and seconds to each one's first token."""
    begun = time.perf_counter()
    firsts = await asyncio.gather(*(_answer(session, route, tokens, 0) for _ in range(count)))
    return count * tokens / (time.perf_counter() - begun), firsts


async def _steady(session: aiohttp.ClientSession, route: str, count: int, seconds: float) -> list[float]:
    """Seconds to the first token of short answers, which each client asks for one after another."""
    until, firsts = time.perf_counter() + seconds, []

    async def client(number: int) -> None:
        await asyncio.sleep(number / count)
        while time.perf_counter() < until:
            firsts.append(await _answer(session, route, _STEADY_TOKENS, _STEADY_S))

    await asyncio.gather(*map(client, range(count)))
    return firsts


async def _answer(session: aiohttp.ClientSession, route: str, tokens: int, token_s: float) -> float:
    body = {"model": "acme/fast", "prompt": "Go", "max_tokens": tokens, "temperature": token_s * 100, "stream": True}
    asked, first, received, rest = time.perf_counter(), 0.0, 0, b""
    async with session.post(route, json=body) as response:
        response.raise_for_status()
        async for chunk in response.content.iter_any():
            if not received:
                first = time.perf_counter() - asked
            rest += chunk
            received += rest.count(PIECE)
            rest = rest[-len(PIECE) + 1 :]
    if received != tokens:
        raise SystemExit(f"asked for {tokens} tokens, got {received}")
    return first


if __name__ == "__main__":
    main()
