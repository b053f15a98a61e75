"""`llm-serve bench URL`: time to first token, time per token, throughput and goodput of an OpenAI API under load."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from client.figures import Figures, Goals, Spread, figures
from client.load import Work, ask, closed, opened
from client.server import Server, ServerError

_HEAD = ("load", "requests", "errors", "tokens/s", "TTFT ms p50", "p99", "ITL ms p50", "p99", "e2e s p50", "p99")


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    url: str
    key: str | None
    model: str
    """Empty: the server's only one."""
    clients: Sequence[int]
    rates: Sequence[float]
    """Requests per second; besides `clients`."""
    requests: int
    """Of each load; at least one for each client."""
    prompt_words: int
    tokens: int
    goals: Goals


async def measure(options: Options) -> list[Figures]:
    """One load after the other. Raises ServerError when the first request already fails."""
    async with Server(options.url, options.key) as server:
        work = Work(options.model or await server.one_model(), options.prompt_words, options.tokens)
        first = await ask(server, work, -1)
        if first.error is not None:
            raise ServerError(first.error)
        found = []
        for clients in options.clients:
            title, count = f"{clients} client{'s' * (clients > 1)}", max(options.requests, clients)
            with _progress(title, count) as done:
                answers = await closed(server, work, clients, count, done.update)
            found.append(figures(title, answers, options.goals))
        for rate in options.rates:
            with _progress(f"{rate:g}/s", options.requests) as done:
                answers = await opened(server, work, rate, options.requests, done.update)
            found.append(figures(f"{rate:g}/s", answers, options.goals))
        return found


def _progress(title: str, count: int) -> "tqdm[None]":
    """A bar with the time that is left, where somebody looks."""
    return tqdm(total=count, desc=title, unit="request", leave=False, disable=None)


def table(found: Sequence[Figures], goals: Goals) -> str:
    """For people."""
    rows = [_HEAD + (("goodput/s", "met goals") if goals else ())]
    for each in found:
        row = [each.load, str(each.requests), str(sum(each.errors.values())), f"{each.tokens_per_second:.1f}"]
        row += _columns(each.ttft, 1000, 1) + _columns(each.itl, 1000, 1) + _columns(each.e2e, 1, 2)
        if each.goodput is not None:
            row += [f"{each.goodput:.2f}", f"{each.good} of {each.requests}"]
        rows.append(tuple(row))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    errors = [f"{each.load}: {count} x {error}" for each in found for error, count in each.errors.items()]
    return "\n".join([*lines, *errors])


def _columns(times: Spread | None, factor: int, digits: int) -> list[str]:
    if times is None:
        return ["-", "-"]
    return [f"{times.p50 * factor:.{digits}f}", f"{times.p99 * factor:.{digits}f}"]


def as_json(options: Options, found: Sequence[Figures]) -> str:
    """For programs; times in seconds."""
    work = {"prompt_words": options.prompt_words, "tokens": options.tokens, "goals_s": dict(options.goals)}
    return json.dumps({"url": options.url, **work, "loads": [each.plain() for each in found]}, indent=2)


def plot(found: Sequence[Figures], path: Path) -> None:
    """Throughput and times over the loads. Raises ModuleNotFoundError without matplotlib, OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    names = [each.load for each in found]
    rate, times = figure.subplots(1, 2)
    rate.bar(names, [each.tokens_per_second for each in found], color="tab:blue")
    rate.set_title("tokens/s")
    of: dict[str, Callable[[Figures], Spread | None]] = {"TTFT": lambda f: f.ttft, "ITL": lambda f: f.itl}
    for (name, spread_of), colour in zip(of.items(), ("tab:orange", "tab:green"), strict=True):
        for style, percentile in (("-", "p50"), ("--", "p99")):
            values = [getattr(spread, percentile) * 1000 if (spread := spread_of(each)) else None for each in found]
            times.plot(names, values, style, marker="o", color=colour, label=f"{name} {percentile}")
    times.set_title("ms")
    times.set_yscale("log")
    times.legend()
    figure.savefig(path)
