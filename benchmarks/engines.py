"""Our engines next to what they are made of and to other servers: `python -m benchmarks.engines [--only ...]`.

Every section loads all its sides, then goes round after round through them, so that a machine whose speed drifts
slows all alike: the ratio of each pair is what counts. All sides get the same model, questions, threads and length
of answers, and choose the most likely token.
"""

import argparse
import asyncio
import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from multiprocessing import get_context

from benchmarks.answers import BenchmarkError, Round, Side, percentile, questions, spread
from benchmarks.lineup import Options
from benchmarks.sections import SECTIONS
from benchmarks.servers import ROOT
from runtime.errors import ConfigError

PAGE = ROOT / "docs" / "engines.md"
_BEGIN, _END = "<!-- benchmarks.engines writes this -->", "<!-- until here -->"
_COLUMNS = (
    "clients",
    "side",
    "tokens/s",
    "times one client's",
    "first token, ms",
    "between tokens, ms",
    "ours / this",
    "same text",
)
Rounds = dict[tuple[int, str], list[Round]]
"""(clients, side) -> its rounds."""


def main() -> None:
    """Measure and print; with --write into docs/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="CPUs of each side")
    parser.add_argument("--quantised", action="store_true", help="llama-cpp: the Q4_1 file instead of F16")
    parser.add_argument("--gpu", action="store_true", help="every side on one GPU")
    parser.add_argument("--dtype", default="float32", help="of what is not llama.cpp")
    parser.add_argument("--write", action="store_true", help="the tables into docs/engines.md")
    parsed = parser.parse_args()
    if parsed.gpu and (cpus_only := [name for name in parsed.only if not SECTIONS[name].on_gpu]):
        parser.error(f"--gpu: {', '.join(cpus_only)} cannot; choose others with --only")
    options = Options(parsed.threads, parsed.quantised, parsed.gpu, parsed.dtype)
    cpus = sorted(os.sched_getaffinity(0))[: options.threads]
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cpus))}
    tables = []
    # Each section has a process of its own: libraries that bring threads and signal handlers do not meet.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as process:
        for name in parsed.only:
            work = process.submit(run, name, options, parsed.clients, parsed.rounds)
            try:
                measured = work.result()
            except BenchmarkError as error:  # the other tables are worth having
                measured = f"No figures: {error}"
            tables.append(f"### {SECTIONS[name].heading(options)}\n\n{measured}")
            print(f"\n{tables[-1]}\n", flush=True)
    if parsed.write:
        before, _, rest = PAGE.read_text().partition(_BEGIN)
        text = "\n\n".join(tables)
        PAGE.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{rest.partition(_END)[2]}")


def run(section: str, options: Options, clients: Sequence[int], rounds: int) -> str:
    """A section's table."""
    try:
        return asyncio.run(_run(section, options, clients, rounds))
    except ConfigError as error:
        raise BenchmarkError(str(error)) from error


async def _run(section: str, options: Options, clients: Sequence[int], rounds: int) -> str:
    async with AsyncExitStack() as stack:
        sides = await SECTIONS[section].sides(stack, options)
        return table(sides, await measure(sides, SECTIONS[section].clients or clients, rounds))


async def measure(sides: Sequence[Side], clients: Sequence[int], rounds: int) -> Rounds:
    """All rounds of all sides; the first one warms up, and does not count."""
    done: Rounds = defaultdict(list)
    for round_ in range(rounds + 1):
        for count in clients:
            for side in sides if round_ % 2 else reversed(sides):
                if side.most is None or count <= side.most:
                    finished = Round(await side.answer(questions(count, round_)))
                    print(
                        f"round {round_} of {rounds}: {count} x {side.name}: {finished.rate:.1f} tokens/s", flush=True
                    )
                    if round_:
                        done[count, side.name].append(finished)
    return done


def table(sides: Sequence[Side], rounds: Rounds) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    for count in dict.fromkeys(count for count, _ in rounds):
        lines += ["| " + " | ".join(_row(side, count, rounds)) + " |" for side in sides if (count, side.name) in rounds]
    return "\n".join(lines)


def _row(side: Side, count: int, rounds: Rounds) -> list[str]:
    mine = rounds[count, side.name]
    answers = [answer for each in mine for answer in each.answers]
    firsts = [1000 * first for each in mine for first in each.firsts]
    gaps = [1000 * gap for answer in answers for gap in answer.gaps]
    alone = rounds.get((1, side.name)) if count > 1 else None
    scale = spread([many.rate / one.rate for many, one in zip(mine, alone, strict=True)]) if alone else ""
    ratio = text = ""
    if side.ours:
        ours = rounds[count, side.ours]
        ratio = spread([our.rate / its.rate for our, its in zip(ours, mine, strict=True)])
        text = f"{statistics.mean(our.agreement(its) for our, its in zip(ours, mine, strict=True)):.0%}"
    between = f"{percentile(gaps, 50):.1f}, p99 {percentile(gaps, 99):.1f}"
    rate = spread([each.rate for each in mine])
    return [str(count), side.name, rate, scale, f"{statistics.median(firsts):.1f}", between, ratio, text]


if __name__ == "__main__":
    main()
